"""How numbers and tables look: cells, markdown, terminal, and the generated parts of a text file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ArtifactError

NOTHING = "–"
RUNS_ABREAST = 3
NUMBER = re.compile(rf"[-+]?\d|{NOTHING}$")
MARKED = re.compile(r"<!-- table:(?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- end:(?P=name) -->", re.DOTALL)
MARKER = re.compile(r"<!-- (?:table|end):[\w-]+ -->")


@dataclass(frozen=True)
class Table:
    """Headers, and rows of as many finished cells; the first column names the row."""

    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction as percent, without the sign %: the header carries it."""
    return f"{100 * fraction:.{digits}f}"


def points(difference: float, digits: int = 2) -> str:
    """A difference of fractions as signed percentage points; what rounds to zero is +0."""
    return f"{round(100 * difference, digits) + 0.0:+.{digits}f}"


def times(ratio: float) -> str:
    """A compression ratio."""
    return f"{ratio:,.2f}x"


def whole(count: int) -> str:
    return f"{count:,}"


def span(values: Sequence[float], form: Callable[[float], str]) -> str:
    """One cell for the values of several seeds: the value they share, or the least and the largest."""
    least, largest = form(min(values)), form(max(values))
    return least if least == largest else f"{least} to {largest}"


def markdown(table: Table) -> str:
    """A markdown table, columns of numbers to the right; ends with a newline."""
    columns = zip(*table.rows, strict=True) if table.rows else ((),) * len(table.headers)
    marks = ["---:" if all(map(NUMBER.match, column)) else "---" for column in columns]
    lines = [_line(table.headers), _line(marks), *map(_line, table.rows)]
    return "".join(f"{line}\n" for line in lines)


def terminal(table: Table) -> str:
    """A table for the terminal: a line per quantity, a column per row of `table`, few columns abreast."""
    blocks = []
    for start in range(0, len(table.rows), RUNS_ABREAST):
        columns = [table.headers, *table.rows[start : start + RUNS_ABREAST]]
        widths = [max(map(len, column)) for column in columns]
        lines = []
        for name, *cells in zip(*columns, strict=True):
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def replace_tables(text: str, tables: Mapping[str, str], where: str) -> str:
    """Put the named markdown between its markers `<!-- table:NAME -->` and `<!-- end:NAME -->`.

    Raises:
        ArtifactError: an unknown name, or a marker without its partner.
    """
    found = [match["name"] for match in MARKED.finditer(text)]
    unknown = [name for name in found if name not in tables]
    if unknown:
        raise ArtifactError(f"{where} asks for the table {unknown[0]!r}; known are: {', '.join(tables)}")
    if len(MARKER.findall(text)) != 2 * len(found):
        raise ArtifactError(f"{where} has a marker without its partner: each table:NAME needs an end:NAME")
    return MARKED.sub(lambda match: _marked(match["name"], tables[match["name"]]), text)


def _marked(name: str, body: str) -> str:
    return f"<!-- table:{name} -->\n{body}<!-- end:{name} -->"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
