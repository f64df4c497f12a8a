"""Compaction: what goes, what stays and why, and that no answer changes."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pipeline.data import sources
from pipeline.deploy.answers import difference
from pipeline.deploy.compaction import compact
from pipeline.errors import ArtifactError
from pipeline.models import build
from pipeline.models.resnet_cifar import CifarResNet
from pipeline.params import Model
from pipeline.sparse import load_sparse
from tests.project import ROOT, recorded_networks

RECORDED = [path for path in recorded_networks() if path.stem.endswith("-s0")]  # seeds are alike
PICTURE = torch.zeros(1, 2, 8, 8, dtype=torch.float64)


def conv(weights: list, bias: list | None = None, padding: int = 0) -> nn.Conv2d:
    """A 1x1 convolution, or with padding a 3x3 one with all taps equal, of the weights (outputs, inputs)."""
    weight, side = torch.tensor(weights, dtype=torch.float64), 3 if padding else 1
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], side, padding=padding, bias=bias is not None).double()
    layer.weight.data = weight[:, :, None, None].expand(-1, -1, side, side).clone()
    if bias is not None:
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return layer


def norm(scale: list, shift: list) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(scale), eps=0.0).double()
    layer.weight.data, layer.bias.data = torch.tensor(scale).double(), torch.tensor(shift).double()
    return layer


class Residual(nn.Module):
    """x + branch(x), between two convolutions of two channels."""

    def __init__(self, branch: nn.Module, last: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.branch = conv([[1.0, 2.0], [3.0, 4.0]]), branch
        self.last = last or conv([[1.0, 1.0]])

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.branch(x))


@torch.no_grad()
def apart(network: nn.Module, other: nn.Module, pictures: torch.Tensor) -> float:
    return difference(network(pictures), other(pictures))


def checked(network: nn.Module, picture=PICTURE):
    """The compacted network, after its answers were compared in fp64."""
    found = compact(network, picture)
    pictures = torch.randn(5, *picture.shape[1:], dtype=picture.dtype, generator=torch.Generator().manual_seed(1))
    assert apart(network.eval(), found.network, pictures) <= 1e-12
    return found


def test_a_constant_goes_into_the_next_bias():
    chain = nn.Sequential(conv([[1.0, 1.0], [0, 0]], [0.1, 0.5]), nn.ReLU(), conv([[2.0, 3.0]], [1.0]))
    found = checked(chain)
    assert dict(found.channels) == {"0": (2, 1), "2": (1, 1)}
    last = found.network.get_submodule("2")
    assert last.weight.flatten().tolist() == [2.0]
    assert last.bias.tolist() == [2.5]  # 1 + 3 x 0.5
    assert (found.flops_before, found.flops_after) == (2 * 64 * 6, 2 * 64 * 3)
    assert (found.parameters_before, found.parameters_after) == (9, 5)
    assert found.channels_removed == 1


def test_a_bias_is_made_where_there_was_none():
    found = checked(nn.Sequential(conv([[1.0, 1.0], [0, 0]], [0.0, 0.5]), conv([[2.0, 3.0]])))
    assert found.network.get_submodule("1").bias.tolist() == [1.5]


@pytest.mark.parametrize(("bias", "left"), [(0.5, 2), (0.0, 1), (-0.5, 1)])
def test_before_a_padded_layer_only_the_constant_zero_goes(bias, left):
    chain = nn.Sequential(conv([[1.0, 1.0], [0, 0]], [0.1, bias]), nn.ReLU(), conv([[2.0, 3.0]], padding=1))
    assert checked(chain).channels["0"] == (2, left)


def test_a_norm_makes_a_constant_of_a_dead_filter():
    bn = norm([2.0, 2.0], [0.0, 1.0])
    bn.running_mean[1], bn.running_var[1] = 3.0, 4.0
    found = checked(nn.Sequential(conv([[1.0, 1.0], [0, 0]]), bn, conv([[1.0, 10.0]])))
    assert found.network.get_submodule("2").bias.tolist() == [-20.0]  # 10 ((0 - 3) / 2 x 2 + 1)
    assert found.network.get_submodule("1").num_features == 1


def test_a_norm_that_scales_by_zero_makes_a_constant():
    found = checked(nn.Sequential(conv([[1.0, 1.0], [1.0, 2.0]]), norm([1.0, 0.0], [0.0, 4.0]), conv([[1.0, 10.0]])))
    assert found.channels["0"] == (2, 1)
    assert found.network.get_submodule("2").bias.tolist() == [40.0]


def test_what_nobody_reads_goes_up_to_the_first_layer():
    chain = nn.Sequential(conv([[1.0, 1.0], [1.0, 2.0]]), conv([[1.0, 0], [1.0, 3.0]]), conv([[1.0, 0]]))
    assert dict(checked(chain).channels) == {"0": (2, 1), "1": (2, 1), "2": (1, 1)}


def test_outputs_stay_even_where_constant():
    found = checked(nn.Sequential(conv([[1.0, 1.0]]), conv([[1.0], [0]], [0.0, 7.0])))
    assert found.channels["1"] == (2, 2)


def test_a_channel_is_as_many_features_as_it_has_positions():
    linear = nn.Linear(2 * 64, 3).double()
    found = checked(nn.Sequential(conv([[1.0, 1.0], [0, 0]], [0.0, 0.5]), nn.Flatten(), linear))
    smaller = found.network.get_submodule("2")
    assert torch.equal(smaller.weight, linear.weight[:, :64])
    assert torch.allclose(smaller.bias, linear.bias + 0.5 * linear.weight[:, 64:].sum(1))


@pytest.mark.parametrize("pad", [0, 1])
def test_pools_keep_constants_where_their_padding_does(pad):
    for pool, left in ((nn.MaxPool2d(2, padding=pad), 1), (nn.AvgPool2d(2, padding=pad), 1 + pad)):
        chain = nn.Sequential(conv([[1.0, 1.0], [0, 0]], [0.1, 0.5]), pool, conv([[1.0, 3.0]]))
        assert checked(chain).channels["0"] == (2, left), pool


def test_a_dead_branch_goes_as_a_whole():
    found = checked(Residual(nn.Sequential(conv([[1.0, 1.0]], padding=1), nn.ReLU(), conv([[0.0], [0.0]], padding=1))))
    assert {name: after for name, (_, after) in found.channels.items()} == {
        "first": 2, "branch.0": 0, "branch.2": 0, "last": 1,
    }  # fmt: skip
    assert found.branches == ("add",)
    assert [type(module) for module in found.network.children()] == [nn.Conv2d, nn.Conv2d]


def test_a_branch_of_another_constant_leaves_its_values():
    branch = nn.Sequential(conv([[0, 0], [0, 0]]), norm([1.0, 1.0], [0.25, -2.0]))
    found = checked(Residual(branch, nn.Sequential(nn.ReLU(), conv([[1.0, 1.0]], padding=1))))
    assert found.channels["branch.0"] == (2, 0)
    assert found.network.add_constant.flatten().tolist() == [0.25, -2.0]


def test_a_branch_that_differs_at_its_borders_stays():
    branch = nn.Sequential(conv([[0, 0]], [1.0]), conv([[1.0], [1.0]], padding=1))
    found = checked(Residual(branch))
    assert found.branches == ()
    assert found.channels["branch.1"] == (2, 2)


def test_channels_joined_by_a_sum_go_together():
    branch = conv([[1.0, 0], [0, 0]])
    assert checked(Residual(branch, conv([[1.0, 0]]))).channels["branch"] == (2, 1)
    assert checked(Residual(branch, conv([[1.0, 1.0]]))).channels["branch"] == (2, 2)


def test_channels_of_zeros_that_a_shortcut_adds_go_too():
    class Widening(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.wide = conv([[1.0, 1.0], [1.0, 2.0]]), conv([[1.0, 1.0]] * 4)
            self.last = conv([[0, 1.0, 0, 1.0]])

        def forward(self, x):
            x = self.first(x)
            return self.last(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)) + self.wide(x)[:, :, ::2, ::2])

    assert checked(Widening()).channels["wide"] == (4, 3)  # without the first; `wide` reads what adds the third


def test_where_only_zeros_of_a_padding_are_read_one_channel_is_left_beside_them():
    """Sigmoid makes 0.5 of the zeros, which the padded layer cannot take for a bias."""

    class Zeros(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.other = conv([[1.0, 1.0], [1.0, 2.0]]), conv([[1.0, 1.0]])
            self.last = conv([[1.0, 0, 0, 1.0]], padding=1)

        def forward(self, x):
            return self.last(torch.sigmoid(F.pad(self.first(x), (0, 0, 0, 0, 1, 1)))) + self.other(x)

    assert checked(Zeros()).channels == {"first": (2, 1), "last": (1, 1), "other": (1, 1)}


def test_grouped_and_shared_layers_are_left_alone_and_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared = conv([[1.0, 1.0], [0, 0]]), conv([[1.0, 0], [0, 1.0]])
            self.grouped = nn.Conv2d(2, 2, 1, groups=2).double()

        def forward(self, x):
            return self.grouped(torch.special.erf(self.shared(self.shared(self.first(x)))))

    found = checked(Odd())
    assert found.left_alone == ("shared (Conv2d)", "special_erf (special_erf)", "grouped (Conv2d)")
    assert found.channels_removed == 0
    # For 64 pixels: 4 multiply-adds of the first layer, 4 each time that the shared one is called, 2 of the last.
    assert found.flops_before == found.flops_after == 2 * 64 * (4 + 2 * 4 + 2)


class Through(nn.Module):
    """An operation between a layer with a constant channel and one that pads nothing."""

    def __init__(self, operation, reads: int = 2) -> None:
        super().__init__()
        self.first, self.operation = conv([[1.0, 1.0], [0, 0]], [0.1, 0.5]), operation
        self.last = conv([[1.0] * reads])

    def forward(self, x):
        return self.last(self.operation(self.first(x)))


@pytest.mark.parametrize(
    "operation",
    [
        Through(lambda x: x[:, :1], 1),
        Through(lambda x: x.chunk(2, 1)[1] + x[:, :1], 1),
        Through(lambda x: torch.cat([x, x], 1), 4),
        Through(lambda x: F.pad(x, (1, 1, 0, 0, 1, 1)), 4),
        Through(lambda x: F.pad(x, (1, 1), value=2.0)),
        Through(lambda x: F.pad(x, (0, 0, 0, 0, -1, 0)), 1),
        Through(lambda x: x.add(other=x)),
        Through(lambda x: torch.add(x, other=x)),
        Through(lambda x: x * x.mean((2, 3), keepdim=True)),
        Through(lambda x: x + x.mean((2, 3), keepdim=True)),
        Through(lambda x: x.softmax(1)),
        Through(lambda x: x.mean(1, keepdim=True), 1),
        Through(lambda x: F.max_pool2d(x, 2, 2, 1, 2)),
        Through(lambda x: F.dropout(x, 0.0)),
        Through(nn.MaxPool2d(2, padding=1, dilation=2)),
        Through(nn.BatchNorm2d(2, track_running_stats=False).double()),
        Through(nn.ConvTranspose2d(2, 2, 2).double()),
        Through(nn.PReLU(2).double()),
        Through(nn.Linear(8, 8).double()),
    ],
)
def test_operations_that_are_not_known_keep_all_they_read(operation):
    found = checked(operation)
    assert found.left_alone
    assert found.channels["first"] == (2, 2)


@pytest.mark.parametrize(
    "operation",
    [
        Through(lambda x: F.relu(x, inplace=True)),
        Through(lambda x: F.max_pool2d(x, 3, padding=1)),
        Through(lambda x: F.avg_pool2d(x, 2, 1)),
        Through(lambda x: F.adaptive_avg_pool2d(x, 1)),
        Through(lambda x: torch.relu_(x).sigmoid().contiguous()),
        Through(lambda x: x.add_(1) * 3 - 2),
        Through(lambda x: x.mean((-1, 2), keepdim=True)),
        Through(lambda x: F.dropout(x, training=False)[:, :, 1:, ::2]),
        Through(nn.Sequential(nn.SiLU(inplace=True), nn.Dropout2d(), nn.Identity())),
    ],
)
def test_functions_and_methods_are_known_as_layers_are(operation):
    found = checked(operation)
    assert found.left_alone == ()
    assert found.channels["first"] == (2, 1)


@pytest.mark.parametrize(
    "operation",
    [
        Through(nn.ZeroPad2d(1)),
        Through(nn.AvgPool2d(2, padding=1)),
        Through(lambda x: F.pad(x, (1, 1))),
        Through(lambda x: F.avg_pool2d(x, 2, padding=1)),
    ],
)
def test_what_pads_with_zeros_keeps_another_constant(operation):
    assert checked(operation).channels["first"] == (2, 2)


def test_a_layer_of_constants_that_is_needed_keeps_one_input():
    chain = nn.Sequential(conv([[1.0, 1.0], [1.0, 2.0]]), conv([[0, 0]], [1.0]), conv([[1.0], [1.0]], padding=1))
    found = checked(Residual(chain))
    assert found.channels["branch.0"] == (2, 1)
    assert found.channels["branch.1"] == (1, 1)


def test_layers_with_hooks_are_left_alone():
    chain = nn.Sequential(conv([[1.0, 1.0], [0, 0]]), conv([[1.0, 1.0]]))
    chain[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    assert compact(chain, PICTURE).left_alone == ("1 (Conv2d)",)


def test_views_with_the_batch_first_are_flattenings():
    class Viewing(nn.Module):
        def __init__(self, flat):
            super().__init__()
            self.first, self.last, self.flat = conv([[1.0, 1.0], [0, 0]]), nn.Linear(128, 2).double(), flat

        def forward(self, x):
            return self.last(self.flat(self.first(x)))

    for flat in (
        lambda x: x.view(x.size(0), -1),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.view(-1, 128),
        lambda x: x.flatten(1),
    ):
        assert checked(Viewing(flat)).channels["first"] == (2, 1)
    assert checked(Viewing(lambda x: x.permute(0, 2, 3, 1).flatten(1))).channels["first"] == (2, 2)


def test_changes_in_place_are_followed():
    class PreActivated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.branch = conv([[1.0, 1.0], [0, 0]], [0.0, -1.0]), conv([[1.0, 1.0], [1.0, 1.0]])
            self.relu, self.last = nn.ReLU(inplace=True), conv([[1.0, 1.0]], padding=1)

        def forward(self, x):
            x = self.first(x)
            return self.last(self.branch(self.relu(x)) + x)  # x is changed by now

    checked(PreActivated())


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class TwoOutputs(nn.Module):
    def forward(self, x):
        return x, x


class ByWayOfAView(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = conv([[1.0, 1.0]])

    def forward(self, x):
        x = self.first(x)
        flat = x.flatten(1)
        return flat.relu_().sum(1)[:, None] + x.flatten(1)


class Untraceable(nn.Module):
    """Adds in place to what a view shows, which a trace does not know."""

    def __init__(self):
        super().__init__()
        self.first = conv([[1.0, 1.0]])

    def forward(self, x):
        x = self.first(x)
        view = x
        view += 1
        return x


def with_nan() -> nn.Module:
    chain = nn.Sequential(conv([[1.0, 1.0]]))
    chain[0].weight.data[0, 0] = torch.nan
    return chain


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Branching(), "cannot be traced"),
        (TwoInputs(), "must take one input, got x, y"),
        (TwoOutputs(), "must return one tensor"),
        (ByWayOfAView(), "changes in place what"),
        (Untraceable(), "would change the network's answers"),
        (with_nan(), "0.weight has values that are not finite"),
        (nn.Sequential(nn.Conv2d(3, 1, 1).double()), r"shape \(1, 2, 8, 8\) and torch.float64 does not fit"),
        (nn.Sequential(nn.Conv2d(2, 1, 1)), "does not fit the network"),
        (nn.Sequential(conv([[0, 0]], [1.0]), conv([[1.0]])), "the network is constant"),
        (nn.Sequential(conv([[1.0, 1.0], [0, 0]]), conv([[0, 1.0]])), "the network is constant"),
        (nn.Sequential(conv([[0, 0]], [1.0]), conv([[1.0]], padding=1)), "the network is constant"),
        (Residual(conv([[1.0, 1.0], [1.0, 1.0]]), conv([[0, 0]], [1.0])), "the network is constant"),
    ],
)
def test_what_cannot_be_compacted_is_said(network, said):
    with pytest.raises(ArtifactError, match=said):
        compact(network, PICTURE)


def test_the_network_given_stays_as_it_is():
    chain = nn.Sequential(conv([[1.0, 1.0], [0, 0]]), nn.ReLU(inplace=True), nn.Dropout(), conv([[1.0, 1.0]])).train()
    before = copy.deepcopy(chain.state_dict())
    found = compact(chain, PICTURE)
    assert all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())
    assert all(module.training for module in chain.modules()) and chain[1].inplace
    assert not any(module.training for module in found.network.modules())


def prune(network: nn.Module, generator: torch.Generator, density: float, dead: float) -> nn.Module:
    """Random weights and norms, of which a part survives; some filters and scales are zero as a whole."""
    for module in network.modules():
        for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.data = (drawn.abs() + 0.5 if name == "running_var" else drawn).to(value.dtype)
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= torch.rand(module.weight.shape, generator=generator) < density
            module.weight.data[torch.rand(len(module.weight), generator=generator) < dead] = 0
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data[torch.rand(len(module.weight), generator=generator) < dead / 3] = 0
    return network.eval()


class Block(nn.Module):
    """A branch of two convolutions beside a shortcut, activated before or after."""

    def __init__(self, width: int, before: bool, kernel: int) -> None:
        super().__init__()
        self.before, self.relu = before, nn.ReLU(inplace=True)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=before) for _ in "ab")

    def forward(self, x):
        if self.before:
            hidden = self.conv1(self.relu(self.bn1(x)))
            return x + self.conv2(self.relu(self.bn2(hidden)))
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


@st.composite
def networks(draw):
    """A small chain with residual blocks, in fp64, for pictures of two channels and 8x8 pixels or more."""
    layers, width = [], 2
    for kind in draw(st.lists(st.sampled_from(["conv", "norm", "block", "act", "pool"]), min_size=1, max_size=5)):
        if kind == "conv":
            wide, kernel, padded = draw(st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.booleans()))
            layers.append(nn.Conv2d(width, wide, kernel, padding=kernel // 2 * padded, bias=draw(st.booleans())))
            width = wide
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(width))
        elif kind == "block":
            layers.append(Block(width, draw(st.booleans()), draw(st.sampled_from([1, 3]))))
        elif kind == "act":
            layers.append(draw(st.sampled_from([nn.ReLU(), nn.ReLU(inplace=True), nn.Sigmoid(), nn.Dropout()])))
        elif kind == "pool":
            pools = [nn.MaxPool2d(2, 1, padding=1), nn.AvgPool2d(2, 1, padding=1), nn.AvgPool2d(2, 1)]
            layers.append(draw(st.sampled_from(pools)))
    layers += [nn.Conv2d(width, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(draw(st.sampled_from([1, 2]))), nn.Flatten()]
    features = 4 * layers[-2].output_size ** 2
    layers += [nn.Linear(features, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*layers).double()


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(0, 10**6), st.floats(0.1, 1), st.floats(0, 0.6))
def test_no_answer_changes_and_only_constant_networks_are_refused(network, seed, density, dead):
    generator = torch.Generator().manual_seed(seed)
    prune(network, generator, density, dead)
    pictures = torch.randn(4, 2, 8, 8, generator=generator, dtype=torch.float64)
    answers = copy.deepcopy(network)(pictures)
    try:
        found = compact(network, PICTURE)
    except ArtifactError as error:
        assert "constant" in str(error)
        assert (answers - answers[:1]).abs().max() <= 1e-12 * answers.abs().max()
        return
    assert found.left_alone == ()
    assert found.flops_after <= found.flops_before
    for size in ((8, 8), (11, 9)):
        pictures = torch.randn(4, 2, *size, generator=generator, dtype=torch.float64)
        assert apart(network, found.network, pictures) <= 1e-10


@pytest.mark.parametrize("make", [lambda: CifarResNet(1, 10), lambda: ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5)])
@pytest.mark.parametrize("dead", [0.1, 0.4])
def test_residual_networks_with_dead_filters(make, dead):
    network = prune(make(), torch.Generator().manual_seed(2), 0.5, dead).double()
    for module in network.modules():  # the last norm of a branch: gone with all that leads to it
        if isinstance(module, Bottleneck):
            module.bn3.weight.data.zero_()
            break
    found = checked(network, torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    assert found.channels_removed > 0
    assert found.left_alone == ()
    if isinstance(network, ResNet):
        assert found.branches == ("add",)
        assert found.channels["layer1.0.conv1"][1] == 0


def test_both_kinds_of_blocks_of_torchvision_are_known():
    network = prune(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), torch.Generator().manual_seed(3), 0.5, 0.3)
    assert checked(network.double(), torch.zeros(1, 3, 32, 32, dtype=torch.float64)).left_alone == ()


def recorded(path):
    record = json.loads(path.with_suffix(".json").read_text())
    model = Model.model_validate(record["params"]["model"])
    flops = record["metrics"]["benchmark"]["counts"]["flops_dense"]
    shape = (1, 1, 28, 28) if model.name == "lenet5" else (1, 3, 32, 32)
    return build(model, 10, 0, load_sparse(path)[0]).eval(), torch.zeros(shape), flops


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recorded_networks_lose_channels_and_no_answer(path):
    network, picture, flops = recorded(path)
    found = compact(network, picture)
    assert found.flops_before == flops
    assert found.flops_after < flops and found.channels_removed > 0
    assert found.left_alone == ()
    pictures = torch.randn(8, *picture.shape[1:], dtype=torch.float64)
    exact = compact(copy.deepcopy(network).double(), picture.double()).network
    assert apart(copy.deepcopy(network).double(), exact, pictures) <= 1e-5


def test_predictions_of_real_digits_stay(tmp_path):
    digits = sources.load("mnist-5k", tmp_path)
    pictures = (torch.from_numpy(digits.train.images) / 255 - digits.mean[0]) / digits.std[0]
    network, picture, _ = recorded(ROOT / "results/lenet5/reweighted-admm-355.9x-s0.safetensors")
    found = compact(network, picture).network
    with torch.no_grad():
        old, new = network(pictures), found(pictures)
    best = old.topk(2).values
    close = best[:, 0] - best[:, 1] <= 1e-5 * old.abs().max()
    assert ((old.argmax(1) == new.argmax(1)) | close).all()
    assert close.float().mean() < 0.01
