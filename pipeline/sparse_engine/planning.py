"""Where each tensor lies in memory, and what is read from where: the steps that the kernels run.

A channel is a plane of rows, one after the other, with so many zeros between rows and between planes that
a stride-1 convolution is, for the plane seen as one vector, a sum over nonzeros of weight * plane[. + offset].
For larger strides the input is first split into its phases: one plane for each remainder of row and column.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.sparse_engine.operations import Convolution, Lowered, MaxPool, Nonzeros, Pair, Shape

LANES = 16  # floats in a vector


@dataclass(frozen=True)
class Layout:
    """Planes of `plane` floats with rows of `row` floats; `margin` zeros around each plane, also before the first."""

    shape: Shape
    row: int
    plane: int
    margin: int

    @property
    def vectors(self) -> int:
        """From a plane's first pixel to its last."""
        return -(-((self.shape[1] - 1) * self.row + self.shape[2]) // LANES)

    @property
    def size(self) -> int:
        """Floats of all planes, with the margins, and what a last vector reads past its end."""
        return _whole(self.margin) + self.shape[0] * self.plane + _whole(self.margin) + LANES


@dataclass(frozen=True, eq=False)
class Sum:
    """A stride-1 convolution without padding of its own: `rows` and `columns` are relative to the output's pixel."""

    source: int
    target: int
    nonzeros: Nonzeros
    bias: np.ndarray
    addend: int | None
    relu: bool


@dataclass(frozen=True)
class Split:
    """Copy of a tensor as its phases: channel c of phase (a, b), number i, becomes channel i * C + c."""

    source: int
    target: int
    stride: Pair
    phases: tuple[Pair, ...]


Step = Sum | Split | MaxPool


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps in order; layouts and places (floats from the start of the scratch memory) by tensor.

    The picture (tensor 0) and the result (`output`) are the caller's memory, and have no place.
    """

    steps: tuple[Step, ...]
    layouts: dict[int, Layout]
    places: dict[int, int]
    output: int
    scratch: int

    @property
    def nonzeros(self) -> int:
        """Weights, where each step's own table is counted."""
        return sum(len(step.nonzeros.values) for step in self.steps if isinstance(step, Sum))


def plan(lowered: Lowered) -> Plan:
    """Steps and memory for a lowered network."""
    expansion = _Expansion(lowered)
    steps, shapes, output = tuple(expansion.steps), expansion.shapes, len(expansion.shapes) - 1
    layouts = _layouts(steps, shapes) | {number: _packed(shapes[number]) for number in (0, output)}
    places, scratch = _places(steps, layouts, output)
    return Plan(steps, layouts, places, output, scratch)


def _whole(floats: int) -> int:
    """Rounded up to whole vectors."""
    return -(-floats // LANES) * LANES


def _packed(shape: Shape) -> Layout:
    return Layout(shape, shape[2], shape[1] * shape[2], 0)


class _Expansion:
    """Steps for operations, with splits where the picture or a phase is read; the result is copied out last."""

    def __init__(self, lowered: Lowered) -> None:
        self.shapes = list(lowered.shapes)
        self.steps: list[Step] = []
        self.copies: dict[Split, int] = {}
        for made in lowered.operations:
            self.steps.append(made if isinstance(made, MaxPool) else self._sum(made))
        self._split(lowered.output, (1, 1), ((0, 0),))

    def _split(self, source: int, stride: Pair, phases: tuple[Pair, ...]) -> int:
        """The tensor of these phases; made once."""
        wanted = Split(source, -1, stride, phases)
        if wanted not in self.copies:
            channels, height, width = self.shapes[source]
            self.copies[wanted] = len(self.shapes)
            self.shapes.append((channels * len(phases), -(-height // stride[0]), -(-width // stride[1])))
            self.steps.append(replace(wanted, target=self.copies[wanted]))
        return self.copies[wanted]

    def _sum(self, made: Convolution) -> Sum:
        shape, vector = self.shapes[made.source], self.shapes[made.target][1:] == (1, 1)
        taps = made.nonzeros
        moved = replace(taps, rows=taps.rows - made.padding[0], columns=taps.columns - made.padding[1])
        addend = made.addend
        if vector:  # each pixel that is read is known: no margins, hence no copy
            inside = (moved.rows >= 0) & (moved.rows < shape[1]) & (moved.columns >= 0) & (moved.columns < shape[2])
            moved = Nonzeros(*(getattr(moved, name)[inside] for name in Nonzeros.__dataclass_fields__))
            return Sum(made.source, made.target, moved, made.bias, addend, made.relu)
        source = made.source
        if made.stride != (1, 1) or source == 0:
            phases, moved = _phases(moved, made.stride, shape[0])
            source = self._split(source, made.stride, phases)
        if addend == 0:
            addend = self._split(0, (1, 1), ((0, 0),))
        return Sum(source, made.target, moved, made.bias, addend, made.relu)


def _phases(taps: Nonzeros, stride: Pair, channels: int) -> tuple[tuple[Pair, ...], Nonzeros]:
    """The phases that are read, and the nonzeros as of a stride-1 convolution of them."""
    remainders = np.stack([taps.rows % stride[0], taps.columns % stride[1]], axis=1)
    phases, number = np.unique(np.concatenate([[[0, 0]], remainders]), axis=0, return_inverse=True)
    moved = replace(
        taps,
        inputs=taps.inputs + number.ravel()[1:] * channels,
        rows=taps.rows // stride[0],
        columns=taps.columns // stride[1],
    )
    return tuple((int(a), int(b)) for a, b in phases), moved


def _layouts(steps: tuple[Step, ...], shapes: list[Shape]) -> dict[int, Layout]:
    """Tensors that a convolution connects have rows of equal length, and equal margins."""
    group = list(range(len(shapes)))
    overhang: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for step in _convolutions(steps, shapes):
        together = {group[number] for number in (step.source, step.target, step.addend) if number is not None}
        group = [min(together) if one in together else one for one in group]
        found = _overhang(step.nonzeros, shapes[step.source], shapes[step.target])
        overhang[step.source] = tuple(map(max, found, overhang[step.source]))
    layouts = {}
    for one in set(group):
        members = [number for number in range(len(shapes)) if group[number] == one]
        if len(members) == 1:  # nothing reads or writes its planes as vectors
            layouts[one] = _packed(shapes[one])
            continue
        row = max(shapes[number][2] + overhang[number][1] for number in members)
        margin = max(overhang[number][0] * row + overhang[number][1] for number in members)
        layouts |= {number: _layout(shapes[number], row, margin) for number in members}
    return layouts


def _convolutions(steps: tuple[Step, ...], shapes: list[Shape]) -> Iterator[Sum]:
    """The sums for whole planes, not for single pixels."""
    return (step for step in steps if isinstance(step, Sum) and shapes[step.target][1:] != (1, 1))


def _overhang(taps: Nonzeros, source: Shape, target: Shape) -> Pair:
    """How many rows and columns outside of the source are read, on the worse side."""
    worst = []
    for offsets, size, outputs in zip((taps.rows, taps.columns), source[1:], target[1:], strict=True):
        worst.append(int(max(0, -offsets.min(), outputs + offsets.max() - size)) if len(offsets) else 0)
    return worst[0], worst[1]


def _layout(shape: Shape, row: int, margin: int) -> Layout:
    pixels = (shape[1] - 1) * row + shape[2]
    return Layout(shape, row, _whole(max(pixels + margin, _whole(pixels))), margin)


def _places(steps: tuple[Step, ...], layouts: dict[int, Layout], output: int) -> tuple[dict[int, int], int]:
    """Memory is given again only to a tensor of the same layout, so that margins stay zero. Also the floats in all."""
    last = {number: turn for turn, step in enumerate(steps) for number in _read(step)}
    free: dict[Hashable, list[int]] = defaultdict(list)
    kinds: dict[int, Hashable] = {}
    places: dict[int, int] = {}
    end = 0

    def release(numbers: set[int], turn: int) -> None:
        for number in numbers:
            if number and last[number] == turn:
                free[kinds[number]].append(places[number])

    for turn, step in enumerate(steps):
        release(_read(step) - {step.source}, turn)  # a sum may take the place of its addend
        if step.target != output:
            layout = layouts[step.target]
            kind = kinds[step.target] = (layout, *_phases_of(step, layouts))
            if not free[kind]:
                free[kind].append(end + _whole(layout.margin))
                end += _whole(layout.size)
            places[step.target] = free[kind].pop()
        release({step.source}, turn)
    return places, end


def _phases_of(step: Step, layouts: dict[int, Layout]) -> tuple[Hashable, ...]:
    """Beside its layout, what decides where a split leaves zeros: phases of an odd size have more of them."""
    return (step.stride, step.phases, layouts[step.source].shape) if isinstance(step, Split) else ()


def _read(step: Step) -> set[int]:
    addend = step.addend if isinstance(step, Sum) else None
    return {step.source} if addend is None else {step.source, addend}
