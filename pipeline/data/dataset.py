"""What a source gives: pictures of three kinds with their labels, and a data set before splitting."""

import os
from dataclasses import dataclass, field

import numpy as np

# Mean and deviation of ImageNet's training pixels, as everybody uses them, for all colour pictures.
COLOUR_MEAN, COLOUR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Options:
    """What `prepare` in params.yaml asks of a source.

    folder, test: of the data set `folder`, its path and how many pictures to set aside for the test (None: a fifth);
    skip_broken: leave out pictures that do not decode; decoded: keep pixels (false: paths).
    """

    folder: str | None = None
    test: int | None = None
    skip_broken: bool = False
    decoded: bool = True


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size as uint8 (N, C, H, W) and their labels as int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def about(self) -> dict[str, str]:
        """What tells a reader of the prepared file which kind it is: nothing for this one."""
        return {}

    def take(self, indices: np.ndarray) -> "Pictures":
        return Pictures(self.images[indices], self.labels[indices])

    def arrays(self) -> dict[str, np.ndarray]:
        """What is written into the prepared file."""
        return {"images": self.images, "labels": self.labels}


@dataclass(frozen=True)
class VariedPictures:
    """Pictures of different sizes, each uint8 (3, H, W), and their labels as int64 (N,)."""

    images: list[np.ndarray]
    labels: np.ndarray

    @property
    def about(self) -> dict[str, str]:
        return {"kind": "varied"}

    def take(self, indices: np.ndarray) -> "VariedPictures":
        return VariedPictures([self.images[index] for index in indices], self.labels[indices])

    def arrays(self) -> dict[str, np.ndarray]:
        """`pixels` uint8 (P,), one picture behind the other, `sizes` int32 (N, 2), `offsets` int64 (N,) and labels."""
        ends = np.cumsum([image.size for image in self.images], dtype=np.int64)
        return {
            "pixels": np.concatenate([image.reshape(-1) for image in self.images]),
            "sizes": np.array([image.shape[1:] for image in self.images], np.int32),
            "offsets": np.concatenate([[0], ends[:-1]]),
            "labels": self.labels,
        }


@dataclass(frozen=True)
class ListedPictures:
    """Pictures that stay files: paths relative to their place, bytes (N,) int64 of each file, and labels (N,)."""

    paths: list[str]
    lengths: np.ndarray
    labels: np.ndarray
    place: dict[str, str] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, str]:
        return {"kind": "files", **self.place}

    def take(self, indices: np.ndarray) -> "ListedPictures":
        paths = [self.paths[index] for index in indices]
        return ListedPictures(paths, self.lengths[indices], self.labels[indices], self.place)

    def arrays(self) -> dict[str, np.ndarray]:
        """`paths` uint8, joined by newlines, `lengths` int64 (N,) and labels."""
        joined = "\n".join(self.paths)
        paths = np.frombuffer(os.fsencode(joined), np.uint8)
        return {"paths": paths, "lengths": self.lengths, "labels": self.labels}


AnyPictures = Pictures | VariedPictures | ListedPictures


@dataclass(frozen=True)
class Dataset:
    """A data set before splitting.

    `test` is None where the source has no split of its own; then `test_size` pictures are set aside.
    `mean` and `std` are per channel, of pixels in [0, 1].
    """

    name: str
    train: AnyPictures
    test: AnyPictures | None
    test_size: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
