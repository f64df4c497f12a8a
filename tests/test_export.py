"""Exports: ONNX files that are checked, and all files of a run from the ledger alone."""

import json
import re
import shutil

import mlflow
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pipeline.data import sources
from pipeline.data.shapes import FIXED, picture_shape
from pipeline.deploy import onnx_files
from pipeline.deploy.onnx_files import OPSET, export, session
from pipeline.errors import ArtifactError, ConfigError, PipelineError
from pipeline.models import build
from pipeline.sparse import load_sparse
from pipeline.tracking import Identity, register
from stages import export as stage
from tests.project import ROOT

RUN = "lenet5-reweighted-admm-630x-s0"
RECORD = "results/lenet5/reweighted-admm-630x-s0"
ARTIFACT = "artifacts/lenet5/reweighted-admm-630x-s0/retrain.safetensors"
PICTURE = torch.zeros(1, 1, 6, 6)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "a" / "small.onnx"
    assert export(path, network(), PICTURE, {"run": "some-run"}) <= 1e-4
    return path


def test_a_file_says_what_it_is_and_nothing_of_the_machine(written):
    model = onnx.load(written)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "format": f"onnx opset {OPSET}",
        "run": "some-run",
    }
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(ROOT).encode() not in written.read_bytes() and b".py" not in written.read_bytes()
    assert [path.name for path in written.parent.iterdir()] == ["small.onnx"]  # the weights are in it


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_session_takes_any_batch_and_answers_as_pytorch_does(written, size):
    pictures = torch.randn(size, 1, 6, 6)
    (answers,) = session(written, 1).run(None, {"pictures": pictures.numpy()})
    assert np.allclose(answers, network()(pictures).detach().numpy(), atol=1e-5)


def test_threads_are_those_asked_for(written):
    options = session(written, 2).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_equal_networks_are_equal_bytes(written, tmp_path):
    export(tmp_path / "again.onnx", network(), PICTURE, {"run": "some-run"})
    assert (tmp_path / "again.onnx").read_bytes() == written.read_bytes()


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("make", "tolerance", "said"),
    [
        (lambda: network().train(), 1e-4, "in training mode; call its eval"),
        (lambda: Branching().eval(), 1e-4, "cannot be exported"),
        (network, -1.0, "ONNX Runtime's answers differ"),
    ],
)
def test_what_fails_leaves_the_older_file(make, tolerance, said, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "TOLERANCE", tolerance)
    (tmp_path / "file.onnx").write_bytes(b"older")
    with pytest.raises(ArtifactError, match=said):
        export(tmp_path / "file.onnx", make(), PICTURE, {})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file.onnx", b"older")]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "small.onnx").mkdir()
    with pytest.raises(PipelineError, match="cannot write"):
        export(tmp_path / "small.onnx", network(), PICTURE, {})
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def of_later(content: bytes, opset: int, format_version: int) -> bytes:
    model = onnx.load_model_from_string(content)
    model.opset_import[0].version, model.ir_version = opset, format_version
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: b"", "damaged or no ONNX file"),
        (lambda content: b"no model", "damaged or no ONNX file"),
        (lambda content: content[: len(content) // 2], "damaged or no ONNX file"),
        (
            lambda content: of_later(content, 99, 10),
            r"is of opset 99 and IR version 10, which ONNX Runtime [\d.]+ does",
        ),
        (lambda content: of_later(content, OPSET, 99), r"IR version 99, which .* does not know; install a later"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_sentence(written, change, said, tmp_path):
    (tmp_path / "changed.onnx").write_bytes(change(written.read_bytes()))
    with pytest.raises(ArtifactError, match=said) as error:
        session(tmp_path / "changed.onnx", 1)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_no_threads_are_said(written, tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read .No such file or directory.; export the run"):
        session(tmp_path / "none.onnx", 1)
    with pytest.raises(ArtifactError, match="threads must be >= 1, got 0"):
        session(written, 0)


def test_shapes_are_those_of_the_data_sets(tmp_path):
    assert FIXED["mnist-5k"] == sources.load("mnist-5k", tmp_path).train.images.shape[1:]
    assert picture_shape("cifar10", None) == (3, 32, 32)
    assert picture_shape("imagenette2-112", 96) == (3, 96, 96)
    assert set(FIXED) <= set(sources.SOURCES)
    with pytest.raises(ConfigError, match="training.crop must be set .* got None"):
        picture_shape("folder", None)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """What a stranger has of the project: parameters, run lists and one run of the ledger."""
    for name in ("params.yaml", "runs.yaml", "paper/runs.yaml", f"{RECORD}.json", f"{RECORD}.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_the_ledger_is_exported_without_data(clone, capsys):
    stage.main([RUN])
    folder = clone / "exports" / RUN
    assert {path.name for path in folder.iterdir()} == {
        "pruned.onnx", "compacted.onnx", "sparse.safetensors", "sparse-fp16.safetensors",
    }  # fmt: skip
    assert (folder / "sparse.safetensors").read_bytes() == (clone / f"{RECORD}.safetensors").read_bytes()
    assert (folder / "compacted.onnx").stat().st_size < (folder / "pruned.onnx").stat().st_size / 10
    pictures = torch.randn(3, 1, 28, 28).numpy()
    old, new = (
        session(folder / f"{kind}.onnx", 1).run(None, {"pictures": pictures})[0] for kind in ("pruned", "compacted")
    )
    assert np.allclose(old, new, atol=1e-5)
    exact, about = load_sparse(folder / "sparse.safetensors")
    rounded, same = load_sparse(folder / "sparse-fp16.safetensors")
    assert about == same and about["run"] == RUN
    assert torch.equal(rounded["conv1.weight"], exact["conv1.weight"].half().float())
    printed = capsys.readouterr().out
    assert f"from {RECORD}.safetensors" in printed
    assert f"{(folder / 'compacted.onnx').stat().st_size:,}" in printed
    assert f'onnxruntime.InferenceSession("exports/{RUN}/compacted.onnx")' in printed


def test_both_networks_are_registered_and_answer_through_mlflow(clone, monkeypatch, capsys):
    store = f"sqlite:///{clone / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("DVC_ROOT", str(clone))
    stage.main([RUN, "--register"])
    addresses = [f"models:/{RUN}/1", f"models:/{RUN}-pruned/1"]
    assert re.findall(r'load_model\("(.*)"\)', capsys.readouterr().out) == addresses
    (run,) = mlflow.MlflowClient(store).search_runs(["1"])
    assert (run.data.tags["mlflow.runName"], run.info.status) == (RUN, "FINISHED")

    pictures = torch.randn(3, 1, 28, 28).numpy()
    for address, kind in zip(addresses, ("compacted", "pruned"), strict=True):
        loaded = mlflow.pyfunc.load_model(address)
        (expected,) = session(clone / "exports" / RUN / f"{kind}.onnx", 1).run(None, {"pictures": pictures})
        assert np.allclose(loaded.predict({"pictures": pictures})["logits"], expected, atol=1e-5)
        assert loaded.metadata.flavors["onnx"]["providers"] == ["CPUExecutionProvider"]


def test_a_model_registered_again_is_its_next_version(clone, written, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clone / 'mlflow.db'}")
    identity = Identity("lenet5", RUN, "export", {}, {})
    assert [register(clone, identity, "some-model", written) for _ in range(2)] == [
        "models:/some-model/1",
        "models:/some-model/2",
    ]


def test_the_runs_own_network_comes_first(clone):
    config = stage.Config(clone)
    (clone / ARTIFACT).parent.mkdir(parents=True)
    shutil.copy(clone / f"{RECORD}.safetensors", clone / ARTIFACT)
    assert stage.source_of(config, config.pruned_run(RUN)).path.as_posix() == ARTIFACT


def test_the_runs_own_network_is_exported_by_its_own_parameters_alone(clone):
    making = json.loads((clone / f"{RECORD}.json").read_text())["provenance"]["retrain"]
    folder = clone / ".scratch/provenance" / ARTIFACT.removeprefix("artifacts/").removesuffix(".safetensors")
    folder.mkdir(parents=True)
    (folder / "made.json").write_text(json.dumps(making))
    (clone / ARTIFACT).parent.mkdir(parents=True)
    shutil.copy(clone / f"{RECORD}.safetensors", clone / ARTIFACT)
    config = stage.Config(clone)
    assert stage.source_of(config, config.pruned_run(RUN)).model.options == {"relu": True}
    (clone / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("relu: true", "relu: false"))
    config = stage.Config(clone)
    with pytest.raises(ArtifactError, match=r"made with other parameters than params.yaml has now \(model\)"):
        stage.source_of(config, config.pruned_run(RUN))


def test_the_ledgers_parameters_are_those_of_its_network(clone):
    (clone / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("relu: true", "relu: false"))
    config = stage.Config(clone)
    source = stage.source_of(config, config.pruned_run(RUN))
    assert source.model.options == {"relu": True}
    assert source.shape == (1, 28, 28)


def test_what_cannot_be_exported_is_said(clone):
    with pytest.raises(ConfigError, match="unknown run 'other'"):
        stage.main(["other"])
    with pytest.raises(SystemExit):  # argparse says how to call it
        stage.main([])
    record = json.loads((clone / f"{RECORD}.json").read_text())
    record["params"]["model"]["options"]["relu"] = False
    (clone / f"{RECORD}.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="was changed since it was recorded"):
        stage.main([RUN])
    (clone / f"{RECORD}.safetensors").unlink()
    with pytest.raises(ArtifactError, match="does not exist, and the ledger has no"):
        stage.main([RUN])
    (clone / f"{RECORD}.json").write_text(json.dumps({**record, "sparse_network": None}))
    with pytest.raises(ArtifactError, match="too large for git; run the stages of lenet5"):
        stage.main([RUN])
    assert not (clone / "exports").exists()


def lenet5_state(**changes):
    state = build(stage.Model(name="lenet5"), 10, 0).state_dict() | changes
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"conv1.weight": torch.zeros(20, 1, 5, 5)},
            r"with 20, conv1.bias should have shape \(20,\), the file has none",
        ),
        (lenet5_state(**{"fc1.bias": None}), r"with 10, fc1.bias should have shape \(500,\), the file has none; run"),
        (
            lenet5_state(**{"fc1.bias": torch.zeros(500).double()}),
            "with 10, fc1.bias should have type torch.float32, the",
        ),
        (lenet5_state(**{"fc1.bias": torch.zeros(500).long()}), "with 10, .* the file has torch.int64; run"),
        (lenet5_state(extra=torch.zeros(3)), r"with 10, extra should have shape none, the file has \(3,\); run"),
        ({}, "it has no weights"),
    ],
)
def test_weights_of_another_network_are_refused_and_the_tensor_is_named(state, said):
    with pytest.raises(ArtifactError, match=f"fit lenet5 with no number of classes: .*{said}"):
        stage.network_of(stage.Model(name="lenet5"), state)


def test_the_number_of_classes_is_that_of_the_weights():
    state = build(stage.Model(name="lenet5"), 7, 0).state_dict()
    assert equal_states(stage.network_of(stage.Model(name="lenet5"), state).state_dict(), state)


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
