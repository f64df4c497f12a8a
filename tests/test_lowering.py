"""Networks become lists of sparse convolutions: what is folded, what is trimmed, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from pipeline.errors import ArtifactError, ConfigError
from pipeline.models.lenet5 import LeNet5
from pipeline.models.resnet_cifar import resnet32
from pipeline.sparse_engine.folding import fold
from pipeline.sparse_engine.lowering import lower
from pipeline.sparse_engine.operations import Convolution, MaxPool
from pipeline.sparse_engine.trimming import trim
from tests.random_networks import RandomNetwork


def kinds(lowered):
    return [type(made) for made in lowered.operations]


def test_lenet5_is_four_sums_and_two_poolings_with_relu_inside():
    lowered = fold(lower(LeNet5(relu=True).eval(), (1, 28, 28)))
    assert kinds(lowered) == [Convolution, MaxPool, Convolution, MaxPool, Convolution, Convolution]
    assert [made.relu for made in lowered.operations] == [False, True, False, True, True, False]
    assert lowered.output_shape == (10,)


@pytest.mark.parametrize(
    ("network", "operations"),  # convolutions, shortcuts or pooling, mean, linear
    [(resnet32(), 31 + 2 + 1 + 1), (ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10), 17 + 1 + 1 + 1)],
)
def test_norms_additions_and_relus_of_resnets_cost_no_operation(network, operations):
    assert len(fold(lower(network.eval(), (3, 64, 64))).operations) == operations


def test_batch_norm_is_folded_by_hand_computed_numbers():
    convolution, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        convolution.weight.fill_(3.0), convolution.bias.fill_(1.0)
        norm.running_mean.fill_(2.0), norm.running_var.fill_(4.0), norm.weight.fill_(5.0), norm.bias.fill_(7.0)
    (made,) = fold(lower(nn.Sequential(convolution, norm).eval(), (1, 2, 2))).operations
    assert made.nonzeros.values.tolist() == [7.5]  # 3 * 5 / 2
    assert made.bias.tolist() == [4.5]  # (1 - 2) * 5 / 2 + 7


def test_a_result_that_is_used_twice_is_not_folded_away():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(2, 2, 1)

        def forward(self, pictures):
            hidden = self.convolution(pictures)
            return torch.relu(hidden) + hidden

    lowered = fold(lower(Twice().eval(), (2, 3, 3)))
    assert [made.relu for made in lowered.operations] == [False, True, False]


def test_channels_without_weights_or_readers_are_trimmed():
    first, second = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        first.weight[:, 0, 0, 0] = torch.tensor([2.0, 0.0, 5.0])
        first.bias[:] = torch.tensor([0.0, -1.0, 0.0])
        second.weight[0, :, 0, 0] = torch.tensor([1.0, 4.0, 0.0])
        second.bias[:] = 10.0
    lowered = trim(fold(lower(nn.Sequential(first, second).eval(), (1, 2, 2))))
    assert [made.nonzeros.values.tolist() for made in lowered.operations] == [[2.0], [1.0]]
    assert lowered.operations[1].bias.tolist() == [6.0]  # 10 + 4 * -1
    assert lowered.shapes[1] == (1, 2, 2)


def test_a_constant_stays_where_padding_makes_it_vary():
    first, second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)
    nn.init.zeros_(first.weight)
    nn.init.ones_(first.bias)
    lowered = trim(fold(lower(nn.Sequential(first, second).eval(), (1, 4, 4))))
    assert len(lowered.operations[1].nonzeros.values) == 9


def test_a_pooling_has_as_many_channels_as_its_source_that_is_added_to_another():
    """The last layer reads half of the pooled channels; the sum before the pooling keeps all of its own."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(4, 2, 3)
            nn.init.zeros_(self.last.weight[:, 1])

        def forward(self, pictures):
            hidden = torch.relu(self.stem(pictures))
            return self.last(self.pool(torch.relu(hidden + self.block(hidden))))

    lowered = trim(fold(lower(Pooled().eval(), (3, 16, 16))))
    (pool,) = (made for made in lowered.operations if isinstance(made, MaxPool))
    assert lowered.shapes[pool.source][0] == lowered.shapes[pool.target][0] == 4


def run(lowered, pictures):
    """A lowered network by dense convolutions, in double precision."""
    values = {0: pictures.double()}
    for made in lowered.operations:
        if not lowered.shapes[made.target][0]:  # nobody reads it
            continue
        value = values[made.source]
        if isinstance(made, MaxPool):
            value = F.max_pool2d(value, made.kernel, made.stride, made.padding)
        else:
            taps, weight = made.nonzeros, torch.zeros(len(made.bias), value.shape[1], *made.kernel).double()
            places = tuple(map(torch.from_numpy, (taps.outputs, taps.inputs, taps.rows, taps.columns)))
            weight.index_put_(places, torch.tensor(taps.values), accumulate=True)
            value = F.conv2d(value, weight, torch.tensor(made.bias), made.stride, made.padding)
            value = value if made.addend is None else value + values[made.addend]
        assert value.shape[1:] == lowered.shapes[made.target]
        values[made.target] = value.relu() if made.relu else value
    return values[lowered.output].reshape(-1, *lowered.output_shape)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), height=st.integers(5, 13), width=st.integers(5, 13))
def test_folding_and_trimming_change_no_answer_of_a_random_network(seed, height, width):
    network = RandomNetwork(seed, (2, height, width))
    pictures = torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(seed))
    found = run(trim(fold(lower(network, (2, height, width)))), pictures)
    with torch.no_grad():
        wanted = network.double()(pictures.double())
    assert (found - wanted).abs().max() <= 1e-9 * wanted.abs().max()


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Softplus()), "Softplus"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), "the padding of a convolution"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding="same")), "the padding of a convolution"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), "adaptive pooling"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), "max pooling"),
        (nn.Sequential(nn.AvgPool2d(2, padding=1, count_include_pad=False)), "this average pooling"),
        (nn.Sequential(nn.Linear(4, 2)), "a linear layer on pixels"),
    ],
)
def test_an_unknown_operation_is_refused_by_name(network, named):
    with pytest.raises(ConfigError, match=named):
        lower(network.eval(), (1, 4, 4))


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ArtifactError, match=r"a picture of shape \(1, 1, 4, 4\) .* does not fit the network"):
        lower(nn.Sequential(nn.Conv2d(1, 1, 7)).eval(), (1, 4, 4))


class Computed(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, pictures):
        return self.function(pictures)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (torch.sigmoid, "sigmoid"),
        (lambda pictures: pictures + 1, "adding a constant"),
        (lambda pictures: pictures[:, 0], "indexing"),
        (lambda pictures: pictures.mean(1), "mean"),
        (lambda pictures: pictures.mean((1, 2)), "a mean over other axes"),
        (lambda pictures: pictures.flatten(2), "flatten"),
        (lambda pictures: torch.add(pictures, pictures, alpha=2), "add"),
        (lambda pictures: nn.functional.pad(pictures, (1, 1)), "padding other than zero channels"),
        (lambda pictures: pictures if pictures.sum() > 0 else -pictures, "cannot be traced"),
        (lambda pictures: (pictures, pictures), "several outputs"),
    ],
)
def test_an_unknown_function_is_refused_by_name(function, named):
    with pytest.raises(ConfigError, match=named):
        lower(Computed(function), (2, 4, 4))


class Buffered(nn.Module):
    """A buffer called like a function that is known."""

    def __init__(self, function):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 2, 1, 1))
        self.convolution, self.function = nn.Conv2d(2, 2, 1), function

    def forward(self, pictures):
        return self.function(self, pictures)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda network, pictures: 1 + pictures, "the operation add cannot be compiled"),
        (lambda network, pictures: pictures - network.mean, "the tensor mean of the network's own cannot be compiled"),
        (lambda network, pictures: pictures + network.mean, "the tensor mean of the network's own cannot be compiled"),
        (lambda network, pictures: torch.relu(input=pictures), "the operation relu cannot be compiled"),
        (lambda network, pictures: network.convolution(input=pictures), "the module convolution of type Conv2d cannot"),
        (lambda network, pictures: torch.flatten(input=pictures, start_dim=1), "the operation flatten cannot be"),
        (lambda network, pictures: torch.add(pictures, other=pictures), "cannot be compiled"),
        (lambda network, pictures: pictures.mean(), "cannot be compiled"),
    ],
)
def test_arguments_at_unknown_places_are_refused_by_name(function, named):
    with pytest.raises(ConfigError, match=named):
        lower(Buffered(function).eval(), (2, 4, 4))


def test_lowering_leaves_the_network_as_it_is():
    network = resnet32().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trim(fold(lower(network, (3, 8, 8))))
    assert all(np.array_equal(before[name], value) for name, value in network.state_dict().items())
