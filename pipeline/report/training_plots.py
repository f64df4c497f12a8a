"""How the runs went: residuals and nonzeros of each ADMM update, loss and accuracy of each epoch."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.pruning.control import LARGEST_PRIMAL_RESIDUAL
from pipeline.report.canvas import COLOUR, Panel, Plot, legend_above, log_axis, ordered_colours, panel
from pipeline.report.curves import Curves

QUANTITIES = {
    "nonzeros": "nonzeros of Z",
    "primal_residual": "primal residual, ||W − Z|| / ||W||",
    "dual_residual": "dual residual, ρ ||Z − Z before||",
}
EPOCH_QUANTITIES = {"validation_accuracy": "validation accuracy (%)", "train_loss": "training loss"}


def iterations_plot(curves: Sequence[Curves]) -> Plot:
    """Three panels an experiment and method: nonzeros, primal and dual residual over the updates."""
    known = [curve for curve in curves if curve.iterations and "primal_residual" in curve.iterations]
    panels = tuple(
        _iterations_panel(experiment, method, members, quantity)
        for (experiment, method), members in _settings(known).items()
        for quantity in QUANTITIES
    )
    ends = [curve.iterations["primal_residual"][-1] for curve in known]
    last = f"At the last update the primal residuals lie between {min(ends):.3g} and {max(ends):.3g}. " if ends else ""
    caption = (
        "ADMM, update by update; a line a run, darker or brighter the harder it is compressed. Dashed in the first "
        "panels: the nonzeros that the controller asks for. The falling number of nonzeros is the method's "
        f"work, and no cut. {last}A run that ends above {LARGEST_PRIMAL_RESIDUAL} (dotted) counts as not converged."
    )
    return Plot("residuals", caption, panels)


def training_plot(curves: Sequence[Curves]) -> Plot:
    """Two panels an experiment and method: validation accuracy and training loss over all phases."""
    panels = tuple(
        _epochs_panel(experiment, method, members, quantity)
        for (experiment, method), members in _settings([curve for curve in curves if curve.complete]).items()
        for quantity in EPOCH_QUANTITIES
    )
    caption = (
        "Epoch by epoch: pretraining, pruning, retraining (between the thin vertical lines), and dashed the "
        "reference, which is the dense network trained on for as many epochs. Accuracy is that of the validation "
        "split, while pruning that of W and not yet of its sparse copy; the loss includes distillation where "
        "a phase distils, so that it jumps between phases."
    )
    return Plot("training", caption, panels, pairs=True)


def _settings(curves: Sequence[Curves]) -> dict[tuple[str, str], list[Curves]]:
    found: dict[tuple[str, str], list[Curves]] = {}
    for curve in sorted(curves, key=lambda one: (one.record.run.ratio, one.record.run.seed)):
        found.setdefault((curve.record.run.experiment, curve.record.run.method), []).append(curve)
    return dict(sorted(found.items()))


def _colours(curves: Sequence[Curves]) -> dict[float, str]:
    ratios = sorted({curve.record.run.ratio for curve in curves})
    return dict(zip(ratios, ordered_colours(len(ratios)), strict=True))


def _iterations_panel(experiment: str, method: str, curves: Sequence[Curves], quantity: str) -> Panel:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = _colours(curves)
        for curve in curves:
            ratio, steps = curve.record.run.ratio, curve.iterations
            if quantity == "nonzeros" and "nonzeros_asked" in steps:
                axes.plot(
                    steps["iteration"], steps["nonzeros_asked"], color=COLOUR["soft"], linewidth=0.7,
                    linestyle=(0, (3, 2)), zorder=3,
                )  # fmt: skip
            values = [value if value > 0 else float("nan") for value in steps[quantity]]
            axes.plot(steps["iteration"], values, color=colours[ratio], linewidth=1.0, label=f"{ratio:g}x")
        log_axis(axes, "y")
        if quantity == "primal_residual":
            axes.axhline(LARGEST_PRIMAL_RESIDUAL, color=COLOUR["ink"], linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set(xlabel="ADMM update", ylabel=QUANTITIES[quantity])
        axes.margins(x=0.02)
        legend_above(figure, axes, 4)

    title = f"{experiment}, {method}: {quantity.replace('_', ' ')}"
    return panel(f"{quantity}-{experiment}-{method}", title, f"{title} at each ADMM update, a line a run.", draw)


def _epochs_panel(experiment: str, method: str, curves: Sequence[Curves], quantity: str) -> Panel:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _phase_lines(axes, curves)
        colours = _colours(curves)
        for curve in curves:
            _trajectory(axes, curve, quantity, colours[curve.record.run.ratio])
        if quantity == "train_loss":
            log_axis(axes, "y")
        axes.set(xlabel="epoch", ylabel=EPOCH_QUANTITIES[quantity])
        axes.margins(x=0.02)
        legend_above(figure, axes, 3)

    title = f"{experiment}, {method}: {quantity.replace('_', ' ')}"
    return panel(f"{quantity}-{experiment}-{method}", title, f"{title} at each epoch, a line a run.", draw, (4.3, 2.7))


def _trajectory(axes: Axes, curve: Curves, quantity: str, colour: str) -> None:
    """Pretraining, then pruning and retraining; and the reference, which goes on from pretraining too."""
    start = _epochs(curve, "pretrain")
    form = _form(quantity)
    path = [form(value) for phase in ("pretrain", "prune", "retrain") for value in _values(curve, phase, quantity)]
    aside = [form(value) for value in _values(curve, "reference", quantity)]
    axes.plot(
        range(start + 1, start + 1 + len(aside)), aside, color=COLOUR["soft"], linewidth=0.8,
        linestyle=(0, (3, 2)), label="reference", zorder=2,
    )  # fmt: skip
    label = f"{curve.record.run.ratio:g}x"
    axes.plot(range(1, 1 + len(path)), path, color=colour, linewidth=1.0, label=label, zorder=3)


def _phase_lines(axes: Axes, curves: Sequence[Curves]) -> None:
    for ends in {(_epochs(one, "pretrain"), _epochs(one, "prune")) for one in curves}:
        for epoch in (ends[0], sum(ends)):
            axes.axvline(epoch + 0.5, color=COLOUR["soft"], linewidth=0.5)


def _epochs(curve: Curves, phase: str) -> int:
    return len(_values(curve, phase, "epoch"))


def _values(curve: Curves, phase: str, quantity: str) -> list[float]:
    return curve.phases.get(phase, {}).get(quantity, [])


def _form(quantity: str) -> Callable[[float], float]:
    return (lambda value: 100 * value) if quantity == "validation_accuracy" else (lambda value: value)
