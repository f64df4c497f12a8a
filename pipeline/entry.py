"""How every stage starts and ends: arguments in, one clear sentence out when something is wrong."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import PipelineError

PR_SET_PDEATHSIG = 1
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1


def root() -> Path:
    """The project's top folder: DVC runs every stage there."""
    return Path.cwd()


def run(main: Callable[[list[str]], None]) -> None:
    """Run a stage's `main` with the command's arguments; exit 1 with one sentence on a known error.

    Asked for help, show what the stage's file says of itself.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(sys.modules["__main__"].__doc__)
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA is deterministic only with this, set early
    _die_with_parent()
    _keep_freed_memory()
    signal.signal(signal.SIGTERM, _stop)
    try:
        main(sys.argv[1:])
    except PipelineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again to go on after the last finished epoch")
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        sys.exit(f"error: {error.strerror or error}{place}; correct it and run the same command again")


def _die_with_parent() -> None:
    """Ask Linux to end this process when DVC is killed, so that no orphan goes on training."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _keep_freed_memory() -> None:
    """Ask glibc to use freed memory again: fetching pages anew for every tensor costs time in every step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _stop(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def arguments_of(arguments: list[str], *names: str) -> list[str]:
    """Exactly the named arguments.

    Raises:
        PipelineError: too few or too many.
    """
    if len(arguments) != len(names):
        raise PipelineError(f"expected {' '.join(names) or 'no arguments'}, got {' '.join(arguments) or 'nothing'}")
    return arguments
