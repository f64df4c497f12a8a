"""C compiled once for this machine's processor, and loaded only if it is what the description beside it names.

A folder holds `network.c`, `network.bin` (its table), `network.json` (written last: their digests, a digest of itself,
and of the library its digest and with what it was compiled) and `network-<digest>.so`, named by content so that no
process takes one library for another.
"""

import ctypes
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError, PipelineError
from pipeline.files import json_bytes, read_json, sha256, write_bytes, write_json

FLAGS = ("-O3", "-march=native", "-fPIC", "-shared")
COMPILERS = ("cc", "gcc", "clang")
LONGEST_COMPILATION = 600  # seconds

log = logging.getLogger(__name__)


class NoCompiler(PipelineError):
    """No C compiler that works; run the network in another runtime, such as ONNX Runtime."""


def write_source(folder: Path, code: str, table: bytes, about: dict[str, Any]) -> None:
    """Write the C file, its table and their description; the library is made by `load_library`."""
    contents = {"network.c": code.encode(), "network.bin": table}
    for name, content in contents.items():
        write_bytes(folder / name, content)
    digests = {name: sha256(content) for name, content in contents.items()}
    described = {**about, "source": digests}
    write_json(folder / "network.json", {**described, "digest": _digest(described), "library": None})


def adopt(source: Path, folder: Path) -> None:
    """Copy what was built in one folder into another, the description last; other libraries there go away."""
    library = read_json(source / "network.json")["library"]["file"]
    for name in ("network.c", "network.bin", library, "network.json"):
        write_bytes(folder / name, (source / name).read_bytes())
    _drop_others(folder, library)


def _drop_others(folder: Path, library: str) -> None:
    for other in folder.glob("network-*.so"):
        if other.name != library:
            other.unlink(missing_ok=True)


def load_library(folder: Path) -> tuple[ctypes.CDLL, dict[str, Any]]:
    """The folder's library, compiled now if there is none for this processor; and the description.

    Raises:
        ArtifactError: the source is missing or not what its description names, or the library cannot be loaded.
        NoCompiler: it has to be compiled, and cannot be.
    """
    about = read_json(folder / "network.json")
    if not isinstance(about, dict) or about.get("digest") != _digest(about):
        raise ArtifactError(f"{folder}/network.json is damaged, or describes no compiled network; build it again")
    if not _is_usable(folder, about.get("library")):
        _check_source(folder, about["source"])
        about["library"] = _compile(folder)
        write_json(folder / "network.json", about)
    path = folder.resolve() / about["library"]["file"]
    try:
        return ctypes.CDLL(str(path)), about
    except OSError as error:
        raise ArtifactError(f"{path} cannot be loaded ({error}); build the engine again, in another folder") from error


def _digest(about: dict[str, Any]) -> str:
    """Of all that does not change when the library is compiled again."""
    return sha256(json_bytes({key: value for key, value in about.items() if key not in ("digest", "library")}))


def _is_usable(folder: Path, library: Any) -> bool:
    """Whole, and for this processor."""
    if not isinstance(library, dict) or library.get("cpu") != _cpu():
        return False
    path = folder / str(library.get("file"))
    return path.is_file() and sha256(path.read_bytes()) == library.get("sha256")


def _check_source(folder: Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or sha256(path.read_bytes()) != digest:
            raise ArtifactError(f"{path} is missing, or not the one that network.json names; build the engine again")


def _compile(folder: Path) -> dict[str, Any]:
    """Compile and write the library; what it is and how it was made."""
    compiler = _compiler()
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary, "network.so")
        _run([*compiler, *FLAGS, "-o", str(made), "network.c"], folder)
        content = made.read_bytes()
    digest = sha256(content)
    name = f"network-{digest[:16]}.so"
    write_bytes(folder / name, content)
    _drop_others(folder, name)
    version = _run([*compiler, "--version"], folder).partition("\n")[0]
    log.info("compiled a network (%s) with %s", name, version)
    return {"file": name, "sha256": digest, "cpu": _cpu(), "compiler": version, "flags": list(FLAGS)}


def _compiler() -> list[str]:
    """The command in `CC`, or the first compiler that is installed."""
    asked = shlex.split(os.environ.get("CC", ""))
    names = asked[:1] or COMPILERS
    found = next((path for path in map(shutil.which, names) if path), None)
    if not found:
        raise NoCompiler(
            f"a C compiler is needed, got none of {', '.join(names)}; install gcc or set CC, "
            "or run the network in ONNX Runtime"
        )
    return [found, *asked[1:]]


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=LONGEST_COMPILATION
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join((getattr(error, "stderr", None) or str(error)).split())[:300]
        raise NoCompiler(
            f"the C compiler must work, got from {command[0]}: {reason}; repair it or set CC, "
            "or run the network in ONNX Runtime"
        ) from error
    return done.stdout


def _cpu() -> str:
    """The instructions that this processor has."""
    try:
        features = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        features = None
    known = features[0] if features else platform.processor()
    return f"{platform.system()} {platform.machine()} {sha256(known.encode())[:16]}"
