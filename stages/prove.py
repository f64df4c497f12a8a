"""Prove on the whole test set that what is deployed answers as the recorded networks do.

    python -m stages.prove EXPERIMENT|RUN...

Compacted networks in fp64 and fp32, and the sparse engine; the figures go to results/proofs.json, run by run.
"""

import tempfile
from pathlib import Path

from pipeline import entry
from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import read_json, write_json
from pipeline.layout import PROOFS_FILE
from pipeline.proofs import prove
from pipeline.report.ledger import Record, read_ledger
from pipeline.settings import prepare_torch
from pipeline.verification import RecordedTests

THREADS = 2


def main(arguments: list[str]) -> None:
    if not arguments:
        raise ConfigError("name an experiment, or one recorded run or more")
    root = entry.root()
    records, file = chosen(read_ledger(root), arguments), root / PROOFS_FILE
    prepare_torch(THREADS)
    tests = RecordedTests(root)
    for number, record in enumerate(records, start=1):
        with tempfile.TemporaryDirectory() as folder:
            found = prove(root, record, tests.of(record), Path(folder))
        before = read_json(file) if file.is_file() else {}
        write_json(file, dict(sorted({**before, record.run.name: found}.items())))
        print(f"[{number}/{len(records)}] {record.run.name}: {summary(found)}", flush=True)


def chosen(records: list[Record], names: list[str]) -> list[Record]:
    """The records of the experiments and runs named."""
    found = [one for one in records if {one.run.experiment, one.run.name} & set(names)]
    unknown = set(names) - {name for one in found for name in (one.run.experiment, one.run.name)}
    if unknown:
        raise ArtifactError(f"nothing is recorded of {', '.join(sorted(unknown))}; run it and `make record` it")
    return found


def summary(found: dict) -> str:
    engine = found["engine_difference"]
    compiled = "not there" if engine is None else f"within {engine:.1e}"
    return (
        f"{found['pictures']:,} pictures, fp64 within {found['fp64_difference']:.1e}, "
        f"{found['fp32_changed']} of another class in fp32, sparse engine {compiled}"
    )


if __name__ == "__main__":
    entry.run(main)
