"""Tensor files: safetensors with a JSON description and a digest, read without executing anything."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.errors import ArtifactError
from pipeline.files import sha256, write_bytes


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, independent of the order and memory layout."""
    lines = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        content = tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""  # no copy
        lines.append(f"{name} {tensor.dtype} {tuple(tensor.shape)} {sha256(content)}")
    return sha256("\n".join(lines).encode())


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able description; equal input gives equal bytes.

    The description is one metadata entry because safetensors writes several in random order.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    entry = json.dumps({**about, "digest": digest_of_tensors(plain)}, sort_keys=True)
    write_bytes(path, safetensors.torch.save(plain, metadata={"about": entry}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors by name, and the description.

    Raises:
        ArtifactError: the file is missing, cut short, or its digest does not match.
    """
    with _opened(path) as file:
        about = _about(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if about.get("digest") != digest_of_tensors(tensors):
        raise ArtifactError(f"{path} is damaged: its digest does not match; delete it and run its stage again")
    return tensors, about


def read_about(path: Path) -> dict[str, Any]:
    """The description alone, without the digest being checked.

    Raises:
        ArtifactError: the file is missing or cut short.
    """
    with _opened(path) as file:
        return _about(file)


def _about(file: Any) -> dict[str, Any]:
    found = json.loads((file.metadata() or {})["about"])
    if not isinstance(found, dict):
        raise ValueError("its description is of another form")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; run the stage that makes it, or `dvc pull`") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror or error}); correct it and try again") from error
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged or not a tensor file of this project ({error}); delete it and run its stage again"
        ) from error
