"""`python -m stages.prepare EXPERIMENT`: check a data set, split it, and write its pictures as tensors."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import entry, layout
from pipeline.config import Config
from pipeline.data import sources, split
from pipeline.data.dataset import Dataset, Options
from pipeline.tensors import digest_of_tensors, save_tensors

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "EXPERIMENT")
    root = entry.root()
    block = Config(root).experiment(name).prepare
    options = Options(block.folder, block.test, block.skip_broken, block.decoded)
    dataset = sources.load(block.dataset, root / "data" / "download", options)
    tensors, about = prepared(dataset, block.validation, block.split_seed)
    del dataset  # its memory is needed for writing
    for part, content in tensors.items():
        save_tensors(root / layout.data_file(name, part), content, {**about, "part": part})
        log.info("%s: %d pictures of %s", layout.data_file(name, part), len(content["labels"]), about["dataset"])


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


if __name__ == "__main__":
    entry.run(main)
