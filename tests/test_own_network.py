"""A network and pictures that live outside the project, pruned through DVC without touching the library."""

import json

import pytest
import torch
from PIL import Image

from pipeline.data import sources
from pipeline.sparse import load_sparse
from pipeline.yaml_files import read_yaml
from tests.project import copy_project, run, write_params

NETWORK = """
from torch import nn

def small(classes, width):
    return nn.Sequential(
        nn.Conv2d(3, width, 5, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(16 * width, classes),
    )
"""
RUNS = """
top: .
prepared: [strokes]
dense:
  strokes-dense-s0: {experiment: strokes, network: ../elsewhere/strokes, seed: 0}
runs:
  strokes-reweighted-admm-4x-s0: {experiment: strokes, network: ../elsewhere/strokes, method: reweighted-admm, \
code: reweighted_admm, ratio: 4, seed: 0, after: metrics/strokes/dense-s0/pretrain.json}
"""


def draw(folder, classes=("one", "seven", "zero"), each=60) -> None:
    """Class folders of real digits as PNG files of different sizes."""
    digits = sources.load("mnist-5k", folder).train
    for name, digit in zip(classes, (1, 7, 0), strict=True):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.labels == digit][:each]):
            side = 28 + number % 5
            Image.fromarray(image[0]).resize((side, side + 2)).convert("RGB").save(folder / name / f"{number}.png")


@pytest.fixture
def project(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    copy_project(project)
    package = tmp_path / "elsewhere" / "strokes"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "network.py").write_text(NETWORK)
    draw(tmp_path / "pictures")
    block = read_yaml(project / "params.yaml")["experiments"]["quickstart"]
    block["prepare"] = {"dataset": "folder", "folder": "../pictures", "validation": 30, "split_seed": 0}
    block["model"] = {"name": "strokes.network:small", "options": {"width": 8}}
    block["training"] = {"batch_size": 16, "precision": "fp32", "threads": 1, "crop": 24}
    block["extra_epochs"] = 12
    block["pretrain"] |= {"epochs": 12, "learning_rate": 0.01}
    block["prune"]["reweighted-admm"] |= {"epochs": 8}
    write_params(project, {"strokes": block})
    (project / "runs.yaml").write_text(RUNS)
    return project


def test_an_own_network_is_pruned_on_own_pictures(project, tmp_path):
    run(project, "dvc", "repro", "retrain@strokes-reweighted-admm-4x-s0", PYTHONPATH=str(tmp_path / "elsewhere"))
    state, _ = load_sparse(project / "artifacts/strokes/reweighted-admm-4x-s0/retrain.safetensors")
    weights = [state["0.weight"], state["5.weight"]]
    total = 8 * 3 * 25 + 16 * 8 * 3
    assert sum(weight.numel() for weight in weights) == total
    assert sum(int(torch.count_nonzero(weight)) for weight in weights) <= total // 4
    figures = json.loads((project / "metrics/strokes/reweighted-admm-4x-s0/retrain.json").read_text())
    assert figures["compression_ratio"] >= 4
    assert figures["validation_accuracy"] > 0.6

    (tmp_path / "elsewhere/strokes/network.py").write_text(NETWORK + "\n# changed\n")
    planned = run(project, "dvc", "status", "pretrain@strokes-dense-s0").stdout
    assert "elsewhere/strokes" in planned
