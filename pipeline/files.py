"""Files that are either whole or absent: atomic writes, digests, JSON, CSV and tensor files."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard

from pipeline.errors import ArtifactError, PipelineError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing.

    Raises:
        PipelineError: the disk is full or the folder cannot be written; an older file stays as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise PipelineError(
            f"cannot write {path}: {error.strerror}; free some space or fix the permissions, "
            "then run the same command again (finished epochs are kept)"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON that is equal, byte for byte, for equal values (but keeps the order of keys)."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return f"{json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; run the stage that makes it") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}); delete it and run its stage") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows; a column for each key of any row, as they first appear, empty where a row lacks it."""
    stream = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(stream, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, stream.getvalue().encode())


def zstd_bytes(path: Path) -> int:
    """How many bytes a file takes when packed with zstd at its highest usual level."""
    return len(zstandard.ZstdCompressor(level=19).compress(path.read_bytes()))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def digest_of_tree(path: Path) -> str:
    """Digest of a file, or of the names and contents of all files below a folder."""
    if path.is_file():
        return digest_of_file(path)
    lines = [
        f"{file.relative_to(path).as_posix()} {digest_of_file(file)}"
        for file in sorted(path.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    ]
    return sha256("\n".join(lines).encode())
