"""Prepared pictures as they are kept: whole tensors, pictures of different sizes, or files."""

import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor

from pipeline.data import BROKEN, IMAGENET_ROOT
from pipeline.errors import ArtifactError, DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VariedImages:
    """Pictures of different sizes, one behind the other.

    pixels: uint8 (P,), each picture as (3, H, W); sizes: int32 (N, 2), heights and widths; offsets: int64 (N,).
    """

    pixels: Tensor
    sizes: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Tensor:
        height, width = self.sizes[index].tolist()
        start = int(self.offsets[index])
        return self.pixels[start : start + 3 * height * width].view(3, height, width)


class ImageFiles:
    """Pictures that stay files, decoded each time.

    paths: uint8, relative paths joined by newlines; lengths: int64 (N,), the bytes of each file.
    """

    def __init__(self, root: Path, paths: Tensor, lengths: Tensor) -> None:
        self.root, self.paths, self.lengths = root, paths, lengths
        breaks = (paths == ord("\n")).nonzero().flatten()
        self.ends = torch.cat([torch.tensor([-1]), breaks, torch.tensor([len(paths)])])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> Tensor:
        """One picture, uint8 (3, H, W).

        Raises:
            DataError: its file is gone, or not the one that was prepared.
        """
        name = self.paths[self.ends[index] + 1 : self.ends[index + 1]].numpy().tobytes()
        path = self.root / os.fsdecode(name)
        try:
            content = path.read_bytes()
            if len(content) != self.lengths[index]:
                raise OSError(f"{len(content)} bytes instead of {self.lengths[index]}")
            pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        except BROKEN as error:
            raise DataError(
                f"{path} is not the picture that was prepared ({getattr(error, 'strerror', None) or error}); "
                "put it back, or run the prepare stage again"
            ) from error
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class PictureSet:
    """One part of a data set.

    images: uint8 (N, C, H, W), or where sizes differ what gives one picture (3, H, W) by its number;
    labels: int64 (N,); mean, std: float32 (C,) of pixels in [0, 1].
    """

    images: Tensor | VariedImages | ImageFiles
    labels: Tensor
    mean: Tensor
    std: Tensor
    classes: int
    dataset: str
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def picture_set(tensors: dict[str, Tensor], about: dict[str, Any]) -> PictureSet:
    """What the prepare stage wrote. Tensors read from a file stay mapped to it until they are used.

    Raises:
        ArtifactError: tensors of another kind or shape.
        DataError: the folder of pictures that stay files is not there.
    """
    try:
        images, labels = _images(tensors, about), tensors["labels"]
    except KeyError:
        images, labels = (), ()
    if not len(images) or len(images) != len(labels) or isinstance(images, Tensor) and images.ndim != 4:
        raise ArtifactError("the prepared pictures are of another format; run the prepare stage again")
    size, memory = sum(tensor.nbytes for tensor in tensors.values()), psutil.virtual_memory().available
    if 2 * size > memory:
        log.info(
            "the pictures of %s take %.1f GB and %.1f GB of memory are available: they stay on disk, memory-mapped, "
            "which may be slower",
            about["dataset"],
            size / 1e9,
            memory / 1e9,
        )
    mean, std = torch.tensor([about["mean"], about["std"]], dtype=torch.float32)
    return PictureSet(images, labels, mean, std, about["classes"], about["dataset"], about["dataset_digest"])


def _images(tensors: dict[str, Tensor], about: dict[str, Any]) -> Tensor | VariedImages | ImageFiles:
    kind = about.get("kind")
    if kind == "varied":
        return VariedImages(tensors["pixels"], tensors["sizes"], tensors["offsets"])
    if kind == "files":
        return ImageFiles(_root(about), tensors["paths"], tensors["lengths"])
    return tensors["images"]


def _root(about: dict[str, Any]) -> Path:
    place = os.environ.get(IMAGENET_ROOT) if about["root"] == "imagenet" else about["folder"]
    if not place or not Path(place).is_dir():
        key = IMAGENET_ROOT if about["root"] == "imagenet" else "prepare.folder"
        raise DataError(f"{key} must be the folder with the pictures of {about['dataset']}, got {place}; correct it")
    return Path(place)
