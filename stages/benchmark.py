"""`python -m stages.benchmark RUN`: count, weigh and time the pruned network beside the dense one."""

from pipeline import entry, layout
from pipeline.benchmark.latency import latency
from pipeline.config import Config
from pipeline.data.batches import in_order
from pipeline.evaluation.counts import counts, layer_counts
from pipeline.models import build
from pipeline.pruning.masks import prunable_weights
from pipeline.session import Session
from pipeline.settings import prepare_torch
from pipeline.sparse import load_sparse
from pipeline.tensors import load_tensors

STAGE = "benchmark"


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "RUN")
    config = Config(entry.root())
    run = config.pruned_run(name)
    dense, sparse = layout.weights_file(run.dense, "pretrain"), layout.weights_file(run, "retrain")
    data = layout.data_file(run.experiment, "validate")
    with Session(STAGE, run, config, [data, dense, sparse]) as session:
        block, crop = session.experiment.benchmark, session.experiment.training.crop
        pictures = session.pictures("validate")
        prepare_torch(block.threads)
        states = {"dense": load_tensors(config.root / dense)[0], "pruned": load_sparse(config.root / sparse)[0]}
        networks = {
            kind: build(session.experiment.model, pictures.classes, run.seed, state) for kind, state in states.items()
        }
        weights = prunable_weights(networks["pruned"])
        picture = next(in_order(pictures, 1, crop))[0]
        timed = {}
        for size in block.batch_sizes:
            images = next(in_order(pictures, size, crop))[0]
            found = latency(networks, images, block.warmup, block.rounds)
            ratio = found["dense"]["median_ms"] / found["pruned"]["median_ms"]
            timed[f"batch_{size}"] = {**found, "ratio": round(ratio, 4)}
        session.finish(
            {
                "counts": counts(networks["pruned"], weights, picture),
                "layers": layer_counts(weights),
                "bytes": {
                    "dense": (config.root / dense).stat().st_size,
                    "sparse": (config.root / sparse).stat().st_size,
                },
                "latency": {"threads": block.threads, **timed},
            }
        )


if __name__ == "__main__":
    entry.run(main)
