"""The networks, behind one explicit table of builders, and the way in for a user's own network."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.errors import ArtifactError, ConfigError

# Text, not functions: only the network that is asked for gets imported.
BUILDERS: Mapping[str, str] = {
    "lenet5": "pipeline.models.lenet5:LeNet5",
    "resnet32": "pipeline.models.resnet_cifar:resnet32",
    "resnet56": "pipeline.models.resnet_cifar:resnet56",
    "resnet50": "pipeline.models.resnet50:resnet50",
}


class Described(Protocol):
    """The `model` block of an experiment: which network, and the builder's options.

    `name` is a key of the table, or `package.module:builder` for a network of the user's own.
    """

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


def build(model: Described, classes: int, seed: int, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A network in `channels_last`: initialised from the seed, or with the weights given.

    A user's own builder is called as `builder(classes=..., **options)`; its module may lie in the
    current folder.

    Raises:
        ConfigError: unknown name, a builder that cannot be used, or an option that it does not take.
        ArtifactError: the weights are of another network.
    """
    name = model.name
    with _importable(Path.cwd()):
        builder = _builder(name)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = _built(builder, name, classes, model.options)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"model.name {name} must build an nn.Module, got {type(network).__name__}; return one from it"
        )
    if state is not None:
        _load(network, state, name)
    return network.to(memory_format=torch.channels_last)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules of the folder can be imported, for as long as this lasts."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _builder(name: str) -> Callable[..., Any]:
    """What `name` stands for, imported now."""
    place, _, attribute = BUILDERS.get(name, name).partition(":")
    if not all(part.isidentifier() for part in [*place.split("."), attribute]):
        raise ConfigError(
            f"model.name must be one of {', '.join(BUILDERS)}, or package.module:builder for your own, got {name!r}"
        )
    module = _imported(place, name)
    if not hasattr(module, attribute):
        raise ConfigError(f"model.name {name}: the module {place} has no {attribute}; correct the name after the colon")
    builder = getattr(module, attribute)
    if not callable(builder) or isinstance(builder, nn.Module):
        raise ConfigError(
            f"model.name {name} must be a function or class that builds a network, got {type(builder).__name__}"
        )
    return builder


def _imported(place: str, name: str) -> Any:
    """Import a module; all errors become one, as the code of a user's module may raise any."""
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"model.name {name} does not import: {_said(error)}; "
            f"correct the name, or the module (it is looked for in {Path.cwd()} first)"
        ) from error


def _built(builder: Callable[..., Any], name: str, classes: int, options: Mapping[str, Any]) -> Any:
    """Call a builder; all errors become one here as well."""
    try:
        inspect.signature(builder).bind(classes=classes, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.options do not fit {name}: {error}") from error
    try:
        return builder(classes=classes, **options)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} failed: {_said(error)}; correct model.options, or the builder") from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@torch.no_grad()
def check_answers(network: nn.Module, name: str, shape: tuple[int, ...], classes: int) -> None:
    """See that a picture of the shape (C, H, W) gets a number for each class; weights, buffers and generators stay.

    Raises:
        ConfigError: it gets something else, or the network fails on it.
    """
    like, training = next(network.parameters()), network.training
    picture = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    try:
        with torch.random.fork_rng():
            answers = network.eval()(picture)
    except Exception as error:
        raise ConfigError(
            f"{name} fails on a picture of shape {tuple(picture.shape)}: {_said(error)}; correct it, or training.crop"
        ) from error
    network.train(training)
    found = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
    if found != (1, classes):
        raise ConfigError(
            f"{name} must give logits of shape {(1, classes)} for a picture of shape {tuple(picture.shape)}, "
            f"got {found}; correct it"
        )


def misfits(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps weights from being the network's, a clause for each tensor, in the order of names."""
    wanted = network.state_dict()
    found = ((name, wanted.get(name), state.get(name)) for name in sorted({*wanted, *state}))
    return [clause for each in found if (clause := _misfit(*each))]


def _misfit(name: str, wanted: Tensor | None, found: Tensor | None) -> str:
    shapes = ["none" if tensor is None else tuple(tensor.shape) for tensor in (wanted, found)]
    if shapes[0] != shapes[1]:
        return f"{name} should have shape {shapes[0]}, the file has {shapes[1]}"
    if wanted.dtype != found.dtype:
        return f"{name} should have type {wanted.dtype}, the file has {found.dtype}"
    return ""


def _load(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    if wrong := misfits(network, state):
        raise ArtifactError(f"the weights are not those of {name}: {wrong[0]}; delete the file and run its stage again")
    network.load_state_dict(state)
