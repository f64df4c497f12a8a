"""Stage `report`: write the report of an experiment from its metrics, or show it in the terminal.

python -m stages.report EXPERIMENT [--show]
"""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from pipeline import entry
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.files import write_bytes
from pipeline.layout import report_file
from pipeline.report import document
from pipeline.report.ledger import Result, read_result
from pipeline.report.render import terminal
from pipeline.report.tables import result_table
from pipeline.session import identity_of
from pipeline.tracking import copy_to_parent, find_root, without_credentials


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m stages.report")
    parser.add_argument("experiment")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args(arguments)
    results = read_results(options.experiment)
    if options.show:
        print(shown(options.experiment, results))
    else:
        text = document.report(options.experiment, results)
        report = entry.root() / report_file(options.experiment)
        write_bytes(report, text.encode())
        track(results, report)


def read_results(experiment: str) -> list[Result]:
    config = Config(entry.root())
    runs = config.runs_of(experiment)
    if not runs:
        raise ConfigError(f"no run of the experiment {experiment} is listed; add one to runs.yaml")
    return [read_result(entry.root(), config, run) for run in runs]


def track(results: Sequence[Result], report: Path) -> None:
    """Put all figures and the report on the runs' parents: a stage that DVC skipped has sent none."""
    config = Config(entry.root())
    for result in results:
        identity = identity_of(config, result.run, "report", {})
        copy_to_parent(find_root(), identity, result.metrics, [report])


def shown(experiment: str, results: Sequence[Result]) -> str:
    """The results, and where to find more."""
    tracking = without_credentials(os.environ.get("MLFLOW_TRACKING_URI", "mlflow.db"))
    return (
        f"{terminal(result_table(results))}\n\n"
        f"report:    {report_file(experiment)}\n"
        f"tracking:  {tracking} (`make ui` opens it)"
    )


if __name__ == "__main__":
    entry.run(main)
