"""Where, when and with what a result was made: kept beside DVC's outputs, never inside them."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.files import digest_of_file, sha256, write_json
from pipeline.layout import Run, provenance_folder

SOURCES = ("pipeline", "stages", "params.yaml", "dvc.yaml", "runs.yaml", "paper/dvc.yaml", "paper/runs.yaml")
PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "dvc", "mlflow", "onnx", "onnxruntime", "openvino")
NOT_INSTALLED = "not installed"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Making:
    """How a stage came to its outputs.

    `seconds` counts all sessions of the stage together, `code` is the state of git as the stage started.
    """

    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Sequence[Path]
    seconds: float
    threads: int
    code: Mapping[str, Any]


def write(root: Path, home: Path, run: Run, making: Making) -> None:
    """Write a finished stage's provenance: what it read and wrote, when, where and with what.

    Each different making has a file of its own: DVC may bring any of their outputs back. `home` is the project that
    keeps them, `root` where the stage ran: of DVC's queued experiments, a copy that goes away.
    """
    outputs = {path.as_posix(): digest_of_file(root / path) for path in making.outputs}
    content = {
        "stage": making.stage,
        "params": making.params,
        "seconds": round(making.seconds, 2),
        **making.code,
        "machine": machine(),
        "versions": versions(),
        "threads": making.threads,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": making.inputs,
        "outputs": outputs,
    }
    keep(home, run, content)


def other_params(making: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    """The blocks of parameters that a making has otherwise than given here."""
    return [block for block, value in making["params"].items() if block in params and params[block] != value]


def keep(home: Path, run: Run, content: Mapping[str, Any]) -> None:
    """Write what a making's file says, under a name of its own."""
    made = json.dumps([content[key] for key in ("params", "inputs", "outputs")], sort_keys=True)
    write_json(home / provenance_folder(run, content["stage"]) / f"{sha256(made.encode())[:16]}.json", content)


def git_state(root: Path) -> dict[str, Any]:
    """Commit, and whether code or parameters differ from it (results that a run rewrites do not count)."""
    commit = _git(root, "rev-parse", "HEAD") or UNKNOWN
    changed = _git(root, "status", "--porcelain", "--", *SOURCES)
    return {"commit": commit, "dirty": changed != "" or commit == UNKNOWN}


def changed_since(root: Path, commit: str, path: str) -> str:
    """Whether a folder's files differ from those of a commit: changed, unchanged or unknown (no such commit here)."""
    differ = _git(root, "diff", "--name-only", commit, "--", path)
    return UNKNOWN if differ is None else "changed" if differ else "unchanged"


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None: nothing, because it failed or took too long."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, Any]:
    """The processor's name, cores that may be used, memory, and the system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return f"{named.get('model name', 'unknown')} (family {named.get('cpu family')}, model {named.get('model')})"


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = NOT_INSTALLED
    return found
