"""Record finished runs in the ledger below results/, which git tracks.

    python -m stages.record EXPERIMENT|RUN...

Of an experiment all finished runs are recorded; a run that is named must be finished.
"""

from pipeline import entry
from pipeline.config import Config
from pipeline.errors import ArtifactError, ConfigError
from pipeline.layout import PrunedRun
from pipeline.report.ledger import gather, missing_metrics, write_record


def main(arguments: list[str]) -> None:
    if not arguments:
        raise ConfigError("name an experiment, or one run or more, to record")
    config = Config(entry.root())
    runs = [run for name in arguments for run in finished(config, name)]
    refused = [problem for run in dict.fromkeys(runs) if (problem := record(config, run))]
    if refused:
        raise ArtifactError("\n  ".join(refused))


def finished(config: Config, name: str) -> list[PrunedRun]:
    """The run of that name, or the finished runs of the experiment of that name."""
    if name not in config.experiments:
        return [config.pruned_run(name)]
    runs = config.runs_of(name)
    done = [run for run in runs if not missing_metrics(entry.root(), run)]
    if not done:
        raise ArtifactError(f"no run of the experiment {name} is finished; run it first")
    for run in runs:
        if run not in done:
            print(f"not finished, left out: {run.name}")
    return done


def record(config: Config, run: PrunedRun) -> str | None:
    """Record one run; returns why not, or None."""
    try:
        made = gather(entry.root(), config, run)
    except ArtifactError as error:
        return str(error)
    note = "" if made.supports_claims else " (not converged)"
    print(f"recorded: {write_record(entry.root(), made)}{note}")
    return None


if __name__ == "__main__":
    entry.run(main)
