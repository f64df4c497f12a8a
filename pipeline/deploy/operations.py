"""What compaction knows of each operation: how its channels (dimension 1) depend on those that it reads."""

import operator
from collections import Counter
from collections.abc import Mapping
from enum import Enum, auto
from numbers import Real

import torch
import torch.nn.functional as F
from torch import fx, nn

from pipeline.deploy.graph import module_of, shape_of

CONVOLUTIONS = {nn.Conv1d: 3, nn.Conv2d: 4}  # with the dimensions of their input
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
POINTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.ELU, nn.SELU, nn.Softplus,
)  # fmt: skip
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # in eval mode
POINTWISE_FUNCTIONS = (
    F.relu, F.relu6, F.leaky_relu, F.sigmoid, F.tanh, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.elu,
    F.selu, F.softplus, torch.relu, torch.sigmoid, torch.tanh, torch.add, operator.add, operator.sub, operator.mul,
    operator.truediv, operator.neg,
)  # fmt: skip
POINTWISE_METHODS = ("relu", "sigmoid", "tanh", "add", "sub", "mul", "div")
COPIES = ("contiguous", "clone", "detach")
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d)
ADAPTIVE_POOLS = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
ADAPTIVE_FUNCTIONS = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)
PLACES = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


class Kind(Enum):
    """How an operation's channels come about."""

    INPUT = auto()
    OUTPUT = auto()
    LAYER = auto()  # a convolution or linear layer: each from all of its input
    NORM = auto()  # each from one: a constant becomes another
    POINTWISE = auto()  # each from one, each value from one
    SPATIAL = auto()  # each from one: a constant stays what it is
    PADDED = auto()  # each from one: only the constant 0 stays what it is
    FLATTEN = auto()  # each becomes as many features as it has positions
    CHANNEL_PAD = auto()  # as they are, with channels of zeros before and after
    ADD = auto()  # each from the two of the same place
    OTHER = auto()  # not known: all of its input stays, and all of its output


EACH_FROM_ONE = (Kind.NORM, Kind.POINTWISE, Kind.SPATIAL, Kind.PADDED)


def kinds_of(module: fx.GraphModule) -> dict[fx.Node, Kind]:
    """The kind of each operation of a graph whose shapes are noted, in order."""
    uses = _parameter_uses(module)
    return {node: _kind(node, uses) for node in module.graph.nodes}


def _parameter_uses(module: fx.GraphModule) -> Mapping[int, int]:
    """How many operations use a parameter or buffer, by its identity: one that is shared cannot shrink."""
    uses: Counter[int] = Counter()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            uses[id(operator.attrgetter(node.target)(module))] += 1
        elif node.op == "call_module":
            uses.update({id(value) for value in [*module_of(node).parameters(), *module_of(node).buffers()]})
    return uses


def _kind(node: fx.Node, uses: Mapping[int, int]) -> Kind:
    if node.op in ("placeholder", "output"):
        return Kind.INPUT if node.op == "placeholder" else Kind.OUTPUT
    sources = node.all_input_nodes
    if node.op == "get_attr" or len(shape_of(node)) < 2 or any(len(shape_of(source)) < 2 for source in sources):
        return Kind.OTHER
    if node.op == "call_module":
        return _kind_of_module(node, uses) if len(sources) == 1 == len(node.args) + len(node.kwargs) else Kind.OTHER
    if len(sources) == 2:
        return Kind.ADD if _is_sum(node) else Kind.OTHER
    return _kind_of_function(node) if node.args and node.args[:1] == tuple(sources) else Kind.OTHER


def _kind_of_module(node: fx.Node, uses: Mapping[int, int]) -> Kind:
    module, dimensions = module_of(node), len(shape_of(node.all_input_nodes[0]))
    kind, alone = type(module), all(uses[id(value)] == 1 for value in [*module.parameters(), *module.buffers()])
    if not alone or module._forward_hooks or module._forward_pre_hooks:
        return Kind.OTHER
    if kind in CONVOLUTIONS:
        return Kind.LAYER if module.groups == 1 and dimensions == CONVOLUTIONS[kind] else Kind.OTHER
    if kind is nn.Linear:
        return Kind.LAYER if dimensions == 2 else Kind.OTHER
    if kind in NORMS:
        return Kind.NORM if module.running_mean is not None else Kind.OTHER
    if kind in POINTWISE_MODULES:
        return Kind.POINTWISE
    if kind is nn.Flatten:
        return Kind.FLATTEN if (module.start_dim, module.end_dim) == (1, -1) else Kind.OTHER
    if kind is nn.ZeroPad2d:
        return Kind.PADDED
    return Kind.SPATIAL if kind in IDENTITIES else _kind_of_pool(module, kind)


def _kind_of_pool(module: nn.Module, kind: type) -> Kind:
    if kind in ADAPTIVE_POOLS:
        return Kind.OTHER if getattr(module, "return_indices", False) else Kind.SPATIAL
    if kind in MAX_POOLS:
        return _max_pool(module.padding, module.dilation, module.return_indices)
    if kind in AVERAGE_POOLS:
        plain = not _any(module.padding) and not module.ceil_mode and getattr(module, "divisor_override", None) is None
        return Kind.SPATIAL if plain else Kind.PADDED
    return Kind.OTHER


def _max_pool(padding: object, dilation: object, indices: object) -> Kind:
    """Padding is minus infinity, and each window has a real value in it unless it is dilated."""
    if indices is True or (_any(padding) and dilation not in (1, (1,), (1, 1), (1, 1, 1), [1, 1])):
        return Kind.OTHER
    return Kind.SPATIAL


def _any(padding: object) -> bool:
    return any(padding) if isinstance(padding, tuple | list) else bool(padding)


def _is_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors of the same shape."""
    adds = node.target in (operator.add, torch.add, "add") and len(node.args) == 2 and not node.kwargs
    return adds and len({shape_of(source) for source in [node, *node.args]}) == 1


def _kind_of_function(node: fx.Node) -> Kind:
    """The kind of a function or method whose one tensor comes first."""
    target = node.target
    named = dict(zip(PLACES, node.args[1:], strict=False)) | node.kwargs
    if target in POINTWISE_METHODS or target in POINTWISE_FUNCTIONS:
        numbers = all(isinstance(value, Real) for value in node.args[1:])
        numbers &= not any(isinstance(value, fx.Node) for value in node.kwargs.values())
        return Kind.POINTWISE if numbers and shape_of(node) == shape_of(node.args[0]) else Kind.OTHER
    if target is F.dropout:
        return Kind.SPATIAL if node.kwargs.get("training") is False else Kind.OTHER
    if target is F.max_pool2d:
        return _max_pool(named.get("padding", 0), named.get("dilation", 1), named.get("return_indices"))
    if target is F.avg_pool2d:
        return Kind.SPATIAL if set(named) <= {"kernel_size", "stride"} else Kind.PADDED
    if target in ADAPTIVE_FUNCTIONS or target in COPIES:
        return Kind.SPATIAL
    rules = {torch.mean: _mean, "mean": _mean, torch.flatten: _flatten, "flatten": _flatten}
    rules |= {operator.getitem: _part, F.pad: _pad}
    return rules[target](node) if target in rules else Kind.OTHER


def _mean(node: fx.Node) -> Kind:
    """Over dimensions from the third on."""
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims = (dims,) if isinstance(dims, int) else dims
    if not isinstance(dims, tuple | list) or not dims or "dtype" in node.kwargs:
        return Kind.OTHER
    rank = len(shape_of(node.args[0]))
    return Kind.SPATIAL if all(dim % rank >= 2 for dim in dims) else Kind.OTHER


def _flatten(node: fx.Node) -> Kind:
    first = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
    last = node.kwargs.get("end_dim", node.args[2] if len(node.args) > 2 else -1)
    return Kind.FLATTEN if (first, last) == (1, -1) else Kind.OTHER


def _part(node: fx.Node) -> Kind:
    """Every so many pixels, but all of batch and channels."""
    index = node.args[1]
    slices = isinstance(index, tuple) and all(isinstance(part, slice) for part in index)
    return Kind.SPATIAL if slices and index[:2] == (slice(None), slice(None)) else Kind.OTHER


def _pad(node: fx.Node) -> Kind:
    """Zeros around each channel, or channels of zeros before and after."""
    named = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | node.kwargs
    widths, rank = named.get("pad"), len(shape_of(node.args[0]))
    if named.get("mode", "constant") != "constant" or named.get("value") not in (None, 0):
        return Kind.OTHER
    if not isinstance(widths, tuple | list) or not all(isinstance(width, int) for width in widths):
        return Kind.OTHER
    if len(widths) <= 2 * (rank - 2):
        return Kind.PADDED
    around, channels = widths[: 2 * (rank - 2)], widths[2 * (rank - 2) :]
    plain = len(channels) == 2 and min(channels) >= 0 and not any(around) and "pad" not in node.kwargs
    return Kind.CHANNEL_PAD if plain else Kind.OTHER
