"""A study's trials: run once each, kept as they finish, on the validation split only."""

import json

import pytest
import yaml

from pipeline.errors import ArtifactError
from pipeline.report.economy import read_trials
from pipeline.yaml_files import read_yaml
from stages import study as study_stage
from tests.project import DENSE, copy_project, run, stage, stage_here

STUDY = {"ratio": 20, "seed": 0, "trials": {"reweighted-admm": [{"rho": 0.1}, {"lambda": 1e-4}]}}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("study"))
    put(folder, STUDY)
    run(folder, "dvc", "repro", f"pretrain@{DENSE}")
    stage(folder, "study", "quickstart", "tuning")
    return folder


def put(folder, study) -> None:
    params = read_yaml(folder / "params.yaml")
    params["experiments"]["quickstart"]["studies"] = {"tuning": study}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def rows(folder):
    return json.loads((folder / "results" / "quickstart-tuning.json").read_text())["trials"]


def test_each_trial_says_what_it_tried_and_what_came_out(project):
    first, held = rows(project)
    assert first["trial"]["values"] == {"rho": 0.1}
    assert "rho" not in first["trial"]["params"]["prune"]
    assert first["survivors"] <= 430_500 // 20
    assert 0 < first["validation_accuracy"] < 1
    assert first["seconds"] > 0
    assert len(first["commit"]) == 40
    assert held["lambda"] == 1e-4


def test_a_trial_that_is_there_is_not_run_again(project):
    before = rows(project)
    put(project, {**STUDY, "trials": {"reweighted-admm": [{"rho": 0.1}]}})
    printed = stage_here(project, study_stage.main, "quickstart", "tuning").stdout
    put(project, STUDY)
    assert "trial 1" not in printed
    assert rows(project) == before[:1]


def test_a_study_does_not_need_the_test_pictures(project):
    (project / "data/quickstart/test.safetensors").unlink()
    put(project, {**STUDY, "trials": {"reweighted-admm": [{"rho": 0.3}]}})
    stage_here(project, study_stage.main, "quickstart", "tuning")
    put(project, STUDY)
    assert rows(project)[0]["trial"]["values"] == {"rho": 0.3}


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ({"gmp": [{"ramp": 0.5}]}, "studies.tuning.trials.gmp[0]: prune has no block gmp"),
        (
            {"reweighted-admm": [{"rho": 0.1}, {"rho": -1}]},
            "reweighted-admm[1]: rho should be greater than 0, got -1",
        ),
        ({"reweighted-admm": [{"roh": 0.1}]}, "trials.reweighted-admm[0]: roh"),
    ],
)
def test_mistakes_in_trials_are_named(project, trials, said):
    put(project, {**STUDY, "trials": trials})
    refused = stage_here(project, study_stage.main, "quickstart", "tuning")
    put(project, STUDY)
    assert refused.returncode == 1
    assert said in refused.stderr


@pytest.mark.parametrize("content", ["[]", "{}", '{"trials": 1}'])
def test_a_file_that_is_no_study_is_named(tmp_path, content):
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(ArtifactError, match="notes.json is no study: it has no list of trials"):
        read_trials(tmp_path / "notes.json")


def test_an_unknown_study_is_answered_with_the_known_ones(project):
    refused = stage_here(project, study_stage.main, "quickstart", "tunnig")
    assert "has no study 'tunnig'; params.yaml has: tuning" in refused.stderr
