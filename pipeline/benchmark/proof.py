"""Proof, on all pictures of a test set, that a network made for deployment answers as the pruned one does."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError


@torch.inference_mode()
def proof(
    pruned: nn.Module, compacted: nn.Module, engine: Callable[[Tensor], Any] | None, batches: Iterable[Tensor]
) -> dict[str, float | int | None]:
    """Compare networks on batches of pictures (N, C, H, W); both are copied, and run in eval mode.

    A difference is max|difference| / max|logit of the pruned network|, over all pictures:

    * `fp64_difference`, `fp32_difference`: compacted against pruned, with both in that precision; what remains in
      fp64 is that a network compacted in fp32 holds the constants it folded into biases in fp32;
    * `fp32_changed`: pictures of another class in fp32, and `fp32_changed_beyond_difference`: those of them where
      the pruned network's two best logits are further apart than any logit of the picture moved;
    * `engine_difference`: the engine against the pruned network in fp32; None without an engine.

    Raises:
        ConfigError: there are no pictures.
    """
    exact, single, compiled = _Difference(), _Difference(), _Difference()
    wide, narrow = (_both(pruned, compacted, kind) for kind in (torch.float64, torch.float32))
    pictures_seen = changed = beyond = 0
    for pictures in batches:
        exact.add(*(network(pictures.double()) for network in wide))
        expected, found = (network(pictures.float()) for network in narrow)
        single.add(expected, found)
        if engine is not None:
            compiled.add(expected, torch.as_tensor(engine(pictures)))
        other, far = _changed(expected, found)
        pictures_seen, changed, beyond = pictures_seen + len(pictures), changed + other, beyond + far
    if not pictures_seen:
        raise ConfigError("batches must have at least one picture, got none")
    return {
        "pictures": pictures_seen,
        "fp64_difference": exact.relative(),
        "fp32_difference": single.relative(),
        "fp32_changed": changed,
        "fp32_changed_beyond_difference": beyond,
        "engine_difference": None if engine is None else compiled.relative(),
    }


class _Difference:
    """The largest difference and the largest answer so far; what is not finite stays so."""

    def __init__(self) -> None:
        self.difference = self.largest = torch.zeros((), dtype=torch.float64)

    def add(self, expected: Tensor, found: Tensor) -> None:
        if len(expected):
            self.difference = torch.maximum(self.difference, (expected.double() - found.double()).abs().max())
            self.largest = torch.maximum(self.largest, expected.double().abs().max())

    def relative(self) -> float:
        return float(self.difference / self.largest.clamp_min(torch.finfo(torch.float64).tiny))


def _both(pruned: nn.Module, compacted: nn.Module, kind: torch.dtype) -> tuple[nn.Module, nn.Module]:
    one, other = (copy.deepcopy(network).to(kind).eval() for network in (pruned, compacted))
    return one, other


def _changed(expected: Tensor, found: Tensor) -> tuple[int, int]:
    """Pictures of another class, and those of them whose two best logits are further apart than any logit moved."""
    other = expected.argmax(1) != found.argmax(1)
    best = expected.topk(min(2, expected.shape[1]), 1).values
    far = best[:, 0] - best[:, -1] > (expected - found).abs().amax(1)
    return int(other.sum()), int((other & far).sum())
