"""Put the dense networks of a recorded run back where stages look for them, so that further runs start from them.

    python -m stages.restore RUN

Prepares the data first; afterwards DVC takes the networks for what their stages would leave on this machine.
"""

import subprocess
import sys

from pipeline import entry, provenance
from pipeline.config import Config
from pipeline.errors import ArtifactError, PipelineError
from pipeline.files import digest_of_file, write_bytes
from pipeline.layout import DENSE_STAGES, record_file, weights_file
from pipeline.report.ledger import Record, read_record


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "RUN")
    config = Config(entry.root())
    run = config.pruned_run(name)
    record, file = read_record(config.root, record_file(run)), config.pipeline_file(run.experiment)
    if missing := [stage for stage in DENSE_STAGES if stage not in record.dense_networks]:
        raise ArtifactError(f"the record of {name} has no dense network of {' and '.join(missing)}; run its stages")
    dvc("repro", "--single-item", f"{file}:prepare@{run.experiment}")
    for stage in DENSE_STAGES:
        restore(config, record, stage)
    dvc("commit", "--force", *(f"{file}:{stage}@{run.dense.name}" for stage in DENSE_STAGES))
    print(f"restored {run.dense.name}; a run of it goes on by: dvc repro --single-item {file}:prune@...")


def restore(config: Config, record: Record, stage: str) -> None:
    """Copy one network to its place, with the making that the record has of it.

    Raises:
        ArtifactError: the data, or a file that git has of the stage, is another one than the record's.
    """
    making, place = record.provenance[stage], weights_file(record.run.dense, stage)
    source = config.root / record.dense_networks[stage]["file"]
    write_bytes(config.root / place, source.read_bytes())
    for name, digest in {**making["inputs"], **making["outputs"]}.items():
        if not (config.root / name).is_file() or digest_of_file(config.root / name) != digest:
            raise ArtifactError(f"{name} is not the one that {stage} of {record.run.dense.name} read or wrote")
    provenance.keep(config.root, record.run.dense, making)


def dvc(*arguments: str) -> None:
    if subprocess.run([sys.executable, "-m", "dvc", *arguments]).returncode:
        raise PipelineError(f"dvc {arguments[0]} failed; see its message above")


if __name__ == "__main__":
    entry.run(main)
