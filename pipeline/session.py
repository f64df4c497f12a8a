"""One run of one stage: its parameters and inputs, resuming, tracking and provenance."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import layout, provenance
from pipeline.assembly import Job
from pipeline.config import Config
from pipeline.data.batches import PictureSet, picture_set
from pipeline.errors import ArtifactError
from pipeline.files import digest_of_tree, write_csv, write_json
from pipeline.layout import DenseRun, PrunedRun, Run
from pipeline.provenance import Making
from pipeline.pruning.masks import prunable_weights
from pipeline.resume import Scratch
from pipeline.settings import prepare_torch
from pipeline.sparse import save_sparse
from pipeline.tensors import load_tensors, read_about, save_tensors
from pipeline.tracking import Identity, Tracker, find_root
from pipeline.training.engine import is_first_process, start_engine

# Which blocks of an experiment each stage reads: the same list stands in dvc.yaml, and a test compares.
BLOCKS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("prepare",),
    "pretrain": ("model", "training", "pretrain"),
    "reference": ("model", "training", "extra_epochs", "reference"),
    "prune": ("model", "training", "extra_epochs", "prune"),
    "retrain": ("model", "training", "extra_epochs", "prune", "retrain"),
    "evaluate": ("model", "training", "evaluate"),
    "benchmark": ("model", "training", "benchmark"),
}
# What a pruned run is found by in tracking, beside method, ratio and seed.
TRACKED = ("prepare", "model", "training", "extra_epochs", "pretrain", "reference", "prune", "retrain")
# Code whose change makes a checkpoint stale (the files that a training stage lists in dvc.yaml).
CODE = (
    "assembly.py",
    "settings.py",
    "data/batches.py",
    "data/pictures.py",
    "models",
    "pruning",
    "training",
    "evaluation/accuracy.py",
)
SLOW_BF16 = "precision bf16: this processor has no bf16 instructions, and would train many times faster in fp32"
log = logging.getLogger(__name__)


class Session:
    """Context of a stage's work; implements the training loop's checkpoint.

    On leaving without an error, provenance is written and the scratch folder removed. Whatever
    leaves the context early is kept for the next session. Where many processes share a training, all
    but the first one only read.
    """

    def __init__(self, stage: str, run: Run, config: Config, inputs: Sequence[Path]) -> None:
        self.stage, self.run, self.config, self.root = stage, run, config, config.root
        self.experiment = config.experiment(run.experiment)
        self.params = config.params_of(run, BLOCKS[stage])
        self.inputs = {path.as_posix(): digest_of_tree(_existing(self.root / path)) for path in inputs}
        code = {name: digest_of_tree(Path(__file__).parent / name) for name in CODE}
        code["network"] = digest_of_tree(_existing(self.root / config.network_path(run)))
        depends = {"run": run.name, "params": self.params, "inputs": self.inputs, "code": code}
        self.first = is_first_process()
        self.scratch = Scratch(self.root, f"{stage}-{run.name}", depends)
        data = next((path for path in inputs if path.parts[0] == "data"), None)
        about = read_about(self.root / data) if data else {}
        self.tracker = Tracker(find_root(), identity_of(config, run, stage, about))
        self._code = provenance.git_state(self.root)
        self._started, self._before = time.monotonic(), 0.0
        self._outputs: list[Path] = []

    def __enter__(self) -> "Session":
        if self.first:
            self.scratch.__enter__()
            self.tracker.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if not self.first:
            return
        self.tracker.__exit__(*error)
        if error[0] is None:
            threads = self.experiment.training.threads
            making = Making(self.stage, self.params, self.inputs, self._outputs, self.seconds, threads, self._code)
            provenance.write(self.root, find_root(), self.run, making)
        self.scratch.__exit__(*error)

    @property
    def seconds(self) -> float:
        """Wall time of all sessions of this stage together."""
        return self._before + time.monotonic() - self._started

    def load(self) -> dict[str, Any] | None:
        state = self.scratch.load()
        if state is None:
            return None
        self._before = state["seconds"]
        return state["phase"]

    def save(self, state: dict[str, Any]) -> None:
        if self.first:
            self.scratch.save({"seconds": self.seconds, "phase": state})

    def on_epoch(self, row: Mapping[str, float]) -> None:
        figures = {key: value for key, value in row.items() if key != "epoch"}
        if self.first:
            self.tracker.log(figures, step=int(row["epoch"]))

    def pictures(self, split: str) -> PictureSet:
        """A prepared part of the experiment's data set."""
        return picture_set(*load_tensors(self.root / layout.data_file(self.run.experiment, split)))

    def job(self) -> Job:
        """The stage's training job; more processes, where the parameters ask for them, start here."""
        engine = start_engine(self.experiment.training)
        training = self.experiment.training
        prepare_torch(training.threads)
        if self.first and training.precision == "bf16" and engine.device.type == "cpu" and not _has_bf16():
            log.warning(SLOW_BF16)
        train, validate = self.pictures("train"), self.pictures("validate")
        return Job(self.stage, self.experiment, self.run.seed, train, validate, self, self.on_epoch, engine)

    def write_dense(self, network: nn.Module) -> None:
        path = layout.weights_file(self.run, self.stage)
        save_tensors(self.root / path, self._state(network), self._about)
        self.wrote(path)

    def write_sparse(self, network: nn.Module) -> None:
        path = layout.weights_file(self.run, self.stage)
        save_sparse(self.root / path, self._state(network), list(prunable_weights(network)), self._about)
        self.wrote(path)

    def write_rows(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        write_csv(self.root / path, rows)
        self.wrote(path)

    def _state(self, network: nn.Module) -> dict[str, Tensor]:
        """The weights to write, in fp32 on the CPU; processes that do not write end here."""
        if not self.first:
            raise SystemExit(0)
        state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}

    @property
    def _about(self) -> dict[str, str]:
        return {"run": self.run.name, "stage": self.stage}

    def wrote(self, *paths: Path) -> None:
        """Outputs whose digests go into the provenance."""
        self._outputs += paths

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the stage's metrics, and send them to tracking."""
        path = layout.metrics_file(self.run, self.stage)
        write_json(self.root / path, metrics)
        self.wrote(path)
        self.tracker.finish(metrics)


def identity_of(config: Config, run: Run, stage: str, about_data: Mapping[str, Any]) -> Identity:
    """What tracking finds a run by, and the tags to compare runs with."""
    state = provenance.git_state(config.root)
    tags = {"git_commit": state["commit"], "dirty": str(state["dirty"]).lower(), "seed": str(run.seed)}
    tags |= {key: about_data[key] for key in ("dataset", "dataset_digest") if key in about_data}
    if isinstance(run, PrunedRun):
        tags |= {"method": run.method, "ratio": str(run.ratio), "dense_run": run.dense.name}
    return Identity(run.experiment, run.name, stage, tracked_params(config, run), tags)


def tracked_params(config: Config, run: Run) -> dict[str, Any]:
    """Everything that makes a run what it is: what a tracking run is found by."""
    if isinstance(run, DenseRun):
        blocks = ("prepare", "model", "training", "extra_epochs", "pretrain", "reference")
        return {"seed": run.seed, **config.params_of(run, blocks)}
    own = {"method": run.method, "ratio": run.ratio, "seed": run.seed}
    return {**own, **config.params_of(run, TRACKED)}


def _has_bf16() -> bool:
    return any(found for name, found in torch.cpu.get_capabilities().items() if "bf16" in name)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ArtifactError(f"{path} does not exist; run the stage that makes it, or `dvc pull`")
    return path
