"""The shape of a picture of each data set, known without reading it."""

from pipeline.data.dataset import COLOUR_MEAN, COLOUR_STD
from pipeline.data.mnist import MNIST_MEAN, MNIST_STD
from pipeline.errors import ConfigError

# Channels, height and width where all pictures are of one size.
FIXED = {
    "mnist": (1, 28, 28),
    "mnist-5k": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar10-jpeg": (3, 32, 32),
}
COLOURS = 3


def normalisation(dataset: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, of pixels in [0, 1], by which pictures of a data set become inputs."""
    return (MNIST_MEAN, MNIST_STD) if dataset.startswith("mnist") else (COLOUR_MEAN, COLOUR_STD)


def picture_shape(dataset: str, crop: int | None) -> tuple[int, int, int]:
    """Channels, height and width of a network's input, for the data set and `training.crop` of an experiment.

    Raises:
        ConfigError: the data set's pictures may have any size, and there is no crop.
    """
    if crop is not None:
        return (FIXED.get(dataset, (COLOURS,))[0], crop, crop)
    if dataset not in FIXED:
        raise ConfigError(
            f"training.crop must be set to know the size of a picture of {dataset} without its files, got {crop}"
        )
    return FIXED[dataset]
