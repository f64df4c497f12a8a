"""The surviving connections of a pruned LeNet-5, counted on its masks; nothing here runs the network."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.errors import ArtifactError

SHAPES = {
    "conv1.weight": (20, 1, 5, 5),
    "conv2.weight": (50, 20, 5, 5),
    "fc1.weight": (500, 800),
    "fc2.weight": (10, 500),
}


@dataclass(frozen=True)
class Connections:
    """Weights of LeNet-5's layers, pruned ones 0: shapes as in `SHAPES`."""

    conv1: np.ndarray
    conv2: np.ndarray
    fc1: np.ndarray
    fc2: np.ndarray

    @property
    def neurons(self) -> np.ndarray:
        """Which of the 500 neurons have a surviving weight on both sides, (500,) bool."""
        return (self.fc1 != 0).any(1) & (self.fc2 != 0).any(0)

    @property
    def pixels(self) -> np.ndarray:
        """Surviving paths from each pixel of the picture to any output, (28, 28).

        A pooling passes the paths of its one output to all four inputs, since each may be the largest.
        """
        fc1 = (self.fc1 != 0).astype(float)
        neurons = (self.fc2 != 0).sum(0) @ fc1
        pooled2 = neurons.reshape(50, 4, 4)
        pooled1 = _back(_unpool(pooled2), self.conv2 != 0)
        return _back(_unpool(pooled1), self.conv1 != 0)[0]


def connections(state: Mapping[str, Tensor]) -> Connections:
    """The layers of a state dict.

    Raises:
        ArtifactError: it is no LeNet-5 for pictures of 28 x 28 in ten classes.
    """
    for name, shape in SHAPES.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise ArtifactError(f"{name} must have the shape {shape} in a LeNet-5 to be drawn, got {found}")
    return Connections(*(state[name].numpy() for name in SHAPES))


def _unpool(maps: np.ndarray) -> np.ndarray:
    """(C, H, W) to (C, 2H, 2W)."""
    return maps.repeat(2, axis=1).repeat(2, axis=2)


def _back(paths: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Paths at a convolution's inputs from those at its outputs: (O, H, W) and (O, I, K, K) to (I, H+K-1, W+K-1)."""
    _, inputs, size, _ = mask.shape
    _, height, width = paths.shape
    found = np.zeros((inputs, height + size - 1, width + size - 1))
    for row in range(size):
        for column in range(size):
            spread = np.tensordot(mask[:, :, row, column].astype(float), paths, axes=(0, 0))
            found[:, row : row + height, column : column + width] += spread
    return found
