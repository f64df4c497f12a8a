"""CIFAR-10: the official pixels, and the same pictures re-encoded as JPEG files, which is another data set."""

from pathlib import Path

import numpy as np

from pipeline.data import MIRROR
from pipeline.data.dataset import COLOUR_MEAN, COLOUR_STD, Dataset, Options, Pictures
from pipeline.data.folders import class_folders, mirrored, mirrored_zip
from pipeline.errors import DataError

# In the official order: the label is the place.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = {"train": 50_000, "test": 10_000}
FOLDER, ZIP = "cifar-10-batches-py", "cifar10-jpeg.zip"
ZIP_SHA256 = "99a91c119d327794fd17c1f2e49b1f25d4611e3f0d08e2f49a5bf59b0b328a77"


def cifar10(download: Path, options: Options) -> Dataset:
    """CIFAR-10 of A. Krizhevsky (2009), from the mirror or torchvision's download, which checks its digests.

    Raises:
        DataError: a file is damaged, or there is neither mirror nor network.
    """
    from torchvision.datasets import CIFAR10  # late: imports torch, which this module does without

    mirror = mirrored(FOLDER)
    root = mirror.parent if mirror else download
    try:
        train, test = (CIFAR10(root, train=train, download=mirror is None) for train in (True, False))
    except (OSError, RuntimeError) as error:
        if mirror:
            raise DataError(f"{mirror} is damaged or not whole ({error}); put the official files there") from error
        raise DataError(
            f"CIFAR-10 could not be downloaded ({' '.join(str(error).split())[:120]}); there are three ways out: set "
            f"{MIRROR} to a folder that holds {FOLDER}, connect this machine to the network, or set prepare.dataset: "
            f"cifar10-jpeg, which needs {ZIP} there and is not the official benchmark"
        ) from error
    if tuple(train.classes) != CLASSES:
        raise DataError(f"CIFAR-10 must have the classes {', '.join(CLASSES)}, got {', '.join(train.classes)}")
    parts = [
        Pictures(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, np.int64))
        for part in (train, test)
    ]
    return _checked(Dataset("cifar10", *parts, len(parts[1].labels), len(CLASSES), COLOUR_MEAN, COLOUR_STD))


def cifar10_jpeg(download: Path, options: Options) -> Dataset:
    """CIFAR-10's pictures as JPEG files, from a zip in the mirror; lossy, so results are no official ones.

    Raises:
        DataError: the zip is not there, damaged, or holds other files.
    """
    files = mirrored_zip(ZIP, ZIP_SHA256, "set prepare.dataset: cifar10, which is downloaded")
    return _checked(class_folders("cifar10-jpeg", files, CLASSES, SIZES, options))


def _checked(dataset: Dataset) -> Dataset:
    for (part, size), found in zip(SIZES.items(), (dataset.train, dataset.test), strict=True):
        if not isinstance(found, Pictures) or found.images.shape[1:] != (3, 32, 32):
            raise DataError(f"{dataset.name} must have pictures of 32x32 pixels in {part}; get the data set again")
        counts = np.bincount(found.labels, minlength=len(CLASSES)).tolist()
        if counts != [size // len(CLASSES)] * len(CLASSES):
            raise DataError(
                f"{dataset.name} must have {size // len(CLASSES):,} pictures of each class in {part}, got {counts}; "
                "get the data set again"
            )
    return dataset
