"""The local journal: whole lines only, nothing twice, and the same settings meet again."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import journal as module
from pipeline.journal import Identity, Journal, find_root, flatten, locked, only_numbers, read_events

PARAMS = {"prune": {"rho": 3e-05}, "seed": 0}
PRUNE = Identity("lenet5", "lenet5-admm-355.9x-s0", "prune", PARAMS, {"seed": "0"})


def begun(root: Path, identity: Identity = PRUNE) -> Journal:
    journal = Journal(root, identity)
    journal.begin()
    return journal


def end(journal: Journal, status: str) -> None:
    journal.append([{"kind": "end", "status": status}])


def points(path: Path) -> list[tuple[int, dict]]:
    return [(event["step"], event["values"]) for event, _ in read_events(path) if event["kind"] == "metrics"]


def test_stages_of_one_setting_share_a_folder_and_other_settings_do_not(tmp_path):
    retrain = replace(PRUNE, stage="retrain", tags={"git_commit": "another"})
    other_rho = replace(PRUNE, params={"prune": {"rho": 1e-04}, "seed": 0})
    assert retrain.path(tmp_path).parent == PRUNE.path(tmp_path).parent
    assert other_rho.path(tmp_path).parent != PRUNE.path(tmp_path).parent
    assert replace(PRUNE, run="lenet5-admm-355.9x-s1").key != PRUNE.key
    assert PRUNE.path(tmp_path) == tmp_path / f"journal/lenet5-admm-355.9x-s0-{PRUNE.key[:12]}/prune.jsonl"


def test_the_first_line_says_what_is_tracked(tmp_path):
    first = json.loads(begun(tmp_path).path.read_text().splitlines()[0])
    assert first["experiment"] == "lenet5" and first["run"] == "lenet5-admm-355.9x-s0"
    assert first["stage"] == "prune" and first["key"] == PRUNE.key and first["attempt"] == 1
    assert first["params"] == {"prune.rho": 3e-05, "seed": 0} and first["tags"] == {"seed": "0"}


def test_values_are_flattened_and_only_finite_numbers_stay():
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
    mixed = {
        "loss": 0.5,
        "ok": True,
        "layers": {"conv1.weight": 7},
        "nan": math.nan,
        "inf": math.inf,
        "text": "fast",
        "none": None,
    }
    assert only_numbers(mixed) == {"loss": 0.5, "ok": 1.0, "layers.conv1.weight": 7.0}


def test_a_resumed_stage_appends_only_what_is_new(tmp_path):
    begun(tmp_path).metrics([(1, {"loss": 0.5}), (2, {"loss": 0.25})])
    resumed = begun(tmp_path)
    resumed.metrics([(2, {"loss": 0.25, "accuracy": 0.9}), (3, {"loss": 0.125})])
    assert points(resumed.path) == [
        (1, {"loss": 0.5}),
        (2, {"loss": 0.25}),
        (2, {"accuracy": 0.9}),
        (3, {"loss": 0.125}),
    ]


def test_a_value_that_changed_is_not_lost(tmp_path):
    journal = begun(tmp_path)
    journal.metrics([(1, {"loss": 0.5})])
    journal.metrics([(1, {"loss": 0.75})])
    assert points(journal.path) == [(1, {"loss": 0.5}), (1, {"loss": 0.75})]


def test_a_finished_stage_that_runs_again_is_a_new_attempt_and_a_failed_one_is_not(tmp_path):
    for status in ("FAILED", "KILLED", "FINISHED", "FAILED"):
        journal = begun(tmp_path)
        journal.metrics([(1, {"loss": 0.5})])
        end(journal, status)
    events = [event for event, _ in read_events(journal.path)]
    assert [event["attempt"] for event in events if event["kind"] == "begin"] == [1, 1, 1, 2]
    assert points(journal.path) == [(1, {"loss": 0.5})] * 2


def test_final_numbers_are_at_the_last_step_and_prefixed_for_the_parent(tmp_path):
    begun(tmp_path).metrics([(19, {"loss": 0.5}), (20, {"loss": 0.25})])
    journal = begun(tmp_path)
    journal.final({"survivors": 1209, "layers": {"fc1": 3}, "loss": 0.25})
    assert points(journal.path)[-1] == (20, {"survivors": 1209.0, "layers.fc1": 3.0})
    summary = [event["values"] for event, _ in read_events(journal.path) if event["kind"] == "summary"]
    assert summary == [{"prune.survivors": 1209.0, "prune.layers.fc1": 3.0, "prune.loss": 0.25}]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_half_written_line_is_not_read_and_the_next_append_repairs_it(tmp_path, cut):
    journal = begun(tmp_path)
    journal.metrics([(1, {"loss": 0.5}), (2, {"loss": 0.25})])
    os.truncate(journal.path, journal.path.stat().st_size - cut)
    assert points(journal.path) == [(1, {"loss": 0.5})]
    begun(tmp_path).metrics([(2, {"loss": 0.25})])
    assert points(journal.path) == [(1, {"loss": 0.5}), (2, {"loss": 0.25})]
    assert all(json.loads(line) for line in journal.path.read_text().splitlines())


def test_a_long_half_written_line_is_cut_off(tmp_path):
    journal = begun(tmp_path)
    with open(journal.path, "ab") as stream:
        stream.write(b"{" + b"x" * 10_000)
    journal.metrics([(1, {"loss": 0.5})])
    assert points(journal.path) == [(1, {"loss": 0.5})]
    assert b"xx" not in journal.path.read_bytes()


def test_a_damaged_line_is_passed_over(tmp_path):
    journal = begun(tmp_path)
    with open(journal.path, "ab") as stream:
        stream.write(b"\0\0\0\n[1]\n")
    journal.metrics([(1, {"loss": 0.5})])
    assert [event["kind"] for event, _ in read_events(journal.path)] == ["begin", "metrics"]


def test_reading_goes_on_where_it_stopped(tmp_path):
    journal = begun(tmp_path)
    *_, (_, offset) = read_events(journal.path)
    journal.metrics([(1, {"loss": 0.5})])
    assert [event["kind"] for event, _ in read_events(journal.path, offset)] == ["metrics"]


def test_a_full_disk_loses_nothing_once_there_is_space_again(tmp_path, monkeypatch):
    journal = begun(tmp_path)
    size = journal.path.stat().st_size

    def write_a_part(stream, content):
        stream.write(content[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(module, "_write_all", write_a_part)
        journal.metrics([(1, {"loss": 0.5})])
    assert journal.path.stat().st_size == size
    journal.metrics([(2, {"loss": 0.25})])
    assert points(journal.path) == [(1, {"loss": 0.5}), (2, {"loss": 0.25})]


def test_short_writes_are_continued(tmp_path):
    taken = []
    stream = SimpleNamespace(write=lambda content: taken.append(bytes(content[:3])) or min(3, len(content)))
    module._write_all(stream, b"0123456789")
    assert b"".join(taken) == b"0123456789"


def test_a_lock_lasts_as_long_as_its_process(tmp_path):
    lock = tmp_path / "lock"
    code = f"""
import time; from pathlib import Path; from pipeline.journal import locked
with locked(Path({str(lock)!r}), 1):
    print("held", flush=True); time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError, match="another process holds"), locked(lock, 0.1):
            pass
    finally:
        process.kill()
        process.communicate()
    with locked(lock, 5):
        pass


def test_the_root_is_dvc_root_or_the_git_top_level(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/er")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert find_root() == tmp_path
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "deep"))
    assert find_root() == tmp_path / "deep"
