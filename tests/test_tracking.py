"""Tracking with real MLflow stores: what arrives there, and that no failure of theirs costs a run."""

import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import tracking
from pipeline.errors import PipelineError
from pipeline.journal import read_events
from pipeline.tracking import Identity, Tracker, copy_to_parent, sync
from pipeline.tracking_store import Store, without_credentials

PROJECT = Path(__file__).parents[1]
TAGS = {
    "dataset": "mnist",
    "dataset_digest": "abc",
    "git_commit": "1234567",
    "dirty": "false",
    "dense_run": "lenet5-dense-s0",
    "method": "reweighted-admm",
    "ratio": "355.9",
    "seed": "0",
}
PARAMS = {"prune": {"rho": 3e-05, "layers": [1, 2]}, "retrain": {"epochs": 2}}
PRUNE = Identity("lenet5", "lenet5-reweighted-admm-355.9x-s0", "prune", PARAMS, TAGS)
RETRAIN = replace(PRUNE, stage="retrain")


def ours(caplog):
    """What the project logged; MLflow's own words depend on who set up its loggers first."""
    return [record for record in caplog.records if record.name.startswith("pipeline")]


def run_python(root: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "DVC_ROOT": str(root)}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="session")
def new_store(tmp_path_factory) -> SimpleNamespace:
    """A sqlite store first used by two processes at once; making one takes seconds, so it is copied."""
    root = tmp_path_factory.mktemp("store")
    code = """
import sys
from pathlib import Path
from pipeline.tracking import Identity, Tracker
with Tracker(Path.cwd(), Identity("at-once", sys.argv[1], "prune", {}, {})) as tracker:
    tracker.log({"loss": 1.0}, step=1)
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        processes = [run_python(root, "-c", code, name) for name in ("first", "second")]
        outputs = [process.communicate() for process in processes]
    return SimpleNamespace(database=root / "mlflow.db", outputs=outputs)


@pytest.fixture
def root(tmp_path, new_store, monkeypatch) -> Path:
    shutil.copy(new_store.database, tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "_warned", set())
    monkeypatch.setattr(tracking, "_paused_until", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_of(root: Path, experiment: str = "lenet5") -> list:
    """All runs of an experiment, oldest first."""
    client = Store(root).connect()
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return sorted(found, key=lambda run: run.info.start_time)


def named(root: Path, name: str):
    (run,) = [run for run in runs_of(root) if run.info.run_name == name]
    return run


def curve(root: Path, run, name: str) -> list[tuple[int, float]]:
    history = Store(root).connect().get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in history)


def train(root: Path, identity: Identity = PRUNE, epochs: range = range(1, 3)) -> None:
    with Tracker(root, identity) as tracker:
        for epoch in epochs:
            tracker.log({"loss": 1 / epoch}, step=epoch)
        tracker.finish({"survivors": 1209})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_run_is_a_parent_with_a_child_for_each_stage(root):
    train(root)
    train(root, RETRAIN)
    parent, prune, retrain = (named(root, name) for name in (PRUNE.run, "prune", "retrain"))
    assert len(runs_of(root)) == 3
    assert "mlflow.parentRunId" not in parent.data.tags
    for child in (prune, retrain):
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {run.info.status for run in (parent, prune, retrain)} == {"FINISHED"}
    assert curve(root, prune, "loss") == [(1, 1.0), (2, 0.5)]
    assert curve(root, prune, "survivors") == [(2, 1209.0)]


def test_parents_can_be_compared(root):
    train(root)
    train(root, RETRAIN)
    parent = named(root, PRUNE.run)
    assert parent.data.params == {
        "prune.rho": "3e-05",
        "prune.layers": "[1, 2]",
        "retrain.epochs": "2",
        "method": "reweighted-admm",
        "ratio": "355.9",
        "seed": "0",
    }
    assert parent.data.metrics == {"prune.survivors": 1209.0, "retrain.survivors": 1209.0}
    assert TAGS.items() <= parent.data.tags.items()
    assert TAGS.items() <= named(root, "prune").data.tags.items()


def test_a_resumed_stage_continues_its_run(root):
    with pytest.raises(ValueError, match="out of memory"), Tracker(root, PRUNE) as tracker:
        tracker.log({"loss": 1.0}, step=1)
        tracker.log({"loss": 0.5}, step=2)
        raise ValueError("out of memory")
    first = named(root, "prune")
    assert first.info.status == named(root, PRUNE.run).info.status == "FAILED"
    train(root, replace(PRUNE, tags={**TAGS, "git_commit": "7654321", "seed": "1"}), epochs=range(2, 4))
    again = named(root, "prune")
    assert again.info.run_id == first.info.run_id and again.info.status == "FINISHED"
    assert curve(root, again, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert again.data.tags["git_commit"] == "7654321"
    assert again.data.params["seed"] == "0"


def test_the_same_settings_find_the_same_parent_and_other_settings_get_another(root):
    train(root)
    train(root)
    train(root, replace(PRUNE, params={**PARAMS, "prune": {"rho": 1e-04}}))
    runs = runs_of(root)
    rhos = [run.data.params["prune.rho"] for run in runs if run.info.run_name == PRUNE.run]
    assert sorted(rhos) == ["0.0001", "3e-05"]
    assert len(runs) == 2 + 3  # a finished stage that runs again has a curve of its own


def test_a_child_is_running_until_it_ends_and_so_is_its_parent(root):
    with Tracker(root, PRUNE):
        assert named(root, "prune").info.status == "RUNNING"
        train(root, RETRAIN)
        assert named(root, "retrain").info.status == "FINISHED"
        assert named(root, PRUNE.run).info.status == "RUNNING"
    assert named(root, PRUNE.run).info.status == "FINISHED"


def test_ctrl_c_kills_the_stage_and_passes(root):
    with pytest.raises(KeyboardInterrupt), Tracker(root, PRUNE):
        raise KeyboardInterrupt
    assert named(root, "prune").info.status == "KILLED"


def test_a_batched_curve_and_odd_values_arrive(root):
    with Tracker(root, PRUNE) as tracker:
        tracker.log_many([{"iteration": i, "residual of W1": 1 / (i + 1)} for i in range(1500)], "iteration")
        tracker.finish({"accuracy (%)": 99, "ok": True, "nothing": float("nan"), "../up": 1, "text": "x"})
    prune = named(root, "prune")
    assert len(curve(root, prune, "residual of W1")) == 1500
    assert curve(root, prune, "accuracy ___") == [(1499, 99.0)]
    assert set(prune.data.metrics) == {"residual of W1", "accuracy ___", "ok", "__up"}


def test_a_very_long_parameter_arrives_in_part(root):
    train(root, replace(PRUNE, params={"layers": "x" * 10_000}))
    assert named(root, PRUNE.run).data.params["layers"] == "x" * 5000


def test_the_report_puts_numbers_of_skipped_stages_and_files_on_the_parent(root):
    train(root)
    (root / "report.md").write_text("who wins")
    accuracies = {"evaluate": {"accuracy": 0.99, "layers": {"fc1": 3}}}
    copy_to_parent(root, RETRAIN, accuracies, [root / "report.md"])
    parent = named(root, PRUNE.run)
    assert parent.data.metrics == {"prune.survivors": 1209, "evaluate.accuracy": 0.99, "evaluate.layers.fc1": 3}
    assert len(runs_of(root)) == 2 and parent.info.status == "FINISHED"
    (copy,) = (root / "mlartifacts").rglob("report.md")
    assert copy.read_text() == "who wins" and parent.info.run_id in copy.parts
    assert not (root / "mlruns").exists()


def test_an_artifact_that_is_gone_is_passed_over(root, caplog):
    with Tracker(root, PRUNE) as tracker:
        tracker.artifact(root / "never-written.md")
        tracker.finish({"survivors": 1})
    assert named(root, "prune").info.status == "FINISHED" and not ours(caplog)


def test_an_unreachable_server_costs_one_warning_and_sync_sends_the_rest(root, monkeypatch, caplog):
    local = f"sqlite:///{root / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        train(root)
        train(root, RETRAIN)
    assert time.monotonic() - start < 15
    (warning,) = ours(caplog)
    for part in ("the run goes on", str(root / "journal"), "`make sync`", "127.0.0.1"):
        assert part in warning.getMessage()
    with pytest.raises(PipelineError, match="cannot send to MLflow at http://127.0.0.1.*unset") as caught:
        sync(root)
    assert "secret" not in warning.getMessage() + str(caught.value)
    assert "secret" not in "".join(path.read_text() for path in root.glob("journal/*/*.json"))

    monkeypatch.setenv("MLFLOW_TRACKING_URI", local)
    first, second, last = sync(root)
    assert first.startswith("sent 6 events of lenet5-reweighted-admm-355.9x-s0-") and first.endswith("/prune")
    assert second.endswith("/retrain") and "has all of the 2 journals" in last
    assert curve(root, named(root, "prune"), "loss") == [(1, 1.0), (2, 0.5)]
    assert named(root, PRUNE.run).info.status == "FINISHED"
    assert len(sync(root)) == 1  # nothing is sent twice


def test_a_damaged_store_costs_one_warning(root, caplog):
    (root / "mlflow.db").write_bytes(b"this is not a database" * 100)
    start = time.monotonic()
    train(root)
    assert time.monotonic() - start < 15
    (warning,) = ours(caplog)
    assert "the run goes on" in warning.getMessage()


def test_a_store_that_breaks_during_the_run_costs_one_warning(root, monkeypatch, caplog, capfd):
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.0)
    with Tracker(root, PRUNE) as tracker:
        with closing(sqlite3.connect(root / "mlflow.db")) as connection:
            connection.execute("drop table metrics")
        tracker.log({"loss": 1.0}, step=1)
        tracker.log({"loss": 0.5}, step=2)
    (warning,) = ours(caplog)
    assert "no such table: metrics" in warning.getMessage()
    assert "Traceback" not in capfd.readouterr().err


def test_a_store_that_cannot_be_opened_costs_no_long_wait(root, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}")
    start = time.monotonic()
    train(root)
    assert time.monotonic() - start < 15
    assert len(ours(caplog)) == 1


def test_a_journal_that_cannot_be_written_costs_one_warning(root, caplog):
    (root / "journal").write_text("a file where the folder should be")
    train(root)
    (warning,) = [record for record in ours(caplog) if "journal" in record.getMessage()]
    assert "the run goes on" in warning.getMessage()


def test_a_journal_whose_first_line_is_damaged_is_passed_over_and_the_others_are_sent(root, new_store, monkeypatch):
    train(root)
    train(root, RETRAIN)
    (journal,) = root.glob("journal/*/prune.jsonl")
    content = journal.read_bytes()
    journal.write_bytes(b"#" + content[1:])
    shutil.copy(new_store.database, root / "another.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'another.db'}")
    (lost,) = [sentence for sentence in sync(root) if "lost its first line" in sentence]
    assert lost.partition(" ")[0].endswith("/prune")
    assert curve(root, named(root, "retrain"), "loss") == [(1, 1.0), (2, 0.5)]


def test_a_store_that_was_deleted_is_filled_anew(root, new_store):
    train(root)
    before = named(root, "prune")
    for file in root.glob("mlflow.db*"):
        file.unlink()
    shutil.copy(new_store.database, root / "mlflow.db")  # sync would create it, in seconds
    process = run_python(root, str(PROJECT / "stages/sync.py"))
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "sent 6 events of" in output and errors == ""
    copy = f"sqlite:///{root / 'mlflow.db'}?copy"  # another address: this process still has the old file open
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", copy)
        after = named(root, "prune")
        assert after.info.run_id != before.info.run_id
        assert after.info.start_time == before.info.start_time
        assert after.data.metrics == before.data.metrics and after.data.params == before.data.params


def test_a_deleted_run_is_sent_anew(root):
    train(root)
    Store(root).connect().delete_run(named(root, PRUNE.run).info.run_id)
    assert "sent 6 events" in sync(root)[0]
    assert named(root, PRUNE.run).data.metrics == {"prune.survivors": 1209.0}


def test_sync_says_in_one_line_what_is_wrong(root):
    (root / "mlflow.db").write_bytes(b"this is not a database" * 100)
    process = run_python(root, "-m", "stages.sync")
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("error: cannot send to MLflow at sqlite:") and errors.count("\n") == 1


def test_two_processes_may_use_a_new_store_at_once(root, new_store):
    assert new_store.outputs == [("", ""), ("", "")]
    runs = runs_of(root, "at-once")
    assert sorted(run.info.run_name for run in runs) == ["first", "prune", "prune", "second"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_stage_killed_at_once_is_reopened(root):
    code = """
import os, signal
from pathlib import Path
from pipeline.tracking import Tracker
from tests.test_tracking import PRUNE
with Tracker(Path.cwd(), PRUNE) as tracker:
    tracker.log({"loss": 1.0}, step=1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_python(root, "-c", code).wait() == -signal.SIGKILL
    killed = named(root, "prune")
    assert killed.info.status == "RUNNING"
    path = PRUNE.path(root)
    os.truncate(path, path.stat().st_size - 7)
    train(root)
    assert named(root, "prune").info.run_id == killed.info.run_id
    assert named(root, "prune").info.status == "FINISHED"
    assert curve(root, named(root, "prune"), "loss") == [(1, 1.0), (2, 0.5)]
    assert [event["kind"] for event, _ in read_events(path)].count("begin") == 2


def test_credentials_are_left_out_of_addresses():
    assert without_credentials("at https://me:secret@host:5000/api: no") == "at https://host:5000/api: no"
    assert without_credentials("sqlite:////home/a@b/mlflow.db") == "sqlite:////home/a@b/mlflow.db"


@contextmanager
def server(root: Path, port: int):
    """`mlflow server` on the store of `root`, killed -9 at the end."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{root / 'mlflow.db'}",
        "--artifacts-destination",
        str(root / "served"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health")
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(url)


@pytest.mark.slow
def test_a_server_that_dies_costs_one_warning_and_sync_completes_it(root, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.0)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    (root / "report.md").write_text("who wins")
    with Tracker(root, PRUNE) as tracker:
        tracker.log({"loss": 1.0}, step=1)
    assert len(ours(caplog)) == 1  # the server is not up yet
    tracking._warned.clear()
    with server(root, port):
        tracking._paused_until.clear()
        tracker = Tracker(root, RETRAIN).__enter__()
        tracker.log({"loss": 1.0}, step=1)
        assert curve(root, named(root, "retrain"), "loss") == [(1, 1.0)]
    start = time.monotonic()
    tracker.log({"loss": 0.5}, step=2)
    tracker.log({"loss": 0.25}, step=3)
    tracker.artifact(root / "report.md")
    tracker.__exit__(None, None, None)
    assert time.monotonic() - start < 15
    assert len(ours(caplog)) == 2
    with server(root, port):
        assert len(sync(root)) == 3
        retrain = named(root, "retrain")
        assert curve(root, retrain, "loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
        assert retrain.info.status == named(root, PRUNE.run).info.status == "FINISHED"
        assert len(runs_of(root)) == 3
    assert [path.read_text() for path in (root / "served").rglob("report.md")] == ["who wins"]
