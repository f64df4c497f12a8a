"""The networks, behind one explicit table of builders."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.errors import ArtifactError, ConfigError
from pipeline.models.lenet5 import LeNet5

BUILDERS: dict[str, Callable[..., nn.Module]] = {"lenet5": LeNet5}


class Described(Protocol):
    """The `model` block of an experiment: a name in the table, and the builder's options."""

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


def build(model: Described, classes: int, seed: int, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A network in `channels_last`: initialised from the seed, or with the weights given.

    Raises:
        ConfigError: unknown name, or an option that the builder does not take.
        ArtifactError: the weights are of another network.
    """
    name = model.name
    if name not in BUILDERS:
        raise ConfigError(f"model.name must be one of {', '.join(BUILDERS)}, got {name!r}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            network = BUILDERS[name](classes=classes, **model.options)
        except TypeError as error:
            raise ConfigError(f"model.options do not fit {name}: {error}") from error
    if state is not None:
        _load(network, state, name)
    return network.to(memory_format=torch.channels_last)


def _load(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if wanted != found:
        wrong = sorted({key for key, _ in set(wanted.items()) ^ set(found.items())})[0]
        raise ArtifactError(
            f"the weights are not those of {name}: {wrong} should have shape {wanted.get(wrong, 'none')}, "
            f"the file has {found.get(wrong, 'none')}; delete the file and run its stage again"
        )
    network.load_state_dict(state)
