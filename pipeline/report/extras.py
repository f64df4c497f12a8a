"""Optional figures: how the result depends on a parameter, and what accuracy costs in time and bytes."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.benchmark.rows import not_installed
from pipeline.errors import ArtifactError
from pipeline.files import read_json
from pipeline.method_params import OUR_METHOD
from pipeline.provenance import NOT_INSTALLED
from pipeline.pruning.control import LARGEST_PRIMAL_RESIDUAL
from pipeline.report.canvas import COLOUR, Panel, Plot, legend_above, log_axis, panel
from pipeline.report.ledger import Record
from pipeline.report.render import NOTHING, Table, percent, times, whole

SENSITIVITY_FILES = "results/*-sensitivity.json"
NOT_RECORDED = "a version that some trials did not record"
NETWORKS = {"dense": COLOUR["soft"], "pruned": COLOUR["s1"], "compacted": COLOUR["s2"]}
MARKERS = "osD^vP*X"
Rows = Sequence[Mapping[str, Any]]
Timed = Sequence[tuple[Record, Mapping[str, Any]]]


def read_sensitivity(root: Path) -> tuple[str, Rows, str] | None:
    """Experiment, rows (parameter, value, compression_ratio, accuracy, converged) and making of a study, if any.

    Each trial holds lambda, and changes it or one other value.

    Raises:
        ArtifactError: the file is not a study's.
    """
    file = next(iter(sorted(root.glob(SENSITIVITY_FILES))), None)
    if file is None:
        return None
    try:
        content = read_json(file)
        making = _making(file.relative_to(root), content["trials"])
        return content["experiment"], _sensitivity_rows(content["trials"]), making
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{file.relative_to(root)} is not a study's ({error!r}); run `make study` again") from error


def _making(file: Path, trials: Rows) -> str:
    """Where the trials come from, in a sentence."""
    processors = sorted({trial["machine"]["processor"] for trial in trials})
    torch, commits = {trial["versions"]["torch"] for trial in trials}, {trial["commit"][:12] for trial in trials}
    torch = {NOT_RECORDED if version == NOT_INSTALLED else version for version in torch}
    seeds = {trial["trial"]["seed"] for trial in trials}
    return (
        f"From `{file}`: {len(trials)} trials, seed {', '.join(map(str, sorted(seeds)))}, accuracy on the validation "
        f"split; {', '.join(processors)}, torch {', '.join(sorted(torch))}, commit {', '.join(sorted(commits))}."
    )


def _sensitivity_rows(trials: Rows) -> Rows:
    """A row a trial; one that changes lambda alone is also the point of every other parameter's default."""
    changed = dict.fromkeys(name for trial in trials for name in trial["trial"]["values"] if name != "lambda")
    rows = [_sensitivity_row("lambda", trial) for trial in trials if set(trial["trial"]["values"]) == {"lambda"}]
    for name in changed:
        own = [trial for trial in trials if name in trial["trial"]["values"]]
        held = {trial["trial"]["values"].get("lambda") for trial in own}
        default = [trial for trial in trials if trial["trial"]["values"] in [{"lambda": value} for value in held]]
        rows += [_sensitivity_row(name, trial) for trial in [*own, *default]]
    return rows


def _sensitivity_row(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    trial = row["trial"]
    return {
        "parameter": name,
        "value": trial["values"][name] if name in trial["values"] else trial["params"]["prune"].get(name),
        "compression_ratio": row["compression_ratio"],
        "validation_accuracy": row["validation_accuracy"],
        "converged": row["primal_residual"] < LARGEST_PRIMAL_RESIDUAL,
    }


def sensitivity_plot(experiment: str, rows: Rows) -> Plot:
    """A panel a parameter: compression above, accuracy below."""
    names = list(dict.fromkeys(row["parameter"] for row in rows))
    panels = tuple(_sensitivity_panel(name, [row for row in rows if row["parameter"] == name]) for name in names)
    missed = sum(row.get("converged") is False for row in rows)
    caption = (
        f"{experiment}: lambda held, one parameter changed at a time, all others as in params.yaml. Above the "
        f"compression that results, below the accuracy on the validation split. Crosses ({missed} of {len(rows)} "
        f"points): primal residual not below {LARGEST_PRIMAL_RESIDUAL}."
    )
    return Plot("sensitivity", caption, panels)


def sensitivity_table(rows: Rows) -> Table:
    headers = ("parameter", "value", "compression", "accuracy (%)", "converged")
    return Table(headers, [
        (
            row["parameter"], f"{row['value']}", times(row["compression_ratio"]),
            percent(row["validation_accuracy"]),
            {True: "yes", False: "no"}.get(row.get("converged"), NOTHING),
        )
        for row in rows
    ])  # fmt: skip


def runtime_rows(records: Sequence[Record]) -> list[tuple[Record, Mapping[str, Any]]]:
    """Each timed row of `benchmark.runtimes` with its record; engines that were not installed are left out."""
    return [(record, row) for record in records for row in record.runtimes]


def runtimes_plot(records: Sequence[Record]) -> Plot:
    """A panel an experiment and batch for latency, and one an experiment for bytes."""
    timed = [pair for pair in runtime_rows(records) if pair[0].run.method == OUR_METHOD]
    panels = []
    for experiment in dict.fromkeys(record.run.experiment for record, _ in timed):
        rows = [pair for pair in timed if pair[0].run.experiment == experiment]
        for batch, threads in sorted({(row["batch"], row["threads"]) for _, row in rows}):
            chosen = [pair for pair in rows if (pair[1]["batch"], pair[1]["threads"]) == (batch, threads)]
            title = f"{experiment}: latency, batch {batch}, {threads} {'thread' if threads == 1 else 'threads'}"
            panels.append(_scatter(f"latency-{experiment}-{batch}-{threads}", title, chosen, "median_ms"))
        stored = [pair for pair in rows if pair[1].get("bytes")]
        if stored:
            panels.append(_scatter(f"bytes-{experiment}", f"{experiment}: bytes", stored, "bytes"))
    absent = sorted(set().union(*(not_installed(one.metrics["benchmark"].get("runtimes", {})) for one in records)))
    caption = (
        "Test accuracy against the median time of a forward pass (bars: quartiles) and against bytes. "
        f"Up and to the left is better. Networks pruned by {OUR_METHOD}, means over seeds; a line joins the "
        "compressions of one network and engine."
        + (f" Not installed where this ran: {', '.join(absent)}." if absent else "")
    )
    return Plot("runtimes", caption, tuple(panels))


def runtimes_table(records: Sequence[Record]) -> Table:
    headers = (
        "run", "network", "engine", "batch", "threads", "median (ms)", "quartiles (ms)", "bytes", "test accuracy (%)",
    )  # fmt: skip
    return Table(headers, [
        (
            record.run.name, row["network"], row["engine"], str(row["batch"]), str(row["threads"]),
            f"{row['median_ms']:.3f}", " to ".join(f"{end:.3f}" for end in _quartiles(row)),
            whole(row["bytes"]) if row.get("bytes") else NOTHING, percent(_tested(record, row)),
        )
        for record, row in runtime_rows(records)
    ])  # fmt: skip


def _sensitivity_panel(name: str, rows: Rows) -> Panel:
    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        numeric = all(isinstance(row["value"], int | float) for row in rows)
        rows_ = sorted(rows, key=lambda row: row["value"]) if numeric else rows
        at = [row["value"] for row in rows_] if numeric else list(range(len(rows_)))
        _track(above, at, rows_, [row["compression_ratio"] for row in rows_], COLOUR["s1"])
        _track(below, at, rows_, [100 * row["validation_accuracy"] for row in rows_], COLOUR["s3"])
        above.set_ylabel("compression (x)")
        below.set(ylabel="accuracy (%)", xlabel=name)
        if numeric and min(at) > 0 and max(at) / min(at) > 8:
            log_axis(below, "x")
        if not numeric or len(at) <= 6:
            below.set_xticks(at, [f"{row['value']:g}" if numeric else str(row["value"]) for row in rows_])

    text = f"Compression and accuracy against {name}."
    return panel(f"sensitivity-{_slug(name)}", name, text, draw, (3.6, 3.0))


def _track(axes: Axes, at: Sequence[float], rows: Rows, values: Sequence[float], colour: str) -> None:
    axes.plot(at, values, color=colour, linewidth=1.0)
    for place, row, value in zip(at, rows, values, strict=True):
        axes.plot([place], [value], "x" if row.get("converged") is False else "o", color=colour, markersize=4.5)
    axes.margins(0.08, 0.2)
    if max(values) - min(values) < 0.01 * max(values):  # where nothing changes, a flat line and no false drama
        axes.set_ylim(min(values) - 0.01 * max(values), max(values) * 1.01)


def _scatter(key: str, title: str, rows: Timed, quantity: str) -> Panel:
    """A point a network, engine and compression, means over seeds; those of one network and engine are joined."""
    series: dict[tuple[str, str], dict[float, list[tuple[Record, Mapping[str, Any]]]]] = {}
    for record, row in rows:
        ratio = 1.0 if row["network"] == "dense" else record.run.ratio
        series.setdefault((row["network"], row["engine"]), {}).setdefault(ratio, []).append((record, row))
    shapes = dict(zip(sorted({engine for _, engine in series}), cycle(MARKERS), strict=False))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (network, engine), points in series.items():
            members = [points[ratio] for ratio in sorted(points)]
            values = [fmean(row[quantity] for _, row in pairs) for pairs in members]
            accuracy = [100 * fmean(_tested(*pair) for pair in pairs) for pairs in members]
            colour = NETWORKS.get(network, COLOUR["s4"])
            axes.plot(values, accuracy, shapes[engine], ls="-", lw=0.7, color=colour, markersize=4.5)
            for pairs, height in zip(members, accuracy, strict=True) if quantity == "median_ms" else ():
                ends = [fmean(quartile) for quartile in zip(*(_quartiles(row) for _, row in pairs), strict=True)]
                axes.plot(ends, [height] * 2, color=colour, lw=2.2, alpha=0.4)
        values = [row[quantity] for _, row in rows]
        log_axis(axes, "x", (min(values) / 1.4, max(values) * 1.4))
        axes.set(xlabel="latency (ms)" if quantity == "median_ms" else "bytes", ylabel="test accuracy (%)")
        axes.margins(y=0.12)
        legend_above(figure, axes, 3, _key([network for network, _ in series], shapes))

    return panel(_slug(key), title, f"Test accuracy against {title}.", draw, (3.6, 2.9))


def _key(networks: Sequence[str], shapes: Mapping[str, str]) -> list[Line2D]:
    """Colours are networks, shapes are engines."""
    found = [Line2D([], [], color=NETWORKS.get(name, COLOUR["s4"]), lw=2.4, label=name) for name in networks]
    plain = {"color": COLOUR["soft"], "linestyle": "none", "markersize": 4.5}
    return found + [Line2D([], [], marker=shape, label=name, **plain) for name, shape in shapes.items()]


def _quartiles(row: Mapping[str, Any]) -> list[float]:
    return [row["q1_ms"], row["q3_ms"]]


def _tested(record: Record, row: Mapping[str, Any]) -> float:
    """The accuracy of the timed network: the dense one is that of pretraining."""
    return record.metrics["evaluate"]["dense_accuracy" if row["network"] == "dense" else "pruned_accuracy"]


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)
