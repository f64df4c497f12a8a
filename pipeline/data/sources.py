"""The known data sets by name; each source checks its files before use."""

from collections.abc import Callable
from pathlib import Path

from pipeline.data.cifar10 import cifar10, cifar10_jpeg
from pipeline.data.dataset import Dataset, Options
from pipeline.data.folders import own_folder
from pipeline.data.imagenet import imagenet, imagenette, small_imagenette
from pipeline.data.mnist import digits, mnist
from pipeline.errors import ConfigError

SOURCES: dict[str, Callable[[Path, Options], Dataset]] = {
    "mnist": mnist,
    "mnist-5k": digits,
    "cifar10": cifar10,
    "cifar10-jpeg": cifar10_jpeg,
    "imagenette": imagenette,
    "imagenette2-112": small_imagenette,
    "imagenet": imagenet,
    "folder": own_folder,
}
# Their files stay where they are, so that they can be decoded in every epoch.
STAY_IN_PLACE = ("imagenet", "folder")
PLAIN = Options()


def load(name: str, download: Path, options: Options = PLAIN) -> Dataset:
    """A data set by name; downloads, where needed, into the folder given.

    Raises:
        ConfigError: unknown name, or options that it does not have.
    """
    if name not in SOURCES:
        raise ConfigError(f"prepare.dataset must be one of {', '.join(SOURCES)}, got {name!r}")
    if not options.decoded and name not in STAY_IN_PLACE:
        raise ConfigError(f"prepare.decoded must be true but for {' and '.join(STAY_IN_PLACE)}, got false for {name}")
    for key in ("folder", "test"):
        if getattr(options, key) is not None and name != "folder":
            raise ConfigError(
                f"prepare.{key} must be left out but for prepare.dataset: folder, got {getattr(options, key)}"
            )
    return SOURCES[name](download, options)
