"""The ledger: one git-tracked record a finished run: what was measured, how, where, with which code; its networks."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.benchmark.rows import flat
from pipeline.config import Config
from pipeline.errors import ArtifactError
from pipeline.files import digest_of_tree, read_json, sha256, write_json
from pipeline.layout import (
    DENSE_STAGES,
    PrunedRun,
    Run,
    metrics_file,
    owner,
    provenance_folder,
    record_file,
    recorded_network_file,
    weights_file,
)
from pipeline.params import Experiment
from pipeline.provenance import other_params
from pipeline.report import kept_networks

SCHEMA = 1
# The blocks that make a run; studies only tell how values were chosen.
BLOCKS = tuple(name for name in Experiment.model_fields if name != "studies")
STAGES = (*DENSE_STAGES, "prune", "retrain", "evaluate", "benchmark")
# What tables read from each stage's metrics; a dot goes one level down.
NEEDED = {
    "pretrain": ("epochs", "validation_accuracy"),
    "reference": ("epochs", "validation_accuracy"),
    "prune": (
        "converged", "survivors_asked", "nonzeros_at_handover", "survivors", "updates", "validation_accuracy_w",
        "validation_accuracy_z",
    ),
    "retrain": ("epochs", "validation_accuracy", "survivors"),
    "evaluate": (
        "dataset", "dataset_digest", "test_images", "dense_accuracy", "reference_accuracy",
        "dense_best_accuracy", "pruned_accuracy",
    ),
    "benchmark": (
        "counts.surviving_weights", "counts.compression_ratio", "counts.compression_ratio_all_parameters",
        "layers", "bytes.dense", "bytes.sparse", "runtimes",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A finished run: its raw parameters by block, its metrics by stage; accuracies are fractions."""

    run: PrunedRun
    params: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]

    @property
    def dataset(self) -> dict[str, Any]:
        evaluate = self.metrics["evaluate"]
        return {
            "name": evaluate["dataset"],
            "digest": evaluate["dataset_digest"],
            "test_images": evaluate["test_images"],
        }

    @property
    def converged(self) -> bool | None:
        """None: the method cuts by its nature; False: it should not have had to, and the run supports no claim."""
        return self.metrics["prune"]["converged"]

    @property
    def runtimes(self) -> list[dict[str, Any]]:
        """A row a timed network, engine, batch and number of threads."""
        return flat(self.metrics["benchmark"].get("runtimes", {}))

    @property
    def supports_claims(self) -> bool:
        return self.converged is not False

    @property
    def difference(self) -> float:
        """Accuracy of the pruned network minus the better one of the two dense accuracies."""
        evaluate = self.metrics["evaluate"]
        return evaluate["pruned_accuracy"] - evaluate["dense_best_accuracy"]


@dataclass(frozen=True)
class Record(Result):
    """A result with the provenance of each stage, and where its networks are.

    `sparse_network` is None, and `dense_networks` lacks a stage, where the network is not recorded.
    """

    provenance: Mapping[str, Mapping[str, Any]]
    sparse_network: Mapping[str, Any] | None
    dense_networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def networks(self) -> list[Mapping[str, Any]]:
        """File, digest and size of each network that is recorded."""
        return [*filter(None, [self.sparse_network]), *self.dense_networks.values()]

    @property
    def training_seconds(self) -> float:
        """Wall time of pretraining, pruning and retraining together."""
        return sum(self.provenance[stage]["seconds"] for stage in ("pretrain", "prune", "retrain"))


def missing_metrics(root: Path, run: PrunedRun) -> list[Path]:
    """The metrics files that a run does not have yet, in the order of the stages."""
    files = [metrics_file(owner(run, stage), stage) for stage in STAGES]
    return [file for file in files if not (root / file).is_file()]


def read_result(root: Path, config: Config, run: PrunedRun) -> Result:
    """Read the metrics of a run's stages.

    Raises:
        ArtifactError: metrics are missing; names all missing files, or the missing values of a file.
    """
    missing = missing_metrics(root, run)
    if missing:
        names = ", ".join(str(file) for file in missing)
        raise ArtifactError(f"{run.name} is not finished, its metrics are missing ({names}); run its stages")
    metrics = {stage: _checked_metrics(root, owner(run, stage), stage) for stage in STAGES}
    return Result(run, config.params_of(run, BLOCKS), metrics)


def gather(root: Path, config: Config, run: PrunedRun) -> Record:
    """Make the record of a run from the files that its stages left.

    Raises:
        ArtifactError: metrics or provenance of a stage are missing, or describe different results.
    """
    result = read_result(root, config, run)
    recorded = _recorded_makings(root, run)
    provenance = {stage: _provenance(root, owner(run, stage), stage, result.params, recorded) for stage in STAGES}
    network = root / weights_file(run, "retrain")
    if not network.is_file():
        raise ArtifactError(f"{network} does not exist; run the stage retrain of {run.name}")
    sparse = kept_networks.describe(network, recorded_network_file(run))
    dense = kept_networks.describe_dense(root, run.dense, provenance["evaluate"]["inputs"])
    return Record(run, result.params, result.metrics, provenance, sparse, dense)


def write_record(root: Path, record: Record) -> Path:
    """Write a record, and copy its networks beside it; returns the record's file below `root`.

    Raises:
        ArtifactError: a network changed since the record was made.
    """
    if record.sparse_network is None:
        (root / recorded_network_file(record.run)).unlink(missing_ok=True)
    else:
        kept_networks.keep(root, record.run, "retrain", record.sparse_network)
    for stage, described in record.dense_networks.items():
        kept_networks.keep(root, record.run.dense, stage, described)
    content = _content(record)
    write_json(root / record_file(record.run), {**content, "digest": _digest(content)})
    kept_networks.drop_unnamed(root, record.run.dense)
    return record_file(record.run)


def read_record(root: Path, file: Path) -> Record:
    """Read a record by its place below `root`.

    Raises:
        ArtifactError: missing, of another schema, under another run's name, or changed since it was recorded.
    """
    content = read_json(root / file)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(f"{file} has schema {schema!r}, not {SCHEMA}; record the run again")
    if content.pop("digest", None) != _digest(content):
        raise ArtifactError(
            f"{file} was changed since it was recorded: its digest does not match; "
            f"restore it (`git checkout {file}`) or record the run again"
        )
    run = PrunedRun(**content["run"])
    if file != record_file(run):
        raise ArtifactError(f"{file} is the record of {run.name}; move it back to {record_file(run)}")
    names = ("params", "metrics", "provenance", "sparse_network")
    record = Record(run, **{name: content[name] for name in names}, dense_networks=content.get("dense_networks", {}))
    for network in record.networks:
        kept_networks.check(root, file, network)
    return record


def read_ledger(root: Path) -> list[Record]:
    """Read all records, sorted by experiment, method, ratio and seed.

    Raises:
        ArtifactError: a record cannot be used.
    """
    files = sorted(root.glob("results/*/*.json"))
    records = [read_record(root, file.relative_to(root)) for file in files]
    return sorted(records, key=lambda record: dataclasses.astuple(record.run))


def _checked_metrics(root: Path, run: Run, stage: str) -> dict[str, Any]:
    file = metrics_file(run, stage)
    metrics = read_json(root / file)
    missing = [key for key in NEEDED[stage] if not _has(metrics, key.split("."))]
    if missing:
        raise ArtifactError(f"{file} has no {', '.join(missing)}; run the stage {stage} again")
    return metrics


def _has(value: Any, keys: Iterable[str]) -> bool:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def _provenance(
    root: Path, run: Run, stage: str, params: Mapping[str, Any], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """The making that describes the files as they are now; if none does, what is wrong with the newest.

    Makings are those of this machine, newest first, then the one that the ledger has already.
    """
    folder = provenance_folder(run, stage)
    files = sorted((root / folder).glob("*.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    makings = [(file.relative_to(root), read_json(file)) for file in files]
    makings += [(Path("the ledger"), recorded[stage])] if stage in recorded else []
    problems = []
    for file, making in makings:
        try:
            return _checked_provenance(root, file, making, run, stage, params)
        except ArtifactError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    raise ArtifactError(f"{folder} does not exist: {stage} of {run.name} did not run here; run it again")


def _recorded_makings(root: Path, run: PrunedRun) -> Mapping[str, Any]:
    """The provenance of each stage in the run's present record, if it has one that can be used."""
    try:
        return read_record(root, record_file(run)).provenance
    except ArtifactError:
        return {}


def _checked_provenance(
    root: Path, file: Path, provenance: Any, run: Run, stage: str, params: Mapping[str, Any]
) -> dict[str, Any]:
    outputs = provenance.get("outputs") if isinstance(provenance, dict) else None
    metrics = metrics_file(run, stage).as_posix()
    if not outputs or metrics not in outputs:
        raise ArtifactError(f"{file} does not say which {metrics} it describes; run {stage} again")
    if changed := other_params(provenance, params):
        raise ArtifactError(
            f"{stage} of {run.name} ran with other parameters than params.yaml has now ({', '.join(changed)}); "
            "run `dvc repro`, or put the parameters back"
        )
    for name, digest in {**provenance["inputs"], **outputs}.items():
        if not (root / name).exists() or digest_of_tree(root / name) != digest:
            raise ArtifactError(
                f"{file} describes another result: {name} is not what the stage {stage} of {run.name} "
                f"{'wrote' if name in outputs else 'read'}; run the stage again"
            )
    return provenance


def _content(record: Record) -> dict[str, Any]:
    run = record.run
    return {
        "schema": SCHEMA,
        "run": {"experiment": run.experiment, "method": run.method, "ratio": run.ratio, "seed": run.seed},
        "dataset": record.dataset,
        "params": record.params,
        "metrics": record.metrics,
        "provenance": record.provenance,
        "sparse_network": record.sparse_network,
        **({"dense_networks": record.dense_networks} if record.dense_networks else {}),
    }


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 over the values, whatever the order of keys and the white space."""
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
