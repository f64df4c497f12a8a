"""Where an unfinished stage keeps its state, so that it goes on after a kill and never from stale state."""

import fcntl
import io
import json
import logging
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from pipeline.files import sha256, write_bytes

log = logging.getLogger(__name__)

SCRATCH = ".scratch"


class Scratch:
    """A git-ignored folder named by everything that the stage's result depends on.

    The name holds a hash of `depends` (parameters, digests of inputs and code): another parameter or
    input is another folder. Used as a context manager, the folder is locked, and removed when the
    stage has finished without an error.

    Raises:
        PipelineError: another process works on the same stage with the same inputs.
    """

    def __init__(self, root: Path, name: str, depends: Mapping[str, Any]) -> None:
        described = {"name": name, "depends": depends, "torch": torch.__version__}
        key = sha256(json.dumps(described, sort_keys=True).encode())[:16]
        self.folder = root / SCRATCH / f"{name}-{key}"
        self._lock: Any = None

    def __enter__(self) -> "Scratch":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PipelineError(
                f"another process is already working on this stage with the same inputs (lock in {self.folder}); "
                "wait for it, or stop it"
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._lock.close()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def load(self) -> dict[str, Any] | None:
        """The state saved last, on the CPU, or None; a damaged file is put aside with a warning."""
        path = self.folder / "checkpoint"
        if not path.is_file():
            return None
        digest, _, content = path.read_bytes().partition(b"\n")
        if sha256(content).encode() == digest:
            try:
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except (RuntimeError, pickle.UnpicklingError) as error:
                log.debug("checkpoint with a good digest does not load: %s", error)
        if self._lock is not None:  # of processes that share a training, the one that writes
            os.replace(path, path.with_suffix(".damaged"))
        log.warning(
            "the checkpoint %s is damaged (cut short or altered); this stage starts again from its first epoch", path
        )
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state of tensors, numbers, strings, lists and dictionaries; whole or not at all."""
        stream = io.BytesIO()
        torch.save(state, stream)
        content = stream.getvalue()
        write_bytes(self.folder / "checkpoint", sha256(content).encode() + b"\n" + content)


def forget(root: Path) -> dict[str, bool]:
    """Remove the folders of unfinished stages; each one's name, and whether it is in use and stays."""
    found = {}
    for lock in sorted((root / SCRATCH).glob("*/lock")):
        with open(lock) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found[lock.parent.name] = True
                continue
            shutil.rmtree(lock.parent, ignore_errors=True)
            found[lock.parent.name] = False
    return found


class NoCheckpoint:
    """A phase that keeps nothing."""

    def load(self) -> None:
        return None

    def save(self, state: object) -> None:
        return None
