"""Names of runs and the places of their files: the one description of the folders below the top."""

from dataclasses import dataclass
from pathlib import Path

PROOFS_FILE = Path("results", "proofs.json")  # that what is deployed answers as the recorded network, by run


@dataclass(frozen=True)
class DenseRun:
    """A dense network: shared by all pruned networks of its experiment and seed."""

    experiment: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.experiment}/dense-s{self.seed}"

    @property
    def name(self) -> str:
        return self.folder.replace("/", "-")


@dataclass(frozen=True)
class PrunedRun:
    """A pruned network: experiment, method, asked compression ratio over prunable weights, seed."""

    experiment: str
    method: str
    ratio: float
    seed: int

    @property
    def dense(self) -> DenseRun:
        return DenseRun(self.experiment, self.seed)

    @property
    def folder(self) -> str:
        return f"{self.experiment}/{self.method}-{self.ratio}x-s{self.seed}"

    @property
    def name(self) -> str:
        return self.folder.replace("/", "-")


Run = DenseRun | PrunedRun
DENSE_STAGES = ("pretrain", "reference")


def owner(run: PrunedRun, stage: str) -> Run:
    """The run under whose name a stage of a pruned run keeps its files."""
    return run.dense if stage in DENSE_STAGES else run


def data_file(experiment: str, split: str) -> Path:
    """Prepared pictures: split is train, validate or test."""
    return Path("data", experiment, f"{split}.safetensors")


def weights_file(run: Run, stage: str) -> Path:
    """Weights that a stage leaves: dense after pretrain and reference, sparse after prune and retrain."""
    return Path("artifacts", run.folder, f"{stage}.safetensors")


def metrics_file(run: Run, stage: str) -> Path:
    return Path("metrics", run.folder, f"{stage}.json")


def curve_file(run: Run, stage: str) -> Path:
    """One row an epoch."""
    return Path("curves", run.folder, f"{stage}.csv")


def iterations_file(run: PrunedRun) -> Path:
    """One row an ADMM iteration: lambda, nonzeros, residuals."""
    return Path("curves", run.folder, "iterations.csv")


def report_file(experiment: str) -> Path:
    return Path("reports", f"{experiment}.md")


def study_file(experiment: str, study: str) -> Path:
    """The trials of a study."""
    return Path("results", f"{experiment}-{study}.json")


def record_file(run: Run) -> Path:
    """The ledger's record of a run."""
    return Path("results", f"{run.folder}.json")


def recorded_network_file(run: PrunedRun) -> Path:
    """The sparse network beside its record."""
    return Path("results", f"{run.folder}.safetensors")


def recorded_dense_file(run: DenseRun, stage: str, digest: str) -> Path:
    """A dense network in the ledger, under its digest: records of one seed share it, a later training replaces none."""
    return Path("results", f"{run.folder}-{stage}-{digest[:8]}.safetensors")


def provenance_folder(run: Run, stage: str) -> Path:
    """What a stage wrote about its makings, a file for each different one; git-ignored, part of the ledger's record."""
    return Path(".scratch", "provenance", run.folder, stage)
