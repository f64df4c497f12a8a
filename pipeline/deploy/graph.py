"""A network as a graph of operations that change nothing in place, with the shape of every value."""

import copy
import operator
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from pipeline.errors import ArtifactError

# In-place operations that have a twin which makes a new tensor.
TWINS = {operator.iadd: operator.add, operator.imul: operator.mul, torch.relu_: torch.relu, F.relu_: F.relu}
# Their result never shares memory with what they read.
FRESH = (
    nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
)  # fmt: skip
FRESH_FUNCTIONS = (operator.add, operator.mul, torch.add, torch.cat, torch.mean, torch.relu, F.relu, "mean")


class Untraceable(ArtifactError):
    """A network whose forward pass does what a graph of it does not show."""


def traced(network: nn.Module, picture: Tensor) -> fx.GraphModule:
    """The graph of a copy of the network in eval mode; `picture` (1, C, H, W) is an input.

    Raises:
        ArtifactError: values that are not finite.
        Untraceable: a forward pass that cannot be traced or does not take this one input, or one that changes
            in place what other operations read.
    """
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if not value.isfinite().all():
            raise ArtifactError(f"{name} has values that are not finite; train the network again")
    network = copy.deepcopy(network).eval().requires_grad_(False)
    try:
        module = fx.symbolic_trace(network)
    except Exception as error:  # the code of a user's network may raise any
        raise Untraceable(
            f"the network cannot be traced ({_reason(error)}); its forward pass must not branch on values"
        ) from error
    inputs = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise Untraceable(f"the network must take one input, got {', '.join(inputs) or 'none'}")
    _without_changes_in_place(module)
    _with_plain_flattening(module, picture)
    return module


def note_shapes(module: fx.GraphModule, picture: Tensor) -> None:
    """Run the graph once, and note the shape of every tensor in its node.

    Raises:
        ArtifactError: the picture does not fit the network.
    """
    try:
        with torch.no_grad():
            ShapeProp(module).propagate(picture)
    except Exception as error:  # what an operation raises is its own affair
        raise ArtifactError(
            f"a picture of shape {tuple(picture.shape)} and {picture.dtype} does not fit the network ({_reason(error)})"
        ) from error


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor; empty for anything else."""
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else ()


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that a node calls."""
    return node.graph.owning_module.get_submodule(node.target) if node.op == "call_module" else None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _without_changes_in_place(module: fx.GraphModule) -> None:
    """What reads a tensor after its change reads the changed one; then nothing needs to be in place."""
    nodes = list(module.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    roots: dict[fx.Node, frozenset[fx.Node]] = {}
    for node in nodes:
        shared = [roots[source] for source in node.all_input_nodes]
        roots[node] = frozenset([node]) if _is_fresh(node) or not shared else frozenset().union(*shared)
    for node in [node for node in nodes if _is_in_place(node)]:  # listed first: modules are shared, and changed below
        _read_after(node, [later for later in nodes if place[later] > place[node]], roots, place)
        _make_new(node)
    module.recompile()


def _is_fresh(node: fx.Node) -> bool:
    if _is_in_place(node):
        return False
    return isinstance(module_of(node), FRESH) or node.target in FRESH_FUNCTIONS


def _is_in_place(node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(module_of(node), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    ends = name.endswith("_") and not name.endswith("__") and getattr(node.target, "__module__", "") != "_operator"
    return node.target in TWINS or ends or node.kwargs.get("inplace") is True or name == "setitem"


def _read_after(node: fx.Node, later: list[fx.Node], roots: Mapping, place: Mapping[fx.Node, int]) -> None:
    """Let later operations read the result of `node` in place of the tensor that it changed."""
    source = node.all_input_nodes[0]
    for user in later:
        for read in user.all_input_nodes:
            if read is source:
                user.replace_input_with(source, node)
            elif read is not node and place[read] < place[node] and roots[read] & roots[source]:
                raise Untraceable(
                    f"{node.name} changes in place what {user.name} reads by way of {read.name}; "
                    "write it without the change in place"
                )


def _make_new(node: fx.Node) -> None:
    """Replace an in-place operation by its twin."""
    name = node.target if isinstance(node.target, str) else ""
    if node.op == "call_module":
        module_of(node).inplace = False
    elif node.target in TWINS:
        node.target = TWINS[node.target]
    elif node.kwargs.get("inplace") is True:
        node.kwargs = {**node.kwargs, "inplace": False}
    elif node.op == "call_method" and hasattr(Tensor, name.removesuffix("_")):
        node.target = name.removesuffix("_")
    else:
        raise Untraceable(f"{node.name} changes a tensor in place in a way that is not known; write it without")


def _with_plain_flattening(module: fx.GraphModule, picture: Tensor) -> None:
    """Write `x.view(x.size(0), -1)` and its like as a flattening, and note all shapes."""
    note_shapes(module, picture)
    for node in list(module.graph.nodes):
        if node.op == "call_method" and node.target in ("view", "reshape") and _flattens(node):
            with module.graph.inserting_before(node):
                flat = module.graph.call_function(torch.flatten, (node.args[0], 1))
            node.replace_all_uses_with(flat)
    module.graph.eliminate_dead_code()
    module.recompile()
    note_shapes(module, picture)


def _flattens(node: fx.Node) -> bool:
    """Whether a view keeps the batch, whatever its size, and joins all other dimensions."""
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    before, after = shape_of(node.args[0]), shape_of(node)
    if len(sizes) != 2 or len(before) < 2 or after[:1] != before[:1] or node.kwargs:
        return False
    batch, features = sizes
    return (batch == -1 and isinstance(features, int)) or (_is_batch(batch) and isinstance(features, int))


def _is_batch(size: object) -> bool:
    """Whether a value is `x.size(0)` or `x.shape[0]`."""
    if not isinstance(size, fx.Node):
        return False
    if size.op == "call_method":
        return size.target == "size" and size.args[1:] == (0,)
    shape = size.args[0] if size.target is operator.getitem and size.args[1:] == (0,) else None
    return isinstance(shape, fx.Node) and shape.target is getattr and shape.args[1:] == ("shape",)
