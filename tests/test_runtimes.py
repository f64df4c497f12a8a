"""Runtimes are timed only where they answer as PyTorch does, and what is not installed says so."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.benchmark import runtimes
from pipeline.benchmark.rows import NOT_COMPILED, NOT_INSTALLED, flat, nested, not_installed
from pipeline.benchmark.runtimes import Contender, contenders, engine_or_onnx, timed
from pipeline.benchmark.timing import interleaved, quartiles
from pipeline.deploy.compaction import compact
from pipeline.errors import ArtifactError
from pipeline.models.lenet5 import LeNet5
from pipeline.pruning.masks import apply_, largest, prunable_weights
from pipeline.sparse_engine.engine import SparseEngine
from tests.project import ROOT

PICTURE = torch.zeros(1, 1, 28, 28)
IMAGES = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def lenet5(kept: int | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    network = LeNet5(10, relu=True).eval()
    if kept:
        weights = prunable_weights(network)
        apply_(weights, largest(weights, kept))
    return network


def test_quartiles_by_hand():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median_ms": 3.0, "q1_ms": 2.0, "q3_ms": 4.0}


def test_rounds_take_turns_and_warm_up_does_not_count():
    seen = []
    found = interleaved({name: lambda name=name: seen.append(name) for name in "ab"}, warmup=1, rounds=4)
    assert "".join(seen) == "aabb" * 5
    assert set(found) == {"a", "b"}


def test_only_the_second_call_of_a_round_after_warm_up_is_timed(monkeypatch):
    """The first nine calls take 100 ms (warm-up, and the first of the first round), all others 1 ms."""
    clock, calls = [0], []

    def call():
        calls.append(None)
        clock[0] += 100_000_000 if len(calls) <= 9 else 1_000_000

    monkeypatch.setattr("pipeline.benchmark.timing.time.perf_counter_ns", lambda: clock[0])
    assert interleaved({"a": call}, warmup=4, rounds=4)["a"] == {"median_ms": 1.0, "q1_ms": 1.0, "q3_ms": 1.0}


def test_rows_come_back_from_their_metrics():
    times = {"median_ms": 2.0, "q1_ms": 1.0, "q3_ms": 3.0}
    rows = [
        {"network": "dense", "engine": "pytorch", "batch": size, "threads": 1, "bytes": None, **times}
        for size in (1, 64)
    ]
    found = nested(rows, [("dense", "openvino", NOT_INSTALLED), ("pruned", "sparse-engine", NOT_COMPILED)])
    assert found["dense"]["pytorch"]["batch_64_threads_1"] == times
    assert flat(found) == rows
    assert found["pruned"]["sparse-engine"] == "cannot be compiled"
    assert not_installed(found) == {"openvino"}


def test_every_network_in_every_runtime(tmp_path):
    pruned = lenet5(40_000)
    dense = lenet5()
    sides = {"dense": (dense, dense), "compacted": (compact(pruned, PICTURE).network, pruned)}
    everyone, absent = contenders(sides, pruned, PICTURE, tmp_path, runtimes.RUNTIMES)
    rows = list(timed(everyone, IMAGES, [1, 4], [1, 2], 1, 4))
    assert absent == []
    assert len(rows) == 7 * 2 * 2
    assert {(row["network"], row["engine"]) for row in rows} == {
        *((name, engine) for name in sides for engine in ("pytorch", "onnxruntime", "openvino")),
        ("pruned", "sparse-engine"),
    }
    sizes = {(row["network"], row["engine"]): row["bytes"] for row in rows}
    assert sizes["compacted", "onnxruntime"] < sizes["dense", "onnxruntime"]
    assert sizes["dense", "pytorch"] is None


def test_wrong_answers_are_not_timed():
    network = lenet5()
    wrong = Contender("dense", "odd", lambda threads: lambda pictures: np.ones((len(pictures), 10)), network, None)
    with pytest.raises(ArtifactError, match="odd answers for the dense network differ from PyTorch's"):
        list(timed([wrong], IMAGES, [1], [1], 0, 4))


@pytest.mark.parametrize("runtime", ["pytorch", "onnxruntime"])
def test_a_compacted_network_must_answer_as_the_pruned_one(tmp_path, runtime):
    sides = {"compacted": (compact(lenet5(40_000), PICTURE).network, lenet5(20_000))}
    everyone, _ = contenders(sides, lenet5(40_000), PICTURE, tmp_path, [runtime])
    with pytest.raises(ArtifactError, match="answers for the compacted network differ from PyTorch's"):
        list(timed(everyone, IMAGES, [1], [1], 0, 4))


def test_a_runtime_that_is_not_installed_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "openvino_installed", lambda: False)
    sides = {"dense": (lenet5(), lenet5())}
    everyone, absent = contenders(sides, lenet5(40_000), PICTURE, tmp_path, ["openvino", "onnxruntime"])
    assert [each.runtime for each in everyone] == ["onnxruntime"]
    assert absent == [("dense", "openvino", "not installed")]


def test_without_a_compiler_onnx_runtime_is_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CC", "no-such-compiler")
    everyone, absent = contenders({}, lenet5(40_000), PICTURE, tmp_path, ["sparse-engine"])
    assert everyone == []
    assert absent == [("pruned", "sparse-engine", "not installed")]
    assert "ONNX Runtime" in caplog.text


def uncompilable() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10), torch.nn.Softplus()).eval()


def test_openvino_leaves_signals_a_stack_to_be_handled_on(tmp_path):
    """Several networks made and dropped in any order, and a child that ends; in a process that may die of it."""
    program = """
import signal, subprocess, sys
from pathlib import Path
from pipeline.benchmark.runtimes import OPENVINO, contenders
from tests.test_runtimes import PICTURE, lenet5
signal.signal(signal.SIGCHLD, lambda *_: None)
kept = []
for _ in range(3):
    everyone, absent = contenders({"dense": (lenet5(), lenet5())}, lenet5(), PICTURE, Path(sys.argv[1]), [OPENVINO])
    kept.append([each.start(1) for each in everyone])
while kept:
    kept.pop(0)
subprocess.run(["true"])
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["alive"], done.stderr


def test_a_network_that_cannot_be_compiled_is_not_called_not_installed(tmp_path):
    everyone, absent = contenders({}, uncompilable(), PICTURE, tmp_path, ["sparse-engine"])
    assert everyone == []
    assert absent == [("pruned", "sparse-engine", "cannot be compiled")]


def test_onnx_runtime_stands_in_where_the_engine_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    run = engine_or_onnx(lenet5(40_000), PICTURE, tmp_path / "file")
    assert not isinstance(run, SparseEngine)
    assert run(IMAGES).shape == (len(IMAGES), 10)
    assert "ONNX Runtime stands in for the sparse engine: " in caplog.text


@pytest.mark.parametrize(
    ("network", "compiler", "why"),
    [(lenet5(40_000), None, ""), (lenet5(40_000), "no-such-compiler", "compiler"), (uncompilable(), None, "Softplus")],
)
def test_onnx_runtime_stands_in_for_the_sparse_engine(tmp_path, monkeypatch, caplog, network, compiler, why):
    if compiler:
        monkeypatch.setenv("CC", compiler)
    run = engine_or_onnx(network, PICTURE, tmp_path)
    with torch.no_grad():
        expected = network(IMAGES).numpy()
    for pictures in (IMAGES, IMAGES.numpy(), IMAGES.numpy().astype(np.float64)):
        assert np.abs(run(pictures) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert isinstance(run, SparseEngine) == (not why)
    messages = [record.getMessage() for record in caplog.records if record.name == "pipeline.benchmark.runtimes"]
    assert len(messages) == bool(why)
    assert all(why in message for message in messages)
