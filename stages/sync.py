"""Send the tracked numbers that MLflow has not got yet, and those of the ledger: `make sync`."""

from pathlib import Path

from pipeline import entry
from pipeline.layout import record_file
from pipeline.report.ledger import Record, read_ledger
from pipeline.session import TRACKED
from pipeline.tracking import Identity, copy_to_parent, find_root, sync


def main(arguments: list[str]) -> None:
    entry.arguments_of(arguments)
    for record in read_ledger(entry.root()):
        load(find_root(), record)
    print("\n".join(sync(find_root())))


def load(root: Path, record: Record) -> None:
    """Put a record's figures on its run, unless the report stage did so on this machine."""
    identity = identity_of_record(record)
    if not identity.path(root).exists():
        copy_to_parent(root, identity, record.metrics, [root / record_file(record.run)])


def identity_of_record(record: Record) -> Identity:
    """The same run as that of the stages, where parameters have not changed since."""
    run, made = record.run, record.provenance["evaluate"]
    params = {"method": run.method, "ratio": run.ratio, "seed": run.seed}
    params |= {block: record.params[block] for block in TRACKED if block in record.params}
    tags = {"git_commit": made["commit"], "dirty": str(made["dirty"]).lower(), "seed": str(run.seed)}
    tags |= {"dataset": record.dataset["name"], "dataset_digest": record.dataset["digest"]}
    tags |= {"method": run.method, "ratio": str(run.ratio), "dense_run": run.dense.name}
    return Identity(run.experiment, run.name, "report", params, tags)


if __name__ == "__main__":
    entry.run(main)
