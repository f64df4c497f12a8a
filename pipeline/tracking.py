"""Tracking with MLflow, write-only: nothing is computed here and no result is read back.

A run (experiment, method, ratio, seed) is a parent run, each of its stages a child run with
curves. Every event goes to the local journal first (`pipeline.journal`); whatever of it a store has
not got yet is sent after each epoch, at the end of the stage, or by `sync`. So a store that is
down, full or deleted costs a warning and never the training.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import read_json, write_json
from pipeline.journal import Event, Identity, Journal, find_root, flatten, locked, now_ms, read_events
from pipeline.tracking_store import Place, Store, without_credentials

__all__ = ["Identity", "Tracker", "copy_to_parent", "find_root", "register", "sync", "without_credentials"]

logger = logging.getLogger(__name__)

SEND_EVERY_S = 1.0
PAUSE_AFTER_FAILURE_S = 60.0
PATIENCE_S = 10.0  # for another process that is sending the same run
EVENTS_PER_BATCH = 1000
LONGEST_REASON = 400  # characters of an error message of MLflow

_warned: set[str] = set()
_paused_until: dict[str, float] = {}  # by store, for the whole process: a report copies many runs


class Tracker:
    """Tracks one stage of one run, as a context manager; no failure of the tracking leaves it.

    Leaving the block ends the stage as FINISHED, as FAILED after an exception, or as KILLED after Ctrl-C, or after
    SIGTERM, where the program turns that into the same exception (`entry.run` does).
    """

    def __init__(self, root: Path, identity: Identity) -> None:
        self._root = root.resolve()
        self._journal = Journal(self._root, identity)
        self._store = Store(self._root)
        self._next_send = 0.0

    def __enter__(self) -> "Tracker":
        with _journal_failures(self._journal):
            self._journal.begin()
        self._send()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _journal_failures(self._journal):
            self._journal.append([{"kind": "end", "status": _status(error)}])
        _try_to_send(self._store, self._journal.path, force=True)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """One point of each curve, such as the losses of an epoch."""
        self.log_many([{**values, "step": step}], "step")

    def log_many(self, rows: Sequence[Mapping[str, Any]], step_key: str) -> None:
        """Many points at once; `step_key` names the column that holds the step."""
        points = [(int(row[step_key]), {name: row[name] for name in row if name != step_key}) for row in rows]
        with _journal_failures(self._journal):
            self._journal.metrics(points)
        self._send()

    def finish(self, values: Mapping[str, Any]) -> None:
        """Final numbers: for the stage's own run, and for the parent under `<stage>.<name>`."""
        with _journal_failures(self._journal):
            self._journal.final(values)

    def artifact(self, path: Path) -> None:
        """A file to copy to the parent run at the next sending."""
        with _journal_failures(self._journal):
            self._journal.append([_artifact(self._root, path)])

    def _send(self) -> None:
        if time.monotonic() >= self._next_send:
            _try_to_send(self._store, self._journal.path)
            self._next_send = time.monotonic() + SEND_EVERY_S


def copy_to_parent(
    root: Path, identity: Identity, metrics: Mapping[str, Mapping[str, Any]], artifacts: Iterable[Path] = ()
) -> None:
    """Put final metrics, by stage, and files on the parent run; for the report stage.

    A stage that DVC skips or restores from its cache logs nothing, so its numbers would be missing.
    """
    root = root.resolve()
    journal = Journal(root, replace(identity, stage="report"))
    with _journal_failures(journal):
        journal.begin(child=False)
        journal.summary(metrics)
        journal.append([_artifact(root, path) for path in artifacts])
        journal.append([{"kind": "end", "status": "FINISHED"}])
    _try_to_send(Store(root), journal.path)


def register(root: Path, identity: Identity, name: str, path: Path) -> str:
    """Register an ONNX file as the next version of a model, on the run that it is of; gives its address.

    Raises:
        PipelineError: the store cannot be reached.
    """
    root = root.resolve()
    store = Store(root)
    event = {
        "kind": "begin", "experiment": identity.experiment, "run": identity.run, "key": identity.key,
        "stage": identity.stage, "attempt": 1, "child": False, "params": flatten(identity.params),
        "tags": dict(identity.tags), "time": now_ms(),
    }  # fmt: skip
    with _store_failures(store, "the exported files are whole; register them again when it answers"):
        store.connect()
        return store.register(event, name, path)


def sync(root: Path) -> list[str]:
    """Send everything that the store has not got yet; returns sentences that say what was sent.

    Raises:
        PipelineError: the store cannot be reached, or did not take everything.
    """
    root = root.resolve()
    store = Store(root)
    with _store_failures(
        store,
        "nothing is lost: start the server, or unset MLFLOW_TRACKING_URI to use the "
        "local store, and run `make sync` again",
    ):
        store.connect()
    files = sorted((root / "journal").glob("*/*.jsonl"))
    sentences: list[str] = []
    problems: list[str] = []
    for path in files:
        name = f"{path.parent.name}/{path.stem}"
        try:
            with _store_failures(store, "run `make sync` again"):
                count = _send_file(store, path)
        except PipelineError as error:
            problems.append(f"{name}: {error}")
        else:
            sentences += [f"sent {count} events of {name}"] * (count > 0)
            if not _is_named(path):
                sentences.append(f"{name} lost its first line, which names its run: what follows it is left out")
    if problems:
        raise PipelineError(f"{len(problems)} of {len(files)} journals were not sent: " + "; ".join(problems))
    return [*sentences, f"{store.name} has all of the {len(files)} journals in {root / 'journal'}"]


def _is_named(path: Path) -> bool:
    return next((event["kind"] for event, _ in read_events(path)), "begin") == "begin"


def _artifact(root: Path, path: Path) -> Event:
    path = path.resolve()
    return {"kind": "artifact", "path": str(path.relative_to(root) if path.is_relative_to(root) else path)}


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _warn_once(kind: str, message: str) -> None:
    if kind not in _warned:
        _warned.add(kind)
        logger.warning(message)


@contextmanager
def _journal_failures(journal: Journal) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _warn_once(
            "journal",
            f"cannot append to {journal.path} ({error.strerror}): the run goes on and its "
            "results are not affected, but its curves may be incomplete; free some space",
        )


@contextmanager
def _store_failures(store: Store, advice: str) -> Iterator[None]:
    """Make one error of all errors; MLflow, SQLAlchemy, Alembic and the network share no base class."""
    try:
        yield
    except Exception as error:
        store.forget()
        reason = " ".join(without_credentials(str(_innermost(error))).split())[:LONGEST_REASON]
        raise PipelineError(f"cannot send to MLflow at {store.name} ({reason}); {advice}") from None


def _innermost(error: BaseException) -> BaseException:
    """What began a chain of errors: "connection refused" rather than the pages built upon it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _try_to_send(store: Store, path: Path, *, force: bool = False) -> None:
    """Send what is new, unless the last try failed a moment ago; a failure costs one warning."""
    if not force and time.monotonic() < _paused_until.get(store.name, 0.0):
        return
    advice = f"the run goes on, its numbers are kept in {path.parent}, and `make sync` will send them"
    try:
        with _store_failures(store, advice):
            if path.exists():
                _send_file(store, path)
    except PipelineError as error:
        _paused_until[store.name] = time.monotonic() + PAUSE_AFTER_FAILURE_S
        _warn_once("store", str(error))


def _send_file(store: Store, path: Path) -> int:
    """Send the unsent events of a journal file; returns how many. Errors of the store pass."""
    state = path.with_suffix(".sent.json")
    count = 0
    with locked(path.parent / ".lock", PATIENCE_S):
        places = _read_places(state)
        place = places.get(store.name, Place())
        if place.offset > path.stat().st_size or not store.has_runs(place):
            place = Place()  # the store is new or lost its runs: everything is sent anew
        for events, end in _batches(read_events(path, place.offset)):
            if not place.parent and events[0]["kind"] != "begin":
                continue  # the line that names the run is damaged: nobody knows whose numbers these are
            place = replace(store.take(events, place), offset=end)
            places[store.name] = place
            write_json(state, {name: asdict(place) for name, place in places.items()})
            count += len(events)
    return count


def _read_places(state: Path) -> dict[str, Place]:
    try:
        return {name: Place(**place) for name, place in read_json(state).items()}
    except (PipelineError, AttributeError, TypeError):
        return {}  # absent or damaged: sending again is harmless, equal points are stored once


def _batches(events: Iterator[tuple[Event, int]]) -> Iterator[tuple[list[Event], int]]:
    """Group neighbouring metrics events; every other event stands alone."""
    batch: list[Event] = []
    end = 0
    for event, event_end in events:
        joins = batch and batch[0]["kind"] == event["kind"] == "metrics" and len(batch) < EVENTS_PER_BATCH
        if batch and not joins:
            yield batch, end
            batch = []
        batch.append(event)
        end = event_end
    if batch:
        yield batch, end
