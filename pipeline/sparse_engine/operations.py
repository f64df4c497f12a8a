"""The two operations that networks are lowered to: sparse convolution and max pooling."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Pair = tuple[int, int]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Nonzeros:
    """The weights of a convolution that are not zero: five arrays of equal length.

    `values` (float64) are those from input channel `inputs` at `rows`, `columns` of the kernel to channel `outputs`.
    """

    outputs: np.ndarray
    inputs: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Convolution:
    """Tensor `target` = relu(convolution(tensor `source`) + bias + tensor `addend`); zero padding on both sides."""

    source: int
    target: int
    nonzeros: Nonzeros
    bias: np.ndarray
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    addend: int | None = None
    relu: bool = False


@dataclass(frozen=True)
class MaxPool:
    """Tensor `target` = relu(maximum over windows of tensor `source`)."""

    source: int
    target: int
    kernel: Pair
    stride: Pair
    padding: Pair
    relu: bool = False


Operation = Convolution | MaxPool


@dataclass(frozen=True, eq=False)
class Lowered:
    """Operations in order, the (C, H, W) of each tensor (number 0: the picture), and the result's shape without N."""

    shapes: tuple[Shape, ...]
    operations: tuple[Operation, ...]
    output: int
    output_shape: tuple[int, ...]


def diagonal(channels: int, scale: Any = 1.0) -> Nonzeros:
    """The 1x1 convolution that multiplies each channel by its scale."""
    every, zeros = np.arange(channels), np.zeros(channels, int)
    return Nonzeros(every, every, zeros, zeros, np.broadcast_to(np.asarray(scale, float), channels))
