"""The networks: exact parameter counts, shapes, a shortcut by hand, seeds, and builders of one's own."""

import ast
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ArtifactError, ConfigError
from pipeline.models import BUILDERS, build, check_answers
from pipeline.models.resnet_cifar import BasicBlock, Shortcut
from pipeline.tensors import digest_of_tensors

ROOT = Path(__file__).parent.parent
INPUTS = {"lenet5": (1, 28, 28), "resnet32": (3, 32, 32), "resnet56": (3, 32, 32), "resnet50": (3, 64, 64)}


@dataclass(frozen=True)
class Model:
    """A `model` block."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


def parameters(name: str, classes: int) -> int:
    return sum(each.numel() for each in build(Model(name), classes, seed=0).parameters())


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("lenet5", 10, 431_080),
        ("resnet32", 10, 464_154),
        ("resnet56", 10, 853_018),
        ("resnet50", 1000, 25_557_032),
        ("resnet32", 100, 464_154 + 90 * 65),
        ("resnet50", 10, 25_557_032 - 990 * 2049),
    ],
)
def test_parameters_are_counted_exactly(name, classes, expected):
    assert parameters(name, classes) == expected


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_picture_gives_one_number_a_class(name):
    network = build(Model(name), 7, seed=0).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, *INPUTS[name])).shape == (2, 7)


def test_a_cifar_resnet_halves_the_pictures_twice():
    network, sizes = build(Model("resnet32"), 10, seed=0), []
    for layer in (network.layer1, network.layer2, network.layer3):
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape)))
    network(torch.zeros(2, 3, 32, 32))
    assert sizes == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    features = torch.arange(1.0, 19.0).reshape(1, 2, 3, 3)
    zeros = [[0.0, 0.0], [0.0, 0.0]]
    expected = torch.tensor([[zeros, [[1.0, 3.0], [7.0, 9.0]], [[10.0, 12.0], [16.0, 18.0]], zeros]])
    assert torch.equal(Shortcut(2, 4, stride=2)(features), expected)


def test_a_block_adds_the_shortcut_before_the_last_activation():
    """With the second norm at zero nothing is left but the shortcut."""
    block = BasicBlock(2, 4, stride=2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    features = torch.tensor([[[[-1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
    assert block(features).flatten().tolist() == [0.0, 0.0, 5.0, 0.0]


def test_initial_weights_have_the_variance_of_he_et_al():
    weight = build(Model("resnet32"), 10, seed=0).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", ["resnet32", "resnet50"])
def test_a_seed_decides_the_initial_weights_and_leaves_the_generator_alone(name):
    before = torch.get_rng_state()
    digests = [digest_of_tensors(build(Model(name), 10, seed).state_dict()) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(before, torch.get_rng_state())


def test_weights_of_another_depth_are_refused():
    state = build(Model("resnet32"), 10, seed=0).state_dict()
    with pytest.raises(ArtifactError, match="not those of resnet56: layer1.5.bn1.bias should have shape"):
        build(Model("resnet56"), 10, seed=0, state=state)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int64])
def test_weights_of_another_type_are_refused_and_the_tensor_is_named(kind):
    state = build(Model("lenet5"), 10, seed=0).state_dict()
    state["fc1.bias"] = state["fc1.bias"].to(kind)
    with pytest.raises(ArtifactError, match=f"fc1.bias should have type torch.float32, the file has {kind}"):
        build(Model("lenet5"), 10, seed=0, state=state)


def test_weights_given_replace_the_initial_ones():
    state = build(Model("resnet32"), 10, seed=1).state_dict()
    assert digest_of_tensors(build(Model("resnet32"), 10, seed=0, state=state).state_dict()) == digest_of_tensors(state)


@pytest.mark.parametrize("target", BUILDERS.values())
def test_a_network_is_one_file(target):
    """A run depends on its network's own file (dvc.yaml), which therefore may not import others of the project."""
    tree = ast.parse((ROOT / f"{target.partition(':')[0].replace('.', '/')}.py").read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert names
    assert not [name for name in names if name.startswith(("pipeline", "stages"))]


def test_only_the_network_that_is_asked_for_is_imported():
    code = (
        "import sys, types, pipeline.models as m; m.build(types.SimpleNamespace(name='lenet5', options={}), 10, 0)\n"
        "print([name for name in sys.modules if 'resnet' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr


OWN = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))

number = 3
ready = Tiny(10)
torch.rand(5)  # a draw on import, which must not change the initial weights

def text(classes):
    return "no network"

def broken(classes):
    return 1 + "one"

def leaves(classes):
    raise SystemExit("not today")

class Silent(Tiny):
    def forward(self, images):
        return [super().forward(images)]

def dead(classes):
    return nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, classes))

def norm(classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784))
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Callable[..., str]:
    """Writes a module into a project's folder, and gives the name of a builder in it."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(attribute: str, content: str = OWN, module: str = "nets_of_mine.tiny") -> str:
        path = tmp_path / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return f"{module}:{attribute}"

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("nets_of_mine"):
            del sys.modules[name]


def test_an_own_builder_gets_the_classes_and_the_options(own):
    network = build(Model(own("Tiny"), {"width": 6}), 3, seed=0)
    assert {name: tuple(each.shape) for name, each in network.named_parameters()} == {
        "conv.weight": (6, 1, 3, 3), "conv.bias": (6,), "head.weight": (3, 6), "head.bias": (3,),
    }  # fmt: skip


def test_an_own_network_is_seeded_whatever_its_module_draws(own):
    name = own("Tiny")
    digests = [digest_of_tensors(build(Model(name), 3, seed).state_dict()) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("content", [OWN, "1 / 0"])
def test_the_search_path_is_as_before(own, content):
    before = list(sys.path)
    try:
        build(Model(own("Tiny", content)), 3, seed=0)
    except ConfigError:
        pass
    assert sys.path == before


@pytest.mark.parametrize(
    ("attribute", "options", "said"),
    [
        ("Tinny", {}, "the module nets_of_mine.tiny has no Tinny"),
        ("number", {}, "must be a function or class that builds a network, got int"),
        ("ready", {}, "must be a function or class that builds a network, got Tiny"),
        ("text", {}, "must build an nn.Module, got str"),
        ("Tiny", {"depth": 2}, "model.options do not fit nets_of_mine.tiny:Tiny: .*unexpected keyword .*'depth'"),
        ("Tiny", {"width": -1}, "nets_of_mine.tiny:Tiny failed: [A-Z][A-Za-z]*Error: .*; correct model.options"),
        ("broken", {}, "nets_of_mine.tiny:broken failed: TypeError: unsupported operand .*; correct model.options"),
        ("leaves", {}, "nets_of_mine.tiny:leaves failed: SystemExit: not today; correct model.options"),
        ("Tiny", {"classes": 2}, "model.options do not fit nets_of_mine.tiny:Tiny: .*multiple values"),
    ],
)
def test_an_own_builder_that_cannot_be_used_is_named(own, attribute, options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        build(Model(own(attribute), options), 3, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("import nowhere_at_all", "does not import: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def f(:", "does not import: SyntaxError: "),
        ("import sys; sys.exit(3)", "does not import: SystemExit: 3; correct"),
        ("raise RuntimeError('two\\nlines')", "does not import: RuntimeError: two lines; correct"),
    ],
)
def test_a_module_that_does_not_import_says_why(own, content, said):
    with pytest.raises(ConfigError, match=said) as caught:
        build(Model(own("Tiny", content)), 3, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("attribute", "shape", "said"),
    [
        (
            "Tiny",
            (1, 28, 28),
            r"must give logits of shape \(1, 4\) for a picture of shape \(1, 1, 28, 28\), got \(1, 3",
        ),
        ("Silent", (1, 28, 28), r"must give logits of shape \(1, 4\) .*, got list; correct it"),
        ("dead", (1, 24, 24), r"dead fails on a picture of shape \(1, 1, 24, 24\): RuntimeError: mat1 .*training.crop"),
    ],
)
def test_a_network_that_does_not_answer_as_a_classifier_is_told_so(own, attribute, shape, said):
    name = own(attribute)
    network = build(Model(name), 3, seed=0)
    with pytest.raises(ConfigError, match=said) as caught:
        check_answers(network, name, shape, 4)
    assert "\n" not in str(caught.value)


def test_a_trial_picture_leaves_no_trace(own):
    """With a random part and a norm that learns."""
    network = build(Model(own("dead")), 3, seed=0)
    before, digest = torch.get_rng_state(), digest_of_tensors(network.state_dict())
    check_answers(network, "dead", (1, 28, 28), 3)
    assert network.training
    assert torch.equal(before, torch.get_rng_state())
    assert digest == digest_of_tensors(network.state_dict())


def test_a_module_that_does_not_exist_is_named_with_the_folder(own, tmp_path):
    with pytest.raises(ConfigError, match=f"No module named 'nets_of_nobody'; .*{tmp_path}"):
        build(Model("nets_of_nobody:Tiny"), 3, seed=0)


@pytest.mark.parametrize(
    "name", ["resnet33", "", "nets/tiny.py:Tiny", "nets_of_mine.tiny", ":Tiny", "a:", "a:b:c", ".a:b"]
)
def test_a_name_that_is_neither_known_nor_a_builder_is_refused(name):
    with pytest.raises(ConfigError, match="must be one of lenet5, resnet32, resnet56, resnet50, or package") as caught:
        build(Model(name), 3, seed=0)
    assert str(caught.value).endswith(f"got {name!r}")


@pytest.mark.parametrize("name", list(BUILDERS))
def test_options_that_a_network_does_not_take_are_named(name):
    with pytest.raises(ConfigError, match=f"model.options do not fit {name}: .*'depth'"):
        build(Model(name, {"depth": 2}), 10, seed=0)
