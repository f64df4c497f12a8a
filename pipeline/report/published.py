"""Published compressions beside our own measurements."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.method_params import OUR_METHOD, Block
from pipeline.report.paper_files import read_checked
from pipeline.report.render import NOTHING, Table, points, span, times
from pipeline.report.statistics import Group
from pipeline.report.tables import difference, mean_std

PUBLISHED_FILE = Path("paper", "published.yaml")
NO_RUN = "no converged run on its data set"


class Published(Block):
    """A compression that a work publishes; `claim` and `dataset` where docs name them."""

    network: str
    compression: Annotated[float | int, Field(gt=1)]
    work: str
    year: int
    source: str
    accuracy: str | None = None
    dataset: str | None = None
    claim: str | None = None


class PublishedNumbers(Block):
    """The whole file."""

    published: list[Published]


def read_published(root: Path) -> list[Published]:
    """Read others' numbers.

    Raises:
        ConfigError: the file is missing, or has mistakes; each with its line.
    """
    return read_checked(root, PUBLISHED_FILE, PublishedNumbers).published


def published_table(published: Sequence[Published], groups: Sequence[Group]) -> Table:
    """Published compressions of the networks that we pruned, each beside our nearest one that converged."""
    headers = (
        "network", "work (published)", "compression (published)", "accuracy (published)", "source",
        "compression (ours)", "data set (ours)", "seeds (ours)", "pruned (%, ours)", "paired difference (pp, ours)",
    )  # fmt: skip
    found = comparisons(published, groups)
    return Table(headers, [(entry.network, *_published_row(entry, nearest)) for entry, nearest in found])


def with_deltas(table: Table, found: Sequence[tuple[Published, Group | None]]) -> Table:
    """The published table with how much higher or lower our compression is, and the sources in the last column."""
    at, source = table.headers.index("compression (ours)") + 1, table.headers.index("source")
    deltas = [NOTHING if nearest is None else _delta(nearest, entry) for entry, nearest in found]
    rows = [
        (*row[:source], *row[source + 1 : at], delta, *row[at:], row[source])
        for row, delta in zip([table.headers, *table.rows], ["delta of compression (%)", *deltas], strict=True)
    ]
    return Table(rows[0], rows[1:])


def comparisons(published: Sequence[Published], groups: Sequence[Group]) -> list[tuple[Published, Group | None]]:
    """The published numbers of networks that we pruned, each with the setting of ours nearest to it (None: no such).

    Ours is on the data set that the works name for the network, or, where none names one, on any.
    """
    pruned = {_plain(item.first.params["model"]["name"]) for item in groups}
    found: list[tuple[Published, Group | None]] = []
    for network in dict.fromkeys(entry.network for entry in published if _plain(entry.network) in pruned):
        entries = [entry for entry in published if entry.network == network]
        dataset = next((entry.dataset for entry in entries if entry.dataset), None)
        ours = [item for item in groups if _comparable(item, network, dataset)]
        found += [(entry, _nearest(entry, ours)) for entry in entries]
    return found


def _nearest(entry: Published, ours: Sequence[Group]) -> Group | None:
    return min(ours, key=lambda item: _distance(item, entry), default=None)


def _comparable(item: Group, network: str, dataset: str | None) -> bool:
    first = item.first
    return (
        first.run.method == OUR_METHOD
        and item.supports_claims
        and _plain(first.params["model"]["name"]) == _plain(network)
        and (dataset is None or _plain(first.dataset["name"]) == _plain(dataset))
    )


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _published_row(entry: Published, nearest: Group | None) -> tuple[str, ...]:
    name = entry.work + (f" ({entry.claim})" if entry.claim else "")
    theirs = (f"{name}, {entry.year}", f"{entry.compression}x", entry.accuracy or NOTHING, entry.source)
    if nearest is None:
        return *theirs, NO_RUN, *[NOTHING] * 4
    return (
        *theirs,
        span(nearest.counts("compression_ratio"), times),
        nearest.first.dataset["name"],
        str(len(nearest.results)),
        mean_std(nearest.pruned),
        difference(nearest.difference),
    )


def _delta(nearest: Group, entry: Published) -> str:
    """Ours in percent above the published compression; what rounds to zero is +0."""
    return points(min(nearest.counts("compression_ratio")) / entry.compression - 1, 1)


def _distance(item: Group, entry: Published) -> float:
    """How far apart two compressions are, as a factor: twice is as far as half."""
    return abs(math.log(min(item.counts("compression_ratio")) / entry.compression))
