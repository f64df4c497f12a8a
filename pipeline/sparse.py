"""Sparse networks in one small file: safetensors with coded weights, read without executing anything.

Streams (safetensors tensors, all 1-D; one a kind, since each costs some 70 bytes of header):

* `codes`, U8: the survivors' positions tensor after tensor, quotients then remainders (`pipeline.bits`);
* `values`, F32 or F16: of a tensor with positions its survivors, of a dense one all its weights;
* one a type, named like it (`F32`, `I64`, ...): everything that is not prunable, as it is, end to end;
* `F32H`, F16: of those the F32 tensors that an fp16 file rounds; a file with it is of version 2, others of 1.

The header has one metadata entry, named like the format, with JSON: `version`, `about`, `digest` (SHA-256 in
base64 of the tensors that loading gives), `coded` ([name, shape, width or null for dense, survivors, bytes of
quotients]), `rest` ({type: {name: shape}}) and `crc` (CRC-32 of this JSON without it, because the digest does
not cover `about`). Tensors are in the order of their names, so equal networks give equal bytes.
"""

import base64
import json
import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.bits import LARGEST_SIZE, Coded, Rest, checked_lists, decode_tensor, encode_tensor, whole_bytes
from pipeline.errors import ArtifactError, ConfigError
from pipeline.files import write_bytes
from pipeline.tensors import digest_of_tensors

FORMAT = "sparse-network"
VERSION = 2

_VALUES = {"fp32": torch.float32, "fp16": torch.float16}
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_TAGS = {kind: tag for tag, kind in _TYPES.items()}
_HALVED = "F32H"
_LEAST_NORMAL = 2.0**-14  # of fp16; below it the rounding is no longer a fixed part of the value


@dataclass(frozen=True)
class _Content:
    """A file after its structure was checked; the streams are not decoded yet."""

    about: dict[str, Any]
    digest: str
    coded: list[Coded]
    rest: Rest
    streams: dict[str, Tensor]


class _LaterVersion(ArtifactError):
    """The file is fine, and this code too old."""


def save_sparse(
    path: Path,
    state: Mapping[str, Tensor],
    prunable: Collection[str],
    about: Mapping[str, Any],
    values: Literal["fp32", "fp16"] = "fp32",
) -> None:
    """Write a network's state dict: `prunable` tensors (fp32) coded, all others as they are.

    With fp16 the values of prunable tensors are rounded to fp16; one that becomes 0 counts as pruned. Other
    fp32 tensors are rounded too, unless one of their values would become 0 or infinite, or is a small variance.
    `about` is any JSON object. Equal input gives equal bytes.

    Raises:
        ArtifactError: a tensor is missing, of a type that cannot be stored, not finite, or too large.
        ConfigError: `values` is neither fp32 nor fp16.
    """
    if values not in _VALUES:
        raise ConfigError(f"values must be one of {', '.join(_VALUES)}, got {values!r}")
    prunable = set(prunable)
    try:
        tensors = _as_loaded(state, prunable, _VALUES[values])
        text = json.dumps(dict(about), sort_keys=True, allow_nan=False)
    except (ArtifactError, TypeError, ValueError) as error:
        raise ArtifactError(f"cannot write {path}: {error}; correct the network or `about`") from error
    coded, streams = _encode({name: tensors[name] for name in prunable}, _VALUES[values])
    rest, others = _join({name: tensors[name] for name in set(tensors) - prunable}, _VALUES[values])
    description = {
        "version": 2 if _HALVED in rest else 1,
        "about": json.loads(text),
        "digest": _digest(tensors),
        "rest": rest,
        "coded": [astuple(entry) for entry in coded],
    }
    text = _compact({**description, "crc": _crc(description)})
    write_bytes(path, safetensors.torch.save(streams | others, metadata={FORMAT: text}))


def load_sparse(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_sparse` wrote: the dense state dict (prunable tensors in fp32), and `about`.

    Raises:
        ArtifactError: the file is missing, damaged, of another format, or of a later version.
    """
    content = _read(path)
    try:
        tensors = dict(_decode(content))
    except ArtifactError as error:
        raise _damaged(path, error) from error
    if _digest(tensors) != content.digest:
        raise _damaged(path, "its digest does not match")
    return {name: tensors[name] for name in sorted(tensors)}, content.about


def sizes(path: Path) -> dict[str, int]:
    """Bytes of a file: total = header + indices + values + rest.

    `bound` is the least for the last three if positions are random: their entropy, the survivors' values
    and the rest.

    Raises:
        ArtifactError: as `load_sparse`, but the tensors are not decoded and their digest is not checked.
    """
    content = _read(path)
    length = {name: stream.nbytes for name, stream in content.streams.items()}
    rest = sum(size for name, size in length.items() if name not in ("codes", "values"))
    total = path.stat().st_size
    entropy = whole_bytes(math.ceil(sum(entry.entropy_bits for entry in content.coded)))
    survivors = sum(entry.survivors for entry in content.coded)
    return {
        "total": total,
        "header": total - sum(length.values()),
        "indices": length["codes"],
        "values": length["values"],
        "rest": rest,
        "bound": entropy + survivors * content.streams["values"].itemsize + rest,
    }


def _damaged(path: Path, why: object) -> ArtifactError:
    return ArtifactError(f"{path} is damaged or no sparse network ({why}); delete it and run its stage again")


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return base64.b64encode(bytes.fromhex(digest_of_tensors(tensors))).decode()


def _crc(description: Mapping[str, Any]) -> int:
    return zlib.crc32(_compact(description).encode())


def _as_loaded(state: Mapping[str, Tensor], prunable: Collection[str], kind: torch.dtype) -> dict[str, Tensor]:
    """The tensors as `load_sparse` will give them: values rounded to `kind`, +0.0 for zeros; contiguous."""
    if missing := sorted(set(prunable) - set(state)):
        raise ArtifactError(f"it has no tensor {', '.join(missing)}")
    if sum(tensor.numel() for tensor in state.values()) > LARGEST_SIZE:
        raise ArtifactError(f"it has more than {LARGEST_SIZE} values")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    for name, tensor in tensors.items():
        allowed = {torch.float32} if name in prunable else _TAGS.keys()
        if tensor.dtype not in allowed:
            raise ArtifactError(f"{name} is {tensor.dtype}, not one of {', '.join(map(str, allowed))}")
        if name in prunable:
            tensors[name] = tensor = tensor.to(kind).to(torch.float32) + 0.0
        elif _is_halved(name, tensor, kind):
            tensors[name] = tensor.to(kind).to(torch.float32)
        if not tensor.isfinite().all():
            raise ArtifactError(f"{name} has values that are not finite, or too large for {kind}")
    return tensors


def _is_halved(name: str, tensor: Tensor, kind: torch.dtype) -> bool:
    """Whether a tensor that is not prunable is stored in fp16, in place of fp32."""
    if kind is not torch.float16 or tensor.dtype is not torch.float32:
        return False
    half = tensor.to(kind)
    least = _LEAST_NORMAL if name.endswith("running_var") else 0.0  # a norm divides by it: relative errors count
    return bool((half.isfinite() & ((tensor == 0) | ((half != 0) & (tensor.abs() >= least)))).all())


def _encode(tensors: Mapping[str, Tensor], kind: torch.dtype) -> tuple[list[Coded], dict[str, Tensor]]:
    """The entries of prunable tensors, and the streams `codes` and `values`."""
    entries, codes, values = [], [np.empty(0, np.uint8)], [np.empty(0, np.float32)]
    for name, tensor in sorted(tensors.items()):
        flat = tensor.reshape(-1).numpy()
        entry, code, stored = encode_tensor(name, tuple(tensor.shape), flat, kind.itemsize)
        entries.append(entry)
        codes.append(code)
        values.append(stored)
    return entries, {
        "codes": torch.from_numpy(np.concatenate(codes)),
        "values": torch.from_numpy(np.concatenate(values)).to(kind),
    }


def _join(tensors: Mapping[str, Tensor], kind: torch.dtype) -> tuple[Rest, dict[str, Tensor]]:
    """The names and shapes of other tensors by type, and one stream a type."""
    rest: Rest = {}
    for name, tensor in sorted(tensors.items()):
        tag = _HALVED if _is_halved(name, tensor, kind) else _TAGS[tensor.dtype]
        rest.setdefault(tag, {})[name] = tuple(tensor.shape)
    streams = {tag: torch.cat([tensors[name].reshape(-1) for name in rest[tag]]) for tag in rest}
    return rest, {tag: stream.to(kind) if tag == _HALVED else stream for tag, stream in streams.items()}


def _decode(content: _Content) -> Iterator[tuple[str, Tensor]]:
    """Names and dense tensors; none shares memory with another."""
    codes, values = content.streams["codes"].numpy(), content.streams["values"].to(torch.float32).numpy()
    if not np.isfinite(values).all():
        raise ArtifactError("it has values that are not finite")
    for entry in content.coded:
        flat = decode_tensor(entry, codes[: entry.code_bytes], values[: entry.stored])
        codes, values = codes[entry.code_bytes :], values[entry.stored :]
        yield entry.name, torch.from_numpy(flat).reshape(entry.shape)
    for tag, members in content.rest.items():
        parts = content.streams[tag].split([math.prod(shape) for shape in members.values()])
        for (name, shape), part in zip(members.items(), parts, strict=True):
            yield name, part.to(torch.float32 if tag == _HALVED else part.dtype, copy=True).reshape(shape)


def _read(path: Path) -> _Content:
    """Read a file, checking that description and streams fit each other before any is used."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            description = _described((file.metadata() or {}).get(FORMAT, "null"))
            coded, rest = checked_lists(description["coded"], description["rest"])
            _check_streams(file, coded, rest)
            streams = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; run the stage that makes it, or `dvc pull`") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror or error}); correct it and try again") from error
    except _LaterVersion as error:
        raise ArtifactError(f"{path} is of {error}; update this project or run its stage again") from error
    except (ArtifactError, safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return _Content(description["about"], description["digest"], coded, rest, streams)


def _described(text: str) -> dict[str, Any]:
    """The description, if it is ours, not of a later version, and its CRC and fields are right."""
    description = json.loads(text)
    if not isinstance(description, dict):
        raise ArtifactError("its header does not describe one")
    version = description.get("version")
    if type(version) is not int or version < 1:
        raise ArtifactError(f"its version is {version!r}")
    if version > VERSION:
        raise _LaterVersion(f"version {version} of its format, and this code reads up to {VERSION}")
    crc = description.pop("crc", None)
    if crc != _crc(description):
        raise ArtifactError("the CRC of its header does not match")
    for field, kind in {"about": dict, "digest": str, "coded": list, "rest": dict}.items():
        if not isinstance(description.get(field), kind):
            raise ArtifactError(f"its header has no proper {field}")
    return description


def _check_streams(file: Any, coded: list[Coded], rest: Rest) -> None:
    """The file has just the streams that the entries need, of the right types and lengths."""
    lengths = {tag: sum(math.prod(shape) for shape in rest[tag].values()) for tag in rest}
    lengths["codes"] = sum(entry.code_bytes for entry in coded)
    lengths["values"] = sum(entry.stored for entry in coded)
    types = {tag: ("F16",) if tag == _HALVED else (tag,) for tag in rest} | {"codes": ("U8",), "values": ("F32", "F16")}
    if set(file.keys()) != set(lengths) or not set(rest) <= {*_TYPES, _HALVED}:
        raise ArtifactError(f"it has the streams {', '.join(file.keys())}, expected {', '.join(lengths)}")
    for name, length in lengths.items():
        stream = file.get_slice(name)
        if stream.get_dtype() not in types[name] or stream.get_shape() != [length]:
            raise ArtifactError(
                f"its {name} are {stream.get_dtype()} of shape {stream.get_shape()}, "
                f"expected {' or '.join(types[name])} of shape {[length]}"
            )
