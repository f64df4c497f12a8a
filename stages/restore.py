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
        check(config, record, stage)
    for stage in DENSE_STAGES:
        source = config.root / record.dense_networks[stage]["file"]
        write_bytes(config.root / weights_file(run.dense, stage), source.read_bytes())
        provenance.keep(config.root, run.dense, record.provenance[stage])
    dvc("commit", "--force", *(f"{file}:{stage}@{run.dense.name}" for stage in DENSE_STAGES))
    print(f"restored {run.dense.name}; list further runs of it beside {file}, and reproduce them")


def check(config: Config, record: Record, stage: str) -> None:
    """Raises ArtifactError if parameters, data or figures here are not those that the network was made with."""
    making, dense = record.provenance[stage], record.run.dense
    if other := provenance.other_params(making, config.params_of(dense, making["params"])):
        raise ArtifactError(
            f"{stage} of {dense.name} ran with other parameters than params.yaml has now ({', '.join(other)}); "
            "put them back, or run the stage"
        )
    networks = {weights_file(dense, each).as_posix() for each in DENSE_STAGES}
    for name, digest in {**making["inputs"], **making["outputs"]}.items():
        path = config.root / name
        if name not in networks and not (path.is_file() and digest_of_file(path) == digest):
            raise ArtifactError(
                f"{name} is not the one that {stage} of {dense.name} read or wrote; restore it with git"
            )


def dvc(*arguments: str) -> None:
    if subprocess.run([sys.executable, "-m", "dvc", *arguments]).returncode:
        raise PipelineError(f"dvc {arguments[0]} failed; see its message above")


if __name__ == "__main__":
    entry.run(main)
