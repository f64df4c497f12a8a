"""Lossless compaction: a pruned network without the channels that pruning made dead, as an ordinary dense network."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from pipeline.deploy.answers import difference, noise_like
from pipeline.deploy.constants import Channels, channels_of, foldable, taps, widths_of
from pipeline.deploy.graph import Untraceable, module_of, note_shapes, shape_of, traced
from pipeline.deploy.liveness import Cuts, kept_channels
from pipeline.deploy.operations import Kind, kinds_of
from pipeline.errors import ArtifactError

FLOPS_PER_MULTIPLY_ADD = 2
# Largest difference of answers, as a part of the largest answer; in units of the rounding of the network's type.
ROUNDINGS = 1000


@dataclass(frozen=True)
class Compacted:
    """A smaller network with the same answers, and what became of the old one.

    channels: the outputs of each convolution and linear layer before and after (0: the layer is gone);
    FLOPs: of these layers, for one picture, two a multiply-add; left_alone: operations that compaction
    does not know, with all that they read and make; branches: sums that lost a constant term.
    """

    network: nn.Module
    channels: Mapping[str, tuple[int, int]]
    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int
    left_alone: tuple[str, ...]
    branches: tuple[str, ...]

    @property
    def channels_removed(self) -> int:
        return sum(before - after for before, after in self.channels.values())


def compact(network: nn.Module, picture: Tensor) -> Compacted:
    """Remove filters and neurons that have no input or no effect; `picture` (1, C, H, W) is any input.

    The result is a network in eval mode and `channels_last`, whose layers have the old ones' names; the
    network given, which is on the CPU, stays as it is. A constant channel goes where the next layer's bias
    can take its place: where that layer pads nothing, or the constant is 0.

    Raises:
        ArtifactError: no path leads from input to output, so that the network is constant, or the picture
            does not fit it.
        Untraceable: the network cannot be traced.
    """
    old, module = traced(network, picture), traced(network, picture)
    kinds = kinds_of(module)
    channels = channels_of(kinds)
    _check_output(next(node for node, kind in kinds.items() if kind is Kind.OUTPUT), channels)
    kept, cuts = kept_channels(kinds, channels)
    unknown = [node for node in kept if kinds[node] is Kind.OTHER and node.op != "get_attr"]
    left_alone = tuple(dict.fromkeys(_title(node) for node in unknown))
    branches = tuple(str(node.name) for node in cuts if node in kept)
    for node, stays in kept.items():
        _shrink(node, kinds[node], channels, kept, stays)
    _cut(cuts, channels, kept)
    _clean(module, picture)
    _check_same(network, module, picture)
    return Compacted(
        module, _outputs(old, module), _parameters(old), _parameters(module), _flops(old), _flops(module),
        left_alone, branches,
    )  # fmt: skip


class Constant(ArtifactError):
    """A network that answers the same to every picture."""


def _check_output(output: fx.Node, channels: Mapping[fx.Node, Channels]) -> None:
    if not shape_of(output):
        raise ArtifactError("the network must return one tensor; return the logits alone")
    if not channels[output].depends.any():
        raise Constant("the network is constant: its mask leaves no path from input to output; prune less")


def _title(node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(module_of(node)).__name__})"
    return f"{node.name} ({node.target if isinstance(node.target, str) else getattr(node.target, '__name__', '')})"


def _shrink(node: fx.Node, kind: Kind, channels: Mapping[fx.Node, Channels], kept: Mapping, stays: Tensor) -> None:
    """Give an operation the channels that stay, of what it makes and of what it reads."""
    module = node.graph.owning_module
    if kind is Kind.LAYER:
        (source,) = node.all_input_nodes
        folded = foldable(node, channels[source]) & ~kept[source]
        layer = _smaller_layer(module_of(node), stays, kept[source], channels[source].value.where(folded, 0.0))
        module.set_submodule(node.target, layer)
    elif kind is Kind.NORM:
        module.set_submodule(node.target, _smaller_norm(module_of(node), stays))
    elif kind is Kind.CHANNEL_PAD:
        before, after = widths_of(node)
        widths = (int(stays[:before].sum()), int(stays[len(stays) - after :].sum()))
        node.args = (node.args[0], (*node.args[1][:-2], *widths), *node.args[2:])


def _smaller_layer(layer: nn.Module, rows: Tensor, columns: Tensor, folded: Tensor) -> nn.Module:
    """A convolution or linear layer of the given rows and columns; `folded`: constants of other columns, fp64."""
    added = (taps(layer).sum(2) @ folded)[rows]
    biased = layer.bias is not None or bool(added.any())
    sizes, weight = (int(columns.sum()), int(rows.sum())), layer.weight[rows][:, columns]
    if isinstance(layer, nn.Linear):
        new = nn.utils.skip_init(nn.Linear, *sizes, bias=biased, dtype=weight.dtype)
    else:
        new = nn.utils.skip_init(
            type(layer), *sizes, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=biased,
            padding_mode=layer.padding_mode, dtype=weight.dtype,
        )  # fmt: skip
    state = {"weight": weight}
    if biased:
        old = 0.0 if layer.bias is None else layer.bias[rows].double()
        state["bias"] = (old + added).to(weight.dtype)
    new.load_state_dict(state)
    return new.eval().requires_grad_(False)


def _smaller_norm(norm: nn.Module, stays: Tensor) -> nn.Module:
    new = type(norm)(int(stays.sum()), norm.eps, norm.momentum, norm.affine, dtype=norm.running_mean.dtype)
    state = {name: value[stays] if value.dim() else value for name, value in norm.state_dict().items()}
    new.load_state_dict(state)
    return new.eval().requires_grad_(False)


def _cut(cuts: Cuts, channels: Mapping[fx.Node, Channels], kept: Mapping[fx.Node, Tensor]) -> None:
    """Replace the constant terms of sums by their values."""
    for node, term in cuts.items():
        if node not in kept:
            continue
        (rest,) = (source for source in node.all_input_nodes if source is not term)
        values = channels[term].value[kept[node]].to(node.meta["tensor_meta"].dtype)
        if values.any():
            module, name = node.graph.owning_module, f"{node.name}_constant"
            module.register_buffer(name, values.reshape(1, -1, *[1] * (len(shape_of(node)) - 2)))
            with node.graph.inserting_before(node):
                node.args = (rest, node.graph.get_attr(name))
        else:
            node.replace_all_uses_with(rest)


def _clean(module: fx.GraphModule, picture: Tensor) -> None:
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    module.eval().to(memory_format=torch.channels_last)
    note_shapes(module, picture)


@torch.no_grad()
def _check_same(network: nn.Module, module: fx.GraphModule, picture: Tensor) -> None:
    """The last defence, should a forward pass do what its trace does not show."""
    pictures = noise_like(picture)
    found = difference(copy.deepcopy(network).eval()(pictures), module(pictures))
    allowed = ROUNDINGS * torch.finfo(picture.dtype).eps
    if not found <= allowed:
        raise Untraceable(
            f"compaction would change the network's answers by {found:.1e} of the largest, more than {allowed:.1e}; "
            "its forward pass does what a trace does not show, such as changing a tensor in place"
        )


def _layers(module: fx.GraphModule) -> list[tuple[str, nn.Module, fx.Node]]:
    """Each call of a convolution or linear layer: its name, the layer and the node."""
    calls = [(str(node.target), module_of(node), node) for node in module.graph.nodes if node.op == "call_module"]
    return [call for call in calls if isinstance(call[1], nn.modules.conv._ConvNd | nn.Linear)]


def _outputs(old: fx.GraphModule, new: fx.GraphModule) -> dict[str, tuple[int, int]]:
    after = {name: _units(layer) for name, layer, _ in _layers(new)}
    return {name: (_units(layer), after.get(name, 0)) for name, layer, _ in _layers(old)}


def _units(layer: nn.Module) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _flops(module: fx.GraphModule) -> int:
    """Weights times positions: all but the units of an output, for one picture; of each call of a layer."""
    total = 0
    for _, layer, node in _layers(module):
        values = torch.Size(shape_of(node)[1:]).numel()
        total += FLOPS_PER_MULTIPLY_ADD * layer.weight.numel() * (values // _units(layer))
    return total


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
