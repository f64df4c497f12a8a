"""A network as a short list of sparse convolutions and max poolings.

Nearly everything between pictures and logits is a convolution with few nonzeros, and is written as one:
a linear layer has a kernel as large as its input, an average has equal weights, batch norm, ReLU and
addition are 1x1 convolutions with a diagonal, slicing and padding of channels are diagonals that are moved.
Those diagonals are then folded into the convolution before them (`pipeline.sparse_engine.folding`).
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from pipeline.deploy.graph import Untraceable, traced
from pipeline.errors import ConfigError
from pipeline.sparse_engine.operations import Convolution, Lowered, MaxPool, Nonzeros, Operation, Pair, Shape, diagonal


def lower(network: nn.Module, picture_shape: Shape) -> Lowered:
    """The network in eval mode for pictures of (C, H, W), one operation for each step, nothing folded yet.

    Raises:
        ConfigError: the network cannot be traced, or has an operation that is not known here; it is named.
        ArtifactError: its weights are not finite, or the pictures do not fit it.
    """
    like = next((value for value in network.parameters()), torch.zeros(()))
    try:
        module = traced(network, torch.zeros(1, *picture_shape, dtype=like.dtype))
    except Untraceable as error:
        raise ConfigError(f"{error}; run this network in another runtime") from error
    lowering = _Lowering(dict(module.named_modules()), picture_shape)
    with torch.no_grad():
        for node in module.graph.nodes:
            lowering.add(node)
    return lowering.result()


def known(condition: bool, what: str, value: Any) -> None:
    """Raise ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(f"{what} cannot be compiled, got {value}; run this network in another runtime")


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)


def _numbers(tensor: torch.Tensor | None, size: int) -> np.ndarray:
    """As float64; zeros where there is no tensor."""
    return np.zeros(size) if tensor is None else tensor.detach().cpu().double().numpy()


def _kernel_nonzeros(weight: np.ndarray, groups: int, dilation: Pair) -> Nonzeros:
    """Of a dense kernel (outputs, inputs / groups, rows, columns), in the order of its memory."""
    outputs, inputs, rows, columns = np.nonzero(weight)
    group = outputs // (len(weight) // groups)
    shifted = inputs + group * weight.shape[1]
    return Nonzeros(outputs, shifted, rows * dilation[0], columns * dilation[1], weight[np.nonzero(weight)])


@dataclass(frozen=True)
class _Value:
    """A node's result: a tensor, perhaps seen as a vector."""

    tensor: int
    flat: bool = False


class _Lowering:
    """Tensors and operations so far."""

    def __init__(self, modules: dict[str, nn.Module], picture: Shape) -> None:
        self.modules = modules
        self.shapes: list[Shape] = [picture]
        self.operations: list[Operation] = []
        self.values: dict[fx.Node, _Value] = {}
        self.output: _Value | None = None

    def add(self, node: fx.Node) -> None:
        """Lower one node of the graph."""
        if node.op == "placeholder":
            known(not self.values, "a network with several inputs", node.name)
            self.values[node] = _Value(0)
            return
        if node.op == "output":
            known(isinstance(node.args[0], fx.Node), "a network with several outputs", node.args[0])
            self.output = self.values[node.args[0]]
            return
        handler, first, name = self._handler(node)
        given_first = node.args and isinstance(node.args[0], fx.Node)
        known(
            handler is not None and given_first and all(source in self.values for source in node.all_input_nodes),
            name,
            node.format_node(),
        )
        arguments = [self.values[given] if isinstance(given, fx.Node) else given for given in node.args]
        try:
            self.values[node] = handler(self, arguments[0], *first, *arguments[1:], **node.kwargs)
        except TypeError as error:
            raise ConfigError(f"{name} cannot be compiled with these arguments, got {node.format_node()}") from error

    def _handler(self, node: fx.Node) -> tuple[Callable[..., _Value] | None, list[nn.Module], str]:
        """What lowers a node (None: nothing does), what it is given after the first argument, and its name."""
        if node.op == "call_module":
            module = self.modules[node.target]
            name = f"the module {node.target} of type {type(module).__name__}"
            return MODULES.get(type(module)), [module], name
        if node.op == "get_attr":  # its target may be called like a function
            return None, [], f"the tensor {node.target} of the network's own"
        return FUNCTIONS.get(node.target), [], f"the operation {getattr(node.target, '__name__', node.target)}"

    def result(self) -> Lowered:
        shape = self.shapes[self.output.tensor]
        wanted = (math.prod(shape),) if self.output.flat else shape
        return Lowered(tuple(self.shapes), tuple(self.operations), self.output.tensor, wanted)

    def convolve(
        self, value: _Value, nonzeros: Nonzeros, bias: np.ndarray, flat: bool = False, **options: Any
    ) -> _Value:
        """Append a convolution; its result has one channel for each bias."""
        made = Convolution(value.tensor, len(self.shapes), nonzeros, bias, **options)
        return self._append(made, len(bias), flat)

    def pool(self, value: _Value, kernel: Pair, stride: Pair, padding: Pair) -> _Value:
        made = MaxPool(value.tensor, len(self.shapes), kernel, stride, padding)
        return self._append(made, self.shapes[value.tensor][0], flat=False)

    def _append(self, made: Operation, channels: int, flat: bool) -> _Value:
        sizes = zip(self.shapes[made.source][1:], made.kernel, made.stride, made.padding, strict=True)
        height, width = ((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sizes)
        self.operations.append(made)
        self.shapes.append((channels, height, width))
        return _Value(made.target, flat)

    def same(self, value: _Value, *_: Any, **__: Any) -> _Value:
        """Nothing to do in eval mode."""
        return value

    def relu(self, value: _Value, *_: Any, **__: Any) -> _Value:
        channels = self.shapes[value.tensor][0]
        return self.convolve(value, diagonal(channels), np.zeros(channels), value.flat, relu=True)

    def sum(self, value: _Value, other: _Value) -> _Value:
        known(isinstance(other, _Value), "adding a constant", other)
        shapes = self.shapes[value.tensor], self.shapes[other.tensor]
        known(shapes[0] == shapes[1], "adding tensors of different shapes", shapes)
        first, second = sorted((value.tensor, other.tensor))
        channels = shapes[0][0]
        return self.convolve(_Value(second), diagonal(channels), np.zeros(channels), value.flat, addend=first)

    def convolution(self, value: _Value, module: nn.Conv2d) -> _Value:
        known(
            module.padding_mode == "zeros" and not isinstance(module.padding, str),
            "the padding of a convolution",
            module,
        )
        weight = _numbers(module.weight, 0)
        dilation = _pair(module.dilation)
        extent = tuple(step * (size - 1) + 1 for size, step in zip(weight.shape[2:], dilation, strict=True))
        return self.convolve(
            value, _kernel_nonzeros(weight, module.groups, dilation), _numbers(module.bias, len(weight)),
            kernel=extent, stride=_pair(module.stride), padding=_pair(module.padding),
        )  # fmt: skip

    def linear(self, value: _Value, module: nn.Linear) -> _Value:
        """A convolution whose kernel covers all of its input."""
        shape = self.shapes[value.tensor]
        known(value.flat and math.prod(shape) == module.in_features, "a linear layer on pixels", (module, shape))
        weight = _numbers(module.weight, 0).reshape(-1, *shape)
        bias = _numbers(module.bias, len(weight))
        return self.convolve(value, _kernel_nonzeros(weight, 1, (1, 1)), bias, flat=True, kernel=shape[1:])

    def batch_norm(self, value: _Value, module: nn.BatchNorm2d) -> _Value:
        known(module.running_var is not None, "a batch norm without running statistics", module)
        channels = self.shapes[value.tensor][0]
        known(module.num_features == channels, "a batch norm of pixels as features", module)
        deviation = np.sqrt(_numbers(module.running_var, 0) + module.eps)
        scale = (_numbers(module.weight, 0) if module.affine else 1.0) / deviation
        bias = _numbers(module.bias, len(deviation)) - scale * _numbers(module.running_mean, 0)
        return self.convolve(value, diagonal(len(deviation), scale), bias, value.flat)

    def max_pool(self, value: _Value, module: nn.MaxPool2d) -> _Value:
        plain = module.dilation in (1, (1, 1)) and not module.ceil_mode and not module.return_indices
        known(plain, "a max pooling with dilation, ceil_mode or indices", module)
        return self.pool(value, _pair(module.kernel_size), _pair(module.stride), _pair(module.padding))

    def average_pool(self, value: _Value, module: nn.AvgPool2d) -> _Value:
        plain = not module.ceil_mode and not module.divisor_override
        known(plain and (module.count_include_pad or not module.padding), "this average pooling", module)
        return self._average(
            value, _pair(module.kernel_size), stride=_pair(module.stride), padding=_pair(module.padding)
        )

    def adaptive_average_pool(self, value: _Value, module: nn.AdaptiveAvgPool2d) -> _Value:
        known(_pair(module.output_size) == (1, 1), "adaptive pooling to more than one pixel", module)
        return self._average(value, self.shapes[value.tensor][1:])

    def mean(self, value: _Value, dim: Any, keepdim: bool = False) -> _Value:
        known(sorted(axis % 4 for axis in dim) == [2, 3] and not value.flat, "a mean over other axes than (2, 3)", dim)
        return self._average(value, self.shapes[value.tensor][1:], flat=not keepdim)

    def _average(self, value: _Value, kernel: Pair, **options: Any) -> _Value:
        channels, size = self.shapes[value.tensor][0], math.prod(kernel)
        every = np.repeat(np.arange(channels), size)
        rows, columns = (np.tile(index.ravel(), channels) for index in np.indices(kernel))
        weights = Nonzeros(every, every, rows, columns, np.full(channels * size, 1 / size))
        return self.convolve(value, weights, np.zeros(channels), kernel=kernel, **options)

    def flatten(self, value: _Value, start_dim: int = 0, end_dim: int = -1) -> _Value:
        known(start_dim == 1 and end_dim == -1, "flatten other than flatten(1)", (start_dim, end_dim))
        return _Value(value.tensor, flat=True)

    def flatten_module(self, value: _Value, module: nn.Flatten) -> _Value:
        return self.flatten(value, module.start_dim, module.end_dim)

    def pad(self, given: _Value, /, pad: Any, mode: str = "constant", value: float | None = None) -> _Value:
        """Zero channels before and after."""
        plain = mode == "constant" and not value and len(pad) == 6 and not any(pad[:4]) and min(pad[4:]) >= 0
        known(plain and not given.flat, "padding other than zero channels", pad)
        channels = self.shapes[given.tensor][0]
        moved = replace(diagonal(channels), outputs=np.arange(channels) + pad[4])
        return self.convolve(given, moved, np.zeros(pad[4] + channels + pad[5]))

    def take(self, value: _Value, index: Any) -> _Value:
        """Every n-th pixel."""
        index = index if isinstance(index, tuple) else (index,)
        slices = all(isinstance(part, slice) and not part.start and part.stop is None for part in index)
        known(slices and not value.flat, "indexing other than [:, :, ::n, ::n]", index)
        steps = [part.step or 1 for part in index] + [1] * (4 - len(index))
        known(steps[:2] == [1, 1], "indexing other than [:, :, ::n, ::n]", index)
        channels = self.shapes[value.tensor][0]
        return self.convolve(value, diagonal(channels), np.zeros(channels), stride=(steps[2], steps[3]))


MODULES: dict[type[nn.Module], Callable[..., _Value]] = {
    nn.Conv2d: _Lowering.convolution, nn.Linear: _Lowering.linear, nn.BatchNorm2d: _Lowering.batch_norm,
    nn.BatchNorm1d: _Lowering.batch_norm, nn.ReLU: _Lowering.relu, nn.MaxPool2d: _Lowering.max_pool,
    nn.AvgPool2d: _Lowering.average_pool, nn.AdaptiveAvgPool2d: _Lowering.adaptive_average_pool,
    nn.Flatten: _Lowering.flatten_module, nn.Identity: _Lowering.same, nn.Dropout: _Lowering.same,
}  # fmt: skip
FUNCTIONS: dict[Any, Callable[..., _Value]] = {
    F.relu: _Lowering.relu, torch.relu: _Lowering.relu, "relu": _Lowering.relu, "relu_": _Lowering.relu,
    operator.add: _Lowering.sum, operator.iadd: _Lowering.sum, torch.add: _Lowering.sum, "add": _Lowering.sum,
    torch.flatten: _Lowering.flatten, "flatten": _Lowering.flatten, torch.mean: _Lowering.mean, "mean": _Lowering.mean,
    F.pad: _Lowering.pad, operator.getitem: _Lowering.take,
}  # fmt: skip
