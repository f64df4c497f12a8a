"""Where a training runs: in this process, or in many that share each batch (Lightning Fabric)."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError

# What SLURM and Fabric tell each process: the first one has a zero everywhere. torchrun's RANK says it alone.
RANKS = ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
# What devices of each kind are called, and what else to do where there are too few.
DEVICES = {"cuda": ("CUDA devices", ", or set training.accelerator to cpu"), "cpu": ("CPU cores", "")}
SECONDS_BETWEEN_LOOKS, SECONDS_TO_END = 0.5, 3.0
ENDED = (
    "another of the processes that share this training ended; see its message above, and run the same command again "
    "to go on after the last finished epoch"
)
# Jobs of these names are sessions in SLURM without srun, to Fabric as to us.
INTERACTIVE = ("bash", "interactive")


class Settings(Protocol):
    """`accelerator` is cpu or cuda, `devices` are those of one of the `nodes`; `strategy` is one of Fabric's."""

    accelerator: str
    devices: int
    nodes: int
    strategy: str


class Engine:
    """This process alone, on the CPU."""

    rank, ranks = 0, 1
    device = torch.device("cpu")

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network to call in training; it shares its parameters with the one given."""
        return network

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def waiting(self, network: nn.Module, more: bool) -> AbstractContextManager[None]:
        """A context in which gradients stay in their process as long as more parts of the batch follow."""
        return nullcontext()

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        return list(values)

    def align(self, network: nn.Module) -> None:
        """Give all processes the first one's running statistics."""


class Watch(threading.Thread):
    """Ends this process with a sentence some seconds after one of those that it started has ended with an error.

    The seconds are for the training's own message, where it waits for the others. Fabric has an observer,
    which kills without a word: it ends when it finds the list of `started` processes empty.
    """

    def __init__(self, started: list[subprocess.Popen]) -> None:
        super().__init__(daemon=True)
        self.started, self.mine = started, []

    def run(self) -> None:
        while not any(process.poll() for process in self.mine):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            while self.started:
                self.mine.append(self.started.pop())
        time.sleep(SECONDS_TO_END)
        for process in self.mine:
            process.kill()
        sys.stderr.write(f"error: {ENDED}\n")
        sys.stderr.flush()
        os._exit(1)  # the main thread may wait in a library that knows no exceptions


class FabricEngine(Engine):
    """One of many processes; the first one starts the others, if torchrun or SLURM has not."""

    def __init__(self, settings: Settings) -> None:
        from lightning_fabric import Fabric  # late: it takes a second, and most trainings run in one process

        self.fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
        )
        Watch(self.fabric.strategy.launcher.procs).start()
        self.fabric.launch()
        self.rank, self.ranks = self.fabric.global_rank, self.fabric.world_size
        self.device = self.fabric.device

    def wrap(self, network: nn.Module) -> nn.Module:
        return self.fabric.setup_module(network)

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def waiting(self, network: nn.Module, more: bool) -> AbstractContextManager[None]:
        return self.fabric.no_backward_sync(network, enabled=more)

    def sums(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def align(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def start_engine(settings: Settings) -> Engine:
    """The engine that the parameters ask for; more processes than one are started here.

    Raises:
        ConfigError: this machine has fewer devices than asked for, or another number of processes was started.
    """
    here = torch.cuda.device_count() if settings.accelerator == "cuda" else os.cpu_count()
    if settings.devices > here:
        kind, otherwise = DEVICES[settings.accelerator]
        raise ConfigError(
            f"training.devices asks for {settings.devices} {kind}, this machine has {here}; lower it{otherwise}"
        )
    asked = settings.devices * settings.nodes
    if (started := _started()) not in (None, asked):
        raise ConfigError(
            f"training.devices x nodes asks for {asked} processes, but torchrun or srun started {started}; "
            "start as many as asked for, or correct devices and nodes"
        )
    if settings.accelerator == "cpu" and asked == 1:
        return Engine()
    return FabricEngine(settings)


def _started() -> int | None:
    """How many processes torchrun or SLURM's srun started; None where Fabric is to start them."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    by_srun = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in INTERACTIVE
    return int(os.environ["SLURM_NTASKS"]) if by_srun and "SLURM_NTASKS" in os.environ else None


def is_first_process() -> bool:
    """Whether this process is the one that writes, tracks and reports."""
    if "RANK" in os.environ:  # within SLURM, torchrun's processes share SLURM's rank
        return int(os.environ["RANK"]) == 0
    return all(int(os.environ.get(name, 0)) == 0 for name in RANKS)
