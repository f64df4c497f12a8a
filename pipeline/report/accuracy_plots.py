"""Accuracy against compression: what pruning costs, for each network, experiment and method."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.canvas import COLOUR, Panel, Plot, legend_above, log_axis, panel
from pipeline.report.statistics import Group

METHODS = ("reweighted-admm", "admm-l0", "admm-l1", "magnitude", "gmp")
MARKERS = "osD^vP*X"
DENSE = {"color": COLOUR["ink"], "linewidth": 0.9, "linestyle": (0, (4, 3))}
INCHES = (4.3, 2.9)
Series = tuple[str, str]


def accuracy_plot(groups: Sequence[Group]) -> Plot:
    """Two panels a network: test accuracy, and the paired difference to the better dense network."""
    networks: dict[tuple[str, str], list[Group]] = {}
    for item in groups:
        networks.setdefault((item.first.params["model"]["name"], item.first.dataset["name"]), []).append(item)
    panels = tuple(one for name, members in sorted(networks.items()) for one in _network(*name, members))
    sound = [item for item in groups if item.supports_claims]
    level = sum(item.difference.mean >= 0 for item in sound)
    single = sum(len(item.results) == 1 for item in groups)
    caption = (
        "Accuracy on the test set against compression of the prunable weights. Filled points are means over seeds "
        "with bars from the lowest to the highest seed, joined by a band where neighbours have several; hollow "
        "points are single seeds, crosses did not converge. Dashed: the better of the dense network and the one "
        "trained on for the same extra epochs, marked as its experiment is; right panels subtract it seed by seed. "
        f"{level} of the {len(sound)} settings without a cross reach it in the mean; {single} of {len(groups)} rest on "
        "one seed."
    )
    return Plot("accuracy", caption, panels, pairs=True)


def colour_of(method: str) -> str:
    """The colour of a method, the same in every plot."""
    return COLOUR[f"s{METHODS.index(method) + 1 if method in METHODS else 6}"]


def _network(model: str, dataset: str, groups: Sequence[Group]) -> tuple[Panel, Panel]:
    name = f"{model}, {dataset}"
    key = f"accuracy-{model}-{dataset}"
    accuracy = panel(
        key, f"{name}: accuracy", f"Test accuracy in percent against compression, {name}.",
        lambda figure: _draw(figure, groups, paired=False), INCHES,
    )  # fmt: skip
    paired = panel(
        f"{key}-paired", f"{name}: difference to the dense network",
        f"Accuracy of the pruned minus the better dense network in percentage points against compression, {name}.",
        lambda figure: _draw(figure, groups, paired=True), INCHES,
    )  # fmt: skip
    return accuracy, paired


def _draw(figure: Figure, groups: Sequence[Group], paired: bool) -> None:
    axes = figure.add_subplot()
    series: dict[Series, list[Group]] = {}
    for item in groups:
        series.setdefault((item.first.run.experiment, item.first.run.method), []).append(item)
    markers = dict(zip(dict.fromkeys(experiment for experiment, _ in series), cycle(MARKERS), strict=False))
    for (experiment, _), members in series.items():
        _line(axes, members, paired, markers[experiment])
    for experiment in () if paired else markers:
        marker = markers[experiment] if len(markers) > 1 else ""
        _dense(axes, [item for item in groups if item.first.run.experiment == experiment], marker)
    if paired:
        axes.axhline(0, **DENSE)
    axes.set_ylabel("pruned − dense best (pp)" if paired else "test accuracy (%)")
    ratios = [_ratio(item) for item in groups]
    log_axis(axes, "x", (min(ratios) / 1.4, max(ratios) * 1.4))
    axes.set_xlabel("compression of prunable weights (x)")
    axes.margins(y=0.12)
    legend_above(figure, axes, 3, _key([method for _, method in series], markers))


def _key(methods: Sequence[str], markers: Mapping[str, str]) -> list[Line2D]:
    """Colours are methods; shapes are experiments, where there are several."""
    found = [Line2D([], [], color=colour_of(method), lw=2.4, label=method) for method in dict.fromkeys(methods)]
    if len(markers) > 1:
        plain = {"color": COLOUR["soft"], "linestyle": "none", "markersize": 4.5}
        found += [Line2D([], [], marker=marker, label=name, **plain) for name, marker in markers.items()]
    return [*found, Line2D([], [], **DENSE, label="dense best")]


def _line(axes: Axes, members: Sequence[Group], paired: bool, marker: str) -> None:
    """A mean line through the settings of one series, bands between neighbours of several seeds."""
    members = sorted(members, key=_ratio)
    colour = colour_of(members[0].first.run.method)
    values = [_values(item, paired) for item in members]
    ratios = [_ratio(item) for item in members]
    axes.plot(ratios, [fmean(seeds) for seeds in values], color=colour, linewidth=1.0, zorder=2)
    for i in range(len(members) - 1):
        if len(values[i]) > 1 and len(values[i + 1]) > 1:
            pair = values[i : i + 2]
            axes.fill_between(ratios[i : i + 2], [*map(min, pair)], [*map(max, pair)], color=colour, alpha=0.2, lw=0)
    for item, ratio, seeds in zip(members, ratios, values, strict=True):
        several = len(seeds) > 1
        if several:
            axes.plot([ratio, ratio], [min(seeds), max(seeds)], color=colour, linewidth=2.2, alpha=0.5, zorder=2)
        axes.plot(
            [ratio], [fmean(seeds)], color=colour, linestyle="none", zorder=3, markersize=4.5,
            marker=marker if item.supports_claims else "x",
            markerfacecolor=colour if several else COLOUR["paper"],
        )  # fmt: skip


def _dense(axes: Axes, groups: Sequence[Group], marker: str) -> None:
    """The dense best of an experiment over the ratios it was pruned to."""
    best = 100 * fmean(item.dense_best.mean for item in groups)
    ratios = [_ratio(item) for item in groups]
    ends = [min(ratios) / 1.15, max(ratios) * 1.15]
    axes.plot(ends, [best, best], **DENSE, marker=marker, markersize=4, markerfacecolor=COLOUR["paper"])


def _values(item: Group, paired: bool) -> list[float]:
    """A value a seed, in percent or percentage points."""
    if paired:
        return [100 * result.difference for result in item.results]
    return [100 * result.metrics["evaluate"]["pruned_accuracy"] for result in item.results]


def _ratio(item: Group) -> float:
    return math.exp(fmean(math.log(ratio) for ratio in item.counts("compression_ratio")))
