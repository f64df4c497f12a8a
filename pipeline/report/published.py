"""Published compressions beside our own measurements."""

import math
from collections.abc import Sequence
from pathlib import Path

from pipeline.method_params import Block
from pipeline.report.paper_files import read_checked
from pipeline.report.render import NOTHING, Table, span, times
from pipeline.report.statistics import Group
from pipeline.report.tables import difference, mean_std

PUBLISHED_FILE = Path("paper", "published.yaml")
OUR_METHOD = "reweighted-admm"


class Published(Block):
    """A compression that a work publishes; `claim` and `dataset` where docs name them."""

    network: str
    compression: float | int
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
    """Published compressions of the networks that we pruned, each beside our nearest one that converged.

    Ours is on the data set that the works name for the network, or, where none names one, on the one shown.
    """
    headers = (
        "network", "work (published)", "compression (published)", "accuracy (published)", "source",
        "compression (ours)", "data set (ours)", "seeds (ours)", "pruned (%, ours)", "paired difference (pp, ours)",
    )  # fmt: skip
    pruned = {_plain(item.first.params["model"]["name"]) for item in groups}
    rows = []
    for network in dict.fromkeys(entry.network for entry in published if _plain(entry.network) in pruned):
        entries = [entry for entry in published if entry.network == network]
        dataset = next((entry.dataset for entry in entries if entry.dataset), None)
        ours = [item for item in groups if _comparable(item, network, dataset)]
        rows += [(network, *_published_row(entry, ours)) for entry in entries]
    return Table(headers, rows)


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


def _published_row(entry: Published, ours: Sequence[Group]) -> tuple[str, ...]:
    name = entry.work + (f" ({entry.claim})" if entry.claim else "")
    theirs = (f"{name}, {entry.year}", f"{entry.compression}x", entry.accuracy or NOTHING, entry.source)
    if not ours:
        return *theirs, "no converged run", *[NOTHING] * 4
    nearest = min(ours, key=lambda item: _distance(item, entry))
    return (
        *theirs,
        span(nearest.counts("compression_ratio"), times),
        nearest.first.dataset["name"],
        str(len(nearest.results)),
        mean_std(nearest.pruned),
        difference(nearest.difference),
    )


def _distance(item: Group, entry: Published) -> float:
    """How far apart two compressions are, as a factor: twice is as far as half."""
    return abs(math.log(min(item.counts("compression_ratio")) / entry.compression))
