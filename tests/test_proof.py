"""The proof finds no difference where there is none, and each that there is."""

import math

import pytest
import torch
from torch import nn

from pipeline.benchmark.proof import proof
from pipeline.deploy.compaction import compact
from pipeline.errors import ConfigError
from pipeline.models.lenet5 import LeNet5
from pipeline.models.resnet_cifar import BasicBlock
from pipeline.pruning.masks import apply_, largest, prunable_weights
from pipeline.sparse_engine.engine import build_engine


def lenet5() -> nn.Module:
    return LeNet5(10, relu=True)


def residual() -> nn.Module:
    blocks = [BasicBlock(4, 4, 1), BasicBlock(4, 8, 2), BasicBlock(8, 8, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *blocks, *head)


def pruned(make, seed: int, density: float) -> nn.Module:
    """Random masks, a third of the filters dead, and norms that do something."""
    torch.manual_seed(seed)
    network = make()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    for weight in prunable_weights(network).values():
        weight.data *= torch.rand(weight.shape) < density
        weight.data[torch.rand(len(weight)) < 1 / 3] = 0
    return network.eval()


def batches(shape) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, *shape, generator=generator) for size in (16, 16, 5)]


@pytest.mark.parametrize(("make", "shape"), [(lenet5, (1, 28, 28)), (residual, (3, 12, 12))])
@pytest.mark.parametrize(("seed", "density"), [(0, 0.5), (2, 0.3)])
def test_compacted_and_compiled_networks_answer_as_the_pruned_one(tmp_path, make, shape, seed, density):
    network = pruned(make, seed, density)
    compacted = compact(network, torch.zeros(1, *shape))
    assert compacted.channels_removed > 0
    found = proof(network, compacted.network, build_engine(network, shape, tmp_path), batches(shape))
    assert found["pictures"] == 37
    assert found["fp64_difference"] <= 1e-6  # constants in biases are rounded to fp32
    assert found["fp32_difference"] <= 1e-5
    assert found["fp32_changed_beyond_difference"] == 0
    assert found["engine_difference"] <= 1e-5


@pytest.mark.parametrize(("make", "shape"), [(lenet5, (1, 28, 28)), (residual, (3, 12, 12))])
def test_a_network_compacted_in_fp64_is_the_same_function(make, shape):
    network = pruned(make, 0, 0.3).double()
    compacted = compact(network, torch.zeros(1, *shape, dtype=torch.float64)).network
    found = proof(network, compacted, None, batches(shape))
    assert found["fp64_difference"] <= 1e-13
    assert found["engine_difference"] is None


def test_networks_given_stay_as_they_are():
    network = pruned(lenet5, 0, 0.3).train()
    proof(network, network, None, batches((1, 28, 28)))
    assert network.training and {weight.dtype for weight in network.parameters()} == {torch.float32}


class Moved(nn.Module):
    """Answers are the pictures themselves, moved."""

    def __init__(self, by: list) -> None:
        super().__init__()
        self.register_buffer("by", torch.tensor(by))

    def forward(self, pictures):
        return pictures.flatten(1) + self.by


def test_differences_and_changed_classes_by_hand():
    logits = [torch.tensor([[1.0, 0.0], [0.25, 0.0]]), torch.tensor([[4.0, 0.0]])]
    found = proof(Moved([0.0, 0.0]), Moved([-0.75, 0.5]), lambda pictures: pictures.numpy() * 1.5, iter(logits))
    assert found == {
        "pictures": 3,
        "fp64_difference": 0.75 / 4,
        "fp32_difference": 0.75 / 4,
        "fp32_changed": 2,  # 0.25 and 0.5, -0.5 and 0.5
        "fp32_changed_beyond_difference": 1,  # 1 apart, and moved by 0.75; the other is 0.25 apart
        "engine_difference": 2 / 4,
    }


def test_answers_that_are_not_numbers_are_not_passed_over():
    for bad in ([math.nan, 0.0], [0.0, math.inf]):
        found = proof(Moved([0.0, 0.0]), Moved(bad), None, [torch.ones(1, 2)])
        assert not found["fp64_difference"] <= 1e9 and not found["fp32_difference"] <= 1e9
    nothing = lambda pictures: pictures * math.nan  # noqa: E731
    first = proof(Moved([0.0, 0.0]), Moved([0.0, 0.0]), nothing, [torch.ones(1, 2)])
    assert math.isnan(first["engine_difference"])


def test_no_pictures_prove_nothing():
    for none in ([], [torch.ones(0, 2)]):
        with pytest.raises(ConfigError, match="at least one picture, got none"):
            proof(Moved([0.0, 0.0]), Moved([0.0, 0.0]), None, none)


def test_a_mask_that_is_not_the_networks_is_found():
    network, other = pruned(lenet5, 0, 0.5), pruned(lenet5, 0, 0.5)
    weights = prunable_weights(other)
    apply_(weights, largest(weights, 20_000))
    found = proof(network, compact(other, torch.zeros(1, 1, 28, 28)).network, None, batches((1, 28, 28)))
    assert found["fp64_difference"] > 1e-3
