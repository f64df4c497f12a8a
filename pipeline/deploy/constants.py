"""Which channels of a pruned network are constant, whatever the input, and which values they have."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pipeline.deploy.graph import module_of, shape_of
from pipeline.deploy.operations import Kind


@dataclass(frozen=True)
class Channels:
    """What is known of a tensor's channels (C,).

    depends: bool, a path of weights other than zero leads from the input to the channel; value: fp64, the
    channel's value at all positions, NaN where it has none.
    """

    depends: Tensor
    value: Tensor

    @property
    def known(self) -> Tensor:
        """bool (C,): the channel is one constant."""
        return ~self.value.isnan()


def channels_of(kinds: Mapping[fx.Node, Kind]) -> dict[fx.Node, Channels]:
    """What is known of the output channels of each operation, given in the order of their running."""
    found: dict[fx.Node, Channels] = {}
    for node, kind in kinds.items():
        found[node] = _channels(node, kind, [found[source] for source in node.all_input_nodes])
    return found


def foldable(node: fx.Node, source: Channels) -> Tensor:
    """Which inputs of a convolution or linear layer do no more than a bias would, bool (C,).

    A constant that is not 0 has other neighbours at a border that is padded.
    """
    return source.value == 0 if pads(module_of(node)) else source.known


def pads(layer: nn.Module) -> bool:
    """Whether a convolution or linear layer puts anything around its input."""
    padding = getattr(layer, "padding", 0)
    return padding != "valid" if isinstance(padding, str) else any(padding) if padding else False


def taps(layer: nn.Module) -> Tensor:
    """The weights of a layer in fp64, (outputs, inputs, positions)."""
    return layer.weight.detach().double()[..., None].flatten(2)


def _channels(node: fx.Node, kind: Kind, sources: list[Channels]) -> Channels:
    count = (shape_of(node) + (1, 1))[1]
    if kind is Kind.LAYER:
        return _of_layer(node, *sources)
    if kind is Kind.NORM:
        return _of_norm(module_of(node), *sources)
    if kind is Kind.POINTWISE:
        return Channels(sources[0].depends, _through(node, sources[0].value))
    if kind is Kind.SPATIAL:
        return sources[0]
    if kind is Kind.PADDED:
        return Channels(sources[0].depends, sources[0].value.where(sources[0].value == 0, torch.nan))
    if kind is Kind.FLATTEN:
        times = count // len(sources[0].value)
        return Channels(*(part.repeat_interleave(times) for part in (sources[0].depends, sources[0].value)))
    if kind is Kind.CHANNEL_PAD:
        before, after = widths_of(node)
        return Channels(*(_padded(part, before, after) for part in (sources[0].depends, sources[0].value)))
    if kind is Kind.ADD:
        return Channels(sources[0].depends | sources[1].depends, sources[0].value + sources[1].value)
    depends = kind is Kind.INPUT or any(bool(source.depends.any()) for source in sources)
    return Channels(torch.full((count,), depends), torch.full((count,), torch.nan, dtype=torch.float64))


def widths_of(node: fx.Node) -> tuple[int, int]:
    """How many channels of zeros a channel padding puts before and after."""
    before, after = node.args[1][-2:]
    return before, after


def _padded(part: Tensor, before: int, after: int) -> Tensor:
    return torch.cat([part.new_zeros(before), part, part.new_zeros(after)])


def _of_layer(node: fx.Node, source: Channels) -> Channels:
    layer = module_of(node)
    weights, fold = taps(layer), foldable(node, source)
    used = (weights != 0).any(2)
    values = source.value.where(fold, 0.0)
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    constant = ~(used & ~fold).any(1)
    value = (weights.sum(2) @ values + bias).where(constant, torch.nan)
    return Channels((used & source.depends & ~fold).any(1), _finite(value))


def _of_norm(norm: nn.Module, source: Channels) -> Channels:
    scale, shift = scale_and_shift(norm)
    value = (source.value * scale + shift).where(scale != 0, shift)
    return Channels(source.depends & (scale != 0), _finite(value))


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch norm in eval mode multiplies with and adds, fp64 (C,)."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is None:
        return scale, -mean * scale
    scale = scale * norm.weight.detach().double()
    return scale, norm.bias.detach().double() - mean * scale


def _through(node: fx.Node, value: Tensor) -> Tensor:
    """The constants after a pointwise operation, which is run on them."""
    known, filled = ~value.isnan(), value.nan_to_num()[None]
    if node.op == "call_module":
        result = module_of(node)(filled)
    elif node.op == "call_method":
        result = getattr(filled, node.target)(*node.args[1:], **node.kwargs)
    else:
        result = node.target(filled, *node.args[1:], **node.kwargs)
    return _finite(result[0].where(known, torch.nan))


def _finite(value: Tensor) -> Tensor:
    """Infinite values count as not known."""
    return value.where(value.isfinite(), torch.nan)
