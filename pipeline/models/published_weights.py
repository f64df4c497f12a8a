"""Published weights as a starting point: found, checked against their digest, read without executing anything."""

import io
import os
import pickle
import re
import struct
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import sha256

MIRROR = "DATASETS_MIRROR"
CIFAR_WEIGHTS = "https://github.com/akamaster/pytorch_resnet_cifar10"
COUNTER = "num_batches_tracked"
# What a damaged pickle makes torch.load raise, depending on where the damage is.
UNREADABLE = (
    pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError,
    AssertionError, struct.error,
)  # fmt: skip


class Start(Protocol):
    """The `pretrain.start` block: a file and its SHA-256, or the name of torchvision's weights for ResNet-50.

    `file` lies below `$DATASETS_MIRROR/weights` or in the project's folder. `new_head`: the last linear
    layer keeps its initial weights.
    """

    @property
    def file(self) -> str | None: ...

    @property
    def sha256(self) -> str | None: ...

    @property
    def torchvision(self) -> str | None: ...

    @property
    def new_head(self) -> bool: ...


def load_published(start: Start, network: nn.Module) -> dict[str, Tensor]:
    """A whole state dict for the network, with the published weights in it; the network stays as it is.

    Names may begin with `module.`. Step counters of norms, which old files lack, and with `new_head` the
    last linear layer, are the network's own.

    Raises:
        ConfigError: the block names no source, unknown torchvision weights, or a head where there is none.
        ArtifactError: the file is absent, damaged, not the one that the digest names, holds something
            that is not allowed, or is of another network.
    """
    if start.torchvision:
        path, digest = _downloaded(start.torchvision)
        remedy = "delete it, so that it is downloaded again"
    elif start.file and start.sha256:
        path, digest = _found(start.file), start.sha256
        remedy = "get the file again, or correct pretrain.start.sha256 if this is the file you mean"
    else:
        raise ConfigError("pretrain.start needs either file and sha256, or torchvision")
    content = path.read_bytes()
    if not sha256(content).startswith(digest):
        raise ArtifactError(
            f"{path} is damaged or another file: SHA-256 {sha256(content)}, expected {digest}; {remedy}"
        )
    return _fitted(path, _state(path, content), network, start.new_head)


def _found(file: str) -> Path:
    path = _mirrored(file) or Path.cwd() / file
    if path.is_file():
        return path
    mirror = os.environ.get(MIRROR)
    looked = str(Path(mirror, "weights")) if mirror else f"${MIRROR}/weights ({MIRROR} is not set)"
    raise ArtifactError(
        f"the weights {file} are neither in {looked} nor in the project's folder {Path.cwd()}; put them into one of "
        f"the two (those of the CIFAR ResNets are at {CIFAR_WEIGHTS}), or correct pretrain.start.file"
    )


def _mirrored(file: str) -> Path | None:
    """The file on this machine's mirror, where there is one that has it."""
    mirror = os.environ.get(MIRROR)
    path = Path(mirror, "weights", file) if mirror else None
    return path if path and path.is_file() else None


def _downloaded(name: str) -> tuple[Path, str]:
    """ResNet-50's weights on the mirror or in torchvision's cache, and the first digits of their SHA-256."""
    from torchvision.models import ResNet50_Weights  # late: slow to import, and only ResNet-50 needs it

    urls = {weights.name: weights.url for weights in ResNet50_Weights}  # without DEFAULT, which may change
    if name not in urls:
        raise ConfigError(f"pretrain.start.torchvision must be one of {', '.join(urls)}, got {name!r}")
    url = urls[name]
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    path, digest = _mirrored(cached.name) or cached, cached.stem.rpartition("-")[2]
    if not path.is_file():
        _download(url, path, digest)
    return path, digest


def _download(url: str, path: Path, digest: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise ArtifactError(
            f"{url} could not be downloaded ({' '.join(str(error).split())[:120]}); connect this machine to the "
            f"network, or get the file elsewhere and put it at {path}"
        ) from error


def _state(path: Path, content: bytes) -> dict[str, Tensor]:
    """The state dict in a file, which may have other things around it."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise ArtifactError(f"{path} is not a safetensors file ({error}); get it again") from error
    found = _unpickled(path, content)
    if isinstance(found, Mapping):
        found = found.get("state_dict", found)
    named = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
    if not named or not all(isinstance(value, Tensor) for value in found.values()):
        raise ArtifactError(f"{path} holds no state dict (tensors by name); save `network.state_dict()` alone")
    return dict(found)


class _Number:
    """Stands for numpy's scalars, which training scripts save beside the weights; keeps and does nothing."""

    def __init__(self, *parts: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Torch's own list has tensors and plain values; these names are added, and none of numpy's code runs.
NUMBERS = [(_Number, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")]


def _unpickled(path: Path, content: bytes) -> Any:
    """A pickle's content, where it holds nothing but tensors, numbers, texts and containers of them."""
    try:
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        refused = re.search(r"GLOBAL (\S+) ", str(error))
        if refused:
            raise ArtifactError(
                f"{path} holds {refused[1]}, which is no tensor and could execute code; it was not read. Save the "
                "tensors alone, as safetensors, on a machine where you trust the file"
            ) from None
        raise ArtifactError(
            f"{path} is not a weights file that can be read safely ({_reason(error)}); get it again, or save "
            "the tensors anew with torch.save or as safetensors"
        ) from None


def _reason(error: Exception) -> str:
    """What torch found, without its advice to trust the file."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return text.splitlines()[0][:120] if text else type(error).__name__


def _fitted(path: Path, state: Mapping[str, Tensor], network: nn.Module, new_head: bool) -> dict[str, Tensor]:
    own, head = network.state_dict(), _head(network)
    found = {name if name in own else name.removeprefix("module."): value for name, value in state.items()}
    if new_head:
        if not head:
            raise ConfigError("pretrain.start.new_head must be false, got true: the network has no linear layer")
        found |= {name: own[name] for name in head}
    found = {name: value for name, value in own.items() if name.endswith(COUNTER)} | found
    for name in [*own, *found]:
        wanted, given = (tuple(side[name].shape) if name in side else "none" for side in (own, found))
        if wanted != given:
            advice = (
                "set pretrain.start.new_head: true for a new last layer" if name in head else "choose other weights"
            )
            raise ArtifactError(
                f"{path} holds the weights of another network: {name} should have shape {wanted}, "
                f"the file has {given}; {advice}, or correct model.name"
            )
    return {name: found[name].detach().to(value.dtype, copy=True) for name, value in own.items()}


def _head(network: nn.Module) -> list[str]:
    """The names of the last linear layer's tensors."""
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in network.state_dict() if layers and name.rpartition(".")[0] == layers[-1]]
