"""How far two networks' answers are apart, and the pictures to ask where there are none at hand."""

import torch
from torch import Tensor

CHECKED_PICTURES = 4
# Largest difference of a runtime from PyTorch, as a part of the largest answer.
TOLERANCE = 1e-4


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest difference of answers, as a part of the largest one expected; NaN where one is not a number."""
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((expected - found).abs().max() / largest)


def noise_like(picture: Tensor, count: int = CHECKED_PICTURES) -> Tensor:
    """So many pictures of normal noise, of the type and shape of `picture` (1, C, H, W); always the same ones."""
    return torch.randn(count, *picture.shape[1:], generator=torch.Generator().manual_seed(0)).to(picture.dtype)
