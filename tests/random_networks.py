"""Random networks with residual sums, poolings, strides and dead filters, for property tests."""

import random

import torch
import torch.nn.functional as F
from torch import nn

OPERATIONS = ["conv"] * 4 + ["norm", "relu", "add", "add", "pad", "slice", "max", "average"]


class RandomNetwork(nn.Module):
    """A graph of operations, each of which reads one or two of the latest values; the same for equal seeds."""

    def __init__(self, seed: int, picture: tuple[int, int, int]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.random = random.Random(seed)
        self.steps: list[tuple[str, int, object]] = []
        self.layers = nn.ModuleList()
        self.shapes = [picture]
        for _ in range(self.random.randrange(2, 14)):
            self._grow(self.random.choice(OPERATIONS))
        self.last = nn.Linear(self.shapes[-1][0], 3)
        self._prune()

    def forward(self, pictures):
        values = [pictures]
        for kind, source, about in self.steps:
            value = values[source]
            if kind == "add":
                values.append(value + values[about])
            elif kind == "pad":
                values.append(F.pad(value, (0, 0, 0, 0, *about)))
            else:
                values.append(value[:, :, ::2, ::2] if kind == "slice" else self.layers[about](value))
        return self.last(values[-1].mean((2, 3)))

    def _grow(self, kind: str) -> None:
        """Append an operation, if it fits the value that it would read."""
        source = self.random.randrange(max(0, len(self.shapes) - 3), len(self.shapes))
        shape = channels, height, width = self.shapes[source]
        about: object = len(self.layers)
        if kind == "add":
            about = self.random.choice([one for one, other in enumerate(self.shapes) if other == shape])
        elif kind == "pad":
            about = self.random.choice([(0, 1), (1, 1)])
            shape = (channels + sum(about), height, width)
        elif kind == "slice":
            shape = (channels, -(-height // 2), -(-width // 2))
        elif min(height, width) < 4:
            return
        else:
            self.layers.append(self._layer(kind, channels))
            with torch.no_grad():
                shape = tuple(self.layers[-1].eval()(torch.zeros(1, *shape)).shape[1:])
        self.steps.append((kind, source, about))
        self.shapes.append(shape)

    def _layer(self, kind: str, channels: int) -> nn.Module:
        choice = self.random.choice
        if kind == "conv":
            widths, kernel = choice([1, 2, 3, channels]), (choice([1, 2, 3]), choice([1, 2, 3]))
            return nn.Conv2d(channels, widths, kernel, choice([1, 1, 2]), choice([0, 1]), bias=choice([True, False]))
        if kind == "max":
            return nn.MaxPool2d(3, choice([1, 2]), choice([0, 1]))
        if kind == "average":
            return nn.AvgPool2d(2, choice([1, 2]), choice([0, 1]))
        return {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU()}[kind]

    def _prune(self) -> None:
        """Weights at random places, some filters without any, norms that do something."""
        density, dead = self.random.choice([0.2, 0.5, 1.0]), self.random.choice([0.0, 0.3])
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data *= 2 * (torch.rand(module.weight.shape) < density)
                module.weight.data[torch.rand(len(module.weight)) < dead] = 0
            elif isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2), module.running_var.uniform_(0.5, 2)
                nn.init.normal_(module.bias, 0, 0.2)
        self.eval()
