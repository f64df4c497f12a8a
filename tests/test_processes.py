"""Many processes that share a training end where one alone does (Lightning Fabric, on the CPU)."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.training.engine import ENDED, is_first_process, start_engine
from pipeline.yaml_files import read_yaml
from tests.project import DENSE, ROOT, RUN, copy_project, environment, run, write_params

NORMED = "tests.shared_training:normed"


def train(
    folder, devices: int, network: str, *more: str, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    command = [
        *(launcher or (sys.executable,)),
        "-m",
        "tests.shared_training",
        str(folder),
        str(devices),
        network,
        *more,
    ]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=240)


def ends(folder, devices: int) -> list[dict]:
    return [torch.load(folder / f"{devices}-{rank}.pt", weights_only=True) for rank in range(devices)]


def furthest(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def same_admm(one: dict, other: dict) -> bool:
    """Z, U and R of two ends, bit for bit."""
    pairs = [(one["admm"][name], other["admm"][name]) for name in ("Z", "U", "R")]
    return all(torch.equal(a, b) for each in pairs for a, b in zip(*each, strict=True))


def test_two_processes_end_where_one_does(tmp_path):
    """LeNet-5 in fp64, 18 steps of training and 24 of pruning with the same batches."""
    for devices in (1, 2):
        done = train(tmp_path, devices, "lenet5")
        assert done.returncode == 0, done.stderr
    (alone,) = ends(tmp_path, 1)
    for shared in ends(tmp_path, 2):
        assert furthest(alone["dense"], shared["dense"]) < 1e-9
        assert furthest(alone["pruned"], shared["pruned"]) < 1e-9
        assert all(torch.equal(mask, shared["masks"][name]) for name, mask in alone["masks"].items())
        assert shared["rows"][-1] == pytest.approx(alone["rows"][-1], rel=1e-9)
    assert same_admm(*ends(tmp_path, 2))


def test_processes_agree_where_batch_norm_sees_different_pictures(tmp_path):
    """Started by torchrun this time."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = train(tmp_path, 2, NORMED, launcher=launcher)
    assert done.returncode == 0, done.stderr
    one, other = ends(tmp_path, 2)
    for part in ("dense", "pruned"):
        assert any("running_mean" in name for name in one[part])
        assert all(torch.equal(tensor, other[part][name]) for name, tensor in one[part].items())
    assert same_admm(one, other)


@pytest.mark.slow
def test_a_shared_training_that_was_killed_goes_on_bit_for_bit(tmp_path):
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    assert train(tmp_path / "whole", 2, NORMED).returncode == 0
    assert train(tmp_path / "stopped", 2, NORMED, "killed").returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [".scratch"]
    done = train(tmp_path / "stopped", 2, NORMED, "resumed")
    assert done.returncode == 0, done.stderr
    for whole, resumed in zip(ends(tmp_path / "whole", 2), ends(tmp_path / "stopped", 2), strict=True):
        assert (whole["epochs"], resumed["epochs"]) == (4, 3)
        assert all(torch.equal(tensor, resumed["pruned"][name]) for name, tensor in whole["pruned"].items())
        assert same_admm(whole, resumed)
        assert whole["iterations"] == resumed["iterations"]


def test_a_process_that_dies_ends_the_training_with_a_sentence(tmp_path):
    done = train(tmp_path, 2, NORMED, "die")
    assert done.returncode != 0
    assert "error: pretrain: one of the 2 processes ended, or cannot be reached" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "run the same command again to go on after the last finished epoch" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_while_nobody_waits_for_it_ends_the_training_with_a_sentence(tmp_path):
    done = train(tmp_path, 2, NORMED, "asleep")
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said == [f"error: {ENDED}"]
    assert "run the same command again to go on after the last finished epoch" in ENDED


@pytest.mark.slow
def test_a_stage_on_two_devices_starts_them_and_writes_once(tmp_path):
    project = copy_project(tmp_path)
    block = read_yaml(project / "params.yaml")["experiments"]["quickstart"]
    block["training"] |= {"devices": 2}
    write_params(project, {"quickstart": block})
    run(project, "dvc", "repro", f"retrain@{RUN}")
    figures = json.loads((project / "metrics/quickstart/reweighted-admm-50x-s0/retrain.json").read_text())
    assert figures["compression_ratio"] == 50
    with sqlite3.connect(project / "mlflow.db") as database:
        names = [name for (name,) in database.execute("select name from runs")]
    assert sorted(names) == sorted([DENSE, RUN, "pretrain", "prune", "retrain"])


@pytest.fixture
def alone(monkeypatch):
    """Nobody started this process among others; gives a function that says who did."""
    for name in ("WORLD_SIZE", "RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)

    def tell(told: dict[str, str]) -> None:
        for name, value in told.items():
            monkeypatch.setenv(name, value)

    return tell


def test_the_strategy_is_fabrics(alone, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    asked = {}

    def no_fabric(**options):
        asked.update(options)
        raise InterruptedError

    monkeypatch.setattr("lightning_fabric.Fabric", no_fabric)
    with pytest.raises(InterruptedError):
        start_engine(SimpleNamespace(accelerator="cpu", devices=2, nodes=1, strategy="ddp_static"))
    assert asked == {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "strategy": "ddp_static"}


def test_more_devices_than_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    settings = SimpleNamespace(accelerator="cuda", devices=8, nodes=1)
    with pytest.raises(ConfigError, match="asks for 8 CUDA devices, this machine has 1; lower it"):
        start_engine(settings)


def test_more_processes_than_cpu_cores(alone, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(ConfigError, match="asks for 3 CPU cores, this machine has 2; lower it$"):
        start_engine(SimpleNamespace(accelerator="cpu", devices=3, nodes=1))


@pytest.mark.parametrize(
    ("told", "started"),
    [
        ({"WORLD_SIZE": "2"}, 2),
        ({"WORLD_SIZE": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}, 2),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "interactive"}, None),
        ({"SLURM_NTASKS": "2"}, None),
    ],
)
def test_processes_started_are_those_asked_for(alone, told, started):
    alone(told)
    settings = SimpleNamespace(accelerator="cpu", devices=1, nodes=1)
    if started is None:
        assert start_engine(settings).ranks == 1
        return
    with pytest.raises(ConfigError, match="asks for 1 processes, but torchrun or srun started 2; start as many"):
        start_engine(settings)


@pytest.mark.parametrize(
    ("told", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"RANK": "0", "SLURM_PROCID": "1"}, True),
        ({"RANK": "8", "SLURM_PROCID": "0", "LOCAL_RANK": "0"}, False),
    ],
)
def test_one_process_writes(alone, told, first):
    alone(told)
    assert is_first_process() is first
