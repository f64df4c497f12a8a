"""`python -m stages.prepare EXPERIMENT`: check a data set, split it, and write its pictures as tensors."""

import logging

import torch

from pipeline import entry, layout
from pipeline.config import Config
from pipeline.data import sources, split
from pipeline.tensors import digest_of_tensors, save_tensors

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "EXPERIMENT")
    root = entry.root()
    block = Config(root).experiment(name).prepare
    dataset = sources.load(block.dataset, root / "data" / "download")
    parts = split.split(dataset, block.validation, block.split_seed)
    tensors = {
        part: {"images": torch.tensor(pictures.images), "labels": torch.tensor(pictures.labels)}
        for part, pictures in parts.items()
    }
    about = {
        "dataset": dataset.name,
        "dataset_digest": digest_of_tensors({f"{p}.{k}": v for p, pair in tensors.items() for k, v in pair.items()}),
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
    }
    for part, pair in tensors.items():
        save_tensors(root / layout.data_file(name, part), pair, {**about, "part": part})
        log.info("%s: %d pictures of %s", layout.data_file(name, part), len(pair["labels"]), dataset.name)


if __name__ == "__main__":
    entry.run(main)
