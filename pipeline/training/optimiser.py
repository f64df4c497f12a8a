"""The optimiser of a phase, always started afresh."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import nn


class Settings(Protocol):
    """`optimiser` is adam or sgd; `momentum` is SGD's."""

    optimiser: str
    momentum: float


def make_optimiser(
    parameters: Iterable[nn.Parameter], settings: Settings, rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam, or SGD with Nesterov momentum whose weight decay spares biases and norms."""
    if settings.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, fused=True)
    kept = list(parameters)
    groups = [
        {"params": [parameter for parameter in kept if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in kept if parameter.ndim <= 1]},
    ]
    nesterov = settings.momentum > 0
    return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=nesterov, fused=True)
