"""The ledger takes only whole, unchanged results and notices what was changed afterwards."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.errors import ArtifactError, ConfigError
from pipeline.layout import metrics_file, owner, provenance_folder, record_file, recorded_network_file, weights_file
from pipeline.report import kept_networks, ledger
from pipeline.session import identity_of
from stages import record as stage
from stages.sync import identity_of_record
from tests.fabricated import StubConfig, finish, make_run, put, vouch, write_project
from tests.project import ROOT


@pytest.fixture
def run(tmp_path):
    run = make_run()
    finish(tmp_path, run)
    return run


def recorded(root, run):
    return ledger.write_record(root, ledger.gather(root, StubConfig(), run))


def test_a_record_comes_back_as_written(tmp_path, run):
    made = ledger.gather(tmp_path, StubConfig(), run)
    file = ledger.write_record(tmp_path, made)
    assert file == record_file(run)
    assert ledger.read_record(tmp_path, file) == made
    assert made.provenance["reference"]["commit"] == "0123456789abcdef"
    assert (tmp_path / recorded_network_file(run)).read_bytes() == b"z" * 500
    assert made.sparse_network["bytes"] == 500


def test_recording_twice_changes_nothing(tmp_path, run):
    first = (tmp_path / recorded(tmp_path, run)).read_bytes()
    assert (tmp_path / recorded(tmp_path, run)).read_bytes() == first


def test_a_changed_number_is_noticed(tmp_path, run):
    file = recorded(tmp_path, run)
    text = (tmp_path / file).read_text()
    assert text.count('"pruned_accuracy": 0.97') == 1
    (tmp_path / file).write_text(text.replace('"pruned_accuracy": 0.97', '"pruned_accuracy": 0.99'))
    with pytest.raises(ArtifactError, match=rf"{file} was changed since it was recorded"):
        ledger.read_record(tmp_path, file)


def test_only_values_count_for_the_digest(tmp_path, run):
    file = recorded(tmp_path, run)
    content = json.loads((tmp_path / file).read_text())
    put(tmp_path / file, dict(reversed(content.items())))
    assert ledger.read_record(tmp_path, file).run == run


def test_a_changed_network_is_noticed(tmp_path, run):
    file = recorded(tmp_path, run)
    (tmp_path / recorded_network_file(run)).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is not the network"):
        ledger.read_record(tmp_path, file)


@pytest.mark.parametrize("content", [{"schema": 2}, {}, [1]])
def test_another_schema_is_refused(tmp_path, content):
    file = record_file(make_run())
    put(tmp_path / file, content)
    with pytest.raises(ArtifactError, match=rf"{file} has schema"):
        ledger.read_record(tmp_path, file)


def test_a_record_under_another_runs_name_is_refused(tmp_path, run):
    file, other = recorded(tmp_path, run), record_file(make_run(seed=7))
    shutil.copy(tmp_path / file, tmp_path / other)
    with pytest.raises(ArtifactError, match=f"{other} is the record of {run.name}"):
        ledger.read_ledger(tmp_path)


@pytest.mark.parametrize("name", ledger.STAGES)
def test_missing_metrics_of_any_stage_are_refused(tmp_path, run, name):
    file = metrics_file(owner(run, name), name)
    (tmp_path / file).unlink()
    with pytest.raises(ArtifactError, match=rf"{run.name} is not finished.*\({file}\)"):
        ledger.gather(tmp_path, StubConfig(), run)


def test_all_missing_files_are_named_at_once(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        ledger.read_result(tmp_path, StubConfig(), make_run())
    assert str(caught.value).count(".json") == 6
    assert "\n" not in str(caught.value)


def test_a_missing_number_is_named(tmp_path, run):
    file = tmp_path / metrics_file(run, "benchmark")
    metrics = json.loads(file.read_text())
    del metrics["bytes"]["sparse"]
    put(file, metrics)
    with pytest.raises(ArtifactError, match=r"benchmark\.json has no bytes\.sparse"):
        ledger.read_result(tmp_path, StubConfig(), run)


@pytest.mark.parametrize("name", ["metrics", "weights"])
def test_provenance_of_another_result_is_refused(tmp_path, run, name):
    file = metrics_file(run, "retrain") if name == "metrics" else weights_file(run, "retrain")
    with open(tmp_path / file, "ab") as stream:
        stream.write(b" ")
    with pytest.raises(ArtifactError, match=rf"describes another result: {file} "):
        ledger.gather(tmp_path, StubConfig(), run)
    vouch(tmp_path, run, "retrain")
    vouch(tmp_path, run, "evaluate")
    ledger.gather(tmp_path, StubConfig(), run)


def test_of_several_makings_the_one_that_fits_is_recorded(tmp_path, run):
    """DVC brings a former result back without running the stage."""
    old = provenance_folder(run, "retrain") / "vouched.json"
    kept = {
        file: (tmp_path / file).read_bytes() for file in (metrics_file(run, "retrain"), weights_file(run, "retrain"))
    }
    put(tmp_path / old.with_name("first.json"), {**json.loads((tmp_path / old).read_text()), "commit": "first"})
    for file, content in kept.items():
        (tmp_path / file).write_bytes(content + b" ")
    evaluated = provenance_folder(run, "evaluate") / "vouched.json"
    shutil.copy(tmp_path / evaluated, tmp_path / evaluated.with_name("first.json"))
    vouch(tmp_path, run, "retrain")
    vouch(tmp_path, run, "evaluate")
    assert ledger.gather(tmp_path, StubConfig(), run).provenance["retrain"]["commit"] != "first"
    for file, content in kept.items():
        (tmp_path / file).write_bytes(content)
    assert ledger.gather(tmp_path, StubConfig(), run).provenance["retrain"]["commit"] == "first"


def test_missing_provenance_is_refused(tmp_path, run):
    (tmp_path / provenance_folder(run.dense, "pretrain") / "vouched.json").unlink()
    with pytest.raises(ArtifactError, match="pretrain of fabricated-dense-s0 did not run here"):
        ledger.gather(tmp_path, StubConfig(), run)


def test_provenance_must_cover_the_metrics(tmp_path, run):
    file = tmp_path / provenance_folder(run, "prune") / "vouched.json"
    put(file, {**json.loads(file.read_text()), "outputs": {}})
    with pytest.raises(ArtifactError, match="does not say which"):
        ledger.gather(tmp_path, StubConfig(), run)


def test_a_large_network_stays_out_and_its_smaller_elder_goes(tmp_path, run):
    recorded(tmp_path, run)
    finish(tmp_path, run, size=kept_networks.LARGEST_BYTES)
    file = recorded(tmp_path, run)
    assert ledger.read_record(tmp_path, file).sparse_network is None
    assert not (tmp_path / recorded_network_file(run)).exists()


def test_dense_networks_are_kept_once_for_all_runs_of_a_seed(tmp_path, run):
    recorded(tmp_path, run)
    other = make_run(ratio=20)
    finish(tmp_path, other)
    records = [ledger.read_record(tmp_path, file) for file in (record_file(run), recorded(tmp_path, other))]
    assert records[0].dense_networks == records[1].dense_networks
    described = records[0].dense_networks["reference"]
    assert described["bytes"] == 900
    assert (tmp_path / described["file"]).read_bytes() == b"r" * 900
    assert len(list((tmp_path / "results/fabricated").glob("dense-s0-*"))) == 2


def test_a_later_dense_training_replaces_no_network_that_a_record_names(tmp_path, run):
    recorded(tmp_path, run)
    other = make_run(ratio=20)
    finish(tmp_path, other, dense_size=901)
    recorded(tmp_path, other)
    assert len(ledger.read_ledger(tmp_path)) == 2
    assert len(list((tmp_path / "results/fabricated").glob("dense-s0-*"))) == 4
    finish(tmp_path, run, dense_size=901)
    recorded(tmp_path, run)
    assert len(ledger.read_ledger(tmp_path)) == 2
    assert len(list((tmp_path / "results/fabricated").glob("dense-s0-*"))) == 2


def test_large_dense_networks_stay_out(tmp_path, run):
    finish(tmp_path, run, dense_size=kept_networks.LARGEST_BYTES)
    record = ledger.read_record(tmp_path, recorded(tmp_path, run))
    assert record.dense_networks == {}
    assert record.sparse_network["bytes"] == 500


def test_a_changed_dense_network_is_noticed(tmp_path, run):
    file = recorded(tmp_path, run)
    described = ledger.read_record(tmp_path, file).dense_networks["pretrain"]
    (tmp_path / described["file"]).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="is not the network"):
        ledger.read_record(tmp_path, file)


def test_the_ledger_is_sorted_by_number_not_by_text(tmp_path):
    for seed, ratio in ((10, 9), (2, 9), (0, 100), (0, 9.5)):
        run = make_run(seed, ratio)
        finish(tmp_path, run)
        recorded(tmp_path, run)
    found = [(record.run.ratio, record.run.seed) for record in ledger.read_ledger(tmp_path)]
    assert found == [(9, 2), (9, 10), (9.5, 0), (100, 0)]


def test_no_results_make_an_empty_ledger(tmp_path):
    assert ledger.read_ledger(tmp_path) == []


def test_stage_records_the_finished_runs_of_an_experiment(tmp_path, monkeypatch, capsys):
    runs = [make_run(0), make_run(1), make_run(2)]
    write_project(tmp_path, runs)
    finish(tmp_path, runs[0])
    finish(tmp_path, runs[2], converged=False)
    monkeypatch.chdir(tmp_path)
    stage.main(["fabricated"])
    assert [record.converged for record in ledger.read_ledger(tmp_path)] == [True, False]
    printed = capsys.readouterr().out
    assert f"not finished, left out: {runs[1].name}" in printed
    assert f"recorded: {record_file(runs[2])} (not converged)" in printed


def test_stage_refuses_a_named_run_that_is_not_finished(tmp_path, monkeypatch):
    write_project(tmp_path, [make_run()])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="is not finished"):
        stage.main([make_run().name])
    with pytest.raises(ArtifactError, match="no run of the experiment fabricated is finished"):
        stage.main(["fabricated"])
    with pytest.raises(ConfigError):
        stage.main([])


def test_stage_records_the_good_runs_beside_a_refused_one(tmp_path, monkeypatch):
    runs = [make_run(0), make_run(1)]
    write_project(tmp_path, runs)
    for run in runs:
        finish(tmp_path, run)
    (tmp_path / provenance_folder(runs[0], "prune") / "vouched.json").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="did not run here"):
        stage.main(["fabricated"])
    assert [record.run for record in ledger.read_ledger(tmp_path)] == [runs[1]]


def test_a_stage_that_did_not_run_here_keeps_its_recorded_provenance(tmp_path, run):
    """A benchmark done again on another machine: training's provenance comes from the record, as far as it fits."""
    recorded(tmp_path, run)
    shutil.rmtree(tmp_path / provenance_folder(run, "prune"))
    made = ledger.gather(tmp_path, StubConfig(), run)
    assert made.provenance["prune"]["finished"] == "2000-01-01T00:00:00Z"
    put(tmp_path / metrics_file(run, "prune"), {**made.metrics["prune"], "survivors": 99})
    with pytest.raises(ArtifactError, match="the ledger describes another result"):
        ledger.gather(tmp_path, StubConfig(), run)


def test_the_ledger_and_the_stages_find_the_same_tracking_run():
    config = Config(ROOT)
    record = ledger.read_record(ROOT, Path("results/lenet5/reweighted-admm-355.9x-s0.json"))
    from_record, from_stages = identity_of_record(record), identity_of(config, record.run, "report", {})
    assert from_record.params == from_stages.params
    assert {"dataset", "dataset_digest"} | set(from_stages.tags) == set(from_record.tags)
