"""Numbers to tables: runs, layers, hand-overs, and seeds together."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.method_params import METHOD_NAMES
from pipeline.report.ledger import Result
from pipeline.report.render import NOTHING, Table, percent, points, span, times, whole
from pipeline.report.statistics import Group, Spread

SPARSE_ENGINE = "sparse-engine"
NO_CLAIM = "not converged, supports no claim"


def result_table(results: Sequence[Result]) -> Table:
    """A row a run: accuracy on the test set, compression, storage, latency."""
    headers = (
        "run", "dense (%)", "reference (%)", "pruned (%)", "difference (pp)", "compression, weights",
        "compression, all parameters", "survivors", "bytes, dense", "bytes, sparse",
        "fastest, dense (ms)", "fastest, pruned (ms)", "converged",
    )  # fmt: skip
    return Table(headers, [_result_row(result) for result in results])


def _result_row(result: Result) -> tuple[str, ...]:
    evaluate, benchmark = result.metrics["evaluate"], result.metrics["benchmark"]
    counts = benchmark["counts"]
    return (
        result.run.name,
        percent(evaluate["dense_accuracy"]),
        percent(evaluate["reference_accuracy"]),
        percent(evaluate["pruned_accuracy"]),
        points(result.difference),
        times(counts["compression_ratio"]),
        times(counts["compression_ratio_all_parameters"]),
        whole(counts["surviving_weights"]),
        whole(benchmark["bytes"]["dense"]),
        whole(benchmark["bytes"]["sparse"]),
        *(_fastest(result, networks) for networks in (("dense",), ("compacted", "pruned"))),
        _converged(result),
    )


def fastest_table(results: Sequence[Result]) -> Table:
    """A row a run that was timed in several runtimes: the best ways to run it, one picture on one thread."""
    headers = (
        "run", "dense, best (ms)", "compacted, best (ms)", "sparse engine (ms)", "speed-up over dense",
        "dense ONNX (bytes)", "compacted ONNX (bytes)", "engine (bytes)", "sparse file (bytes)",
        "sparse file, fp16 (bytes)",
    )  # fmt: skip
    several = [one for one in results if {row["engine"] for row in one.runtimes} > {"pytorch"} and _best(one, "dense")]
    return Table(headers, [_fastest_row(one) for one in several])


def _fastest_row(result: Result) -> tuple[str, ...]:
    dense, compacted, pruned = (_best(result, network) for network in ("dense", "compacted", "pruned"))
    engine = _best(result, "pruned", [SPARSE_ENGINE])
    ours = min((row for row in (compacted, pruned) if row), key=lambda row: row["median_ms"])
    stored = result.metrics["benchmark"]["bytes"]
    files = [_bytes(result, "dense"), _bytes(result, "compacted"), engine and engine["bytes"]]
    return (
        result.run.name,
        *(f"{row['median_ms']:.4g} ({row['engine']})" if row else NOTHING for row in (dense, compacted)),
        f"{engine['median_ms']:.4g}" if engine else NOTHING,
        f"{dense['median_ms'] / ours['median_ms']:.2f}",
        *(whole(size) if size else NOTHING for size in files),
        whole(stored["sparse"]),
        whole(stored["sparse_fp16"]),
    )


def _best(result: Result, network: str, engines: Sequence[str] = ()) -> Mapping[str, Any] | None:
    """The least median time of one picture on one thread, in any runtime or in one of those named."""
    alone = [row for row in result.runtimes if (row["network"], row["batch"], row["threads"]) == (network, 1, 1)]
    alone = [row for row in alone if not engines or row["engine"] in engines]
    return min(alone, key=lambda row: row["median_ms"], default=None)


def _bytes(result: Result, network: str) -> int | None:
    """Of the file that the network's runtimes load."""
    return next((row["bytes"] for row in result.runtimes if row["network"] == network and row["bytes"]), None)


def _fastest(result: Result, networks: Sequence[str]) -> str:
    """The best of several networks, and in which runtime."""
    found = [best for network in networks if (best := _best(result, network))]
    best = min(found, key=lambda row: row["median_ms"], default=None)
    return f"{best['median_ms']:.3f} ({best['engine']})" if best else NOTHING


def _converged(result: Result) -> str:
    return NOTHING if result.converged is None else "yes" if result.converged else NO_CLAIM


def layer_table(results: Sequence[Result]) -> Table:
    """A row a layer: its weights, and what survived in each run."""
    layers = [result.metrics["benchmark"]["layers"] for result in results]
    names = list(dict.fromkeys(name for run in layers for name in run))
    rows = []
    for name in names:
        weights = next(run[name]["weights"] for run in layers if name in run)
        rows.append((name, whole(weights), *(_survivors(run.get(name)) for run in layers)))
    return Table(("layer", "weights", *(result.run.name for result in results)), rows)


def _survivors(layer: Mapping[str, int] | None) -> str:
    if layer is None:
        return NOTHING
    return f"{whole(layer['survivors'])} ({percent(layer['survivors'] / layer['weights'])} %)"


def handover_table(results: Sequence[Result]) -> Table:
    """A row a run: the state of the pruning phase when its sparse copy became the network."""
    headers = (
        "run", "nonzeros of Z", "k asked", "primal residual", "W, validation (%)", "Z, validation (%)",
        "retrained, validation (%)", "lambda", "updates", "converged",
    )  # fmt: skip
    rows = []
    for result in results:
        prune = result.metrics["prune"]
        rows.append((
            result.run.name,
            whole(prune["nonzeros_at_handover"]),
            whole(prune["survivors_asked"]),
            f"{prune['primal_residual']:.4f}" if "primal_residual" in prune else NOTHING,
            percent(prune["validation_accuracy_w"]),
            percent(prune["validation_accuracy_z"]),
            percent(result.metrics["retrain"]["validation_accuracy"]),
            f"{prune['lambda']:.3g}" if "lambda" in prune else NOTHING,
            whole(prune["updates"]),
            _converged(result),
        ))  # fmt: skip
    return Table(headers, rows)


def seeds_table(groups: Sequence[Group]) -> Table:
    """A row an experiment, method and ratio, over all its seeds, failures included."""
    headers = (
        "experiment", "data set", "method", "asked", "seeds", "dense best (%)", "pruned (%)",
        "paired difference (pp)", "compression, weights", "compression, all parameters", "bytes, sparse",
        "converged",
    )  # fmt: skip
    return Table(headers, [_seeds_row(item, groups) for item in groups])


def with_seconds(table: Table, groups: Sequence[Group]) -> Table:
    """The seeds' table with the wall time of training, which only records have."""
    seconds = [
        span([record.training_seconds for record in item.results], lambda value: f"{value:,.0f}") for item in groups
    ]
    rows = [(*row, shown) for row, shown in zip(table.rows, seconds, strict=True)]
    return Table((*table.headers, "training (s)"), rows)


def short_table(table: Table) -> Table:
    """The columns of the seeds' table that a first look needs, of rows of one method."""
    kept = ("experiment", "data set", "compression, weights", "seeds", "dense best (%)", "pruned (%)",
            "paired difference (pp)", "bytes, sparse", "converged")  # fmt: skip
    at = [table.headers.index(name) for name in kept]
    return Table(kept, [tuple(row[index] for index in at) for row in table.rows])


def methods_table(groups: Sequence[Group]) -> Table:
    """A row an experiment and ratio that several methods were run for, a column a method: accuracy on the test set."""
    settings: dict[tuple[str, ...], dict[str, Group]] = {}
    for item in groups:
        run = item.first.run
        setting = settings.setdefault((run.experiment, item.first.dataset["name"], f"{run.ratio:g}x"), {})
        setting[_method(item, groups)] = item
    several = {setting: found for setting, found in settings.items() if len(found) > 1}
    methods = sorted({method for found in several.values() for method in found}, key=_in_order)
    rows = [
        (*setting, *(_pruned(found[method]) if method in found else NOTHING for method in methods))
        for setting, found in several.items()
    ]
    return Table(("experiment", "data set", "asked", *methods), rows)


def _in_order(method: str) -> tuple[int, str]:
    name = method.split(" ", 1)[0]
    return METHOD_NAMES.index(name), method


def _pruned(item: Group) -> str:
    """Mean and deviation over seeds, their number, and a mark where a seed did not converge."""
    seeds = len(item.results)
    return f"{mean_std(item.pruned)} ({seeds})" + ("" if item.supports_claims else " *")


def _seeds_row(item: Group, groups: Sequence[Group]) -> tuple[str, ...]:
    run = item.first.run
    sizes = [result.metrics["benchmark"]["bytes"]["sparse"] for result in item.results]
    return (
        run.experiment,
        item.first.dataset["name"],
        _method(item, groups),
        f"{run.ratio}x",
        str(len(item.results)),
        mean_std(item.dense_best),
        mean_std(item.pruned),
        difference(item.difference),
        span(item.counts("compression_ratio"), times),
        span(item.counts("compression_ratio_all_parameters"), times),
        span(sizes, whole),
        converged(item),
    )


def _method(item: Group, groups: Sequence[Group]) -> str:
    """The method; with its seeds where the same run names have several settings, which are never averaged."""
    alike = [other for other in groups if _label(other) == _label(item)]
    seeds = ", ".join(str(result.run.seed) for result in item.results)
    return item.first.run.method if len(alike) == 1 else f"{item.first.run.method} (settings of seed {seeds})"


def _label(item: Group) -> tuple[Any, ...]:
    return item.first.run.experiment, item.first.run.method, item.first.run.ratio


def mean_std(values: Spread) -> str:
    return f"{percent(values.mean, 3)} ± {NOTHING if values.std is None else percent(values.std, 3)}"


def difference(values: Spread) -> str:
    """Mean difference in percentage points, and its 95 % interval where there are seeds enough."""
    mean = points(values.mean, 3)
    if values.margin is None:
        return mean
    return f"{mean} [{points(values.mean - values.margin, 3)}, {points(values.mean + values.margin, 3)}]"


def converged(item: Group) -> str:
    """`2 of 2`, or what a reader must not overlook; nothing for a method that cuts by its nature."""
    if all(result.converged is None for result in item.results):
        return NOTHING
    count = f"{item.converged} of {len(item.results)}"
    return count if item.supports_claims else f"{count}: {NO_CLAIM}"
