"""A copy of the project with the quickstart cut short, to run its real stages in."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from pipeline.errors import PipelineError
from pipeline.yaml_files import read_yaml

ROOT = Path(__file__).parent.parent


def recorded_networks(experiment: str = "*") -> list[Path]:
    """The sparse networks beside the ledger's records; dense ones stand there too."""
    return sorted((ROOT / "results").glob(f"{experiment}/*x-s*.safetensors"))


DENSE, RUN = "quickstart-dense-s0", "quickstart-reweighted-admm-50x-s0"
SHORT = {
    "extra_epochs": 4,
    "training": {"batch_size": 64, "precision": "fp32", "threads": 1, "shift": 2},
    "benchmark": {
        "batch_sizes": [1, 64],
        "threads": [1, 2],
        "runtimes": ["pytorch", "onnxruntime", "openvino", "sparse-engine"],
        "warmup": 1,
        "rounds": 4,
    },
}


def copy_project(folder: Path) -> Path:
    """The sources and short parameters, in a git and DVC repository of their own."""
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "runs.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    quickstart = read_yaml(ROOT / "params.yaml")["experiments"]["quickstart"]
    quickstart |= SHORT
    quickstart["pretrain"]["epochs"] = 3
    quickstart["prune"]["reweighted-admm"] |= {"epochs": 2, "update_every": 2}
    write_params(folder, {"quickstart": quickstart})
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    commit(folder)
    return folder


def write_params(folder: Path, experiments: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump({"experiments": experiments}))


def commit(folder: Path) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qm", "state")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what the outer project set, and with this Python first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "DATASETS_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **more}


def run(folder: Path, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a project; with `check`, fail with what it printed."""
    done = subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=900)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def stage_here(folder: Path, main: Callable[[list[str]], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    """As `stage`, without a process of its own: the stage's `main` with its known errors on stderr."""
    printed, problem = io.StringIO(), ""
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        try:
            main(list(arguments))
        except PipelineError as error:
            problem = f"error: {error}"
    return subprocess.CompletedProcess(arguments, int(bool(problem)), printed.getvalue(), problem)


def stage(folder: Path, name: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", f"stages.{name}", *arguments, **options)
