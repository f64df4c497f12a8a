"""The local journal: every tracked number is appended here first, and sent to MLflow from here.

One file for each stage of a run, `journal/<run>-<key>/<stage>.jsonl`, one JSON event a line:

    begin     a process began (or resumed) the stage: experiment, run, key, params, tags, attempt
    metrics   numbers of one step, for the stage's own (child) run
    summary   final numbers, for the parent run
    artifact  a file for the parent run
    end       FINISHED, FAILED or KILLED; without it the stage is running or was killed -9

Files only grow. A last line without line end was cut short by a kill or a full disk: it is not
read, and the next append removes it.
"""

import fcntl
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.files import sha256

Event = dict[str, Any]


@dataclass(frozen=True)
class Identity:
    """Which stage of which run is tracked, under which settings.

    `params` are all parameters of the run, also those of its other stages: run name and parameters
    are the key under which its stages meet in one parent run.
    """

    experiment: str
    run: str
    stage: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        text = json.dumps([self.run, flatten(self.params)], sort_keys=True, default=str)
        return sha256(text.encode())

    def path(self, root: Path) -> Path:
        """The journal file below the project's root folder."""
        folder = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.run)}-{self.key[:12]}"
        return root / "journal" / folder / f"{self.stage}.jsonl"


def find_root() -> Path:
    """The project folder: $DVC_ROOT (set for every stage by DVC), else the git top level, else here."""
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level: {"prune": {"rho": 1}} gives {"prune.rho": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def only_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a nested mapping, flattened; booleans become 0 or 1."""
    return {
        name: float(value)
        for name, value in flatten(values).items()
        if isinstance(value, Real) and math.isfinite(value)
    }


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def locked(path: Path, patience_s: float) -> Iterator[None]:
    """Hold a lock file; the kernel lets go of it when the process dies.

    Raises:
        TimeoutError: another process kept it longer than the patience.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with open(path, "ab") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process holds {path}") from None
                time.sleep(0.05)
        yield


def read_events(path: Path, start: int = 0) -> Iterator[tuple[Event, int]]:
    """Events from a byte offset on, each with the offset behind it.

    A half-written last line is left out, and a damaged line (after a power cut) is passed over.
    """
    with open(path, "rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            event = _parsed(line)
            if event is not None:
                yield event, start


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


class Journal:
    """Appends the events of one stage, leaving out the numbers that a resumed stage repeats.

    A stage begun again after FINISHED is a new attempt with curves of its own; begun again after
    anything else it continues its last attempt.
    """

    def __init__(self, root: Path, identity: Identity) -> None:
        self.path = identity.path(root)
        self._identity = identity
        self._known: dict[tuple[str, int], float] = {}
        self._last_step = 0
        self._pending: list[bytes] = []

    def begin(self, *, child: bool = True) -> None:
        """Note that this process works on the stage, and learn what earlier ones have written.

        Args:
            child: whether the stage has an MLflow run of its own below the parent.

        Raises:
            OSError: see `append`.
        """
        about = self._identity
        self.append([{
            "kind": "begin", "experiment": about.experiment, "run": about.run, "key": about.key,
            "stage": about.stage, "attempt": self._attempt(), "child": child,
            "params": flatten(about.params), "tags": dict(about.tags),
        }])  # fmt: skip

    def _attempt(self) -> int:
        attempt, finished = 1, False
        for event, _ in read_events(self.path) if self.path.exists() else ():
            if event["kind"] == "begin" and event["attempt"] != attempt:
                attempt, finished = event["attempt"], False
                self._known.clear()
            elif event["kind"] == "metrics":
                self._remember(event)
            elif event["kind"] == "end":
                finished = event["status"] == "FINISHED"
        if finished:
            self._known.clear()
        self._last_step = max((step for _, step in self._known), default=0)
        return attempt + finished

    def metrics(self, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Append (step, numbers) rows, without the values known already for the same name and step.

        A value that differs is kept: the stage began anew with other code, and that one counts.

        Raises:
            OSError: see `append`.
        """
        events: list[Event] = []
        for step, values in rows:
            fresh = {
                name: value for name, value in only_numbers(values).items() if self._known.get((name, step)) != value
            }
            if fresh:
                events.append({"kind": "metrics", "step": step, "values": fresh})
                self._remember(events[-1])
        if events:
            self.append(events)

    def _remember(self, event: Event) -> None:
        self._known.update({(name, event["step"]): value for name, value in event["values"].items()})
        self._last_step = max(self._last_step, event["step"])

    def final(self, values: Mapping[str, Any]) -> None:
        """Append final numbers: at the last step for the stage's run, prefixed for the parent.

        Raises:
            OSError: see `append`.
        """
        self.metrics([(self._last_step, values)])
        self.summary({self._identity.stage: values})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Append final numbers for the parent run."""
        self.append([{"kind": "summary", "values": only_numbers(values)}])

    def append(self, events: Sequence[Event]) -> None:
        """Append events whole or not at all; what failed is appended together with the next ones.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        self._pending += [_line(event) for event in events]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            size = _drop_half_line(stream)
            try:
                _write_all(stream, b"".join(self._pending))
            except OSError:
                stream.truncate(size)
                raise
        self._pending.clear()


def _line(event: Event) -> bytes:
    return json.dumps({**event, "time": now_ms()}, default=str, ensure_ascii=False).encode() + b"\n"


def _write_all(stream: BinaryIO, content: bytes) -> None:
    while content:  # an unbuffered write may take only a part, such as the last free block
        content = content[stream.write(content) :]


def _drop_half_line(stream: BinaryIO) -> int:
    """Cut off what follows the last line end; returns the size in bytes."""
    size = end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 4096)
        stream.seek(start)
        newline = stream.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        stream.truncate(end)
    return end
