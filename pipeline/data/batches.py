"""Pictures in memory as uint8, served as whole augmented, normalised batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ArtifactError


@dataclass(frozen=True)
class PictureSet:
    """One part of a data set.

    images: uint8 (N, C, H, W); labels: int64 (N,); mean, std: float32 (C,) of pixels in [0, 1].
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    classes: int
    dataset: str
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def picture_set(tensors: dict[str, Tensor], about: dict[str, Any]) -> PictureSet:
    """What the prepare stage wrote.

    Raises:
        ArtifactError: tensors of another kind or shape.
    """
    images, labels = tensors.get("images"), tensors.get("labels")
    if images is None or labels is None or images.ndim != 4 or len(images) != len(labels):
        raise ArtifactError("the prepared pictures are of another format; run the prepare stage again")
    channels = torch.tensor([about["mean"], about["std"]], dtype=torch.float32)
    return PictureSet(
        images, labels, channels[0], channels[1], about["classes"], about["dataset"], about["dataset_digest"]
    )


def normalised(pictures: PictureSet, images: Tensor) -> Tensor:
    """uint8 pictures (B, C, H, W) to float32 in `channels_last`, mean 0 and deviation 1 a channel."""
    scale = (255 * pictures.std).view(1, -1, 1, 1)
    offset = (pictures.mean / pictures.std).view(1, -1, 1, 1)
    return (images / scale - offset).contiguous(memory_format=torch.channels_last)


def shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each picture moved by its own whole number of pixels in [-reach, reach], black moving in.

    uint8 (B, C, H, W) in and out; one gather for the whole batch.
    """
    if reach == 0:
        return images
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    down, right = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator)
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = (right + torch.arange(width))[:, None, None, :]
    batch = torch.arange(count)[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    return padded[batch, channel, rows, columns]


@dataclass(frozen=True)
class TrainingBatches:
    """Batches of one size in an order drawn anew each epoch; the last, smaller one is left out."""

    pictures: PictureSet
    batch_size: int
    shift: int

    def __len__(self) -> int:
        return len(self.pictures) // self.batch_size

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Normalised images (B, C, H, W), labels (B,) and indices (B,) of one epoch."""
        order = torch.randperm(len(self.pictures), generator=generator)
        for indices in order[: len(self) * self.batch_size].split(self.batch_size):
            images = shifted(self.pictures.images[indices], self.shift, generator)
            yield normalised(self.pictures, images), self.pictures.labels[indices], indices


def in_order(pictures: PictureSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All pictures in their order, without augmentation."""
    for start in range(0, len(pictures), batch_size):
        part = slice(start, start + batch_size)
        yield normalised(pictures, pictures.images[part]), pictures.labels[part]
