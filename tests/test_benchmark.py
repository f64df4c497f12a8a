"""The stages that measure a network of one's own, which cannot be traced: without its compacted copy."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline import layout
from pipeline.benchmark.rows import NOT_COMPILED, flat
from pipeline.config import Config
from pipeline.evaluation.accuracy import device_for
from pipeline.models import build
from pipeline.params import Model
from pipeline.pruning.masks import prunable_weights
from pipeline.report.tables import fastest_table
from pipeline.sparse import save_sparse
from pipeline.tensors import save_tensors
from pipeline.yaml_files import read_yaml
from stages import benchmark, evaluate
from tests.project import RUN, copy_project, stage_here, write_params
from tests.test_training import pictures


class Branching(nn.Module):
    """Branches on the number of pictures, which a graph does not show."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 5, stride=3), nn.Linear(4 * 64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images).relu().flatten(1)
        return self.head(features if features.shape[1] > 0 else features + 1)


@pytest.fixture
def project(tmp_path):
    """A project with that network in all stages of its making, untrained, and 64 pictures."""
    project = copy_project(tmp_path)
    block = read_yaml(project / "params.yaml")["experiments"]["quickstart"]
    block["model"] = {"name": "tests.test_benchmark:Branching"}
    block["training"] |= {"workers": 3}
    block["benchmark"] |= {"threads": [1], "runtimes": ["pytorch", "sparse-engine"]}
    write_params(project, {"quickstart": block})
    config = Config(project)
    run = config.pruned_run(RUN)
    some, network = pictures(64), build(config.experiment("quickstart").model, 10, 0)
    about = {"dataset": "toy", "dataset_digest": "", "classes": 10, "mean": [0.13], "std": [0.31]}
    for part in ("validate", "test"):
        path = project / layout.data_file("quickstart", part)
        save_tensors(path, {"images": some.images, "labels": some.labels}, about)
    for stage in ("pretrain", "reference"):
        save_tensors(project / layout.weights_file(run.dense, stage), network.state_dict(), {})
    sparse = project / layout.weights_file(run, "retrain")
    save_sparse(sparse, network.state_dict(), list(prunable_weights(network)), {})
    return project


def test_a_network_that_cannot_be_traced_is_timed_without_its_compacted_copy(project, caplog):
    done = stage_here(project, benchmark.main, RUN)
    assert done.returncode == 0, done.stderr
    assert (
        caplog.text.count("the compacted network is left out, and the pruned one timed as it is: the network ca") == 1
    )
    run = Config(project).pruned_run(RUN)
    found = json.loads((project / layout.metrics_file(run, "benchmark")).read_text())
    assert found["compaction"] is None
    assert {(row["network"], row["engine"]) for row in flat(found["runtimes"])} == {
        ("dense", "pytorch"), ("pruned", "pytorch"),
    }  # fmt: skip
    assert found["runtimes"]["pruned"]["sparse-engine"] == NOT_COMPILED
    rows = [{**row, "engine": engine} for row in flat(found["runtimes"]) for engine in ("pytorch", "onnxruntime")]
    result = SimpleNamespace(run=run, metrics={"benchmark": found}, runtimes=rows)
    (row,) = fastest_table([result]).rows
    assert row[2:4] + row[6:8] == ("–", "–", "–", "–")  # neither compacted nor compiled


def test_a_network_without_a_path_is_timed_without_its_compacted_copy(caplog):
    network = build(Model(name="lenet5"), 10, 0).eval()
    network.fc2.weight.data.zero_()
    assert benchmark.compacted_of(network, torch.zeros(1, 1, 28, 28)) is None
    assert "its mask leaves no path from input to output" in caplog.text


def test_evaluation_uses_the_device_and_the_workers_of_training(project, monkeypatch):
    batches, devices = [], []
    monkeypatch.setattr(evaluate, "device_for", lambda accelerator: torch.device("meta"))
    monkeypatch.setattr(evaluate, "in_order", lambda pictures, *rest: batches.append(rest))
    monkeypatch.setattr(
        evaluate,
        "evaluate",
        lambda network, batches: devices.append(next(network.parameters()).device.type) or {"accuracy": 0.5},
    )
    done = stage_here(project, evaluate.main, RUN)
    assert done.returncode == 0, done.stderr
    assert devices == ["meta"] * 3
    assert batches == [(Config(project).experiment("quickstart").evaluate.batch_size, None, 3)] * 3


@pytest.mark.parametrize(
    ("accelerator", "gpu", "device"), [("cuda", True, "cuda"), ("cuda", False, "cpu"), ("cpu", True, "cpu")]
)
def test_evaluation_runs_on_a_gpu_if_asked_for(monkeypatch, accelerator, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert device_for(accelerator).type == device
