"""Parameters, survivors, compression ratios and FLOPs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

FLOPS_PER_MULTIPLY_ADD = 2


def layer_counts(weights: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """Weights and survivors of each prunable tensor; a survivor is a stored nonzero."""
    return {
        name: {"weights": weight.numel(), "survivors": int(torch.count_nonzero(weight))}
        for name, weight in weights.items()
    }


# Edges of the classes of |W|, a quarter of a power of ten apart.
EDGES = tuple(10 ** (exponent / 4) for exponent in range(-24, 5))


def magnitudes(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, list[float]]:
    """How many nonzero weights of each network lie between two neighbouring edges of |W|; the last class is open.

    Zeros and what is below the first edge are left out.
    """
    edges = torch.tensor(EDGES)
    found: dict[str, list[float]] = {"edges": list(EDGES)}
    for name, weights in networks.items():
        flat = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
        places = torch.bucketize(flat[flat >= edges[0]], edges, right=True) - 1
        found[name] = torch.bincount(places.clamp(max=len(EDGES) - 2), minlength=len(EDGES) - 1).tolist()
    return found


def counts(network: nn.Module, weights: Mapping[str, Tensor], picture: Tensor) -> dict[str, Any]:
    """Counts of a pruned network; `picture` (1, C, H, W) is an input, `weights` its prunable tensors.

    The ratio over all parameters counts biases and norms as surviving.
    """
    layers = layer_counts(weights)
    prunable = sum(layer["weights"] for layer in layers.values())
    surviving = sum(layer["survivors"] for layer in layers.values())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    positions = _positions(network, picture)
    return {
        "prunable_weights": prunable,
        "surviving_weights": surviving,
        "compression_ratio": prunable / max(surviving, 1),
        "parameters": parameters,
        "surviving_parameters": parameters - prunable + surviving,
        "compression_ratio_all_parameters": parameters / (parameters - prunable + surviving),
        "flops_dense": sum(_flops(layers[name]["weights"], positions[name]) for name in layers),
        "flops_sparse": sum(_flops(layers[name]["survivors"], positions[name]) for name in layers),
    }


def _flops(weights: int, positions: int) -> int:
    return FLOPS_PER_MULTIPLY_ADD * weights * positions


@torch.no_grad()
def _positions(network: nn.Module, picture: Tensor) -> dict[str, int]:
    """How often each convolution's or linear layer's weights are used for one picture."""
    found: dict[str, int] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):

            def note(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> None:
                units = output.shape[1] if isinstance(module, nn.modules.conv._ConvNd) else output.shape[-1]
                found[f"{name}.weight"] = output.numel() // units

            handles.append(module.register_forward_hook(note))
    network.eval()
    network(picture)
    for handle in handles:
        handle.remove()
    return found
