"""A training that several processes share: `python -m tests.shared_training FOLDER DEVICES NETWORK [DIE]`.

Each process leaves what it ended with. With DIE the last process kills itself after the first epoch; where it
is `asleep`, the first one is then busy for a minute without waiting for it.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pipeline import assembly
from pipeline.errors import TrainingError
from pipeline.pruning.masks import prunable_weights
from pipeline.settings import prepare_torch
from pipeline.training.engine import start_engine
from tests.test_training import Memory, job


def normed(classes: int) -> nn.Module:
    """A small network with batch norm, which sees another part of the batch in each process."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, classes)
    )


def main(folder: str, devices: str, network: str, *die: str) -> None:
    work = job("pretrain", precision="fp64", devices=int(devices))
    if network != "lenet5":
        model = work.experiment.model.model_copy(update={"name": network, "options": {}})
        work = replace(work, experiment=work.experiment.model_copy(update={"model": model}))
    engine = start_engine(work.experiment.training)
    prepare_torch(1)
    work = replace(work, engine=engine)
    if die and engine.rank == engine.ranks - 1:
        work = replace(work, on_epoch=lambda row: os.kill(os.getpid(), signal.SIGKILL))
    elif die == ("asleep",):
        work = replace(work, on_epoch=lambda row: time.sleep(60))
    try:
        dense, rows = assembly.pretrain(work)
    except TrainingError as error:
        sys.exit(f"error: {error}")
    pruned = assembly.prune(
        replace(work, stage="prune", checkpoint=Memory()), "reweighted-admm", 20, dense.state_dict()
    )
    masks = {name: weight != 0 for name, weight in prunable_weights(pruned.network).items()}
    found = {"dense": dense.state_dict(), "pruned": pruned.network.state_dict(), "masks": masks, "rows": rows}
    torch.save(found, Path(folder, f"{devices}-{engine.rank}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
