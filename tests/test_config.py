"""Every mistake in the parameters and run lists is found before anything runs, all at once, by key and value."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import entry
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.yaml_files import read_yaml
from stages import check
from tests.project import stage_here

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """A copy of the real parameters, and a function that changes some and reads them again."""
    for name in ("params.yaml", "runs.yaml", "paper/runs.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def changed(file: str, **changes) -> Config:
        content = read_yaml(tmp_path / file)
        for key, value in changes.items():
            *path, last = key.split("/")
            block = content
            for part in path:
                block = block[part]
            if value is None:
                del block[last]
            else:
                block[last] = value
        (tmp_path / file).write_text(yaml.safe_dump(content))
        return Config(tmp_path)

    return changed


def test_the_projects_own_files_are_valid():
    config = Config(ROOT)
    assert "quickstart" in config.experiments
    assert config.runs_of("quickstart")


def test_a_default_is_no_part_of_what_a_run_is_found_by():
    """So that a new parameter leaves finished runs what they are."""
    config = Config(ROOT)
    run = config.runs_of("quickstart")[0]
    assert config.experiment("quickstart").training.strategy == "ddp"
    assert "strategy" not in config.params_of(run, ["training"])["training"]


Q = "experiments/quickstart/"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("pretrain/epochs", "many", "experiments.quickstart.pretrain.epochs should be a valid integer, got 'many'"),
        ("pretrain/epochs", 2.5, "pretrain.epochs"),
        ("pretrain/learning_rate", -1, "pretrain.learning_rate should be greater than 0, got -1"),
        ("pretrain/learning_rat", 1, "pretrain.learning_rat is not a known parameter"),
        ("pretrain/warmup", None, "pretrain.warmup is missing"),
        ("training/precision", "fp8", "training.precision should be 'fp32', 'bf16' or 'fp64', got 'fp8'"),
        ("training/strategy", "fsdp", "training.strategy should be 'ddp', got 'fsdp'"),
        ("prune/reweighted-admm/rho", 0, "prune.reweighted-admm.rho should be greater than 0, got 0"),
        ("prune/reweighted-admm/rho", float("nan"), "prune.reweighted-admm.rho"),
        ("prune/reweighted-admm/epochs", 40, "must be < extra_epochs (40) to leave epochs for retraining, got 40"),
        ("prepare/folder", "pictures", "folder is needed for dataset: folder, and for no other, got 'pictures'"),
        ("training/flip", True, "training.flip must be false for digits"),
        ("pretrain/weight_decay", 0.1, "weight_decay needs optimiser: sgd, got 0.1 with adam"),
        ("pretrain/start", {"file": "a.pth"}, "start needs either file and sha256, or torchvision"),
        ("pretrain/start", {"file": "a.pth", "sha256": "0" * 63}, "pretrain.start.sha256"),
        ("prune/magic", {"epochs": 1}, "prune.magic is not a known parameter"),
    ],
)
def test_a_mistake_is_named_by_key_and_value(project, key, value, said):
    with pytest.raises(ConfigError, match=r"params\.yaml: 1 mistake") as caught:
        project("params.yaml", **{Q + key: value})
    assert said in str(caught.value)


def test_all_mistakes_are_told_at_once(project):
    with pytest.raises(ConfigError, match="3 mistakes") as caught:
        project("params.yaml", **{Q + "pretrain/epochs": 0, Q + "training/threads": "two", Q + "benchmark/rounds": 1})
    assert all(name in str(caught.value) for name in ("pretrain.epochs", "training.threads", "benchmark.rounds"))


@pytest.mark.parametrize("text", ["3e-05", "3e-5", "3.0e-5", "0.00003"])
def test_numbers_as_dvc_writes_them(tmp_path, text):
    (tmp_path / "x.yaml").write_text(f"value: {text}\n")
    assert read_yaml(tmp_path / "x.yaml") == {"value": 3e-5}


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("0", 0), ("1.5", 1.5), ("v1e5", "v1e5"), ("1e", "1e")])
def test_other_scalars_stay_what_they_are(tmp_path, text, value):
    (tmp_path / "x.yaml").write_text(f"value: {text}\n")
    found = read_yaml(tmp_path / "x.yaml")["value"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("method", "magic", "method must be a block of experiments.quickstart.prune, got magic"),
        ("experiment", "nowhere", "experiment must be one of"),
        ("ratio", 1, "ratio should be greater than 1, got 1"),
        ("ratio", "10", "ratio.float should be a valid number, got '10'"),
        ("ratio", float("inf"), "ratio should be a finite number, got inf"),
        ("seed", "0", "seed should be a valid integer, got '0'"),
        ("network", None, "network is missing"),
        ("code", None, "code is missing"),
        ("after", None, "after is missing"),
        ("coed", "gmp", "coed is not a known parameter"),
        ("after", "metrics/quickstart/other/prune.json", "(metrics/quickstart/dense-s0/pretrain.json), got metrics"),
        ("seed", 7, "needs the dense network quickstart-dense-s7, which is not listed"),
    ],
)
def test_a_listed_run_that_cannot_be_is_named(project, field, value, said):
    name = next(iter(read_yaml(ROOT / "runs.yaml")["runs"]))
    with pytest.raises(ConfigError) as caught:
        project("runs.yaml", **{f"runs/{name}/{field}": value})
    assert said in str(caught.value)
    assert f"runs.{name}" in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda config: config.experiment("lenet"), "unknown experiment 'lenet'; known are: quickstart"),
        (lambda config: config.pruned_run("quick"), "unknown run 'quick'"),
        (lambda config: config.dense_run("quick"), "unknown dense network 'quick'"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(ask, said):
    with pytest.raises(ConfigError, match=said):
        ask(Config(ROOT))


@pytest.mark.parametrize("name", ["quickstart", "lenet5"])
def test_an_experiment_is_checked_before_it_runs(project, tmp_path, name):
    project("params.yaml")
    assert stage_here(tmp_path, check.main, name).returncode == 0


def test_an_experiment_without_a_listed_run_says_where_to_list_one(project, tmp_path):
    project("params.yaml", **{"experiments/mine": read_yaml(ROOT / "params.yaml")["experiments"]["quickstart"]})
    done = stage_here(tmp_path, check.main, "mine")
    assert done.stderr == "error: no run of mine is listed; add one to paper/runs.yaml (README shows how)"


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path):
    (tmp_path / "params.yaml").write_text("experiments:\n  a: [1,\n")
    with pytest.raises(ConfigError, match=r"params\.yaml is not valid YAML: .*line 3"):
        Config(tmp_path)


def test_no_parameters_at_all(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; run the command from the project's top folder"):
        Config(tmp_path)


def test_a_run_that_copies_layers_waits_for_the_run_that_it_copies(project):
    """Waiting for its dense network it would silently choose layers of its own."""
    name = "lenet5-methods-admm-l0-copied-71.2x-s0"
    with pytest.raises(
        ConfigError,
        match=r"\(metrics/lenet5-methods/reweighted-admm-71.2x-s0/prune.json\), got metrics/lenet5-methods/dense",
    ):
        project("paper/runs.yaml", **{f"runs/{name}/after": "metrics/lenet5-methods/dense-s0/pretrain.json"})
    other = "metrics/lenet5-methods/reweighted-admm-71.2x-s1/prune.json"
    with pytest.raises(ConfigError, match="waits for"):
        project("paper/runs.yaml", **{f"runs/{name}/after": other})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "should be a valid dictionary"),
        ("[1]", "should be a valid dictionary"),
        ("top: .\nprepared: []\nruns: {}\n", "dense is missing"),
        ("top: .\nprepared: []\ndense:\nruns: {}\n", "dense should be a valid dictionary"),
        ("top: .\nprepared: []\nprepared: []\n", "prepared stands twice"),
        ("top: .\nprepared: []\ndense: {}\nruns: {a: }\n", "runs.a should be a valid dictionary"),
    ],
)
def test_a_run_list_of_another_form_is_said_to_be_one(project, tmp_path, content, said):
    project("params.yaml")
    (tmp_path / "runs.yaml").write_text(content)
    with pytest.raises(ConfigError, match=said):
        Config(tmp_path)


def test_a_run_whose_data_is_not_prepared_is_named(project):
    with pytest.raises(ConfigError, match="experiment must be among prepared, got quickstart"):
        project("runs.yaml", prepared=[])


def test_bytes_that_are_no_text_are_said_to_be_no_yaml(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"experiments: \xff\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        Config(tmp_path)


@pytest.mark.parametrize("text", ["? [a, b]\n: 1\n", "a: {{b}}\n", "day: 2020-13-45\n"])
def test_odd_keys_and_days_are_said_to_be_no_yaml(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="is not valid YAML"):
        Config(tmp_path)


def test_of_many_names_the_nearest_are_told():
    with pytest.raises(ConfigError, match=r"known are: lenet5-reweighted-admm-355.9x-s0, .* and \d+ more in params"):
        Config(ROOT).pruned_run("lenet5-reweighted-admm-355x-s0")


@pytest.mark.parametrize(
    ("name", "target"), [("quickstart", "dvc.yaml:report@quickstart"), ("lenet5", "paper/dvc.yaml:report@lenet5")]
)
def test_what_dvc_is_to_reproduce_follows_from_the_list_with_the_runs(name, target):
    assert stage_here(ROOT, check.main, name).stdout == f"{target}\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_what_the_file_says_of_itself(monkeypatch, capsys, flag):
    monkeypatch.setattr(sys, "argv", ["stage", flag])
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "What it does.")
    entry.run(lambda arguments: pytest.fail("it ran"))
    assert capsys.readouterr().out == "What it does.\n"


def test_a_trial_has_no_run_to_copy_layers_from(project):
    study = {"ratio": 20, "seed": 0, "trials": {"admm-l0-copied": [{"rho": 0.1}]}}
    with pytest.raises(ConfigError, match="copies the layers of another run, and a trial has none"):
        project("params.yaml", **{"experiments/lenet5-methods/studies/copied": study})
