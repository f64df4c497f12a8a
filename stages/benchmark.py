"""`python -m stages.benchmark RUN`: count, weigh and time the pruned network beside the dense one."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import entry, layout
from pipeline.benchmark.rows import nested
from pipeline.benchmark.runtimes import SPARSE, contenders, timed
from pipeline.config import Config
from pipeline.data.batches import in_order
from pipeline.deploy.compaction import Compacted, Constant, compact
from pipeline.deploy.graph import Untraceable
from pipeline.evaluation.counts import counts, layer_counts, magnitudes
from pipeline.files import zstd_bytes
from pipeline.models import build
from pipeline.pruning.masks import prunable_weights
from pipeline.session import Session
from pipeline.settings import prepare_torch
from pipeline.sparse import load_sparse, save_sparse, sizes
from pipeline.sparse_engine.engine import SparseEngine
from pipeline.tensors import load_tensors

log = logging.getLogger(__name__)

STAGE = "benchmark"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "RUN")
    config = Config(entry.root())
    run = config.pruned_run(name)
    dense, sparse = layout.weights_file(run.dense, "pretrain"), layout.weights_file(run, "retrain")
    data = layout.data_file(run.experiment, "validate")
    with Session(STAGE, run, config, [data, dense, sparse]) as session, tempfile.TemporaryDirectory() as folder:
        block, crop = session.experiment.benchmark, session.experiment.training.crop
        pictures = session.pictures("validate")
        prepare_torch(max(block.threads))
        states = {"dense": load_tensors(config.root / dense)[0], "pruned": load_sparse(config.root / sparse)[0]}
        networks = {
            kind: build(session.experiment.model, pictures.classes, run.seed, state).eval()
            for kind, state in states.items()
        }
        weights = prunable_weights(networks["pruned"])
        images = next(in_order(pictures, max(block.batch_sizes), crop))[0]
        images = images[torch.arange(max(block.batch_sizes)) % len(images)]  # a small split fills a batch again
        compacted, pruned = compacted_of(networks["pruned"], images[:1]), networks["pruned"]
        ours = {"compacted": (compacted.network, pruned)} if compacted else {"pruned": (pruned, pruned)}
        sides = {"dense": (networks["dense"],) * 2, **ours}
        everyone, absent = contenders(sides, networks["pruned"], images[:1], Path(folder), block.runtimes)
        rows = timed(everyone, images, block.batch_sizes, block.threads, block.warmup, block.rounds)
        session.finish(
            {
                "counts": counts(networks["pruned"], weights, images[:1]),
                "layers": layer_counts(weights),
                "histogram": magnitudes({"dense": prunable_weights(networks["dense"]), "pruned": weights}),
                "bytes": sizes_of(config.root / dense, config.root / sparse, Path(folder), list(weights)),
                "compaction": compacted and compaction(compacted),
                "runtimes": nested(rows, absent),
                "sparse_engine": engine_of(Path(folder)) if any(each.runtime == SPARSE for each in everyone) else None,
            }
        )


def sizes_of(dense: Path, sparse: Path, folder: Path, prunable: list[str]) -> dict[str, int]:
    """Bytes of the files, with values in fp16, packed, and what they could be at least."""
    state, about = load_sparse(sparse)
    halved = folder / "halved.safetensors"
    save_sparse(halved, state, prunable, about, values="fp16")
    found = {"dense": dense, "sparse": sparse, "sparse_fp16": halved}
    parts = sizes(sparse)
    return {
        **{name: path.stat().st_size for name, path in found.items()},
        **{f"{name}_zstd": zstd_bytes(path) for name, path in found.items()},
        "sparse_header": parts["header"],
        "sparse_bound": parts["bound"],
    }


def compacted_of(network: nn.Module, picture: Tensor) -> Compacted | None:
    """The compacted network; None where it cannot be traced or nothing would be left of it, so that the pruned one is
    timed as it is."""
    try:
        return compact(network, picture)
    except (Untraceable, Constant) as error:
        log.warning("the compacted network is left out, and the pruned one timed as it is: %s", error)
        return None


def compaction(found: Compacted) -> dict[str, Any]:
    return {
        "channels_before": sum(before for before, _ in found.channels.values()),
        "channels_removed": found.channels_removed,
        "parameters_before": found.parameters_before,
        "parameters_after": found.parameters_after,
        "flops_before": found.flops_before,
        "flops_after": found.flops_after,
        "left_alone": list(found.left_alone),
    }


def engine_of(folder: Path) -> Mapping[str, Any]:
    """What the sparse engine was compiled with."""
    about = SparseEngine(folder / "engine").about
    library = about["library"]
    return {
        "compiler": library["compiler"],
        "flags": " ".join(library["flags"]),
        "source_bytes": (folder / "engine" / "network.c").stat().st_size,
        "nonzeros": about["nonzeros"],
    }


if __name__ == "__main__":
    entry.run(main)
