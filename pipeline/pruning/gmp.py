"""Gradual magnitude pruning with the cubic schedule (Zhu, Gupta 2017)."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.pruning.masks import apply_, largest
from pipeline.pruning.phase import PruningPhase


class Settings(Protocol):
    """Steps between two cuts, and the part of the phase over which survivors fall to k."""

    update_every: int
    ramp: float


def survivors_after(part: float, weights: int, k: int) -> int:
    """Survivors when that part of the schedule is over: sparsity s = s_f (1 - (1 - t)^3), from 0 to s_f."""
    return k + math.floor((weights - k) * max(0.0, 1 - part) ** 3)


class GmpPhase(PruningPhase):
    """Every `update_every` steps the smallest |W| are cut; what was cut stays zero."""

    def __init__(self, weights: Mapping[str, nn.Parameter], k: int, steps: int, settings: Settings, layers: Any = None):
        super().__init__(weights, k, steps, settings, layers)
        self.every = settings.update_every
        self.cuts = settings.ramp * (steps // settings.update_every)
        self.masks: dict[str, Tensor] = {
            name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()
        }

    def after_step(self, step: int) -> None:
        apply_(self.weights, self.masks)
        if step % self.every:
            return
        number = step // self.every
        asked = survivors_after(number / self.cuts, self.total, self.k)
        self.masks = largest(self.weights, asked)
        apply_(self.weights, self.masks)
        kept = sum(int(mask.count_nonzero()) for mask in self.masks.values())
        self.iterations.append({"iteration": number, "nonzeros_asked": asked, "nonzeros": kept})

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.masks = dict(state["masks"])
