"""Networks in every runtime: answers checked against PyTorch's, then timed side by side."""

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.benchmark.rows import NOT_COMPILED, NOT_INSTALLED
from pipeline.benchmark.timing import interleaved
from pipeline.deploy.answers import TOLERANCE, difference
from pipeline.deploy.onnx_files import INPUT, export, session
from pipeline.errors import ArtifactError, ConfigError
from pipeline.sparse_engine.compiling import NoCompiler
from pipeline.sparse_engine.engine import SparseEngine, build_engine

log = logging.getLogger(__name__)

PYTORCH, ONNX_RUNTIME, OPENVINO, SPARSE = RUNTIMES = ("pytorch", "onnxruntime", "openvino", "sparse-engine")
Call = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Contender:
    """One network in one runtime; `start` makes it ready for so many threads; bytes: of its file (None: no file)."""

    network: str
    runtime: str
    start: Callable[[int], Call]
    reference: nn.Module
    bytes: int | None

    @property
    def name(self) -> tuple[str, str]:
        return self.network, self.runtime


def contenders(
    networks: Mapping[str, tuple[nn.Module, nn.Module]], sparse: nn.Module, picture: Tensor, folder: Path,
    runtimes: Sequence[str],
) -> tuple[list[Contender], list[tuple[str, str, str]]]:  # fmt: skip
    """Every network in every dense runtime, and the sparse one in the engine; files go into the folder.

    `networks`: each with the one whose answers it must give; `picture` (1, C, H, W) is an input. Gives the
    contenders, and (network, runtime, why) of those that are not here.
    """
    found: list[Contender] = []
    absent: list[tuple[str, str, str]] = []
    for name, (network, reference) in networks.items():
        path = folder / f"{name}.onnx"
        if ONNX_RUNTIME in runtimes or OPENVINO in runtimes:
            export(path, network, picture, {"network": name})
        starts = {PYTORCH: _pytorch(network), ONNX_RUNTIME: _onnx_runtime(path), OPENVINO: _openvino(path)}
        for runtime in (runtime for runtime in starts if runtime in runtimes):
            if runtime == OPENVINO and not openvino_installed():
                absent.append((name, runtime, NOT_INSTALLED))
                continue
            size = None if runtime == PYTORCH else path.stat().st_size
            found.append(Contender(name, runtime, starts[runtime], reference, size))
    if SPARSE in runtimes:
        try:
            engine = build_engine(sparse, tuple(picture.shape[1:]), folder / "engine")
        except (NoCompiler, ConfigError) as error:
            log.warning("the sparse engine is left out: %s", error)
            absent.append(("pruned", SPARSE, NOT_INSTALLED if isinstance(error, NoCompiler) else NOT_COMPILED))
        else:
            size = (folder / "engine" / engine.about["library"]["file"]).stat().st_size
            start = _sparse(folder / "engine")
            found.append(Contender("pruned", SPARSE, start, sparse, size))
    return found, absent


def engine_or_onnx(network: nn.Module, picture: Tensor, folder: Path, threads: int = 1) -> Call:
    """The sparse engine for a network, or ONNX Runtime where there is no compiler or an operation it does not know.

    Either takes float pictures (N, C, H, W) and gives float32 (N, classes). `picture` (1, C, H, W) is an input; the
    engine's files go into the folder. The log says why it is not the engine: no compiler, an operation that it does
    not know, or a folder that cannot be written.

    Raises:
        ArtifactError: the network cannot be exported either.
    """
    try:
        return build_engine(network, tuple(picture.shape[1:]), folder, threads)
    except (NoCompiler, ConfigError, OSError) as error:  # OSError: a folder that cannot be written
        log.warning("ONNX Runtime stands in for the sparse engine: %s", error)
    with tempfile.TemporaryDirectory() as elsewhere:
        path = Path(elsewhere, "network.onnx")
        export(path, network, picture, {})
        run = _onnx_runtime(path)(threads)
    return lambda pictures: run(np.ascontiguousarray(pictures, np.float32))


def timed(
    everyone: Sequence[Contender], images: Tensor, batches: Sequence[int], threads: Sequence[int],
    warmup: int, rounds: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row a contender, batch and number of threads; `images` has at least as many pictures as the largest batch.

    Raises:
        ArtifactError: a runtime's answers are not PyTorch's.
    """
    for count in threads:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        ready = {each.name: each.start(count) for each in everyone}
        for size in batches:
            pictures = images[:size].contiguous().numpy()
            for each in everyone:
                _check(each, ready[each.name], pictures)
            calls = {name: _bound(call, pictures) for name, call in ready.items()}
            found = interleaved(calls, warmup, rounds)
            log.info("timed %d contenders with %d pictures and %d threads", len(everyone), size, count)
            for each in everyone:
                about = {"network": each.network, "engine": each.runtime, "batch": size, "threads": count}
                yield {**about, **found[each.name], "bytes": each.bytes}
        torch.set_num_threads(before)


def _bound(call: Call, pictures: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: call(pictures)


def _check(each: Contender, call: Call, pictures: np.ndarray) -> None:
    expected = _pytorch(each.reference)(1)(pictures)
    found = difference(torch.from_numpy(expected), torch.from_numpy(call(pictures)))
    if not found <= TOLERANCE:
        raise ArtifactError(
            f"{each.runtime} answers for the {each.network} network differ from PyTorch's by {found:.1e} of the "
            f"largest, more than {TOLERANCE:.0e}; nothing is timed"
        )


def _pytorch(network: nn.Module) -> Callable[[int], Call]:
    network.eval().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(pictures: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(pictures).contiguous(memory_format=torch.channels_last)).numpy()

    return lambda threads: run


def _onnx_runtime(path: Path) -> Callable[[int], Call]:
    def start(threads: int) -> Call:
        ready = session(path, threads)
        return lambda pictures: ready.run(None, {INPUT: pictures})[0]

    return start


def openvino_installed() -> bool:
    """Whether OpenVINO can be imported; its module that calls home is kept from being."""
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


def _openvino(path: Path) -> Callable[[int], Call]:
    def start(threads: int) -> Call:
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        ready = _openvino_core().compile_model(str(path), "CPU", settings)
        return lambda pictures: ready(pictures)[0]

    return start


@cache
def _openvino_core() -> Any:
    """One for the process. Each brings a stack for signals and puts the former back when it goes; of several, that may
    be the freed one of another, and the next signal that Python handles ends the process.
    """
    import openvino

    return openvino.Core()


def _sparse(folder: Path) -> Callable[[int], Call]:
    return lambda threads: SparseEngine(folder, threads)
