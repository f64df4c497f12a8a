"""Stratified splits: every class has the same share in every part."""

import numpy as np

from pipeline.data.dataset import AnyPictures, Dataset
from pipeline.errors import ConfigError


def stratified(labels: np.ndarray, size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a part of `size` pictures and of the rest, both ascending.

    Class shares are rounded down, and what is missing is taken from the largest remainders
    (ties: the lower class), so that the part has exactly `size` pictures.
    """
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * size / len(labels)
    share = np.floor(exact).astype(int)
    for index in np.argsort(share - exact, kind="stable")[: size - share.sum()]:
        share[index] += 1
    part = np.concatenate(
        [
            generator.permutation(np.flatnonzero(labels == klass))[:number]
            for klass, number in zip(classes, share, strict=True)
        ]
    )
    taken = np.zeros(len(labels), bool)
    taken[part] = True
    return np.flatnonzero(taken), np.flatnonzero(~taken)


def split(dataset: Dataset, validation: int, seed: int) -> dict[str, AnyPictures]:
    """The parts `train`, `validate` and `test`.

    Raises:
        ConfigError: the parts asked for leave nothing to train on.
    """
    generator = np.random.default_rng(seed)
    rest, test = dataset.train, dataset.test
    if test is None:
        chosen, others = stratified(rest.labels, dataset.test_size, generator)
        rest, test = rest.take(others), rest.take(chosen)
    if validation >= len(rest.labels):
        raise ConfigError(
            f"prepare.validation must be < {len(rest.labels)}, the training pictures of {dataset.name}, "
            f"got {validation}"
        )
    chosen, others = stratified(rest.labels, validation, generator)
    return {"train": rest.take(others), "validate": rest.take(chosen), "test": test}
