"""Published weights: read exactly, without executing anything, and refused where they are not what was named."""

import hashlib
import os
import urllib.error
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models
from torch import Tensor, nn

from pipeline.errors import ArtifactError, ConfigError
from pipeline.models import build
from pipeline.models.published_weights import load_published
from pipeline.tensors import digest_of_tensors

PUBLISHED = {
    "resnet32": ("resnet32-d509ac18.th", "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850"),
    "resnet56": ("resnet56-4bfd9763.th", "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367"),
}


@dataclass(frozen=True)
class Start:
    """A `pretrain.start` block."""

    file: str | None = None
    sha256: str | None = None
    torchvision: str | None = None
    new_head: bool = False


def network(channels: int = 2, classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = {
        "conv": nn.Conv2d(1, channels, 3),
        "norm": nn.BatchNorm2d(channels),
        "flat": nn.Flatten(),
        "hidden": nn.Linear(channels, channels),
        "head": nn.Linear(channels, classes),
    }
    return nn.Sequential(OrderedDict(layers))


def published(**options: int) -> dict[str, Tensor]:
    """Another network's weights as training scripts save them: from `DataParallel`, without step counters."""
    state = network(seed=1, **options).state_dict()
    return {f"module.{name}": value for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The project's folder; there is no mirror."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASETS_MIRROR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def digest(file: str | Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def start(file: str, **more: Any) -> Start:
    return Start(file=file, sha256=digest(file), **more)


def refused(block: Start, into: nn.Module | None = None) -> str:
    """The one sentence with which a block is refused."""
    with pytest.raises(ArtifactError) as caught:
        load_published(block, into or network())
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    return str(caught.value)


def is_published(state: dict[str, Tensor]) -> bool:
    """All that was published is in the state, whose step counters are zero."""
    kept = {name.removeprefix("module."): value for name, value in published().items()}
    return digest_of_tensors(state) == digest_of_tensors({**kept, "norm.num_batches_tracked": torch.tensor(0)})


@pytest.mark.parametrize("zipped", [False, True])
def test_weights_with_numbers_around_them_are_read(zipped):
    around = {"best_prec1": np.float64(92.78), "epoch": np.int64(3), "loss": np.float32(0.5), "arch": "resnet"}
    torch.save({**around, "state_dict": published()}, "a.th", _use_new_zipfile_serialization=zipped)
    assert is_published(load_published(start("a.th"), network()))


def test_numbers_of_an_older_numpy_are_read():
    torch.save({"best": np.float64(1.5), "state_dict": published()}, "a.th", _use_new_zipfile_serialization=False)
    content = Path("a.th").read_bytes()
    assert content.count(b"numpy._core.multiarray\n") == 1
    Path("a.th").write_bytes(content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
    assert is_published(load_published(start("a.th"), network()))


def test_weights_saved_on_a_gpu_are_read_without_one():
    torch.save(published(), "a.th", _use_new_zipfile_serialization=False)
    content = Path("a.th").read_bytes()
    assert content.count(b"X\x03\0\0\0cpu") == 1
    Path("a.th").write_bytes(content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    assert is_published(load_published(start("a.th"), network()))


def test_a_bare_state_dict_and_safetensors_are_read():
    torch.save(published(), "a.pth")
    safetensors.torch.save_file(published(), "a.safetensors")
    for file in ("a.pth", "a.safetensors"):
        assert is_published(load_published(start(file), network()))


def test_a_network_whose_own_names_begin_with_module_keeps_them():
    torch.save(published(), "a.pth")
    into = nn.ModuleDict({"module": network()})
    assert set(load_published(start("a.pth"), into)) == set(into.state_dict())
    torch.save({f"module.{name}": value for name, value in published().items()}, "a.pth")
    assert set(load_published(start("a.pth"), into)) == set(into.state_dict())


def test_the_state_is_a_copy_in_the_networks_precision():
    torch.save({name: nn.Parameter(value.double()) for name, value in published().items()}, "a.pth")
    into = network()
    before = digest_of_tensors(into.state_dict())
    assert is_published(load_published(start("a.pth"), into))
    for value in load_published(start("a.pth", new_head=True), into).values():
        assert not value.requires_grad
        value.zero_()
    assert digest_of_tensors(into.state_dict()) == before


def test_the_mirror_comes_before_the_projects_folder(folder, monkeypatch):
    (folder / "mirror/weights").mkdir(parents=True)
    torch.save(published(), "mirror/weights/a.pth")
    block = start("mirror/weights/a.pth")
    Path("a.pth").write_bytes(b"another file of that name")
    monkeypatch.setenv("DATASETS_MIRROR", str(folder / "mirror"))
    assert is_published(load_published(Start(file="a.pth", sha256=block.sha256), network()))
    assert is_published(load_published(block, network()))


def test_an_absent_file_is_looked_for_in_two_places(folder, monkeypatch):
    block = Start(file="weights/a.pth", sha256="0" * 64)
    said = refused(block)
    assert "weights/a.pth are neither in $DATASETS_MIRROR/weights (DATASETS_MIRROR is not set)" in said
    assert f"nor in the project's folder {folder};" in said
    assert "https://github.com/akamaster/pytorch_resnet_cifar10" in said
    monkeypatch.setenv("DATASETS_MIRROR", "/a/mirror")
    assert "neither in /a/mirror/weights nor" in refused(block)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_file_with_another_digest_is_not_read(folder, damage):
    torch.save(published(), "a.pth")
    block, content = start("a.pth"), Path("a.pth").read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    Path("a.pth").write_bytes({"cut": content[:middle], "flip": flipped, "empty": b""}[damage])
    said = refused(block)
    assert said.startswith(f"{folder / 'a.pth'} is damaged or another file: SHA-256 {digest('a.pth')}")
    assert f"expected {block.sha256}; get the file again, or correct pretrain.start.sha256" in said


@pytest.mark.parametrize("zipped", [False, True])
def test_a_cut_file_is_refused_even_where_its_own_digest_is_named(zipped):
    torch.save(published(), "whole.th", _use_new_zipfile_serialization=zipped)
    content = Path("whole.th").read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        Path("a.th").write_bytes(content[:length])
        said = refused(start("a.th"))  # cut within a name, that name is no longer an allowed one
        assert "a.th is not a weights file that can be read safely" in said or "a.th holds torch._utils._r" in said


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_a_pickle_of_a_newer_kind_is_refused_with_torchs_own_reason():
    torch.save(published(), "a.pth", pickle_protocol=4)
    said = refused(start("a.pth"))
    assert "a.pth is not a weights file that can be read safely (Unsupported operand 149); get it again" in said


def test_a_cut_safetensors_file_is_refused():
    safetensors.torch.save_file(published(), "whole.safetensors")
    Path("a.safetensors").write_bytes(Path("whole.safetensors").read_bytes()[:-1])
    assert "a.safetensors is not a safetensors file (" in refused(start("a.safetensors"))


class Trap:
    """Unpickled by a reader without care, it calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("trap", "name"),
    [
        (Trap(os.system, "touch sprung"), "posix.system"),
        (Trap(exec, "open('sprung', 'w').close()"), "exec"),
        (Trap(np.savetxt, "sprung", [1.0]), "numpy.savetxt"),
        (Trap(os.mkdir, "sprung"), "posix.mkdir"),
    ],
)
def test_a_pickle_that_would_execute_code_is_refused_and_executes_nothing(trap, name, zipped):
    torch.save({"state_dict": published(), "more": trap}, "a.th", _use_new_zipfile_serialization=zipped)
    said = refused(start("a.th"))
    assert f"a.th holds {name}, which is no tensor and could execute code; it was not read" in said
    assert not Path("sprung").exists()
    torch.load("a.th", weights_only=False)  # a reader without care springs the trap
    assert Path("sprung").exists()


def test_a_number_with_a_state_of_its_own_keeps_nothing():
    """numpy's own classes are not even called: what stands in for them takes anything and does nothing."""
    scalar, arguments = np.float64(1.0).__reduce__()
    wrong = Trap(scalar, *arguments[:1], "not the bytes of a number")
    torch.save({"state_dict": published(), "best": wrong}, "a.th")
    assert is_published(load_published(start("a.th"), network()))


def test_torchs_list_of_allowed_names_stays_as_it_was():
    before = set(torch.serialization.get_safe_globals())
    torch.save({"state_dict": published(), "best": np.float64(1.0)}, "a.th")
    load_published(start("a.th"), network())
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match="numpy"):
        torch.load("a.th", weights_only=True)


def test_a_whole_pickled_network_is_refused_by_its_first_class():
    torch.save(network(), "a.th")
    assert "a.th holds torch.nn.modules.container.Sequential, which is no tensor" in refused(start("a.th"))


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 3}, {"state_dict": {"conv.weight": 1.0}}, {1: torch.zeros(1)}, torch.zeros(2)]
)
def test_a_file_without_a_state_dict_is_refused(content):
    torch.save(content, "a.pth")
    assert "a.pth holds no state dict (tensors by name); save `network.state_dict()` alone" in refused(start("a.pth"))


def test_weights_of_another_network_are_refused_by_the_first_wrong_name():
    torch.save(dict(reversed(published(channels=4).items())), "a.pth")
    said = refused(start("a.pth"))
    assert "conv.weight should have shape (2, 1, 3, 3), the file has (4, 1, 3, 3);" in said
    assert said.endswith("choose other weights, or correct model.name")
    state = published()
    del state["module.norm.bias"]
    torch.save(state, "a.pth")
    assert "norm.bias should have shape (2,), the file has none" in refused(start("a.pth"))
    torch.save({**published(), "module.more": torch.zeros(5)}, "a.pth")
    assert "more should have shape none, the file has (5,)" in refused(start("a.pth"))


def test_another_last_layer_is_taken_only_where_a_new_head_is_asked_for():
    torch.save(published(classes=5), "a.pth")
    said = refused(start("a.pth"))
    assert "head.weight should have shape (3, 2), the file has (5, 2); set pretrain.start.new_head: true" in said
    own = network()
    state = load_published(start("a.pth", new_head=True), own)
    kept = {name: state[name] for name in ("head.weight", "head.bias")}
    assert digest_of_tensors(kept) == digest_of_tensors(own.head.state_dict(prefix="head."))
    assert torch.equal(state["conv.weight"], published(classes=5)["module.conv.weight"])


def test_a_new_head_is_new_even_where_the_old_one_would_fit():
    torch.save(published(), "a.pth")
    own = network()
    assert torch.equal(load_published(start("a.pth", new_head=True), own)["head.weight"], own.head.weight)


def test_a_new_head_does_not_excuse_other_differences():
    torch.save(published(channels=4, classes=5), "a.pth")
    assert "conv.weight should have shape" in refused(start("a.pth", new_head=True))


def test_a_new_head_needs_a_linear_layer():
    torch.save({"weight": torch.zeros(2, 1, 3, 3), "bias": torch.zeros(2)}, "a.pth")
    with pytest.raises(ConfigError, match="new_head must be false, got true: the network has no linear layer"):
        load_published(start("a.pth", new_head=True), nn.Conv2d(1, 2, 3))


@pytest.mark.parametrize(
    "block", [Start(), Start(file="a.pth"), Start(file="a.pth", sha256=""), Start(sha256="0" * 64)]
)
def test_no_file_is_read_without_a_digest(block):
    torch.save(published(), "a.pth")
    with pytest.raises(ConfigError, match="needs either file and sha256, or torchvision"):
        load_published(block, network())


@pytest.fixture
def site(folder, monkeypatch) -> SimpleNamespace:
    """A stand-in for torchvision's list of weights and the site behind it; counts its downloads."""
    torch.save(published(), "a.pth")
    url = f"https://example.org/models/tiny-{digest('a.pth')[:8]}.pth"
    weights = Enum("Weights", {"V1": SimpleNamespace(url=url)})
    weights.url = property(lambda self: self.value.url)
    found = SimpleNamespace(url=url, content=Path("a.pth").read_bytes(), error=None, downloads=[])

    def download(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        found.downloads.append((url, hash_prefix))
        if found.error:
            raise found.error
        Path(path).write_bytes(found.content)

    monkeypatch.setattr(torchvision.models, "ResNet50_Weights", weights)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    found.cached = folder / "torch/hub/checkpoints" / Path(url).name
    return found


def test_torchvisions_weights_are_downloaded_once_and_checked(site):
    for _ in range(2):
        assert is_published(load_published(Start(torchvision="V1"), network()))
    assert site.downloads == [(site.url, digest("a.pth")[:8])]


def test_a_damaged_cache_is_noticed(site):
    load_published(Start(torchvision="V1"), network())
    site.cached.write_bytes(site.content[:-1])
    said = refused(Start(torchvision="V1"))
    assert said.startswith(f"{site.cached} is damaged")
    assert said.endswith("delete it, so that it is downloaded again")


def test_torchvisions_weights_may_lie_on_the_mirror(site, folder, monkeypatch):
    (folder / "weights").mkdir()
    (folder / "weights" / site.cached.name).write_bytes(site.content)
    monkeypatch.setenv("DATASETS_MIRROR", str(folder))
    assert is_published(load_published(Start(torchvision="V1"), network()))
    assert site.downloads == []


@pytest.mark.parametrize("error", [urllib.error.URLError("no route\nto host"), RuntimeError("invalid hash value")])
def test_a_failed_download_has_two_ways_out(site, error):
    site.error = error
    said = refused(Start(torchvision="V1"))
    assert said.startswith(f"{site.url} could not be downloaded (")
    assert said.endswith(f"connect this machine to the network, or get the file elsewhere and put it at {site.cached}")


@pytest.mark.parametrize("name", ["IMAGENET1K_V3", "DEFAULT"])
def test_unknown_torchvision_weights_are_answered_with_the_known_ones(name):
    said = f"pretrain.start.torchvision must be one of IMAGENET1K_V1, IMAGENET1K_V2, got '{name}'"
    with pytest.raises(ConfigError, match=said):
        load_published(Start(torchvision=name), network())


MIRROR = os.environ.get("DATASETS_MIRROR")


@pytest.mark.skipif(
    MIRROR is None or not Path(MIRROR, "weights").is_dir(),
    reason="needs the published weights: set DATASETS_MIRROR to a folder that has them below weights/",
)
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_the_published_cifar_resnets_load_exactly(name, monkeypatch):
    monkeypatch.setenv("DATASETS_MIRROR", MIRROR)
    file, sha256 = PUBLISHED[name]
    model = SimpleNamespace(name=name, options={})
    state = load_published(Start(file=file, sha256=sha256), build(model, 10, seed=0))
    loaded = build(model, 10, 0, state).state_dict()
    original = torch.load(Path(MIRROR, "weights", file), map_location="cpu", weights_only=True)["state_dict"]
    assert len(original) == len(loaded) - sum(key.endswith("num_batches_tracked") for key in loaded)
    for key, value in original.items():
        assert torch.equal(loaded[key.removeprefix("module.")], value), key
