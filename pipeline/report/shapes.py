"""Many small shapes as one path, which keeps an SVG small."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

Shape = Sequence[tuple[float, float]]


def fill(axes: Axes, outline: Path | None, **how: object) -> None:
    """Draw an outline in one colour; nothing if there is none."""
    if outline is not None:
        axes.add_patch(PathPatch(outline, **how))


def outline(shapes: Iterable[Shape], closed: bool = True) -> Path | None:
    """Polygons, or with `closed` false lines, as one path; None if there are none."""
    vertices, codes = [], []
    for shape in shapes:
        vertices += [*shape, shape[0]] if closed else shape
        codes += [Path.MOVETO, *[Path.LINETO] * (len(shape) - 1), *([Path.CLOSEPOLY] if closed else [])]
    return Path(vertices, codes) if vertices else None


def square(x: float, y: float, side: float) -> Shape:
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


def disc(x: float, y: float, radius: float) -> Shape:
    """A disc, as far as twelve corners make one."""
    turns = [2 * math.pi * k / 12 for k in range(12)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def grid_dots(columns: int, rows: int) -> list[Shape]:
    """A small dot in the middle of each unit cell."""
    return [square(x + 0.44, y + 0.44, 0.12) for x in range(columns) for y in range(rows)]
