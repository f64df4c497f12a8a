"""Fabricated runs for tests of the ledger and the report: no number here was measured."""

from pathlib import Path
from typing import Any

from pipeline.files import digest_of_file, json_bytes
from pipeline.layout import PrunedRun, iterations_file, metrics_file, owner, provenance_folder, weights_file
from pipeline.report.ledger import STAGES

EXPERIMENT = "fabricated"
SCHEDULE = {"learning_rate": 0.001, "warmup": 0.1, "final": 0.0}
NO_DISTILLATION = {"weight": 0.0, "temperature": 1.0}
NETWORK = {"network": "pipeline/models/lenet5.py"}
CODE = {"code": "reweighted_admm"}
PARAMS = {
    "prepare": {"dataset": "mnist", "validation": 100, "split_seed": 0},
    "model": {"name": "lenet5", "options": {}},
    "training": {"batch_size": 10, "precision": "fp32", "threads": 1, "shift": 0},
    "extra_epochs": 4,
    "pretrain": {**SCHEDULE, "epochs": 2},
    "reference": {**SCHEDULE, "distillation": NO_DISTILLATION},
    "prune": {
        "reweighted-admm": {
            "epochs": 2, "learning_rate": 0.001, "final": 0.1, "rho": 0.01, "eps": 0.01, "update_every": 5,
            "ramp": 0.5, "lambda_rate": 0.1, "distillation": NO_DISTILLATION,
        }
    },
    "retrain": {**SCHEDULE, "distillation": NO_DISTILLATION},
    "evaluate": {"batch_size": 10},
    "benchmark": {"batch_sizes": [1], "threads": [1], "runtimes": ["pytorch"], "warmup": 1, "rounds": 4},
}  # fmt: skip
MACHINE = {"processor": "Imagined CPU", "cores": 2, "memory_gib": 8.0, "system": "Linux"}


class StubConfig:
    """Parameters of a run without files."""

    def params_of(self, run: PrunedRun, blocks: Any) -> dict[str, Any]:
        return {**PARAMS, "prune": PARAMS["prune"]["reweighted-admm"]}


def make_run(seed: int = 0, ratio: float = 10) -> PrunedRun:
    return PrunedRun(EXPERIMENT, "reweighted-admm", ratio, seed)


def write_project(root: Path, runs: list[PrunedRun]) -> None:
    """The configuration files (JSON is YAML) of a project that lists the runs."""
    fields = ("experiment", "method", "ratio", "seed")
    listing = {
        "top": ".",
        "prepared": [EXPERIMENT],
        "dense": {run.dense.name: {"experiment": run.experiment, "seed": run.seed, **NETWORK} for run in runs},
        "runs": {
            run.name: {
                **{field: getattr(run, field) for field in fields},
                **NETWORK,
                **CODE,
                "after": metrics_file(run.dense, "pretrain").as_posix(),
            }
            for run in runs
        },
    }
    put(root / "params.yaml", {"experiments": {EXPERIMENT: PARAMS}})
    put(root / "runs.yaml", listing)


def finish(
    root: Path, run: PrunedRun, *, pruned: float = 0.97, converged: bool = True, size: int = 500, dense_size: int = 900
) -> None:
    """Write what the stages of a finished run leave: metrics, network files of so many bytes, provenance.

    Dense 0.96, reference (the better one) 0.98; 100 of 1,000 weights survive.
    """
    for stage, metrics in metrics_of(pruned, converged).items():
        put(root / metrics_file(owner(run, stage), stage), metrics)
    for stage, content in {
        "retrain": b"z" * size,
        "pretrain": b"p" * dense_size,
        "reference": b"r" * dense_size,
    }.items():
        network = root / weights_file(owner(run, stage), stage)
        network.parent.mkdir(parents=True, exist_ok=True)
        network.write_bytes(content)
    put(root / weights_file(run, "prune"), "w")
    iterations = root / iterations_file(run)
    iterations.parent.mkdir(parents=True, exist_ok=True)
    iterations.write_text("iteration,nonzeros,primal_residual\n1,500,0.2\n2,104,0.0124\n")
    for stage in STAGES:
        vouch(root, run, stage)


def vouch(root: Path, run: PrunedRun, stage: str) -> None:
    """Write provenance that describes the stage's files as they are, and the networks that `evaluate` read."""
    networks = {each: weights_file(owner(run, each), each) for each in ("pretrain", "reference", "prune", "retrain")}
    outputs = [metrics_file(owner(run, stage), stage), *([networks[stage]] if stage in networks else [])]
    outputs += [iterations_file(run)] if stage == "prune" else []
    dense, pruned = networks["pretrain"], networks["prune"]
    reads = {"reference": [dense], "prune": [dense], "retrain": [pruned], "evaluate": networks.values()}.get(stage, ())
    put(root / provenance_folder(owner(run, stage), stage) / "vouched.json", {
        "stage": stage, "seconds": 1.5, "commit": "0123456789abcdef", "dirty": False, "machine": MACHINE,
        "params": {}, "versions": {"python": "3.11", "torch": "2.0"}, "threads": 1,
        "finished": "2000-01-01T00:00:00Z",
        "inputs": {read.as_posix(): digest_of_file(root / read) for read in reads},
        "outputs": {output.as_posix(): digest_of_file(root / output) for output in outputs},
    })  # fmt: skip


def metrics_of(pruned: float, converged: bool) -> dict[str, dict[str, Any]]:
    trained = {
        "epochs": 2, "train_loss": 0.1, "train_accuracy": 0.99, "validation_loss": 0.2,
        "validation_accuracy": 0.95,
    }  # fmt: skip
    return {
        "pretrain": trained,
        "reference": {**trained, "epochs": 4},
        "prune": {
            "converged": converged, "survivors_asked": 100, "nonzeros_at_handover": 104, "survivors": 100,
            "compression_ratio": 10.0, "primal_residual": 0.0123, "dual_residual": 0.1, "lambda": 3e-5,
            "updates": 2, "validation_accuracy_w": 0.96, "validation_accuracy_z": 0.94, "epochs": 2,
            "train_loss": 0.1,
        },
        "retrain": {**trained, "survivors": 100},
        "evaluate": {
            "dataset": "mnist", "dataset_digest": "feedfacefeedface", "test_images": 10_000,
            "dense_accuracy": 0.96, "reference_accuracy": 0.98, "dense_best_accuracy": 0.98,
            "pruned_accuracy": pruned, "accuracy_difference": pruned - 0.98,
        },
        "benchmark": {
            "counts": {
                "prunable_weights": 1000, "surviving_weights": 100, "compression_ratio": 10.0,
                "parameters": 1100, "surviving_parameters": 200, "compression_ratio_all_parameters": 5.5,
                "flops_dense": 9000, "flops_sparse": 900,
            },
            "layers": {"conv1": {"weights": 200, "survivors": 50}, "fc1": {"weights": 800, "survivors": 50}},
            "bytes": {"dense": 4400, "sparse": 1234},
            "runtimes": {"dense": {"pytorch": timing(2.0)}, "compacted": {"pytorch": timing(1.25)}},
        },
    }  # fmt: skip


def timing(median: float) -> dict[str, Any]:
    return {"bytes": None, "batch_1_threads_1": {"median_ms": median, "q1_ms": median - 0.1, "q3_ms": median + 0.1}}


def put(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(json_bytes(value))
