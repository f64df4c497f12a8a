"""A data set as tensors: its parts, and what describes them all."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data import split
from pipeline.data.dataset import Dataset
from pipeline.tensors import digest_of_tensors


def prepared(dataset: Dataset, validation: int, seed: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors of each part, and what describes them all."""
    parts = split.split(dataset, validation, seed)
    tensors = {part: {key: tensor(array) for key, array in each.arrays().items()} for part, each in parts.items()}
    about = {
        "dataset": dataset.name,
        "dataset_digest": digest_of_tensors({f"{p}.{k}": v for p, each in tensors.items() for k, v in each.items()}),
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        **parts["train"].about,
    }
    return tensors, about


def tensor(array: np.ndarray) -> Tensor:
    """The array's memory where it may be written to, as torch wants it, else a copy."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
