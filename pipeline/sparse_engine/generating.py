"""C for a plan: the kernels, the network's nonzeros as a table, and a call for each step."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.sparse_engine.operations import MaxPool
from pipeline.sparse_engine.planning import LANES, Layout, Plan, Split, Sum

KERNELS = Path(__file__).with_name("kernels.c")
TILE = 24  # most vectors in a tile: as many accumulators as fit into 32 registers, with room for the rest
FASTEST_CACHE = 32 * 1024  # bytes of inputs at a time; the rest of 48 KB is for sums and weights
FEWEST_NONZEROS = 4  # of an output in a block: fewer are not worth storing the sums between blocks
LARGEST_TEXT = 200_000  # cells; a larger table is a file of its own, because compilers take long to read numbers

NETWORK = """
/* From a picture of {picture} to {result}, with {nonzeros} nonzeros. `scratch`: {scratch} floats, aligned to
 * 64 bytes, zero before the first call; keep them for the next one. */
static void run(const float *picture, float *result, float *scratch)
{{
{calls}
}}

/* Pictures one after the other; threads may share nothing but `pictures`. */
void network_batch(const float *pictures, float *results, long count, float *scratch)
{{
    for (long n = 0; n < count; n++)
        run(pictures + n * {picture_size}, results + n * {result_size}, scratch);
}}

/* For one thread at a time. */
void network(const float *in, float *out)
{{
    static float scratch[{scratch}] __attribute__((aligned(64)));
    run(in, out, scratch);
}}
"""
APART = """
extern const cell table[] __attribute__((visibility("hidden")));
__asm__(".section .rodata\\n.balign 64\\n.globl table\\n.hidden table\\n"
        "table: .incbin \\"network.bin\\"\\n.previous");
"""


def generate(plan: Plan) -> tuple[str, bytes]:
    """`network.c`, and the content of `network.bin` beside it (empty where the C file has the whole table)."""
    table = _Table()
    calls = [call for step in plan.steps for call in _calls(step, plan, table)]
    cells = table.cells()
    sizes = sorted({int(size) for call in calls for size in re.findall(r"planes_(\d+)", call)})
    picture, result = plan.layouts[0].shape, plan.layouts[plan.output].shape
    network = NETWORK.format(
        picture=" x ".join(map(str, picture)), picture_size=math.prod(picture),
        result=" x ".join(map(str, result)), result_size=math.prod(result),
        nonzeros=plan.nonzeros, scratch=plan.scratch, calls="\n".join(f"    {call}" for call in calls),
    )  # fmt: skip
    apart = len(cells) > LARGEST_TEXT
    tiles = "".join(f"PLANES({size})\n" for size in sizes)
    return (
        f"{KERNELS.read_text()}\n{tiles}{APART if apart else _declared(cells)}{network}",
        cells.tobytes() if apart else b"",
    )


class _Table:
    """Integers and floats of all steps, end to end."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.size = 0
        self.known: dict[Layout, int] = {}

    def add(self, cells: np.ndarray) -> int:
        """Where the cells (int32 or float32) begin: at a whole vector."""
        start = self.size
        padded = np.zeros(-(-len(cells) // LANES) * LANES, np.int32)
        padded[: len(cells)] = cells.view(np.int32)
        self.parts.append(padded)
        self.size += len(padded)
        return start

    def pixels(self, layout: Layout) -> int:
        """All ones where a plane has a pixel."""
        if layout not in self.known:
            row, column = np.divmod(np.arange(layout.vectors * LANES), layout.row)
            inside = (row < layout.shape[1]) & (column < layout.shape[2])
            self.known[layout] = self.add(np.where(inside, -1, 0).astype(np.int32))
        return self.known[layout]

    def cells(self) -> np.ndarray:
        return np.concatenate([*self.parts, np.zeros(LANES, np.int32)])


def _declared(cells: np.ndarray) -> str:
    lines = (", ".join(map(str, cells[start : start + 16])) for start in range(0, len(cells), 16))
    text = ",\n".join(lines)
    return f"\nstatic const cell table[] __attribute__((aligned(64))) = {{\n{text}\n}};\n"


def _calls(step: Sum | Split | MaxPool, plan: Plan, table: _Table) -> Iterator[str]:
    source, target = plan.layouts[step.source], plan.layouts[step.target]
    if isinstance(step, Sum):
        yield from _sum(step, plan, table, source, target)
    elif isinstance(step, Split):
        yield from _split(step, plan, source, target)
    else:
        yield _max_pool(step, plan, source, target)


def _pointer(plan: Plan, number: int, offset: int = 0) -> str:
    if number == 0:
        return f"picture + {offset}"
    return f"result + {offset}" if number == plan.output else f"scratch + {plan.places[number] + offset}"


def _sum(step: Sum, plan: Plan, table: _Table, source: Layout, target: Layout) -> Iterator[str]:
    """A block that describes the sum and runs it, in tiles of nearly equal size."""
    tiles = -(-target.vectors // TILE)
    size, larger = divmod(target.vectors, tiles)
    blocks = 1 if target.shape[1:] == (1, 1) else _blocks(step, source, size)
    nonzeros, starts = _nonzeros(step, source, blocks)
    addend = "0" if step.addend is None else _pointer(plan, step.addend)
    addend_plane = 0 if step.addend is None else plan.layouts[step.addend].plane
    yield (
        f"{{ const struct sum s = {{{_pointer(plan, step.source)}, {addend}, {_pointer(plan, step.target)}, "
        f"{addend_plane}, {target.plane}, {len(step.bias)}, {blocks}, {int(step.relu)}, "
        f"table + {table.pixels(target)}, table + {table.add(starts)}, table + {table.add(nonzeros)}, "
        f"table + {table.add(step.bias.astype(np.float32))}}};"
    )
    if target.shape[1:] == (1, 1):
        yield "pixels(&s); }"
        return
    first = f"planes_{size + 1}(&s, 0, {larger}); " if larger else ""
    yield f"{first}planes_{size}(&s, {larger * (size + 1) * LANES}, {tiles - larger}); }}"


def _blocks(step: Sum, source: Layout, vectors: int) -> int:
    """How many blocks of input channels: each one's part of a tile fits into the fastest cache."""
    taps = step.nonzeros
    if not len(taps.values):
        return 1
    channel = vectors * LANES + int(np.ptp(taps.rows * source.row + taps.columns))  # floats
    wanted = source.shape[0] * channel * 4 / FASTEST_CACHE
    useful = len(taps.values) / len(step.bias) / FEWEST_NONZEROS
    return max(1, round(min(wanted, useful)))


def _nonzeros(step: Sum, source: Layout, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (offset, weight) in the order of blocks and outputs; where each block's each output begins."""
    taps, outputs = step.nonzeros, len(step.bias)
    group = taps.inputs * blocks // source.shape[0] * outputs + taps.outputs
    order = np.lexsort((taps.columns, taps.rows, taps.inputs, group))
    pairs = np.empty((len(order), 2), np.int32)
    pairs[:, 0] = (taps.inputs * source.plane + taps.rows * source.row + taps.columns)[order]
    pairs[:, 1] = taps.values[order].astype(np.float32).view(np.int32)
    starts = np.searchsorted(group[order], np.arange(blocks * outputs + 1))
    return pairs.ravel(), starts.astype(np.int32)


def _split(step: Split, plan: Plan, source: Layout, target: Layout) -> Iterator[str]:
    channels = source.shape[0]
    down, right = step.stride
    for number, (row, column) in enumerate(step.phases):
        rows, columns = -(-(source.shape[1] - row) // down), -(-(source.shape[2] - column) // right)
        if rows > 0 and columns > 0:
            yield (
                f"split({_pointer(plan, step.source, row * source.row + column)}, {source.plane}, {source.row}, "
                f"{_pointer(plan, step.target, number * channels * target.plane)}, {target.plane}, {target.row}, "
                f"{channels}, {rows}, {columns}, {down}, {right});"
            )


def _max_pool(step: MaxPool, plan: Plan, source: Layout, target: Layout) -> str:
    sizes = ", ".join(map(str, (*step.kernel, *step.stride, *step.padding)))
    return (
        f"max_pool({_pointer(plan, step.source)}, {source.plane}, {source.row}, {source.shape[1]}, {source.shape[2]}, "
        f"{_pointer(plan, step.target)}, {target.plane}, {target.row}, {target.shape[0]}, {target.shape[1]}, "
        f"{target.shape[2]}, {sizes}, {'0' if step.relu else '-__builtin_inff()'});"
    )
