"""The pipeline end to end on real digits, as a user runs it: DVC, MLflow, ledger and report."""

import json
import re
import shutil
import sqlite3

import pytest
import torch

from pipeline.benchmark.rows import flat
from pipeline.config import Config
from pipeline.sparse import load_sparse
from tests.project import DENSE, RUN, commit, copy_project, run, stage

RUN_FOLDER = "quickstart/reweighted-admm-50x-s0"
SURVIVORS = 430_500 // 50


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose short quickstart has been run once."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    run(folder, "dvc", "repro")
    commit(folder)
    return folder


def metrics(project, name):
    return json.loads((project / "metrics" / RUN_FOLDER / f"{name}.json").read_text())


def test_the_sparse_network_has_the_survivors_asked_for(project):
    state, about = load_sparse(project / "artifacts" / RUN_FOLDER / "retrain.safetensors")
    weights = [tensor for name, tensor in state.items() if name.endswith("weight")]
    assert sum(int(torch.count_nonzero(weight)) for weight in weights) == SURVIVORS
    assert metrics(project, "benchmark")["counts"]["surviving_weights"] == SURVIVORS
    assert about == {"run": RUN, "stage": "retrain"}


def test_the_figures_fit_together(project):
    found = metrics(project, "evaluate")
    assert found["test_images"] == 1000
    assert found["dense_best_accuracy"] == max(found["dense_accuracy"], found["reference_accuracy"])
    assert found["accuracy_difference"] == found["pruned_accuracy"] - found["dense_best_accuracy"]
    assert found["pruned_accuracy"] > 0.5
    pruned = metrics(project, "prune")
    assert pruned["survivors"] == pruned["survivors_asked"] == SURVIVORS
    benchmark = metrics(project, "benchmark")
    assert benchmark["counts"]["flops_dense"] == 2 * (500 * 24 * 24 + 25_000 * 8 * 8 + 400_000 + 5_000)
    assert benchmark["bytes"]["sparse"] < benchmark["bytes"]["dense"] / 20
    assert benchmark["bytes"]["sparse_fp16"] < benchmark["bytes"]["sparse"]
    assert benchmark["compaction"]["channels_removed"] > 0
    timed = {(row["network"], row["engine"], row["batch"], row["threads"]): row for row in flat(benchmark["runtimes"])}
    for network in ("dense", "compacted"):
        for engine in ("pytorch", "onnxruntime", "openvino"):
            assert timed[network, engine, 64, 2]["q1_ms"] <= timed[network, engine, 64, 2]["q3_ms"]
    assert timed["pruned", "sparse-engine", 1, 1]["median_ms"] > 0
    assert benchmark["sparse_engine"]["nonzeros"] >= SURVIVORS * 0.5
    assert sum(benchmark["histogram"]["pruned"]) <= SURVIVORS


def test_the_report_shows_the_run(project):
    text = (project / "reports" / "quickstart.md").read_text()
    assert RUN in text
    assert f"{SURVIVORS:,}" in text
    shown = stage(project, "report", "quickstart", "--show").stdout
    assert RUN in shown
    assert "reports/quickstart.md" in shown
    assert "mlflow.db" in shown


def test_nothing_is_run_twice(project):
    assert "up to date" in run(project, "dvc", "repro").stdout


def test_changing_a_methods_block_runs_pruning_and_what_follows_only(project):
    params = (project / "params.yaml").read_text()
    try:
        (project / "params.yaml").write_text(params.replace("rho: 0.2", "rho: 3e-05"))
        assert Config(project).experiment("quickstart").prune.reweighted_admm.rho == 3e-5
        printed = run(project, "dvc", "repro").stdout
    finally:
        (project / "params.yaml").write_text(params)
        run(project, "dvc", "repro")
    ran = re.findall(r"^Running stage '([a-z]+)@", printed, re.MULTILINE)
    assert ran == ["prune", "retrain", "evaluate", "benchmark", "report"]


def test_equal_runs_leave_equal_files(project):
    """What DVC keeps holds no time, no machine and no run id: a forced run changes nothing but latencies."""
    before = {path: path.read_bytes() for path in (project / "artifacts").rglob("*.safetensors")}
    stage(project, "pretrain", DENSE)
    stage(project, "prune", RUN)
    stage(project, "retrain", RUN)
    assert before == {path: path.read_bytes() for path in before}


def test_the_tracking_database_has_the_run_with_its_stages(project):
    with sqlite3.connect(project / "mlflow.db") as database:
        names = dict(database.execute("select run_uuid, name from runs"))
        tags = list(database.execute("select run_uuid, key, value from tags"))
        values = {name for (name,) in database.execute("select key from latest_metrics")}
        params = {key for (key,) in database.execute("select key from params")}
    parents = {names[run]: names.get(value) for run, key, value in tags if key == "mlflow.parentRunId"}
    assert parents["prune"] == parents["retrain"] == parents["evaluate"] == parents["benchmark"] == RUN
    assert parents["pretrain"] == parents["reference"] == DENSE
    assert (DENSE,) in {(value,) for _, key, value in tags if key == "dense_run"}
    assert {"validation_accuracy", "prune.survivors", "evaluate.accuracy_difference"} <= values
    assert {"prune.rho", "ratio", "method", "seed"} <= params


def test_a_finished_run_is_recorded_with_its_network(project):
    stage(project, "record", "quickstart")
    record = json.loads((project / "results" / f"{RUN_FOLDER}.json").read_text())
    assert record["metrics"]["evaluate"] == metrics(project, "evaluate")
    made = record["provenance"]["retrain"]
    assert made["seconds"] > 0
    assert made["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(made["commit"]) == 40
    network = project / record["sparse_network"]["file"]
    assert network.read_bytes() == (project / "artifacts" / RUN_FOLDER / "retrain.safetensors").read_bytes()


def test_recorded_dense_networks_are_restored_for_further_runs(project, tmp_path):
    """In a clone without what training left; DVC then has nothing to train."""
    clone = shutil.copytree(project, tmp_path / "clone")
    for left in ("artifacts", "data", ".scratch", "journal", ".dvc/cache"):
        shutil.rmtree(clone / left)
    printed = stage(clone, "restore", RUN).stdout
    assert f"restored {DENSE}" in printed
    dense = "artifacts/quickstart/dense-s0"
    for name in ("pretrain", "reference"):
        assert (clone / dense / f"{name}.safetensors").read_bytes() == (
            project / dense / f"{name}.safetensors"
        ).read_bytes()
    assert "Data and pipelines are up to date" in run(clone, "dvc", "status", f"pretrain@{DENSE}").stdout
    (made,) = (clone / ".scratch/provenance" / dense.removeprefix("artifacts/") / "reference").glob("*.json")
    record = json.loads((project / "results" / f"{RUN_FOLDER}.json").read_text())
    assert json.loads(made.read_text()) == record["provenance"]["reference"]
    (clone / "metrics/quickstart/dense-s0/pretrain.json").write_text("{}")
    before = (clone / dense / "pretrain.safetensors").write_bytes(b"another one")
    refused = stage(clone, "restore", RUN, check=False)
    assert (clone / dense / "pretrain.safetensors").stat().st_size == before
    assert "metrics/quickstart/dense-s0/pretrain.json is not the one that pretrain" in refused.stderr


def test_a_record_of_other_parameters_is_refused(project):
    params = (project / "params.yaml").read_text()
    try:
        (project / "params.yaml").write_text(params.replace("rho: 0.", "rho: 1."))
        refused = stage(project, "record", "quickstart", check=False)
    finally:
        (project / "params.yaml").write_text(params)
    assert refused.returncode == 1
    assert "ran with other parameters than params.yaml has now (prune)" in refused.stderr


def test_a_lost_database_is_rebuilt_from_the_ledger(project, tmp_path):
    """A clone has no journal either."""
    clone = shutil.copytree(project, tmp_path / "clone", ignore=shutil.ignore_patterns("journal", "mlflow.db*"))
    stage(clone, "sync")
    with sqlite3.connect(clone / "mlflow.db") as database:
        names = [name for (name,) in database.execute("select name from runs")]
        values = dict(database.execute("select key, value from latest_metrics"))
        params = dict(database.execute("select key, value from params"))
    assert names == [RUN]
    assert values["evaluate.pruned_accuracy"] == metrics(project, "evaluate")["pruned_accuracy"]
    assert params["method"] == "reweighted-admm"


@pytest.mark.slow
def test_experiments_are_queued_and_compared(project):
    key = "experiments.quickstart.prune.reweighted-admm.rho"
    run(project, "dvc", "exp", "run", "--queue", "-S", f"{key}=3e-5", "-n", "softer")
    run(project, "dvc", "exp", "run", "--run-all")
    table = run(project, "dvc", "exp", "show", "--csv").stdout
    assert "softer" in table
    assert "3e-05" in table
    with sqlite3.connect(project / "mlflow.db") as database:
        values = {value for (value,) in database.execute("select value from params where key = 'prune.rho'")}
    assert len(values) == 2
    makings = (project / ".scratch/provenance" / RUN_FOLDER / "prune").glob("*.json")
    assert len({json.loads(file.read_text())["params"]["prune"]["rho"] for file in makings}) >= 2
