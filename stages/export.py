"""Write a finished run's network for other programs, into `exports/<run>/`.

    python -m stages.export RUN [--register]

`pruned.onnx` has the zeros in it, `compacted.onnx` is the same function without dead channels, and
`sparse.safetensors` and `sparse-fp16.safetensors` hold the weights alone. No data set is read.
`--register`: they become the next versions of models in MLflow's registry, the compacted network of RUN and the
other of RUN-pruned.
"""

import logging
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline import entry, layout
from pipeline.config import Config
from pipeline.data.shapes import normalisation, picture_shape
from pipeline.deploy.answers import difference, noise_like
from pipeline.deploy.compaction import Compacted, compact
from pipeline.deploy.onnx_files import export
from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import digest_of_file, read_json, write_bytes, zstd_bytes
from pipeline.models import build, misfits
from pipeline.params import Model, Prepare, Training
from pipeline.provenance import other_params
from pipeline.pruning.masks import prunable_weights
from pipeline.report.ledger import read_record
from pipeline.session import identity_of
from pipeline.sparse import load_sparse, save_sparse
from pipeline.tracking import find_root, register

FOLDER = "exports"
COMPARED_PICTURES = 16
ONNX_LINE = 'onnxruntime.InferenceSession("{path}").run(None, {{"pictures": pictures}})'
SPARSE_LINE = 'state, about = pipeline.sparse.load_sparse(Path("{path}"))'


@dataclass(frozen=True)
class Source:
    """Where a finished run's sparse network is, and the parameters that it was made with."""

    path: Path
    model: Model
    dataset: str
    shape: tuple[int, int, int]


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m stages.export")
    parser.add_argument("run")
    parser.add_argument("--register", action="store_true")
    options = parser.parse_args(arguments)
    for noisy in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    config = Config(entry.root())
    run = config.pruned_run(options.run)
    source = source_of(config, run)
    state, about = load_sparse(config.root / source.path)
    network, picture = network_of(source.model, state).eval(), torch.zeros(1, *source.shape)
    compacted = compact(network, picture)
    mean, std = normalisation(source.dataset)
    folder, label = config.root / FOLDER / run.name, {"run": run.name, "mean": str(list(mean)), "std": str(list(std))}
    rows = {
        "pruned.onnx": onnx_row(folder / "pruned.onnx", network, None, picture, label),
        "compacted.onnx": onnx_row(folder / "compacted.onnx", compacted.network, network, picture, label),
        "sparse.safetensors": copied_row(folder / "sparse.safetensors", config.root / source.path),
        "sparse-fp16.safetensors": halved_row(
            folder / "sparse-fp16.safetensors", source.model, network, picture, about
        ),
    }
    print(f"{run.name}, from {source.path}")
    show_compaction(compacted)
    show_files(folder.relative_to(config.root), rows)
    shape = ", ".join(map(str, source.shape))
    print(
        f"pictures are float32 (N, {shape}), each channel (pixel / 255 - mean) / std with mean {list(mean)} and "
        f"std {list(std)}"
    )
    if options.register:
        identity = identity_of(config, run, "export", {})
        for kind, model in {"compacted": run.name, "pruned": f"{run.name}-pruned"}.items():
            address = register(find_root(), identity, model, folder / f"{kind}.onnx")
            print(f'  mlflow.pyfunc.load_model("{address}").predict({{"pictures": pictures}})')


def source_of(config: Config, run: layout.PrunedRun) -> Source:
    """The run's own network where it is on this machine, else the one in the ledger.

    Raises:
        ArtifactError: neither is there.
    """
    own, recorded = layout.weights_file(run, "retrain"), layout.recorded_network_file(run)
    if (config.root / own).is_file():
        check_parameters(config, run, own)
        experiment = config.experiment(run.experiment)
        prepare, training, model = experiment.prepare, experiment.training, experiment.model
        return Source(own, model, prepare.dataset, picture_shape(prepare.dataset, training.crop))
    if not (config.root / recorded).is_file():
        record = config.root / layout.record_file(run)
        large = record.is_file() and read_json(record).get("sparse_network") is None
        why = "the recorded network was too large for git" if large else f"the ledger has no {recorded}"
        raise ArtifactError(f"{own} does not exist, and {why}; run the stages of {run.name}, or `dvc pull`")
    params = read_record(config.root, layout.record_file(run)).params
    prepare, training = Prepare.model_validate(params["prepare"]), Training.model_validate(params["training"])
    model = Model.model_validate(params["model"])
    return Source(recorded, model, prepare.dataset, picture_shape(prepare.dataset, training.crop))


def check_parameters(config: Config, run: layout.PrunedRun, network: Path) -> None:
    """Raises ArtifactError where params.yaml describes another network than the one that the run left."""
    digest, now = digest_of_file(config.root / network), config.params_of(run, ("model", "training"))
    makings = map(read_json, (config.root / layout.provenance_folder(run, "retrain")).glob("*.json"))
    others = [other_params(one, now) for one in makings if one["outputs"].get(network.as_posix()) == digest]
    if others and all(others):
        raise ArtifactError(
            f"{network} was made with other parameters than params.yaml has now ({', '.join(others[0])}); "
            "put them back, or run `dvc repro`"
        )


def network_of(model: Model, state: Mapping[str, Tensor]) -> nn.Module:
    """The network of a state dict; the number of classes is that of outputs with which the weights fit.

    Raises:
        ConfigError: the builder takes none of them.
        ArtifactError: they fit with none; it names the tensors that are wrong with the number that fits best.
    """
    tried, refused = {}, None
    for classes in sorted({tensor.shape[0] for tensor in state.values() if tensor.dim() >= 1 and len(tensor)}):
        try:
            tried[classes] = misfits(build(model, classes, 0), state)
        except ConfigError as error:  # a builder may not take any number
            refused = error
            continue
        if not tried[classes]:
            return build(model, classes, 0, state)
    if refused and not tried:
        raise refused
    why = "it has no weights"
    if tried:
        best = min(tried, key=lambda classes: len(tried[classes]))
        more = f" and {len(tried[best]) - 1} more" if len(tried[best]) > 1 else ""
        why = f"with {best}, {tried[best][0]}{more}"
    raise ArtifactError(f"the weights fit {model.name} with no number of classes: {why}; run its stages again")


def onnx_row(path: Path, network: nn.Module, pruned: nn.Module | None, picture: Tensor, label: dict) -> list[str]:
    """Export and describe a network; `pruned` is the one that it stands for, where that is another."""
    check = f"ONNX Runtime within {export(path, network, picture, label):.0e}"
    if pruned is not None:
        check += f", pruned network within {apart(pruned, network, picture):.0e}"
    return row(path, check, ONNX_LINE)


def copied_row(path: Path, source: Path) -> list[str]:
    write_bytes(path, source.read_bytes())
    load_sparse(path)
    return row(path, "digest right", SPARSE_LINE)


def halved_row(path: Path, model: Model, network: nn.Module, picture: Tensor, about: dict) -> list[str]:
    """Write the weights rounded to fp16, and say what that does to the answers."""
    save_sparse(path, network.state_dict(), list(prunable_weights(network)), about, values="fp16")
    rounded = network_of(model, load_sparse(path)[0]).eval()
    return row(path, f"rounded, pruned network within {apart(network, rounded, picture):.0e}", SPARSE_LINE)


@torch.no_grad()
def apart(network: nn.Module, other: nn.Module, picture: Tensor) -> float:
    pictures = noise_like(picture, COMPARED_PICTURES)
    return difference(network(pictures), other(pictures))


def row(path: Path, check: str, line: str) -> list[str]:
    return [f"{path.stat().st_size:,}", f"{zstd_bytes(path):,}", check, line]


def show_compaction(compacted: Compacted) -> None:
    channels = sum(before for before, _ in compacted.channels.values())
    print(
        f"compacted: {compacted.channels_removed:,} of {channels:,} channels removed, "
        f"{compacted.flops_before:,} to {compacted.flops_after:,} FLOPs, "
        f"{compacted.parameters_before:,} to {compacted.parameters_after:,} parameters"
    )
    for operation in compacted.left_alone:
        print(f"left as it is, with all that it reads and makes: {operation}")


def show_files(folder: Path, rows: Mapping[str, list[str]]) -> None:
    print(f"\n{'file':<25}{'bytes':>12}{'with zstd':>12}  largest difference of an answer, over the largest answer")
    for name, (size, packed, check, _) in rows.items():
        print(f"{name:<25}{size:>12}{packed:>12}  {check}")
    print("\nto load:")
    for name, (*_, line) in rows.items():
        print(f"  {line.format(path=folder / name)}")


if __name__ == "__main__":
    entry.run(main)
