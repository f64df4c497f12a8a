"""A network with fixed zeros as machine code: only the surviving weights are read and multiplied."""

import copy
import ctypes
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.deploy.answers import TOLERANCE, difference, noise_like
from pipeline.errors import ConfigError
from pipeline.sparse_engine.compiling import adopt, load_library, write_source
from pipeline.sparse_engine.folding import fold
from pipeline.sparse_engine.generating import generate
from pipeline.sparse_engine.lowering import lower
from pipeline.sparse_engine.operations import Shape
from pipeline.sparse_engine.planning import plan
from pipeline.sparse_engine.trimming import trim

ALIGNMENT = 64  # bytes, of a vector
MOST_FLOATS = 2**31 - 1  # of working memory: positions in it are 32-bit numbers


def build_engine(network: nn.Module, picture_shape: Shape, folder: Path, threads: int = 1) -> "SparseEngine":
    """Generate C for the network in eval mode, for pictures of (C, H, W); compile it into the folder; load it.

    `network.c` alone, where `network.bin` beside it is empty, is the whole network without any runtime:
    `void network(const float *in, float *out)` takes one picture.

    Raises:
        ConfigError: the network has an operation that cannot be compiled, or does what a trace does not show, so that
            the engine would answer otherwise.
        ArtifactError: its weights are not finite, or the pictures do not fit it.
        NoCompiler: there is no C compiler that works; use another runtime.
    """
    folder = Path(folder)
    lowered = trim(fold(lower(network, picture_shape)))
    planned = plan(lowered)
    if planned.scratch > MOST_FLOATS:
        raise ConfigError(f"pictures of {picture_shape} are too large to be compiled for; use another runtime")
    code, table = generate(planned)
    about = {
        "picture_shape": list(picture_shape),
        "output_shape": list(lowered.output_shape),
        "scratch_floats": planned.scratch,
        "nonzeros": planned.nonzeros,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as aside:  # what is there stays until the new one is found right
        write_source(Path(aside), code, table, about)
        _check_same(network, SparseEngine(Path(aside)))
        adopt(Path(aside), folder)
    return SparseEngine(folder, threads)


class SparseEngine:
    """A compiled network: call it with pictures (N, C, H, W), get float32 (N, classes).

    Pictures must be finite: a NaN that only removed weights would have read, or that a ReLU meets, is not passed on.
    With `threads` the pictures of a batch are shared out; each one's result is the same bit for bit. An
    engine may be called by several threads at once.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load what `build_engine` wrote; compiled again if it was for another processor.

        Raises:
            ConfigError: threads is not positive.
            ArtifactError: the folder's files are missing or damaged.
            NoCompiler: it has to be compiled again, and cannot be.
        """
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        library, about = load_library(Path(folder))
        self.picture_shape: tuple[int, ...] = tuple(about["picture_shape"])
        self.output_shape: tuple[int, ...] = tuple(about["output_shape"])
        self.about: dict[str, Any] = about
        self._run = library.network_batch
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p]
        self._run.restype = None
        self._threads = threads
        self._others = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._scratch: list[tuple[np.ndarray, int]] = []  # free ones, with the address of their first vector

    def __call__(self, images: np.ndarray | Tensor) -> np.ndarray:
        """Raises ConfigError for pictures of another shape."""
        pictures = np.ascontiguousarray(images, np.float32)
        if pictures.shape[1:] != self.picture_shape:
            raise ConfigError(f"images must have shape (N, {self.picture_shape}), got {pictures.shape}")
        count = len(pictures)
        results = np.empty((count, *self.output_shape), np.float32)
        if self._others and count > 1:
            self._share_out(pictures, results)
        elif count:
            self._fill(pictures, results)
        return results

    def _share_out(self, pictures: np.ndarray, results: np.ndarray) -> None:
        """Fill `results` with all threads, this one included."""
        share = -(-len(pictures) // self._threads)
        waiting = [
            self._others.submit(self._fill, pictures[start : start + share], results[start : start + share])
            for start in range(share, len(pictures), share)
        ]
        self._fill(pictures[:share], results[:share])
        for future in waiting:
            future.result()

    def _fill(self, pictures: np.ndarray, results: np.ndarray) -> None:
        """Fill `results`, in memory that no other call uses meanwhile."""
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = self._new_scratch()
        self._run(_address(pictures), _address(results), len(pictures), scratch[1])
        self._scratch.append(scratch)

    def _new_scratch(self) -> tuple[np.ndarray, int]:
        memory = np.zeros(self.about["scratch_floats"] + ALIGNMENT // 4, np.float32)
        return memory, math.ceil(_address(memory) / ALIGNMENT) * ALIGNMENT


@torch.no_grad()
def _check_same(network: nn.Module, engine: SparseEngine) -> None:
    pictures = noise_like(torch.empty(1, *engine.picture_shape))
    like = next(network.parameters(), pictures)
    expected = copy.deepcopy(network).eval()(pictures.to(like)).float()
    found = difference(expected, torch.from_numpy(engine(pictures)))
    if not found <= TOLERANCE:
        raise ConfigError(
            f"the compiled network's answers differ from the network's by {found:.1e} of the largest, more than "
            f"{TOLERANCE:.0e}: it does what a trace does not show, such as a hook; run it in another runtime"
        )


def _address(array: np.ndarray) -> int:
    """Of an array's first byte; by way of ctypes where that is possible, as numpy's own way takes a microsecond."""
    if array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    return array.__array_interface__["data"][0]
