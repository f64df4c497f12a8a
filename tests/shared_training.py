"""Training and pruning that processes share: `python -m tests.shared_training FOLDER DEVICES NETWORK [MODE]`.

Each process leaves what it ended with. Modes: `die` (the last process kills itself after the first epoch of
training), `asleep` (the same, and the first one is then busy for a minute without waiting for it), `killed`
(the first one kills itself after the first epoch of pruning) and `resumed` (the pruning goes on from there).
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
from pipeline.resume import Scratch
from pipeline.settings import prepare_torch
from pipeline.training.engine import start_engine
from tests.test_training import Memory, job


def normed(classes: int) -> nn.Module:
    """A small network with batch norm, which sees another part of the batch in each process."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, classes)
    )


class Shared(Memory):
    """The checkpoint of many processes, as a session keeps it: the first one writes, and all read."""

    def __init__(self, scratch: Scratch, first: bool) -> None:
        super().__init__()
        self.scratch, self.first = scratch, first
        if first:
            scratch.__enter__()

    def load(self):
        return self.scratch.load()

    def save(self, state):
        super().save(state)
        if self.first:
            self.scratch.save(state)


def end(row: dict[str, float]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work_of(devices: int, network: str) -> assembly.Job:
    """The training of this process, whose siblings start here."""
    work = job("pretrain", precision="fp64", devices=devices)
    if network != "lenet5":
        model = work.experiment.model.model_copy(update={"name": network, "options": {}})
        work = replace(work, experiment=work.experiment.model_copy(update={"model": model}))
    engine = start_engine(work.experiment.training)
    prepare_torch(1)
    return replace(work, engine=engine)


def main(folder: str, devices: str, network: str, mode: str = "") -> None:
    work = work_of(int(devices), network)
    engine, first, epochs = work.engine, work.engine.rank == 0, []
    if mode in ("die", "asleep") and engine.rank == engine.ranks - 1:
        work = replace(work, on_epoch=end)
    elif mode == "asleep":
        work = replace(work, on_epoch=lambda row: time.sleep(60))
    try:
        dense, rows = assembly.pretrain(work)
    except TrainingError as error:
        sys.exit(f"error: {error}")
    kept = Shared(Scratch(Path(folder), "prune", {}), first) if mode in ("killed", "resumed") else Memory()
    on_epoch = end if mode == "killed" and first else epochs.append
    work = replace(work, stage="prune", checkpoint=kept, on_epoch=on_epoch)
    pruned = assembly.prune(work, "reweighted-admm", 20, dense.state_dict())
    masks = {name: weight != 0 for name, weight in prunable_weights(pruned.network).items()}
    found = {"dense": dense.state_dict(), "pruned": pruned.network.state_dict(), "masks": masks, "rows": rows}
    found |= {"admm": kept.state["hooks"][0]["admm"], "iterations": pruned.iterations, "epochs": len(epochs)}
    torch.save(found, Path(folder, f"{devices}-{engine.rank}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
