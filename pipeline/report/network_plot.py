"""A pruned LeNet-5 drawn: what is left of each layer, and the whole network from pixels to digits."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.canvas import COLOUR, Panel, Plot, panel
from pipeline.report.connections import Connections, connections
from pipeline.report.ledger import Record
from pipeline.report.render import percent, whole
from pipeline.report.shapes import disc, fill, grid_dots, outline, square
from pipeline.sparse import load_sparse

MODEL = "lenet5"
SIGNS = {1: COLOUR["s1"], -1: COLOUR["s2"]}
LEVELS = 5
COLUMNS = ("picture", "conv1", "conv2", "fc1", "digit")


def drawn_record(records: Sequence[Record], ratio: float) -> Record | None:
    """The record of a LeNet-5 with a recorded network whose compression is nearest to `ratio`, as a factor."""
    fit = [one for one in records if one.params["model"]["name"] == MODEL and one.sparse_network and one.converged]
    return min(fit, key=lambda one: abs(math.log(_ratio(one) / ratio)), default=None)


def network_plot(root: Path, record: Record) -> Plot:
    """Six panels of one record's sparse network."""
    found = connections(load_sparse(root / record.sparse_network["file"])[0])
    survivors = sum(int(np.count_nonzero(layer)) for layer in (found.conv1, found.conv2, found.fc1, found.fc2))
    used = [_count((layer != 0).any((1, 2, 3))) for layer in (found.conv1, found.conv2)]
    middle = found.pixels[7:21, 7:21].sum() / max(found.pixels.sum(), 1)
    caption = (
        f"All {whole(survivors)} surviving weights of {record.run.name} ({_ratio(record):.1f}x): blue positive, "
        f"orange negative. {used[0]} of 20 filters and {used[1]} of 50 maps have weights left, and "
        f"{_count(found.neurons)} of 500 neurons have them on both sides. {_count(found.pixels)} of 784 pixels have a "
        f"path to an output, and {percent(float(middle), 0)} % of all paths start in the middle quarter of the picture."
    )
    return Plot("network", caption, (
        _graph(found, record), _pixels(found), _filters(found), _kernels(found), _neurons(found), _digits(found),
    ))  # fmt: skip


def _graph(found: Connections, record: Record) -> Panel:
    """Units in columns, joined where a weight survives; unused neurons are faint."""
    columns = {"picture": 1, "conv1": 20, "conv2": 50, "fc1": 500, "digit": 10}
    height = {name: _spread(count) for name, count in columns.items()}
    bundles = (  # output unit, input unit, the weights between them
        found.conv1.reshape(20, 1, 25), found.conv2.reshape(50, 20, 25),
        found.fc1.reshape(500, 50, 16), found.fc2.reshape(10, 500, 1),
    )  # fmt: skip

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, weights in enumerate(bundles):
            ends = height[COLUMNS[i]], height[COLUMNS[i + 1]]
            for sign, colour in SIGNS.items():
                chosen = np.argwhere((weights != 0).any(2) & (np.sign(weights.sum(2)) == sign))
                lines = [[(i, ends[0][left]), (i + 1, ends[1][right])] for right, left in chosen]
                fill(axes, outline(lines, closed=False), edgecolor=colour, facecolor="none", lw=0.35, alpha=0.55)
        _units(axes, found, height)
        axes.set(xlim=(-0.12, 4.3), ylim=(1.03, -0.09))
        axes.axis("off")

    return panel(
        "network-graph", "From picture to digit: every surviving connection",
        f"Surviving connections of {record.run.name}: picture, 20 filters, 50 maps, 500 neurons, 10 digits.",
        draw, (5.2, 4.6), span=2,
    )  # fmt: skip


def _units(axes: Axes, found: Connections, height: dict[str, np.ndarray]) -> None:
    live = {
        "picture": np.ones(1, bool), "conv1": (found.conv1 != 0).any((1, 2, 3)),
        "conv2": (found.conv2 != 0).any((1, 2, 3)), "fc1": found.neurons, "digit": (found.fc2 != 0).any(1),
    }  # fmt: skip
    sizes = {"picture": 7, "conv1": 3.5, "conv2": 2.2, "fc1": 1.5, "digit": 3.5}
    labels = {"picture": "picture", "conv1": "20 filters", "conv2": "50 maps", "fc1": "500 neurons", "digit": "digits"}
    for i, name in enumerate(COLUMNS):
        ends = height[name]
        for state, colour in ((False, COLOUR["rule"]), (True, COLOUR["ink"])):
            at = ends[live[name] == state]
            if len(at):
                axes.plot([i] * len(at), at, "o", color=colour, markersize=sizes[name], markeredgewidth=0)
        used = "28 × 28" if name == "picture" else f"{_count(live[name])} used"
        axes.text(i, -0.03, f"{labels[name]}\n{used}", ha="center", va="bottom", fontsize=8)
    for digit, at in enumerate(height["digit"]):
        axes.text(4.1, at, str(digit), va="center", fontsize=8.5)


def _pixels(found: Connections) -> Panel:
    """The 28 x 28 pixels by the number of surviving paths to the outputs."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        level = np.ceil(LEVELS * found.pixels / max(found.pixels.max(), 1)).astype(int)
        for step in range(1, LEVELS + 1):
            cells = [square(column, row, 1.0) for row, column in np.argwhere(level == step)]
            fill(axes, outline(cells), facecolor=COLOUR["s1"], edgecolor="none", alpha=step / LEVELS)
        fill(axes, outline([square(0, 0, 28)]), facecolor="none", edgecolor=COLOUR["soft"], lw=0.7)
        _frame(axes, 28, 28)

    text = "Paths from each pixel of the picture to an output; fuller blue is more paths."
    return panel("network-pixels", "Pixels by their paths to an output", text, draw, (3.6, 3.2))


def _filters(found: Connections) -> Panel:
    """The 20 filters of conv1, five by five weights each; colour is sign, strength is size."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        corners = [(6 * (k % 5), 6 * (k // 5)) for k in range(20)]
        fill(
            axes, outline([square(x, y, 5) for x, y in corners]), facecolor=COLOUR["rule"], edgecolor="none", alpha=0.6
        )
        strongest = np.abs(found.conv1).max()
        for sign, colour in SIGNS.items():
            level = np.ceil(LEVELS * np.clip(sign * found.conv1[:, 0], 0, None) / strongest).astype(int)
            for step in range(1, LEVELS + 1):
                cells = [
                    square(corners[k][0] + column, corners[k][1] + row, 1.0)
                    for k, row, column in np.argwhere(level == step)
                ]
                fill(axes, outline(cells), facecolor=colour, edgecolor="none", alpha=0.2 + 0.8 * step / LEVELS)
        _frame(axes, 29, 23)

    title = f"conv1: {_count(found.conv1)} of 500"
    return panel("network-conv1", title, f"The 20 filters of conv1, {title}; grey weights are pruned.", draw)


def _kernels(found: Connections) -> Panel:
    """A dot a kernel of conv2, its area the number of surviving weights of 25."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        alive = (found.conv2 != 0).sum((2, 3))
        sums = np.sign(found.conv2.sum((2, 3)))
        fill(axes, outline(grid_dots(50, 20)), facecolor=COLOUR["rule"], edgecolor="none")
        for sign, colour in SIGNS.items():
            dots = [
                disc(out + 0.5, into + 0.5, 0.62 * math.sqrt(alive[out, into] / alive.max()))
                for out, into in np.argwhere((alive > 0) & (sums == sign))
            ]
            fill(axes, outline(dots), facecolor=colour, edgecolor="none")
        axes.set(
            xlim=(-0.5, 50.5), ylim=(20.5, -0.5), aspect="equal", xlabel="output map (50)", ylabel="input map (20)"
        )
        _bare(axes)

    kernels = _count((found.conv2 != 0).any((2, 3)))
    title = f"conv2: {_count(found.conv2)} of 25,000, in {kernels} of 1,000 kernels"
    return panel("network-conv2", title, f"{title}; the area of a dot is the number of its weights.", draw)


def _neurons(found: Connections) -> Panel:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for map_ in range(0, 801, 160):
            axes.axvline(map_, color=COLOUR["rule"], linewidth=0.5)
        _points(axes, found.fc1, 1.6)
        axes.set(xlim=(-4, 804), ylim=(504, -4), xlabel="input: 50 maps of 4 × 4", ylabel="neuron (500)")
        _bare(axes)

    title = f"fc1: {_count(found.fc1)} of 400,000"
    return panel("network-fc1", title, f"{title}: a point a surviving weight.", draw, (3.6, 2.9))


def _digits(found: Connections) -> Panel:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for digit in range(10):
            axes.axhline(digit, color=COLOUR["rule"], linewidth=0.5, zorder=0)
        _points(axes, found.fc2, 3.0)
        axes.set(xlim=(-4, 504), ylim=(9.6, -0.6), xlabel="neuron (500)", ylabel="digit")
        _bare(axes)
        axes.set_yticks(range(10))

    title = f"fc2: {_count(found.fc2)} of 5,000"
    return panel("network-fc2", title, f"{title}: a point a surviving weight.", draw, (3.6, 2.9))


def _points(axes: Axes, weights: np.ndarray, size: float) -> None:
    for sign, colour in SIGNS.items():
        rows, columns = np.nonzero(np.sign(weights) == sign)
        axes.plot(columns, rows, "o", color=colour, markersize=size, markeredgewidth=0)


def _bare(axes: Axes) -> None:
    axes.grid(False)
    axes.set(xticks=[], yticks=[])


def _frame(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(-0.3, width + 0.3), ylim=(height + 0.3, -0.3), aspect="equal")
    axes.axis("off")


def _spread(count: int) -> np.ndarray:
    """Heights of `count` units, evenly between 0 and 1."""
    return np.array([0.5]) if count == 1 else np.linspace(0, 1, count)


def _count(values: np.ndarray) -> int:
    return int(np.count_nonzero(values))


def _ratio(record: Record) -> float:
    return record.metrics["benchmark"]["counts"]["compression_ratio"]
