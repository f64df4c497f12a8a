"""The MLflow store that journals are sent to: the only `import mlflow` of the project."""

import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.journal import Event, locked

PATIENCE_TO_OPEN_S = 120.0  # for other processes that are creating the same sqlite store
LONGEST_NAME, LONGEST_VALUE = 250, 5000  # characters; MLflow refuses names over 250, values over 6000

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors come with pages of traceback; ours are one warning
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Place:
    """How much of a journal file a store has got, in bytes, and the ids of its runs there."""

    offset: int = 0
    parent: str = ""
    child: str = ""


class Store:
    """The few things this project asks of MLflow. Its methods let every error of MLflow pass."""

    def __init__(self, root: Path) -> None:
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
        self.name = without_credentials(self.uri)
        self._root = root
        self._client: Any = None
        self._seen: set[str] = set()

    def connect(self) -> Any:
        """The client; opens the store at the first use."""
        if self._client is None:
            with _opening(self.uri):
                client = _mlflow().MlflowClient(self.uri)
            client.search_experiments(max_results=1)
            self._client = client
        return self._client

    def forget(self) -> None:
        """After a failure: connect anew, and check anew that the runs are there."""
        self._client = None
        self._seen.clear()

    def has_runs(self, place: Place) -> bool:
        """Whether the runs of a place are (still) there; a run deleted by a person is not."""
        wanted = [run for run in (place.parent, place.child) if run and run not in self._seen]
        if not all(self._is_active(run) for run in wanted):
            return False
        self._seen.update(wanted)
        return True

    def _is_active(self, run_id: str) -> bool:
        try:
            return self.connect().get_run(run_id).info.lifecycle_stage == "active"
        except _mlflow().MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def take(self, events: Sequence[Event], place: Place) -> Place:
        """Store one event, or several metrics events; returns where the following ones go."""
        event = events[0]
        if event["kind"] == "begin":
            return self._begin(event, place)
        if event["kind"] == "metrics":
            self._log_metrics(place.child, events)
        elif event["kind"] == "summary":
            self._log_metrics(place.parent, [{**event, "step": 0}])
        elif event["kind"] == "artifact" and (path := self._root / event["path"]).exists():
            self.connect().log_artifact(place.parent, str(path))
        elif event["kind"] == "end":
            self._end(event, place)
        return place

    def register(self, event: Event, name: str, path: Path) -> str:
        """Put an ONNX file on the parent run of a `begin` event, as the next version of a registered model.

        Gives the address to load it by: `mlflow.pyfunc.load_model(address)`.
        """
        import mlflow.onnx
        import onnx
        from mlflow.exceptions import MlflowException

        client, parent = self.connect(), self._begin(event, Place()).parent
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder, path.stem)
            mlflow.onnx.save_model(onnx.load(path), packed, onnx_execution_providers=["CPUExecutionProvider"])
            client.log_artifacts(parent, str(packed), path.stem)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(parent).info.artifact_uri}/{path.stem}"
        version = client.create_model_version(name, source, parent).version
        self._end({"status": "FINISHED", "time": event["time"]}, Place(parent=parent))
        return f"models:/{name}/{version}"

    def _begin(self, event: Event, place: Place) -> Place:
        """Find or create the parent, and the child for this attempt of the stage, as running."""
        runs = self._runs(event)
        parents = [run for run in runs if "stage" not in run.data.tags]
        parent = parents[0] if parents else self._create(event, event["run"], {})
        self._describe(parent, event)
        if not event["child"]:
            return Place(place.offset, parent.info.run_id)
        own = {"stage": event["stage"], "attempt": str(event["attempt"]), "mlflow.parentRunId": parent.info.run_id}
        children = [run for run in runs if own.items() <= run.data.tags.items()]
        child = children[0] if children else self._create(event, event["stage"], own)
        self._describe(child, event)
        for run in (parent, child):
            self.connect().update_run(run.info.run_id, status="RUNNING")
        return Place(place.offset, parent.info.run_id, child.info.run_id)

    def _runs(self, event: Event) -> list[Any]:
        """The parent and all its children."""
        found = self.connect().search_runs(
            [self._experiment(event["experiment"])], f"tags.run_key = '{event['key']}'", max_results=1000
        )
        return list(found)

    def _create(self, event: Event, name: str, tags: Mapping[str, str]) -> Any:
        return self.connect().create_run(
            self._experiment(event["experiment"]),
            start_time=event["time"],
            tags={"run_key": event["key"], **tags},
            run_name=name,
        )

    def _describe(self, run: Any, event: Event) -> None:
        """Put tags and parameters on a run. Parameters cannot change: those already there stay."""
        entities = _mlflow().entities
        tags = {**event["tags"], "mlflow.source.git.commit": event["tags"].get("git_commit", "")}
        shown = {name: tags[name] for name in ("method", "ratio", "seed") if name in tags}
        params = {_name(key): _text(value) for key, value in {**shown, **event["params"]}.items()}
        self.connect().log_batch(
            run.info.run_id,
            params=[entities.Param(*item) for item in params.items() if item[0] not in run.data.params],
            tags=[entities.RunTag(_name(key), _text(value)) for key, value in tags.items() if value],
        )

    def _log_metrics(self, run_id: str, events: Sequence[Event]) -> None:
        metric = _mlflow().entities.Metric
        self.connect().log_batch(run_id, [
            metric(_name(name), value, event["time"], event["step"])
            for event in events for name, value in event["values"].items()
        ])  # fmt: skip

    def _end(self, event: Event, place: Place) -> None:
        """Close the child, and the parent too unless another of its stages is running."""
        client = self.connect()
        if place.child:
            client.set_terminated(place.child, event["status"], end_time=event["time"])
        experiment = client.get_run(place.parent).info.experiment_id
        running = client.search_runs(
            [experiment], f"tags.mlflow.parentRunId = '{place.parent}' and attributes.status = 'RUNNING'", max_results=1
        )
        if not running:
            client.set_terminated(place.parent, event["status"], end_time=event["time"])

    def _experiment(self, name: str) -> str:
        client = self.connect()
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            experiment = self._create_experiment(name)
        if experiment.lifecycle_stage != "active":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _create_experiment(self, name: str) -> Any:
        client = self.connect()
        remote = self.uri.startswith(("http:", "https:"))  # a server knows where its artifacts go
        try:
            client.create_experiment(name, None if remote else (self._root / "mlartifacts" / name).as_uri())
        except _mlflow().MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # then another process was faster
                raise
        return client.get_experiment_by_name(name)


def without_credentials(text: str) -> str:
    """A text without the `user:password@` of the addresses in it."""
    return re.sub(r"://[^/\s]*@", "://", text)


def _mlflow() -> ModuleType:
    """MLflow, imported at the first use (it takes seconds), quiet, local and with short timeouts."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    # Somebody may have imported MLflow before, when its level was not yet set in the environment.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a lost server is one warning: ours
    return mlflow


@contextmanager
def _opening(uri: str) -> Iterator[None]:
    """Guard the opening of a sqlite store: MLflow crashes if two processes create it at once, and
    goes on trying for minutes if the file cannot be opened, so that is found out here.
    """
    if not uri.startswith("sqlite:///"):
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    with locked(path.with_name(f"{path.name}.lock"), PATIENCE_TO_OPEN_S):
        with closing(sqlite3.connect(path, timeout=5)) as connection:
            connection.execute("select count(*) from sqlite_master")
        yield


def _name(name: str) -> str:
    """A name that MLflow takes; slashes and leading dots only pass there in what could be a path."""
    return re.sub(r"[^A-Za-z0-9_\-. ]|^\.+", "_", name)[:LONGEST_NAME]


def _text(value: Any) -> str:
    return str(value)[:LONGEST_VALUE]
