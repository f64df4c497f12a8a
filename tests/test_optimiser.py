"""The optimisers of the phases, by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.training.optimiser import make_optimiser


def stepped(settings: SimpleNamespace, weight_decay: float, steps: int = 1) -> tuple[float, float]:
    """A weight and a bias, both starting at 1 with gradient 0.5, after some steps."""
    weight, bias = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    optimiser = make_optimiser([weight, bias], settings, 0.1, weight_decay)
    for _ in range(steps):
        weight.grad, bias.grad = torch.full((1, 1), 0.5), torch.full((1,), 0.5)
        optimiser.step()
    return weight.item(), bias.item()


def test_adam_moves_by_the_learning_rate_at_first():
    found = stepped(SimpleNamespace(optimiser="adam", momentum=0.9), 0.0)
    assert found == pytest.approx((0.9, 0.9), abs=1e-6)


def test_sgd_decays_weights_and_spares_biases():
    weight, bias = stepped(SimpleNamespace(optimiser="sgd", momentum=0.0), 0.2)
    assert weight == pytest.approx(1 - 0.1 * (0.5 + 0.2))
    assert bias == pytest.approx(1 - 0.1 * 0.5)


def test_momentum_is_nesterovs():
    """Gradient g = 0.5: the first step is 0.1 (g + 0.9 g), the second 0.1 (g + 0.9 (1.9 g))."""
    _, bias = stepped(SimpleNamespace(optimiser="sgd", momentum=0.9), 0.0, steps=2)
    assert bias == pytest.approx(1 - 0.05 * 1.9 - 0.05 * (1 + 0.9 * 1.9))
