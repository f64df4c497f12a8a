"""ImageNet, and ten of its classes as Imagenette: photographs of different sizes."""

import os
from pathlib import Path

from pipeline.data import IMAGENET_ROOT, MIRROR
from pipeline.data.dataset import Dataset, Options
from pipeline.data.folders import Folder, class_folders, mirrored, mirrored_zip
from pipeline.errors import DataError

# WordNet ids of the 1,000 classes of ILSVRC 2012, sorted: the label is the place, as in all published weights.
CLASSES = tuple((Path(__file__).parent / "imagenet_classes.txt").read_text().split())
SIZES = {"train": 1_281_167, "val": 50_000}
# Tench, English springer, cassette player, chain saw, church, French horn, garbage truck, gas pump, golf ball,
# parachute.
TEN_CLASSES = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
    "n03394916", "n03417042", "n03425413", "n03445777", "n03888257",
)  # fmt: skip
TEN_SIZES = {"train": 9_469, "val": 3_925}
FOLDER, ZIP = "imagenette2-160", "imagenette2-112.zip"
ZIP_SHA256 = "25713c5557a993aa2834c70635c2d75d6fc9fc53d5bead4d47bd1b15c5630eed"


def imagenet(download: Path, options: Options) -> Dataset:
    """ILSVRC 2012, from the user's own copy; the test set is its validation set, as everybody's.

    Raises:
        DataError: the copy is not there or not whole.
    """
    root = os.environ.get(IMAGENET_ROOT)
    if not root or not Path(root).is_dir():
        raise DataError(
            f"{IMAGENET_ROOT} must be the folder that holds ImageNet's train/ and val/, with a folder for each class, "
            f"got {root or 'nothing'}; ImageNet cannot be downloaded by a program"
        )
    return class_folders("imagenet", Folder(Path(root)), CLASSES, SIZES, options, {"root": "imagenet"})


def imagenette(download: Path, options: Options) -> Dataset:
    """Imagenette (version 2, shorter side 160 pixels), from the mirror or torchvision's download.

    Raises:
        DataError: there is neither mirror nor network, or the folders are not whole.
    """
    folder = mirrored(FOLDER) or download / FOLDER
    if not folder.is_dir():
        _fetch(download)
    return class_folders("imagenette", Folder(folder), TEN_CLASSES, TEN_SIZES, options)


def _fetch(download: Path) -> None:
    from torchvision.datasets import Imagenette  # late: imports torch, which this module does without

    try:
        Imagenette(download, size="160px", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"Imagenette could not be downloaded ({' '.join(str(error).split())[:120]}); there are three ways out: set "
            f"{MIRROR} to a folder that holds {FOLDER}, connect this machine to the network, or set prepare.dataset: "
            f"imagenette2-112, which needs {ZIP} there"
        ) from error


def small_imagenette(download: Path, options: Options) -> Dataset:
    """Imagenette shrunk to 112x112 pixels, from a zip in the mirror.

    Raises:
        DataError: the zip is not there, damaged, or holds other files.
    """
    files = mirrored_zip(ZIP, ZIP_SHA256, "set prepare.dataset: imagenette, which is downloaded")
    return class_folders("imagenette2-112", files, TEN_CLASSES, TEN_SIZES, options)
