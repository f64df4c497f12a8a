"""The report's curves as plots of DVC's: all recorded runs of an experiment in one plot, `reports/dvc.yaml`."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.layout import curve_file, iterations_file
from pipeline.report.ledger import Record
from pipeline.yaml_files import yaml_text

PLOTS_FILE = Path("reports", "dvc.yaml")
HEAD = "# The curves of recorded runs for `dvc plots` and `make plots`. Written by `make report`; do not edit.\n"
RESIDUALS = ("primal_residual", "dual_residual")
EPOCHS = ("train_loss", "validation_accuracy")


def dvc_plots(records: Sequence[Record]) -> str:
    """The text of the file: a plot an experiment and quantity, over ADMM iterations or retraining's epochs."""
    plots = []
    for experiment in dict.fromkeys(record.run.experiment for record in records):
        own = [record for record in records if record.run.experiment == experiment]
        pruned = [iterations_file(one.run) for one in own if one.metrics["prune"]["updates"]]
        split = [iterations_file(one.run) for one in own if "primal_residual" in one.metrics["prune"]]
        retrained = [curve_file(one.run, "retrain") for one in own]
        plots.append(_plot(f"{experiment}, pruning", "iteration", "nonzeros", pruned))
        plots += [_plot(f"{experiment}, pruning", "iteration", column, split) for column in RESIDUALS]
        plots += [_plot(f"{experiment}, retraining", "epoch", column, retrained) for column in EPOCHS]
    return HEAD + yaml_text({"plots": plots})


def _plot(title: str, x: str, column: str, files: Sequence[Path]) -> dict[str, dict]:
    words = column.replace("_", " ")
    curves = {f"../{file.as_posix()}": column for file in files}
    return {f"{title}: {words}": {"x": x, "y": curves, "x_label": x, "y_label": words}}
