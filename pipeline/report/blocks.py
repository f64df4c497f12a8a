"""What a page is made of: sections of words, numbered tables and drawings."""

from dataclasses import dataclass

from pipeline.report.canvas import Plot
from pipeline.report.render import Table
from pipeline.report.verdicts import Verdict


@dataclass(frozen=True)
class Words:
    """A paragraph; `absent` marks one that says why something is not there."""

    text: str
    absent: bool = False


@dataclass(frozen=True)
class Rows:
    """A table with the numbers of each row's footnotes (empty: it has none).

    `folded` tables are details, shown when asked for; `verdicts`, where given, are the same rows before they were
    texts.
    """

    table: Table
    caption: str = ""
    notes: tuple[tuple[int, ...], ...] = ()
    folded: bool = False
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A plot with its number on the page."""

    plot: Plot
    number: int = 0


Block = Words | Rows | Drawing


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    blocks: tuple[Block, ...]
