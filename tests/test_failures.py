"""What goes wrong is caused here, and answered with one clear sentence; nothing finished is lost."""

import errno
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline import files
from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.files import sha256
from pipeline.layout import DenseRun, provenance_folder
from pipeline.provenance import Making
from pipeline.provenance import write as write_making
from pipeline.resume import Scratch
from pipeline.session import Session
from stages import clean
from tests.project import DENSE, RUN, copy_project, environment, run, stage, stage_here


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project with prepared data, the dense network and the pruned one."""
    folder = copy_project(tmp_path_factory.mktemp("failures"))
    stage(folder, "prepare", "quickstart")
    stage(folder, "pretrain", DENSE)
    stage(folder, "prune", RUN)
    return folder


@pytest.fixture
def project(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "project")


def answer(folder, name, *arguments) -> str:
    """What a failing stage says: one line."""
    done = stage_here(folder, importlib.import_module(f"stages.{name}").main, *arguments)
    assert done.returncode == 1
    return done.stderr


def printed(folder, *arguments) -> str:
    """The same of a process of its own: one line, no traceback."""
    done = stage(folder, *arguments, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1, done.stderr
    return done.stderr


DENSE_FILE = "artifacts/quickstart/dense-s0/pretrain.safetensors"
SPARSE_FILE = "artifacts/quickstart/reweighted-admm-50x-s0/prune.safetensors"
DATA_FILE = "data/quickstart/train.safetensors"


@pytest.mark.parametrize(("file", "name"), [(DENSE_FILE, "prune"), (DATA_FILE, "prune"), (SPARSE_FILE, "retrain")])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_inputs_are_named(project, file, name, damage):
    path = project / file
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:middle])
    else:
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])
    said = answer(project, name, RUN)
    assert file in said
    assert ("does not exist" if damage == "gone" else "damaged") in said or "delete it" in said


def test_weights_of_another_network_are_refused(project):
    params = (project / "params.yaml").read_text()
    from pipeline.tensors import load_tensors, save_tensors

    state, about = load_tensors(project / DENSE_FILE)
    state["fc2.weight"] = state["fc2.weight"][:, :400].clone()
    save_tensors(project / DENSE_FILE, state, about)
    assert "fc2.weight should have shape (10, 500)" in answer(project, "prune", RUN)
    assert params == (project / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prepare", "nowhere"), "unknown experiment 'nowhere'; known are: quickstart"),
        (("prune", "quickstart-magic-50x-s0"), "unknown run 'quickstart-magic-50x-s0'"),
        (("pretrain",), "expected DENSE_RUN, got nothing"),
    ],
)
def test_unknown_names(prepared, arguments, said):
    assert said in answer(prepared, *arguments)


def test_a_misspelt_parameter_stops_every_stage_before_it_starts(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("learning_rate:", "learning_rat:", 1))
    said = answer(project, "prepare", "quickstart")
    assert "learning_rat is not a known parameter" in said
    assert "learning_rate is missing" in said


def test_a_learning_rate_that_explodes_stops_with_its_place(project):
    text = (project / "params.yaml").read_text()
    start = text.index("pretrain:")
    changed = text[:start] + text[start:].replace("learning_rate: 0.002", "learning_rate: 1.0e+18", 1)
    (project / "params.yaml").write_text(changed)
    said = printed(project, "pretrain", DENSE)
    assert "the loss became" in said
    assert "epoch 1, step" in said
    assert "at learning rate" in said


@pytest.mark.parametrize(("found", "said"), [(False, 1), (True, 0)])
def test_bf16_without_its_instructions_is_said_as_training_starts(project, monkeypatch, caplog, found, said):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("precision: fp32", "precision: bf16"))
    monkeypatch.chdir(project)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": found})
    config = Config(project)
    inputs = [Path("data", "quickstart", f"{part}.safetensors") for part in ("train", "validate")]
    Session("pretrain", config.dense_run(DENSE), config, inputs).job()
    assert caplog.text.count("this processor has no bf16 instructions") == said


def limited(project, *arguments, megabytes):
    """A stage that may not write files larger than this: the disk fills up while it writes."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes << 20, megabytes << 20)),
    )


def test_no_space_for_a_checkpoint(project):
    before = (project / DENSE_FILE).read_bytes()
    done = limited(project, "stages.pretrain", DENSE, megabytes=2)
    assert done.returncode == 1
    assert "error: cannot write" in done.stderr
    assert "free some space" in done.stderr
    assert (project / DENSE_FILE).read_bytes() == before
    assert not list(project.rglob("*.partial"))


def test_a_write_that_fails_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(PipelineError, match="x.json: No space left on device; free some space"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


def checkpoints(project):
    return list((project / ".scratch").glob("pretrain-*/checkpoint"))


def test_killed_at_random_moments_it_ends_in_the_same_bytes(project):
    expected = (project / DENSE_FILE).read_bytes()
    (project / DENSE_FILE).unlink()
    pause = random.Random(os.getpid())
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.pretrain", DENSE],
            cwd=project,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limit = time.monotonic() + 60
        seen = len(checkpoints(project)) and checkpoints(project)[0].stat().st_mtime_ns
        while process.poll() is None and time.monotonic() < limit:
            now = checkpoints(project)
            if now and now[0].stat().st_mtime_ns != seen:
                break
            time.sleep(0.01)
        time.sleep(pause.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (project / DENSE_FILE).exists():
            break
        assert checkpoints(project), kill
    done = stage(project, "pretrain", DENSE)
    assert (project / DENSE_FILE).read_bytes() == expected
    assert "goes on after epoch" in done.stdout or (project / DENSE_FILE).exists()
    assert not checkpoints(project)


def test_a_changed_parameter_never_resumes(tmp_path):
    with pytest.raises(KeyboardInterrupt), Scratch(tmp_path, "prune", {"rho": 1}) as scratch:
        scratch.save({"epoch": 1})
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), Scratch(tmp_path, "prune", {"rho": 2}) as other:
        assert other.load() is None
        raise KeyboardInterrupt
    with Scratch(tmp_path, "prune", {"rho": 1}) as same:
        assert same.load() == {"epoch": 1}
    assert not same.folder.exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-1] + b"?"])
def test_a_damaged_checkpoint_is_put_aside(tmp_path, caplog, damage):
    with Scratch(tmp_path, "prune", {}) as scratch:
        scratch.save({"epoch": 1})
        path = scratch.folder / "checkpoint"
        path.write_bytes(damage(path.read_bytes()))
        assert scratch.load() is None
        assert "damaged" in caplog.text
        assert not path.exists()


def test_two_at_once_are_told_apart(tmp_path):
    with Scratch(tmp_path, "prune", {}), pytest.raises(PipelineError, match="another process is already working"):
        Scratch(tmp_path, "prune", {}).__enter__()


def test_a_resumed_stage_counts_the_seconds_of_all_its_sessions(project, monkeypatch):
    monkeypatch.chdir(project)
    config = Config(project)
    inputs = [Path("data", "quickstart", f"{part}.safetensors") for part in ("train", "validate")]
    with pytest.raises(KeyboardInterrupt), Session("pretrain", config.dense_run(DENSE), config, inputs) as first:
        first._started -= 100
        first.save({"epoch": 1})
        raise KeyboardInterrupt
    with Session("pretrain", config.dense_run(DENSE), config, inputs) as second:
        assert second.load() == {"epoch": 1}
        assert 100 <= second.seconds < 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such request")
def test_a_stage_ends_with_the_process_that_started_it(project):
    shutil.rmtree(project / "artifacts")
    start = "import subprocess, sys; stage = subprocess.Popen(sys.argv[1:]); print(stage.pid, flush=True); stage.wait()"
    command = [sys.executable, "-c", start, sys.executable, "-m", "stages.pretrain", DENSE]
    parent = subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.PIPE, text=True)
    stat = Path("/proc", parent.stdout.readline().strip(), "stat")
    until(lambda: checkpoints(project))
    parent.kill()
    parent.wait()
    until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")
    assert checkpoints(project)  # it was still at work, and goes on from here
    (journal,) = project.glob("journal/quickstart-dense-s0-*/pretrain.jsonl")
    assert json.loads(journal.read_text().splitlines()[-1])["status"] == "KILLED"


def until(holds, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_unfinished_stages_kept_is_forgotten_but_that_of_running_ones(tmp_path):
    with pytest.raises(KeyboardInterrupt), Scratch(tmp_path, "prune", {}) as stopped:
        stopped.save({"epoch": 1})
        raise KeyboardInterrupt
    made = tmp_path / ".scratch/provenance/lenet5/dense-s0/pretrain/made.json"
    made.parent.mkdir(parents=True)
    made.write_text("{}")
    with Scratch(tmp_path, "retrain", {}) as running:
        running.save({"epoch": 1})
        printed = stage_here(tmp_path, clean.main).stdout
        assert f"{stopped.folder.name}: forgotten" in printed
        assert f"{running.folder.name}: runs now, left alone" in printed
        assert running.load() == {"epoch": 1}
    assert not stopped.folder.exists()
    assert made.exists()


def test_makings_stay_in_the_project_where_dvc_runs_a_copy_of_it(tmp_path):
    """As `dvc exp run --queue` does, which removes the copy afterwards."""
    copy, home, run_ = tmp_path / "copy", tmp_path / "home", DenseRun("lenet5", 0)
    (copy / "metrics").mkdir(parents=True)
    (copy / "metrics/made.json").write_text("{}")
    write_making(copy, home, run_, Making("pretrain", {}, {}, [Path("metrics/made.json")], 1.0, 1, {"commit": "c"}))
    (making,) = (home / provenance_folder(run_, "pretrain")).glob("*.json")
    assert json.loads(making.read_text())["outputs"] == {"metrics/made.json": sha256(b"{}")}


def test_two_repros_at_once_disturb_nothing(project):
    """The second one is refused by DVC or by our lock, or finds the work done; the result is whole."""
    shutil.rmtree(project / "artifacts")
    command = ["dvc", "repro", "pretrain@" + DENSE]
    both = [
        subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=600)[0].decode() for process in both]
    assert "Traceback" not in "".join(said)
    run(project, "dvc", "repro", "pretrain@" + DENSE)
    assert (project / DENSE_FILE).is_file()


def test_a_dead_tracking_server_costs_a_warning_and_nothing_else(project):
    (project / "journal").exists() and shutil.rmtree(project / "journal")
    done = stage(project, "prune", RUN, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0
    assert (done.stdout + done.stderr).count("make sync") == 1
    synced = stage(project, "sync")
    assert RUN in synced.stdout
    assert (project / "mlflow.db").is_file()
