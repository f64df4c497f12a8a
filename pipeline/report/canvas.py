"""Small plots as SVG whose colours are CSS variables: one drawing serves light and dark pages."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

# CSS variable -> colour on a light and on a dark page. Lines are drawn in the light one, then renamed.
SHADES = {
    "paper": ("#fdfdfc", "#14171b"),
    "card": ("#f4f5f6", "#1c2026"),
    "ink": ("#1c2127", "#e7eaee"),
    "soft": ("#5a6572", "#a3adb9"),
    "rule": ("#d9dde2", "#343b44"),
    "link": ("#1d5fa8", "#82b7f5"),
    "good": ("#1f7a4a", "#66c893"),
    "bad": ("#b3372f", "#f0867d"),
    "open": ("#8a6410", "#dcb45c"),
    "s1": ("#2468b4", "#74b0f4"),
    "s2": ("#c65d1e", "#f29a5e"),
    "s3": ("#2b8a5f", "#62c596"),
    "s4": ("#80519f", "#c09ae0"),
    "s5": ("#a8344e", "#ee8298"),
    "s6": ("#1b8086", "#5cc3c9"),
    "q1": ("#8fc1e3", "#2f5f8c"),
    "q2": ("#5fa3d6", "#3f7fb8"),
    "q3": ("#3682c4", "#5a9fdc"),
    "q4": ("#1f62a3", "#84bdf0"),
    "q5": ("#17467c", "#b0d6f8"),
    "q6": ("#0f2c52", "#dcedfd"),
}
COLOUR = {name: light for name, (light, _) in SHADES.items()}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "reweighted-admm", "font.family": "DejaVu Sans", "font.size": 8.0,
    "axes.labelsize": 8.0, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "legend.fontsize": 7.5,
    "legend.frameon": False, "legend.handlelength": 1.6, "legend.columnspacing": 1.2, "legend.borderpad": 0.0,
    "legend.labelspacing": 0.25, "legend.handletextpad": 0.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.axisbelow": True,
    "axes.grid": True, "grid.linewidth": 0.5, "grid.color": COLOUR["rule"], "lines.linewidth": 1.3,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3, "ytick.major.size": 3,
    "xtick.minor.size": 0, "ytick.minor.size": 0, "figure.constrained_layout.h_pad": 0.05,
    "axes.edgecolor": COLOUR["soft"], "text.color": COLOUR["ink"], "axes.labelcolor": COLOUR["soft"],
    "xtick.color": COLOUR["soft"], "ytick.color": COLOUR["soft"],
    "xtick.labelcolor": COLOUR["soft"], "ytick.labelcolor": COLOUR["soft"],
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One drawing: `key` is unique on a page, `title` stands above it, `span` is its width in columns."""

    key: str
    title: str
    svg: str
    span: int = 1


@dataclass(frozen=True)
class Plot:
    """Panels under one caption, which says what one sees."""

    key: str
    caption: str
    panels: tuple[Panel, ...]
    pairs: bool = False  # two panels abreast, not three


def panel(
    key: str,
    title: str,
    description: str,
    draw: Callable[[Figure], None],
    inches: tuple[float, float] = (3.6, 2.6),
    span: int = 1,
) -> Panel:
    """Draw one panel; `description` is what a screen reader says. Equal input gives equal bytes."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Panel(key, title, _themed(stream.getvalue(), key, description), span)


def standalone(one: Panel) -> str:
    """The panel as a file of its own, which carries its size, its colours and its ground."""
    ground = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    head, rest = one.svg.split("</title>", 1)
    width, height = re.search(r'viewBox="0 0 (\S+) (\S+)"', head).groups()
    head = head.replace("<svg", f'<svg width="{1.7 * float(width):.0f}" height="{1.7 * float(height):.0f}"', 1)
    return f"{head}</title><style>{css_colours('svg')}</style>{ground}{rest}\n"


def css_colours(selector: str = ":root") -> str:
    """The variables for light pages, and for readers who ask for dark ones."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in SHADES.items()) for i in (0, 1))
    return f"{selector}{{{light}}}@media (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"


def ordered_colours(count: int) -> list[str]:
    """Colours for values in rising order, the last one the strongest."""
    if count == 1:
        return [COLOUR["q4"]]
    return [COLOUR[f"q{1 + round(5 * step / (count - 1))}"] for step in range(count)]


def legend_above(figure: Figure, axes: Axes, columns: int, handles: Sequence[Line2D] | None = None) -> None:
    """The legend over the axes, where it covers nothing; each label once, or just `handles`."""
    found = handles if handles is not None else axes.get_legend_handles_labels()[0]
    once = {handle.get_label(): handle for handle in found}
    if once:
        figure.legend(once.values(), once.keys(), loc="outside upper left", ncols=columns)


def log_axis(axes: Axes, which: str, limits: tuple[float, float] | None = None) -> None:
    """Make the axis x or y of a finished drawing logarithmic, with few plain numbers, from and to `limits`."""
    if limits:
        getattr(axes, f"set_{which}lim")(*limits)
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(log_ticks(*getattr(axes, f"get_{which}lim")()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def log_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two positive ones: steps 1, 2, 5, or whole decades where those are too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [
        [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        for steps in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,))
    ]
    fine, usual, coarse = inside
    if len(usual) < 2:
        return fine[:: math.ceil(len(fine) / most)] if fine else usual
    return usual if len(usual) <= most else coarse[:: math.ceil(len(coarse) / (most + 1))]


def short_number(value: float) -> str:
    """12k for 12,000 and 3M for 3,000,000; small numbers in full."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e6 if letter == 'M' else 1e3):g}{letter}"
    return f"{value:g}"


def _themed(svg: str, key: str, description: str) -> str:
    """Matplotlib's SVG as an inline element: named colours, short numbers, ids that are unique on a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    svg = re.sub(r"(\bid=\"|href=\"#|url\(#)", rf"\g<1>{key}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", FONT, svg)
    svg = re.sub(r"<[^>]*>", _with_short_numbers, svg)
    for name, colour in COLOUR.items():
        svg = re.sub(colour, f"var(--{name})", svg, flags=re.IGNORECASE)
    box = re.search(r'viewBox="([^"]*)"', svg)[1]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" '
        f'role="img" aria-labelledby="{key}-title"><title id="{key}-title">{escape(description)}</title>'
    )
    return re.sub(r"\s*\n\s*", "\n", head + svg[svg.index(">") + 1 :]).strip()


def _with_short_numbers(tag: re.Match[str]) -> str:
    """A tag with hundredths of a point at most; the texts between tags stay as they are."""
    return re.sub(r"-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), tag[0])
