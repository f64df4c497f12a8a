"""What may be pruned, and masks: bool tensors, True = keep."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import ArtifactError

Tensors = dict[str, Tensor]


def prunable_weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers by name; never biases nor norms."""
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
    }


def survivors_asked(weights: int, ratio: float) -> int:
    """k = floor(N / r): how many of N weights a compression ratio r leaves."""
    return math.floor(weights / ratio)


def count_nonzeros(tensors: Mapping[str, Tensor]) -> int:
    return sum(int(torch.count_nonzero(tensor)) for tensor in tensors.values())


def largest(tensors: Mapping[str, Tensor], k: int) -> Tensors:
    """Masks of the k largest |values| of all tensors together; ties go to the lower index.

    Exactly k are kept, or all nonzeros where there are fewer: a zero is never kept.
    """
    magnitudes = torch.cat([tensor.detach().abs().flatten() for tensor in tensors.values()])
    order = torch.sort(magnitudes, descending=True, stable=True).indices
    keep = torch.zeros_like(magnitudes, dtype=torch.bool)
    keep[order[:k]] = True
    keep &= magnitudes > 0
    pieces = keep.split([tensor.numel() for tensor in tensors.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(tensors.items(), pieces, strict=True)}


def check_masks(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Masks fit weights: the same names and shapes, all bool.

    Raises:
        ArtifactError: names the first tensor that does not fit.
    """
    if set(masks) != set(weights):
        raise ArtifactError(
            f"the masks are of another network: it has {', '.join(weights)}, the masks are for {', '.join(masks)}"
        )
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.shape != weights[name].shape:
            raise ArtifactError(
                f"the mask of {name} must be bool of shape {tuple(weights[name].shape)}, "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )


@torch.no_grad()
def apply_(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set every pruned weight to exactly +0.0 (a product would leave -0.0 or NaN)."""
    for name, weight in weights.items():
        weight.masked_fill_(torch.logical_not(masks[name]), 0.0)
