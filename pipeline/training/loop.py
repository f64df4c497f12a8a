"""The training loop of all phases."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.training.engine import Engine
from pipeline.training.schedule import Schedule

log = logging.getLogger(__name__)

# What messages of a failed exchange between processes name.
BETWEEN_PROCESSES = ("connection", "gloo", "nccl", "peer")

NO_MEMORY = "can't allocate memory"  # what torch says on a CPU, where it has no class of error for it

Row = dict[str, float]
Objective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Batches(Protocol):
    """Training data: `len` batches an epoch of images, labels and the pictures' indices."""

    def __len__(self) -> int: ...

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]: ...


class Hook:
    """What a phase adds to the loop. Steps count from 1 and over the whole phase."""

    def before_step(self) -> None:
        """After `backward`, before the optimiser's step."""

    def after_step(self, step: int) -> None:
        """After the optimiser's step."""

    def after_epoch(self) -> Row:
        """Figures to add to the epoch's row."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""


class Checkpoint(Protocol):
    """Where a phase keeps its state between epochs."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, state: dict[str, Any]) -> None: ...


def of_processes(error: RuntimeError) -> bool:
    """Whether an error came about between processes; gloo's and NCCL's are told by their words alone."""
    words = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(word in words for word in BETWEEN_PROCESSES)


def moved(state: Any, device: torch.device) -> Any:
    """The same dictionaries and lists, with every tensor on the device."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {key: moved(value, device) for key, value in state.items()}
    return [moved(value, device) for value in state] if isinstance(state, list) else state


@dataclass
class Phase:
    """One training phase.

    `validate` gives figures of the network after an epoch; `on_epoch` gets every finished row;
    `bf16` runs forward and backward in autocast; each batch is worked off in `accumulate` equal parts.
    """

    name: str
    network: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    objective: Objective
    batches: Batches
    epochs: int
    generator: torch.Generator
    bf16: bool
    validate: Callable[[nn.Module], Row]
    checkpoint: Checkpoint
    engine: Engine = field(default_factory=Engine)
    accumulate: int = 1
    hooks: Sequence[Hook] = ()
    on_epoch: Callable[[Row], None] = lambda row: None
    rows: list[Row] = field(default_factory=list)

    def run(self) -> list[Row]:
        """Train to the last epoch, from the last finished one; returns one row an epoch.

        Raises:
            TrainingError: the loss is not finite, memory is too small, or one of many processes died; the
                checkpoint of the last epoch is kept.
        """
        try:
            return self._train()
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or NO_MEMORY in str(error):
                raise TrainingError(
                    f"{self.name}: out of memory; lower training.batch_size or raise training.accumulate"
                ) from error
            if self.engine.ranks == 1 or not of_processes(error):
                raise
            raise TrainingError(
                f"{self.name}: one of the {self.engine.ranks} processes ended, or cannot be reached "
                f"({str(error).splitlines()[0][:120]}); see its message above, and run the same command again "
                "to go on after the last finished epoch"
            ) from error

    def _train(self) -> list[Row]:
        self._resume()
        self._wrapped = self.engine.wrap(self.network)
        started, first = time.monotonic(), len(self.rows)
        for epoch in range(first + 1, self.epochs + 1):
            row = self._epoch(epoch)
            self.rows.append(row)
            self.checkpoint.save(self._state())
            self.on_epoch(row)
            self._report(row, (time.monotonic() - started) / (epoch - first) * (self.epochs - epoch))
        return self.rows

    def _epoch(self, epoch: int) -> Row:
        self._wrapped.train()
        # Layers such as dropout draw from torch's own generators: of each process and epoch its own, and repeatable.
        torch.manual_seed(self.generator.initial_seed() + epoch * self.engine.ranks + self.engine.rank)
        total_loss, correct, seen = 0.0, 0.0, 0.0
        step = (epoch - 1) * len(self.batches)
        for images, labels, indices in self.batches.epoch(self.generator):
            rate = self.schedule.at(step / (self.epochs * len(self.batches)))
            loss, hits = self._step(images, labels, indices, rate)
            step += 1
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{self.name}: the loss became {loss} in epoch {epoch}, step {step}, at learning rate {rate:.3g}; "
                    "lower learning_rate in params.yaml"
                )
            for hook in self.hooks:
                hook.after_step(step)
            total_loss += loss * len(labels)
            correct += hits
            seen += len(labels)
        total_loss, correct, seen = self.engine.sums([total_loss, correct, seen])
        self.engine.align(self.network)
        row: Row = {"epoch": epoch, "learning_rate": rate, "train_loss": total_loss / seen}
        row |= {"train_accuracy": correct / seen, **self.validate(self.network)}
        for hook in self.hooks:
            row |= hook.after_epoch()
        return row

    def _step(self, images: Tensor, labels: Tensor, indices: Tensor, rate: float) -> tuple[float, int]:
        """One step of the optimiser; gives the mean loss over all processes, and the right answers of this one."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss, hits = 0.0, 0
        parts = list(zip(*(whole.chunk(self.accumulate) for whole in (images, labels, indices)), strict=True))
        for number, part in enumerate(parts, start=1):
            with self.engine.waiting(self._wrapped, more=number < len(parts)):
                found = self._gradients(*part, share=len(part[1]) / len(labels))
            loss, hits = loss + found[0], hits + found[1]
        loss = self.engine.sums([loss / self.engine.ranks])[0]
        if math.isfinite(loss):
            for hook in self.hooks:
                hook.before_step()
            self.optimiser.step()
        return loss, hits

    def _gradients(self, images: Tensor, labels: Tensor, indices: Tensor, share: float) -> tuple[float, int]:
        """Add the gradients of a part of the batch; its share of the loss, and how many answers are right."""
        like = next(self.network.parameters())
        images, labels = images.to(like), labels.to(like.device)
        with torch.autocast(like.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self._wrapped(images)
            loss = self.objective(logits, labels, images, indices)
        if share < 1:
            loss = loss * share
        self.engine.backward(loss)
        return loss.item(), int((logits.detach().argmax(1) == labels).sum())

    def _state(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "hooks": [hook.state_dict() for hook in self.hooks],
            "generator": self.generator.get_state(),
        }

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        device = next(self.network.parameters()).device
        for hook, hook_state in zip(self.hooks, state["hooks"], strict=True):
            hook.load_state_dict(moved(hook_state, device))  # a hook keeps the tensors that it gets
        self.generator.set_state(state["generator"])
        self.rows = list(state["rows"])
        log.info("%s goes on after epoch %d of %d", self.name, len(self.rows), self.epochs)

    def _report(self, row: Row, seconds_left: float) -> None:
        figures = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in ("epoch", "learning_rate"))
        left = f"{seconds_left // 60:.0f} min {seconds_left % 60:02.0f} s left"
        log.info("%s  epoch %d/%d  %s  %s", self.name, row["epoch"], self.epochs, figures, left)
