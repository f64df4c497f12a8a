"""`python -m stages.prepare EXPERIMENT`: check a data set, split it, and write its pictures as tensors."""

import logging

from pipeline import entry, layout
from pipeline.config import Config
from pipeline.data import sources
from pipeline.data.dataset import Options
from pipeline.data.preparation import prepared
from pipeline.tensors import save_tensors

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


if __name__ == "__main__":
    entry.run(main)
