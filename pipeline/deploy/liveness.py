"""Which channels of a network must stay: those that reach the output, and those that share a shape with one."""

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from pipeline.deploy.constants import Channels, foldable, taps, widths_of
from pipeline.deploy.graph import module_of, shape_of
from pipeline.deploy.operations import EACH_FROM_ONE, Kind

Cuts = dict[fx.Node, fx.Node]


class Groups:
    """Channels that stay or go together, as numbers; joined by sums."""

    def __init__(self) -> None:
        self._above: list[int] = []

    def new(self, count: int) -> list[int]:
        """`count` groups of one channel each."""
        start = len(self._above)
        self._above += range(start, start + count)
        return list(self._above[start:])

    def __len__(self) -> int:
        """How many were ever made."""
        return len(self._above)

    def root(self, group: int) -> int:
        """The number that a group has after all that was joined."""
        while self._above[group] != group:
            self._above[group] = self._above[self._above[group]]
            group = self._above[group]
        return group

    def join(self, one: int, other: int) -> None:
        self._above[self.root(one)] = self.root(other)


def kept_channels(
    kinds: Mapping[fx.Node, Kind], channels: Mapping[fx.Node, Channels]
) -> tuple[dict[fx.Node, Tensor], Cuts]:
    """Which output channels stay, bool (C,), by operation that still reaches the output; and the cuts.

    A cut is a sum with the one of its two terms that is constant in all channels that stay, so that what
    computes the term goes as a whole. Cuts make channels superfluous, and these allow cuts.
    """
    cuts: Cuts = {}
    while True:
        kept = _kept(kinds, channels, cuts)
        more = {node: term for node in kept if (term := _constant_term(node, kinds, channels, kept, cuts))}
        if not more:
            return kept, cuts
        cuts |= more


def _constant_term(
    node: fx.Node, kinds: Mapping[fx.Node, Kind], channels: Mapping[fx.Node, Channels], kept: Mapping, cuts: Cuts
) -> fx.Node | None:
    if kinds[node] is not Kind.ADD or node in cuts:
        return None
    return next((term for term in reversed(node.args) if bool(channels[term].known[kept[node]].all())), None)


def _kept(kinds: Mapping[fx.Node, Kind], channels: Mapping[fx.Node, Channels], cuts: Cuts) -> dict[fx.Node, Tensor]:
    groups = Groups()
    members = _members(kinds, groups, cuts)
    roots = {node: torch.tensor([groups.root(group) for group in numbers]) for node, numbers in members.items()}
    required = torch.zeros(len(groups), dtype=torch.bool)
    before = -1
    while before != (before := int(required.sum())):
        live = {node for node, kind in kinds.items() if kind is Kind.OUTPUT}
        for node in reversed(kinds):
            if node in live:
                _require(node, kinds[node], channels, roots, required)
                live.update(source for source in node.all_input_nodes if source is not cuts.get(node))
    return {node: required[roots[node]] for node in kinds if node in live}


def _members(kinds: Mapping[fx.Node, Kind], groups: Groups, cuts: Cuts) -> dict[fx.Node, list[int]]:
    """The group of each output channel, by operation."""
    found: dict[fx.Node, list[int]] = {}
    for node, kind in kinds.items():
        sources = [found[source] for source in node.all_input_nodes if source is not cuts.get(node)]
        count = (shape_of(node) + (1, 1))[1]
        if kind in EACH_FROM_ONE:
            found[node] = sources[0]
        elif kind is Kind.ADD:
            found[node] = sources[0]
            for one, other in zip(sources[0], sources[-1], strict=True):
                groups.join(one, other)
        elif kind is Kind.FLATTEN:
            found[node] = [group for group in sources[0] for _ in range(count // len(sources[0]))]
        elif kind is Kind.CHANNEL_PAD:
            before, after = widths_of(node)
            found[node] = [*groups.new(before), *sources[0], *groups.new(after)]
        else:
            found[node] = groups.new(count)
    return found


def _require(node: fx.Node, kind: Kind, channels: Mapping, roots: Mapping[fx.Node, Tensor], required: Tensor) -> None:
    """Mark the groups that an operation cannot do without, as far as known by now."""
    if kind is Kind.LAYER:
        (source,) = node.all_input_nodes
        read = (taps(module_of(node))[required[roots[node]]] != 0).any(2).any(0)
        inputs = roots[source]
        required[inputs[read & ~foldable(node, channels[source])]] = True
        if not required[inputs].any():  # a layer of constants, needed as such: it keeps one input
            required[inputs[0]] = True
    elif kind is Kind.CHANNEL_PAD:  # where only its zeros stay, it keeps one channel to put them beside
        (source,) = node.all_input_nodes
        if not required[roots[source]].any():
            required[roots[source][0]] = True
    elif kind in (Kind.INPUT, Kind.OUTPUT, Kind.OTHER):
        for each in (node, *node.all_input_nodes):
            required[roots[each]] = True
