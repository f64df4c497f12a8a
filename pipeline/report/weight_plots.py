"""Where the weights went: the fraction kept of each layer, and the sizes of weights before and after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure

from pipeline.errors import ArtifactError
from pipeline.evaluation.counts import EDGES
from pipeline.report.canvas import COLOUR, Panel, Plot, legend_above, log_axis, ordered_colours, panel
from pipeline.report.ledger import Record
from pipeline.report.render import Table, percent, whole
from pipeline.report.statistics import Group
from pipeline.sparse import load_sparse


def settings(groups: Sequence[Group]) -> dict[tuple[str, str], list[Group]]:
    """The groups of each (experiment, method), by rising compression."""
    found: dict[tuple[str, str], list[Group]] = {}
    for item in sorted(groups, key=lambda one: one.first.run.ratio):
        found.setdefault((item.first.run.experiment, item.first.run.method), []).append(item)
    return dict(sorted(found.items()))


def kept(item: Group) -> dict[str, float]:
    """Fraction of each layer's weights that survived, mean over seeds."""
    runs = [result.metrics["benchmark"]["layers"] for result in item.results]
    return {name: fmean(run[name]["survivors"] / run[name]["weights"] for run in runs) for name in runs[0]}


def layers_plot(groups: Sequence[Group]) -> Plot:
    """A panel an experiment and method: the fraction kept of each layer, a line a compression."""
    panels = tuple(_layers_panel(*name, members) for name, members in settings(groups).items())
    hardest = max(groups, key=lambda item: item.first.run.ratio)
    shares = sorted(kept(hardest).items(), key=lambda pair: pair[1])
    caption = (
        "Weights kept of each layer, input at the top; reweighted-admm is given one compression for the whole "
        "network, and none for a layer. "
        f"The hardest setting, {hardest.first.run.experiment} at {hardest.first.run.ratio:g}x, keeps "
        f"{percent(shares[-1][1])} % of {_short(shares[-1][0])} and {percent(shares[0][1])} % of "
        f"{_short(shares[0][0])}."
    )
    return Plot("layers", caption, panels)


def kept_table(groups: Sequence[Group]) -> Table:
    """The same numbers of one experiment and method: a row a layer, a column a compression."""
    layers = groups[0].first.metrics["benchmark"]["layers"]
    shares = [kept(item) for item in groups]
    headers = ("layer", "weights", *(f"kept at {item.first.run.ratio:g}x (%)" for item in groups))
    rows = [
        (_short(name), whole(layer["weights"]), *(percent(share[name]) for share in shares))
        for name, layer in layers.items()
    ]
    return Table(headers, rows)


def _layers_panel(experiment: str, method: str, groups: Sequence[Group]) -> Panel:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        names = [_short(name) for name in kept(groups[0])]
        for item, colour in zip(groups, ordered_colours(len(groups)), strict=True):
            shares = [100 * share for share in kept(item).values()]
            label = f"{item.first.run.ratio:g}x" + (f", {len(item.results)} seeds" if len(item.results) > 1 else "")
            axes.plot(shares, range(len(shares)), "o-", color=colour, markersize=3, linewidth=0.9, label=label)
        axes.set_yticks(range(len(names)), names, fontsize=7.5 if len(names) < 30 else 6)
        axes.set_ylim(len(names) - 0.5, -0.5)
        low = min(share for item in groups for share in kept(item).values() if share > 0)
        log_axis(axes, "x", (100 * low / 1.8, 130))
        axes.set_xlabel("weights kept (%)")
        legend_above(figure, axes, 3)

    height = 1.3 + max(0.9, 0.11 * len(kept(groups[0])))
    return panel(
        f"layers-{experiment}-{method}", f"{experiment}, {method}",
        f"Percent of weights kept in each layer of {experiment}, pruned by {method}.", draw, (3.6, height),
    )  # fmt: skip


def histogram_plot(root: Path, groups: Sequence[Group]) -> Plot:
    """A panel an experiment and method: how many weights have which size, after pruning and where known before."""
    panels = tuple(
        _histogram_panel(root, *name, members)
        for name, members in settings(groups).items()
        if any(_networks(item) for item in members)
    )
    before = any(_recorded_histogram(record) for item in groups for record in item.results)
    known = [item for item in groups if _networks(item)]
    hardest = max(known, key=lambda item: item.first.run.ratio, default=None)
    half = (
        ""
        if hardest is None
        else (
            f" Half of the survivors of {hardest.first.run.experiment} at {hardest.first.run.ratio:g}x "
            f"are above {_median(*_histogram(root, _networks(hardest)[0])):.2g}."
        )
    )
    shape = (
        "The filled shape is the dense network before pruning."
        if before
        else ("The records hold no sizes from before pruning.")
    )
    bins = "four bins a decade, both axes logarithmic; a line a run"
    caption = f"Sizes |W| of the weights that survived, {bins}. {shape}{half}"
    return Plot("histograms", caption, panels)


def _networks(item: Group) -> list[Record]:
    """The records whose weights' sizes are known."""
    return [record for record in item.results if record.sparse_network or _recorded_histogram(record)]


def _recorded_histogram(record: Record) -> Mapping[str, Sequence[float]] | None:
    return record.metrics["benchmark"].get("histogram")


def _histogram(root: Path, record: Record) -> tuple[Sequence[float], Sequence[float]]:
    """Edges of |W|, and the number of surviving weights between them.

    Raises:
        ArtifactError: the recorded network lacks a layer that the record counts.
    """
    recorded = _recorded_histogram(record)
    if recorded:
        return recorded["edges"], recorded["pruned"]
    state, _ = load_sparse(root / record.sparse_network["file"])
    layers = record.metrics["benchmark"]["layers"]
    if missing := sorted(set(layers) - set(state)):
        raise ArtifactError(f"{record.sparse_network['file']} has no {', '.join(missing)}; record the run again")
    sizes = np.concatenate([np.abs(state[name].numpy()).ravel() for name in layers])
    return EDGES, np.histogram(sizes[sizes > 0], EDGES)[0]


def _median(edges: Sequence[float], counts: Sequence[float]) -> float:
    """The lower edge of the bin where half of the weights are reached."""
    return float(edges[int(np.searchsorted(np.cumsum(counts), sum(counts) / 2))])


def _histogram_panel(root: Path, experiment: str, method: str, groups: Sequence[Group]) -> Panel:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        dense = next(filter(None, map(_recorded_histogram, (r for item in groups for r in item.results))), None)
        if dense:
            axes.stairs(_shown(dense["dense"]), dense["edges"], fill=True, color=COLOUR["rule"], label="dense")
        for item, colour in zip(groups, ordered_colours(len(groups)), strict=True):
            for record in _networks(item):
                edges, counts = _histogram(root, record)
                label = f"{item.first.run.ratio:g}x"
                axes.stairs(_shown(counts), edges, baseline=None, color=colour, linewidth=1.0, label=label)
        log_axis(axes, "x", _used(root, [record for item in groups for record in _networks(item)], dense))
        axes.set_yscale("log")
        log_axis(axes, "y", (0.8, axes.get_ylim()[1]))
        axes.set_xlabel("size of a weight, |W|")
        axes.set_ylabel("weights in the bin")
        legend_above(figure, axes, 4)

    return panel(
        f"histogram-{experiment}-{method}", f"{experiment}, {method}",
        f"Histogram of the sizes of weights of {experiment}, pruned by {method}.", draw,
    )  # fmt: skip


def _used(root: Path, records: Sequence[Record], dense: Mapping[str, Sequence[float]] | None) -> tuple[float, float]:
    """The range of sizes where there are weights; a decade at least."""
    found = [_histogram(root, record) for record in records] + ([(dense["edges"], dense["dense"])] if dense else [])
    lows = [edges[i] for edges, counts in found for i, count in enumerate(counts) if count]
    highs = [edges[i + 1] for edges, counts in found for i, count in enumerate(counts) if count]
    low, high = min(lows, default=0.1), max(highs, default=1.0)
    return (low, high) if high >= 10 * low else (low / 3, high * 3)


def _shown(counts: Sequence[float]) -> list[float]:
    """Counts on a logarithmic axis: an empty bin lies below it."""
    return [max(float(count), 0.1) for count in counts]


def _short(layer: str) -> str:
    return layer.removesuffix(".weight")
