"""What zeros make superfluous: channels that are constant, and channels that nobody reads."""

from dataclasses import replace

import numpy as np

from pipeline.sparse_engine.operations import Convolution, Lowered, Nonzeros, Operation


def trim(lowered: Lowered) -> Lowered:
    """The same function with fewer nonzeros and channels; only biases may be rounded differently."""
    return _without_unread(_without_constants(lowered))


def _without_constants(lowered: Lowered) -> Lowered:
    """A channel without weights has one value everywhere, which goes into the biases of those that read it."""
    constants = {0: np.full(lowered.shapes[0][0], np.nan)}  # by tensor: the value of each channel, NaN if it varies
    operations = []
    for made in lowered.operations:
        values = constants[made.source]
        if isinstance(made, Convolution):
            made = _absorbed(made, values)
            values = np.full(len(made.bias), np.nan)
            if made.addend is None:
                empty = np.bincount(made.nonzeros.outputs, minlength=len(made.bias)) == 0
                values[empty] = made.bias[empty]
        constants[made.target] = np.maximum(values, 0) if made.relu else values
        operations.append(made)
    return replace(lowered, operations=tuple(operations))


def _absorbed(made: Convolution, constants: np.ndarray) -> Convolution:
    """Weights of constant inputs go into the bias, but at a padded border only a constant of zero can."""
    taps, given = made.nonzeros, constants[made.nonzeros.inputs]
    varies = np.isnan(given) if made.padding == (0, 0) else given != 0
    bias = made.bias + np.bincount(
        taps.outputs[~varies], taps.values[~varies] * given[~varies], minlength=len(made.bias)
    )
    return replace(made, nonzeros=_kept(taps, varies), bias=bias)


def _without_unread(lowered: Lowered) -> Lowered:
    """Channels are dropped and numbered anew, but not of tensors that are added to another."""
    read = _read_channels(lowered)
    shapes = list(lowered.shapes)
    for number, channels in read.items():
        shapes[number] = (int(channels.sum()), *shapes[number][1:])
    operations = tuple(_renumbered(made, read) for made in lowered.operations)
    return replace(lowered, shapes=tuple(shapes), operations=operations)


def _read_channels(lowered: Lowered) -> dict[int, np.ndarray]:
    """By tensor: whether each channel is read by anything that matters; at least one is."""
    every = {number: np.ones(shape[0], bool) for number, shape in enumerate(lowered.shapes)}
    read = {number: np.zeros_like(channels) for number, channels in every.items()}
    for whole in (0, lowered.output):
        read[whole] = every[whole]
    before = -1
    while before != (before := sum(int(channels.sum()) for channels in read.values())):
        for made in reversed(lowered.operations):
            _mark_read(made, read, every)
    return read


def _mark_read(made: Operation, read: dict[int, np.ndarray], every: dict[int, np.ndarray]) -> None:
    """What an operation reads, given what is read of its target."""
    if not isinstance(made, Convolution):  # its channels are numbered as its source's: both have the same ones
        read[made.source] |= read[made.target]
        read[made.target] |= read[made.source]
        return
    if made.addend is not None:
        read[made.addend], read[made.target] = every[made.addend], every[made.target]
    taps = made.nonzeros
    read[made.source][taps.inputs[read[made.target][taps.outputs]]] = True
    read[made.source][0] |= not read[made.source].any()


def _renumbered(made: Operation, read: dict[int, np.ndarray]) -> Operation:
    if not isinstance(made, Convolution):
        return made
    inputs, outputs = (np.cumsum(read[number]) - 1 for number in (made.source, made.target))
    taps = _kept(made.nonzeros, read[made.target][made.nonzeros.outputs])
    moved = replace(taps, inputs=inputs[taps.inputs], outputs=outputs[taps.outputs])
    return replace(made, nonzeros=moved, bias=made.bias[read[made.target]])


def _kept(taps: Nonzeros, keep: np.ndarray) -> Nonzeros:
    return Nonzeros(taps.outputs[keep], taps.inputs[keep], taps.rows[keep], taps.columns[keep], taps.values[keep])
