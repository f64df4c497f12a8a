"""Pointwise convolutions (batch norm, ReLU, addition, moved channels) folded into the operation before them."""

from collections import Counter
from dataclasses import replace

import numpy as np

from pipeline.sparse_engine.operations import Convolution, Lowered, MaxPool, Nonzeros, Operation


def fold(lowered: Lowered) -> Lowered:
    """The same function in fewer operations; exact but for the rounding of the folded weights."""
    uses = Counter([lowered.output])
    for made in lowered.operations:
        uses.update(_read(made))
    found: dict[int, Operation] = {}
    for made in lowered.operations:
        before = found.get(made.source)
        merged = _merged(before, made) if before and uses[made.source] == 1 else None
        if merged:
            del found[made.source]
        found[made.target] = merged or made
    return replace(lowered, operations=tuple(found.values()))


def _read(made: Operation) -> list[int]:
    addend = made.addend if isinstance(made, Convolution) else None
    return [made.source] if addend is None else [made.source, addend]


def _merged(before: Operation, after: Operation) -> Operation | None:
    """One operation in place of two, or None where that cannot be."""
    if not isinstance(after, Convolution) or not _is_pointwise(after):
        return None
    if _is_identity(after):
        return replace(before, target=after.target, relu=before.relu or after.relu)
    if isinstance(before, MaxPool) or before.relu or before.addend is not None:
        return None
    return _scaled(before, after)


def _is_pointwise(made: Convolution) -> bool:
    """Each output is one input, scaled and shifted."""
    plain = made.kernel == (1, 1) and made.stride == (1, 1) and made.padding == (0, 0)
    channels = made.nonzeros.outputs, made.nonzeros.inputs
    return plain and all(len(np.unique(index)) == len(index) for index in channels)


def _is_identity(made: Convolution) -> bool:
    """Nothing but perhaps a ReLU."""
    weights, every = made.nonzeros, np.arange(len(made.bias))
    unmoved = np.array_equal(weights.outputs, every) and np.array_equal(weights.inputs, every)
    return unmoved and made.addend is None and not made.bias.any() and bool((weights.values == 1).all())


def _scaled(before: Convolution, after: Convolution) -> Convolution:
    """`before` with its output channels moved, scaled and shifted as in `after`."""
    target, scale = np.full(len(before.bias), -1), np.zeros(len(before.bias))
    target[after.nonzeros.inputs], scale[after.nonzeros.inputs] = after.nonzeros.outputs, after.nonzeros.values
    old = before.nonzeros
    kept = target[old.outputs] >= 0
    outputs, values = target[old.outputs][kept], (old.values * scale[old.outputs])[kept]
    nonzeros = Nonzeros(outputs, old.inputs[kept], old.rows[kept], old.columns[kept], values)
    bias = after.bias.copy()
    bias[after.nonzeros.outputs] += after.nonzeros.values * before.bias[after.nonzeros.inputs]
    return replace(before, target=after.target, nonzeros=nonzeros, bias=bias, addend=after.addend, relu=after.relu)
