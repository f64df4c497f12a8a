"""Prepared pictures as uint8, served as whole augmented, normalised batches."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.data.pictures import PictureSet as PictureSet
from pipeline.data.pictures import picture_set as picture_set
from pipeline.errors import ConfigError, DataError

# Random resized crop, as networks for ImageNet are trained: the part of the area, width to height, and how often
# to try whether one fits. In evaluation the shorter side becomes 256 for a crop of 224.
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
EVALUATION_SIDE = 256 / 224
Task = tuple[Tensor, Tensor | None]


def normalised(pictures: PictureSet, images: Tensor) -> Tensor:
    """uint8 pictures (B, C, H, W) to float32 in `channels_last`, mean 0 and deviation 1 a channel."""
    scale = (255 * pictures.std).view(1, -1, 1, 1)
    offset = (pictures.mean / pictures.std).view(1, -1, 1, 1)
    return (images / scale - offset).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Augmentation:
    """What training does to each picture anew in each epoch.

    shift: moved by up to so many pixels, black moving in; flip: half of all are mirrored;
    crop: the side of a random resized crop, needed where sizes differ.
    """

    shift: int = 0
    flip: bool = False
    crop: int | None = None


def shifted(images: Tensor, reach: int, shifts: Tensor) -> Tensor:
    """Each picture moved by its own whole number of pixels in [-reach, reach], black moving in.

    images: uint8 (B, C, H, W), as the result; shifts: int64 (2, B, 1) in [0, 2 reach]; one gather for the whole batch.
    """
    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (reach,) * 4)
    rows = (shifts[0] + torch.arange(height))[:, None, :, None]
    columns = (shifts[1] + torch.arange(width))[:, None, None, :]
    batch = torch.arange(count)[:, None, None, None]
    channel = torch.arange(channels)[None, :, None, None]
    return padded[batch, channel, rows, columns]


def crop_box(height: int, width: int, draws: list[list[float]]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part of a picture, from TRIES rows of four numbers in [0, 1)."""
    for area, shape, down, right in draws:
        pixels = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** shape
        h, w = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < h <= height and 0 < w <= width:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    h, w = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class Crops:
    """Batches of crops, uint8 (B, C, crop, crop): the work of a `DataLoader`, for any kind of pictures.

    A task is the indices (B,) and, in training, numbers in [0, 1) that decide all, (B, 1 + 4 TRIES).
    """

    pictures: PictureSet
    crop: int
    flip: bool = False

    def __getitem__(self, task: Task) -> Tensor | DataError:
        """A batch; an error is returned, as a worker's process would raise it with its traceback in the message."""
        indices, draws = task
        rows = [None] * len(indices) if draws is None else draws.tolist()
        try:
            return torch.stack([self._one(index, row) for index, row in zip(indices.tolist(), rows, strict=True)])
        except DataError as error:
            return error

    def _one(self, index: int, row: list[float] | None) -> Tensor:
        from torchvision.transforms.v2 import functional  # late: slow to import, and digits do without

        image = self.pictures.images[index]
        if row is None:
            image = functional.resize(image, [round(self.crop * EVALUATION_SIDE)])
            return functional.center_crop(image, [self.crop])
        box = crop_box(*image.shape[1:], [row[start : start + 4] for start in range(1, len(row), 4)])
        image = functional.resized_crop(image, *box, [self.crop, self.crop])
        return functional.horizontal_flip(image) if self.flip and row[0] < 0.5 else image

    def loader(self, tasks: Iterable[Task], workers: int) -> DataLoader:
        """Batches in the order of the tasks, which are drawn ahead; a generator of its own spares torch's."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=tasks,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),
        )


def _served(loader: DataLoader) -> Iterator[Tensor]:
    try:
        for images in loader:
            if isinstance(images, DataError):
                raise images
            yield images
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
            raise
        raise DataError(
            f"a process that reads pictures died ({' '.join(str(error).split())[:200]}); lower training.workers"
        ) from error


class _Tasks:
    """The tasks of the epoch under way, for workers that live longer."""

    def __init__(self) -> None:
        self.ahead: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.ahead


@dataclass(frozen=True)
class TrainingBatches:
    """Batches of one size in an order drawn anew each epoch; the last, smaller one is left out.

    With `ranks` processes `batch_size` is that of all together, and each serves every `ranks`-th picture of
    it; all draw the same numbers. `workers` more processes make the crops; whole batches need none.

    Raises:
        ConfigError: parameters that do not fit one another or the pictures.
    """

    pictures: PictureSet
    batch_size: int
    augmentation: Augmentation
    workers: int = 0
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        _check_crop(self.pictures, self.augmentation.crop)
        if self.augmentation.shift and self.augmentation.crop:
            raise ConfigError(f"training.shift must be 0 with training.crop, got {self.augmentation.shift}")
        if self.batch_size % self.ranks:
            raise ConfigError(
                f"training.batch_size must be divisible by {self.ranks}, the processes, got {self.batch_size}"
            )
        if self.batch_size > len(self.pictures):
            raise ConfigError(
                f"training.batch_size must be <= {len(self.pictures)}, the training pictures, got {self.batch_size}"
            )

    def __len__(self) -> int:
        return len(self.pictures) // self.batch_size

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Normalised images (B, C, H, W), labels (B,) and indices (B,) of one epoch."""
        order = torch.randperm(len(self.pictures), generator=generator)
        batches = order[: len(self) * self.batch_size].split(self.batch_size)
        make = self._whole if self.augmentation.crop is None else self._cropped
        for indices, images in zip(map(self._own, batches), make(batches, generator), strict=True):
            yield normalised(self.pictures, images), self.pictures.labels[indices], indices

    def _own(self, batch: Tensor) -> Tensor:
        """This process's part of what belongs to a whole batch (B, ...)."""
        return batch[self.rank :: self.ranks]

    def _whole(self, batches: Iterable[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        reach, flip = self.augmentation.shift, self.augmentation.flip
        for batch in batches:
            images = self.pictures.images[self._own(batch)]
            if reach:
                shifts = torch.randint(0, 2 * reach + 1, (2, len(batch), 1), generator=generator)
                images = shifted(images, reach, shifts[:, self.rank :: self.ranks])
            if flip:
                mirrored = self._own(torch.randint(0, 2, (len(batch), 1, 1, 1), generator=generator).bool())
                images = torch.where(mirrored, images.flip(3), images)
            yield images

    def _cropped(self, batches: Iterable[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        self._tasks.ahead = (
            (self._own(batch), self._own(torch.rand(len(batch), 1 + 4 * TRIES, generator=generator)))
            for batch in batches
        )
        yield from _served(self._loader)

    @cached_property
    def _tasks(self) -> _Tasks:
        return _Tasks()

    @cached_property
    def _loader(self) -> DataLoader:
        return Crops(self.pictures, self.augmentation.crop, self.augmentation.flip).loader(self._tasks, self.workers)


def _check_crop(pictures: PictureSet, crop: int | None) -> None:
    if crop is None and not isinstance(pictures.images, Tensor):
        raise ConfigError(f"training.crop must be set, as the pictures of {pictures.dataset} have different sizes")


def served_shape(pictures: PictureSet, crop: int | None) -> tuple[int, ...]:
    """Channels, height and width of the pictures in batches.

    Raises:
        ConfigError: the pictures have different sizes and there is no crop.
    """
    _check_crop(pictures, crop)
    return (len(pictures.mean), *(pictures.images.shape[2:] if crop is None else (crop, crop)))


def in_order(
    pictures: PictureSet, batch_size: int, crop: int | None = None, workers: int = 0, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """All pictures in their order, without augmentation: whole, or the middle of each, crop x crop.

    With `ranks` processes each serves every `ranks`-th batch.

    Raises:
        ConfigError: the pictures have different sizes and there is no crop.
    """
    _check_crop(pictures, crop)
    parts = torch.arange(len(pictures)).split(batch_size)[rank::ranks]
    if crop is None:
        whole = (pictures.images[int(part[0]) : int(part[-1]) + 1] for part in parts)
    else:
        whole = _served(Crops(pictures, crop).loader([(part, None) for part in parts], workers))
    for part, images in zip(parts, whole, strict=True):
        yield normalised(pictures, images), pictures.labels[part]
