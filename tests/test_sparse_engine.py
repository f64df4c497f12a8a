"""Compiled networks give what PyTorch gives, and are never loaded half-written or stale."""

import ctypes
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from pipeline.errors import ArtifactError, ConfigError
from pipeline.models.lenet5 import LeNet5
from pipeline.models.resnet_cifar import BasicBlock, resnet32
from pipeline.pruning.masks import apply_, largest, prunable_weights
from pipeline.sparse import load_sparse
from pipeline.sparse_engine.compiling import NoCompiler
from pipeline.sparse_engine.engine import SparseEngine, build_engine
from tests.project import ROOT, recorded_networks
from tests.random_networks import RandomNetwork

RESULTS = ROOT / "results"


def pruned(network, density, seed=0):
    """The network in eval mode with its largest weights, and norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    weights = prunable_weights(network)
    apply_(weights, largest(weights, round(density * sum(weight.numel() for weight in weights.values()))))
    return network.eval()


def pictures_of(shape, count=1, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def expected(network, pictures):
    """In double precision."""
    with torch.no_grad():
        return network.double()(torch.from_numpy(pictures).double()).numpy()


def check(engine, network, pictures):
    wanted = expected(network, pictures)
    assert engine(pictures).shape == wanted.shape
    assert np.abs(engine(pictures) - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("path", recorded_networks("lenet5")[:3], ids=lambda path: path.stem)
def test_recorded_lenet5(path, tmp_path):
    network = LeNet5(relu=True).eval()
    network.load_state_dict(load_sparse(path)[0])
    check(build_engine(network, (1, 28, 28), tmp_path), network, pictures_of((1, 28, 28), 64))
    assert (tmp_path / "network.bin").read_bytes() == b""
    assert (tmp_path / "network.c").stat().st_size < 200_000


def test_recorded_resnet32(tmp_path):
    network = resnet32().eval()
    network.load_state_dict(load_sparse(RESULTS / "resnet32/reweighted-admm-6.61x-s0.safetensors")[0])
    check(build_engine(network, (3, 32, 32), tmp_path), network, pictures_of((3, 32, 32), 3))


def test_bottlenecks_on_an_odd_size(tmp_path):
    network = pruned(ResNet(Bottleneck, [1, 1, 1, 1], num_classes=7), 0.05)
    engine = build_engine(network, (3, 65, 49), tmp_path)
    assert (tmp_path / "network.bin").stat().st_size > 0
    check(engine, network, pictures_of((3, 65, 49), 2))


def test_a_dense_block_with_a_shortcut_of_new_channels(tmp_path):
    network = nn.Sequential(BasicBlock(3, 8, 2), BasicBlock(8, 8, 1), nn.AvgPool2d(2), nn.Conv2d(8, 4, 3, groups=2))
    check(build_engine(pruned(network, 1.0), (3, 17, 13), tmp_path), network, pictures_of((3, 17, 13), 3))


@settings(max_examples=12, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]), stride=st.integers(1, 2), padding=st.integers(0, 2), dilation=st.integers(1, 2),
    height=st.integers(9, 17), width=st.integers(9, 17), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    count=st.sampled_from([1, 3]), seed=st.integers(0, 99),
)  # fmt: skip
def test_small_convolutions(tmp_path_factory, kernel, stride, padding, dilation, height, width, density, count, seed):
    torch.manual_seed(seed)
    first = nn.Conv2d(3, 5, kernel, stride, padding, dilation)
    network = pruned(nn.Sequential(first, nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1)), density, seed)
    engine = build_engine(network, (3, height, width), tmp_path_factory.mktemp("engine"))
    check(engine, network, pictures_of((3, height, width), count, seed))


@settings(max_examples=6, deadline=None)
@given(
    kernel=st.integers(2, 3), stride=st.integers(1, 3), padding=st.integers(0, 1),
    height=st.integers(5, 17), width=st.integers(5, 17), relu=st.booleans(),
)  # fmt: skip
def test_max_pooling_of_negative_numbers(tmp_path_factory, kernel, stride, padding, height, width, relu):
    pool = nn.MaxPool2d(kernel, stride, padding)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), pool, nn.ReLU() if relu else nn.Identity(), nn.Conv2d(2, 3, 3, 1, 1))
    nn.init.constant_(network[0].bias, -5.0)
    engine = build_engine(network.eval(), (1, height, width), tmp_path_factory.mktemp("engine"))
    check(engine, network, pictures_of((1, height, width)))


def test_many_channels_are_summed_in_blocks(tmp_path):
    """More input channels than fit into the fastest cache, and an addend in whose place the sum is written."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.grow, self.same = nn.Conv2d(3, 200, 1), nn.Conv2d(200, 200, 3, padding=1)

        def forward(self, pictures):
            hidden = self.grow(pictures)
            return torch.relu(self.same(torch.relu(hidden)) + hidden)

    network = pruned(Block(), 0.2)
    check(build_engine(network, (3, 15, 15), tmp_path), network, pictures_of((3, 15, 15), 2))


def test_phases_of_an_odd_size_do_not_lie_where_those_of_another_size_were(tmp_path):
    """Both strided layers split their input into phases of 3x3 pixels, one of 6x6 and the other of 5x5 pixels."""

    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shrink = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2)
            self.one, self.other = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

        def forward(self, pictures):
            hidden = torch.relu(self.stem(pictures))
            return self.one(hidden) + self.other(self.shrink(hidden))

    torch.manual_seed(0)
    network = Strided().eval()
    check(build_engine(network, (3, 6, 6), tmp_path), network, pictures_of((3, 6, 6), 3))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), height=st.integers(5, 13), width=st.integers(5, 13))
def test_random_networks(tmp_path_factory, seed, height, width):
    network, pictures = RandomNetwork(seed, (2, height, width)), pictures_of((2, height, width), 3, seed)
    check(build_engine(network, (2, height, width), tmp_path_factory.mktemp("engine")), network, pictures)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network, and the folder of its engine."""
    torch.manual_seed(0)
    network = pruned(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)), 0.3)
    folder = tmp_path_factory.mktemp("small")
    build_engine(network, (1, 6, 6), folder)
    return network, folder


@pytest.fixture
def folder(small, tmp_path):
    """A copy of the small engine's folder, to damage."""
    return Path(shutil.copytree(small[1], tmp_path / "engine"))


def library(folder):
    return folder / json.loads((folder / "network.json").read_text())["library"]["file"]


@pytest.mark.parametrize("count", [0, 1, 3, 64])
def test_two_threads_give_the_same_bits_as_one(small, count):
    pictures = pictures_of((1, 6, 6), count)
    one, two = SparseEngine(small[1])(pictures), SparseEngine(small[1], threads=2)(pictures)
    assert one.shape == (count, 5)
    assert np.array_equal(one, two)


def test_a_picture_gives_the_same_bits_in_any_batch_and_order(small):
    engine, pictures = SparseEngine(small[1]), pictures_of((1, 6, 6), 3)
    assert np.array_equal(engine(pictures)[::-1], np.concatenate([engine(one[None]) for one in pictures[::-1]]))


def test_tensors_views_and_read_only_arrays_are_welcome(small):
    engine, pictures = SparseEngine(small[1]), pictures_of((1, 6, 6), 4)
    frozen = pictures.copy()
    frozen.setflags(write=False)
    wanted = engine(pictures)
    for same in (torch.from_numpy(pictures), frozen, pictures.astype(np.float64), np.repeat(pictures, 2, axis=0)[::2]):
        assert np.array_equal(engine(same), wanted)


def test_the_c_file_alone_is_the_network(small):
    network, folder = small
    function = ctypes.CDLL(str(library(folder))).network
    picture, result = pictures_of((1, 6, 6)), np.zeros(5, np.float32)
    function(ctypes.c_void_p(picture.ctypes.data), ctypes.c_void_p(result.ctypes.data))
    assert np.array_equal(result, SparseEngine(folder)(picture)[0])
    assert "#include" not in (folder / "network.c").read_text()


def test_pictures_of_another_shape_are_refused(small):
    with pytest.raises(ConfigError, match="images must have shape"):
        SparseEngine(small[1])(pictures_of((1, 7, 6)))
    with pytest.raises(ConfigError, match="threads must be at least 1"):
        SparseEngine(small[1], threads=0)


@pytest.mark.parametrize("compiler", ["", "no-such-compiler", "false"])
def test_without_a_compiler_the_error_says_what_to_do(small, tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", "")
    with pytest.raises(NoCompiler, match="ONNX Runtime"):
        build_engine(small[0], (1, 6, 6), tmp_path)


def test_a_good_library_needs_no_compiler(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    SparseEngine(folder)


@pytest.mark.parametrize("damage", ["corrupt", "half", "absent", "another processor"])
def test_a_library_that_is_not_the_right_one_is_compiled_again(small, folder, damage, monkeypatch):
    path = library(folder)
    content = path.read_bytes()
    if damage == "another processor":
        about = json.loads((folder / "network.json").read_text())
        about["library"]["cpu"] = "another"
        (folder / "network.json").write_text(json.dumps(about))
    elif damage == "absent":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "half" else content[:-1] + b"?")
    pictures = pictures_of((1, 6, 6))
    assert np.array_equal(SparseEngine(folder)(pictures), SparseEngine(small[1])(pictures))
    assert library(folder).read_bytes() == content


@pytest.mark.parametrize("name", ["network.c", "network.bin"])
def test_a_changed_source_is_not_compiled(folder, name):
    library(folder).unlink()
    with open(folder / name, "a") as stream:
        stream.write("/* changed */")
    with pytest.raises(ArtifactError, match=name):
        SparseEngine(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_description_is_an_error(folder, content):
    (folder / "network.json").write_text(content)
    with pytest.raises(ArtifactError, match="network.json"):
        SparseEngine(folder)


@pytest.mark.parametrize(("key", "value"), [("scratch_floats", 1), ("picture_shape", [1, 6, 5]), ("source", {})])
def test_a_changed_description_is_an_error_before_memory_is_touched(folder, key, value):
    about = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps({**about, key: value}))
    with pytest.raises(ArtifactError, match="damaged"):
        SparseEngine(folder)


@pytest.mark.parametrize("made", ["x", {}, {"cpu": 1}, {"file": None}])
def test_a_description_of_no_library_gets_one(small, folder, made):
    about = json.loads((folder / "network.json").read_text())
    entry = {**about["library"], **made} if isinstance(made, dict) and made else made
    (folder / "network.json").write_text(json.dumps({**about, "library": entry}))
    pictures = pictures_of((1, 6, 6))
    assert np.array_equal(SparseEngine(folder)(pictures), SparseEngine(small[1])(pictures))


class InPlace(nn.Module):
    """An operation that changes what the shortcut reads."""

    def __init__(self, operation):
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.operation = nn.Conv2d(2, 2, 1), operation

    def forward(self, pictures):
        hidden = self.convolution(pictures)
        return self.convolution(self.operation(hidden)) + hidden


@pytest.mark.parametrize(
    "operation", [nn.ReLU(inplace=True), lambda hidden: nn.functional.relu(hidden, inplace=True), torch.relu_]
)
def test_changes_in_place_are_seen_by_what_reads_the_tensor_later(tmp_path, operation):
    network = InPlace(operation).eval()
    check(build_engine(network, (2, 4, 4), tmp_path), network, pictures_of((2, 4, 4), 2))


def test_a_network_in_training_mode_is_compiled_as_it_evaluates(tmp_path):
    class Branching(nn.Sequential):
        def forward(self, pictures):
            return super().forward(pictures) + pictures if self.training else super().forward(pictures)

    network = Branching(nn.Conv2d(2, 2, 1))
    engine = build_engine(network.train(), (2, 4, 4), tmp_path)
    check(engine, network.eval(), pictures_of((2, 4, 4)))


def test_what_a_trace_does_not_show_is_refused(tmp_path):
    network = nn.Sequential(nn.Conv2d(2, 2, 1)).eval()
    network[0].register_forward_hook(lambda module, given, answer: 2 * answer)
    with pytest.raises(ConfigError, match="a hook; run it in another runtime"):
        build_engine(network, (2, 4, 4), tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing that would be loaded later


def test_a_network_built_over_another_is_the_new_one(small, folder):
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    check(build_engine(network, (1, 6, 6), folder), network, pictures_of((1, 6, 6)))
    assert len(list(folder.glob("network-*.so"))) == 1
