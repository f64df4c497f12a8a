"""The rooms of the house: who may import whom, and dvc.yaml lists just what each stage's result depends on."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import Config
from pipeline.layout import curve_file, data_file, iterations_file, metrics_file, report_file, weights_file
from pipeline.method_params import METHOD_NAMES
from pipeline.models import BUILDERS
from pipeline.pruning import METHODS
from pipeline.session import BLOCKS, CODE
from pipeline.yaml_files import read_yaml

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("pipeline", "stages")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
# Code that carries or shows results and cannot change them: no stage depends on it. The tables of
# networks and methods are followed by name instead: a run depends on its own entry only.
CARRIERS = {
    "pipeline", "pipeline.benchmark", "pipeline.benchmark.rows", "pipeline.bits", "pipeline.config", "pipeline.data",
    "pipeline.entry", "pipeline.errors", "pipeline.evaluation", "pipeline.files", "pipeline.journal",
    "pipeline.layout", "pipeline.method_params", "pipeline.models", "pipeline.params", "pipeline.provenance",
    "pipeline.pruning", "pipeline.resume", "pipeline.session", "pipeline.sparse", "pipeline.tensors",
    "pipeline.tracking", "pipeline.tracking_store", "pipeline.training", "pipeline.yaml_files", "stages",
}  # fmt: skip
DEPLOYED = [name for name in MODULES if name.startswith(("pipeline.deploy", "pipeline.sparse_engine"))]
APART = ("pipeline.data", "pipeline.models", "pipeline.pruning", "pipeline.training")


def imports_of(module: str) -> set[str]:
    """The project's modules that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found.update(name for name in names if name in MODULES)
    return found


def closure(module: str) -> set[str]:
    """What a module's result depends on: its imports and theirs, without the carriers."""
    found, ahead = set(), [module]
    while ahead:
        one = ahead.pop()
        if one not in found:
            found.add(one)
            ahead += [name for name in imports_of(one) if name not in CARRIERS]
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(APART)])
def test_data_models_pruning_and_training_do_not_know_one_another(module):
    room = next(room for room in APART if module.startswith(room))
    strangers = {name for name in imports_of(module) if name.startswith(APART) and not name.startswith(room)}
    assert not strangers


@pytest.mark.parametrize("module", DEPLOYED)
def test_deployed_networks_do_not_know_how_they_were_made(module):
    known = {"pipeline.errors", "pipeline.files", "pipeline.sparse", *DEPLOYED}
    assert not imports_of(module) - known


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("pipeline")])
def test_the_library_does_not_import_stages(module):
    assert not {name for name in imports_of(module) if name.startswith("stages")}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("stages.")])
def test_no_stage_imports_another(module):
    assert not {name for name in imports_of(module) if name.startswith("stages.")}


@pytest.mark.parametrize(
    ("pattern", "home"),
    [
        (r"^\s*(import|from) mlflow|import_module\(.mlflow", {"pipeline.tracking_store"}),
        (r"(?<!engine)\.backward\(", {"pipeline.training.engine"}),
        (r"^import yaml|^from yaml", {"pipeline.yaml_files"}),
        (r"^import matplotlib|^from matplotlib", {name for name in MODULES if name.startswith("pipeline.report.")}),
        (r"^import jinja2|^from jinja2", {"pipeline.report.page"}),
        (r"(?i)\badmm|\bmask|mnist", set(MODULES) - {name for name in MODULES if name.startswith("pipeline.training")}),
        (r"weights_only=False|pickle\.load\(|^\s*assert ", set()),
    ],
)
def test_some_things_have_one_home(pattern, home):
    found = {name for name, path in MODULES.items() if re.search(pattern, path.read_text(), re.MULTILINE)}
    assert found <= home


@pytest.mark.parametrize("path", MODULES.values(), ids=list(MODULES))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def dvc_stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_both_pipeline_files_have_the_same_text():
    assert (ROOT / "dvc.yaml").read_text() == (ROOT / "paper/dvc.yaml").read_text()


def listed_modules(stage: str) -> set[str]:
    """The modules among a stage's deps, for the experiment and method of the quickstart."""
    found = set()
    for path in dvc_stages()[stage]["do"]["deps"]:
        path = path.replace("${item.network}", "pipeline/models/lenet5.py").replace("${item.code}", "reweighted_admm")
        name = path.removesuffix(".py").replace("/", ".")
        if path.endswith(".py"):
            found.add(name)
        elif path.startswith("pipeline/"):  # a folder
            found |= {module for module in MODULES if module.startswith(f"{name}.")}
    return found


@pytest.mark.parametrize("stage", ["prepare", "pretrain", "reference", "prune", "retrain", "evaluate", "benchmark"])
def test_a_stage_depends_on_the_code_that_makes_its_result(stage):
    needed = closure(f"stages.{stage}")
    if stage != "prepare":
        needed.add("pipeline.models.lenet5")
    if stage in ("pretrain", "reference", "prune", "retrain"):
        needed |= closure("pipeline.assembly") | {"pipeline.settings"}  # by way of the session
    if stage == "prune":
        needed |= closure("pipeline.pruning.reweighted_admm")
    assert listed_modules(stage) == needed


def test_checkpoints_depend_on_the_same_code():
    """What makes a training stage's result also makes its checkpoint stale."""
    for stage in ("pretrain", "reference", "prune", "retrain"):
        for module in listed_modules(stage) - {f"stages.{stage}"}:
            path = module.removeprefix("pipeline.").replace(".", "/")
            assert any(path == code.removesuffix(".py") or path.startswith(f"{code}/") for code in CODE), module


@pytest.mark.parametrize("stage", list(BLOCKS))
def test_a_stage_depends_on_the_parameters_that_it_reads(stage):
    listed = [re.sub(r"^experiments\.\$\{[^}]*\}\.", "", key) for key in dvc_stages()[stage]["do"]["params"]]
    listed = [key.removesuffix(".${item.method}") for key in listed]
    assert listed == list(BLOCKS[stage])


def test_dvc_knows_the_files_that_the_layout_names():
    config = Config(ROOT)
    run = next(iter(config.runs_of("quickstart")))
    listed = set()
    for stage in dvc_stages().values():
        block = stage["do"]
        for out in [*block.get("outs", []), *block.get("metrics", []), *block.get("plots", [])]:
            path = out if isinstance(out, str) else next(iter(out))
            for name, value in vars(run).items():
                path = path.replace(f"${{item.{name}}}", str(value))
            listed.add(path.replace("${item}", run.experiment))
    expected = {data_file("quickstart", part) for part in ("train", "validate", "test")}
    expected |= {report_file("quickstart"), iterations_file(run)}
    for owner, stages in ((run.dense, ("pretrain", "reference")), (run, ("prune", "retrain"))):
        for stage in stages:
            expected |= {weights_file(owner, stage), metrics_file(owner, stage), curve_file(owner, stage)}
    expected |= {metrics_file(run, stage) for stage in ("evaluate", "benchmark")}
    assert listed == {path.as_posix() for path in expected}


@pytest.mark.parametrize("file", ["runs.yaml", "paper/runs.yaml"])
def test_listed_runs_name_the_source_files_that_they_use(file):
    config, listing = Config(ROOT), read_yaml(ROOT / file)
    for fields in [*listing["dense"].values(), *listing["runs"].values()]:
        name = config.experiment(fields["experiment"]).model.name
        assert fields["network"] == BUILDERS[name].partition(":")[0].replace(".", "/") + ".py"
        if "code" in fields:
            assert METHODS[fields["method"]].__module__ == f"pipeline.pruning.{fields['code']}"
    assert set(listing["prepared"]) == {fields["experiment"] for fields in listing["dense"].values()}


def test_every_method_is_a_block_of_the_parameters():
    assert set(METHODS) == set(METHOD_NAMES)
    assert all(experiment.prune.method("reweighted-admm") for experiment in Config(ROOT).experiments.values())


def test_the_project_names_no_machine_and_no_registry():
    texts = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").rglob("*.py"), ROOT / "Makefile", ROOT / "dvc.yaml"]
    texts += [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "params.yaml"]
    for path in texts:
        assert not re.search(r"/work/|/root/|/opt/|pypi\.org|files\.pythonhosted", path.read_text()), path
