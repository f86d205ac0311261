"""Cuts a model into consecutive parts, one for each rank of a pipeline, at the borders of its blocks.

The model's outermost forward pass is traced into a graph whose nodes are its blocks, called as they
are, and what it does between them. So any model is cut whose blocks hand on one tensor, with its hooks
and its recomputed segments; what lies inside a block is neither traced nor cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from cnnbench.architectures.trunk import Transfer
from cnnbench.checkpointing import find_segments, is_recomputing, throwaway_buffers
from cnnbench.errors import UnsupportedError
from cnnbench.measure.operators import watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.checkpointing import Segment


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A model's parts in the order in which they run; their parameters keep their names.

    Each of `flops` is what a part takes in one forward pass of the example, `borders` the names of the
    modules that each part but the first begins with.
    """

    parts: tuple[nn.Module, ...]
    flops: tuple[int, ...]
    borders: tuple[str, ...]


def cut(
    model: nn.Module, num_parts: int, example: torch.Tensor, segments: Sequence[Segment] = ()
) -> Cut:
    """Cut `model` so that the part which computes most computes as little as can be.

    The slowest part sets a pipeline's pace, which is why GPipe balances its cells' costs too (Huang et
    al. 2019, arXiv:1811.06965, section 2.2). A part's cost is the operations of its forward pass: they
    are the same wherever they are counted, so every rank finds the same borders without asking.

    Args:
        model: any image classifier, in training mode; the parts share its modules.
        num_parts: how many parts.
        example: one small batch, shape (B, 3, H, W).
        segments: those that the model recomputes, none of which is cut.

    Raises:
        UnsupportedError: its forward pass cannot be followed, or has too few places to cut it.
    """
    whole = (
        model.model if isinstance(model, Transfer) else model
    )  # which of both branches on its input
    kind = type(whole).__name__
    if any(segment.method != "forward" for segment in segments):
        msg = f"cannot cut {kind} between methods, and these are what its checkpointing recomputes"
        raise UnsupportedError(msg)
    blocks = segments or find_segments(whole, "block", example)
    graph = _traced(whole, {module for block in blocks for module in block.modules} - {whole})
    nodes = list(graph.nodes)
    inside = {module for block in blocks for module in block.modules[1:]}
    places = _places(whole, nodes, inside)
    if len(places) < num_parts - 1:
        msg = f"{kind} has {len(places)} places to cut it, too few for {num_parts} parts"
        raise UnsupportedError(msg)
    costs = _costs(whole, graph, example)
    spans = list(pairwise([0, *places, len(nodes)]))
    borders = _balanced([sum(costs[start:stop]) for start, stop in spans], num_parts)
    starts = [places[border - 1] for border in borders]
    bounds = list(pairwise([0, *starts, len(nodes)]))
    return Cut(
        parts=tuple(_part(whole, nodes, start, stop) for start, stop in bounds),
        flops=tuple(sum(costs[start:stop]) for start, stop in bounds),
        borders=tuple(str(nodes[start].target) for start in starts),
    )


class _Tracer(fx.Tracer):
    """Follows a forward pass down to blocks, layers and PyTorch's own modules."""

    def __init__(self, blocks: set[nn.Module]) -> None:
        super().__init__()
        self._blocks = blocks

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether `m` is called as it is."""
        is_layer = next(m.children(), None) is None
        return is_layer or m in self._blocks or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module, blocks: set[nn.Module]) -> fx.Graph:
    try:
        return _Tracer(blocks).trace(model)
    except Exception as error:
        reason = " ".join(str(error).split())
        msg = f"cannot follow the forward pass of {type(model).__name__} to cut it: {reason}"
        raise UnsupportedError(msg) from error


class _Counter(fx.Interpreter):
    """Runs a graph and notes what each node takes."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.flops: list[int] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        results: list[Any] = []
        operations = watch(
            lambda: results.append(super(_Counter, self).run_node(n)), is_recomputing=is_recomputing
        )
        self.flops.append(sum(operation.flops for operation in operations))
        return results[0]


def _costs(model: nn.Module, graph: fx.Graph, example: torch.Tensor) -> list[int]:
    """Return what each node of `graph` takes; buffers and the random state stay as they were."""
    counter = _Counter(model, graph)
    devices = [example.device] if example.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), throwaway_buffers((model,), {}):
        counter.run(example)
    return counter.flops


def _places(model: nn.Module, nodes: list[fx.Node], inside: set[nn.Module]) -> list[int]:
    """Return the numbers of the nodes before which the graph can be cut.

    One tensor crosses there, into a block or layer that has weights and does not belong to a segment
    that has begun; no weight is used on both sides, for each would have its gradient of it alone.
    """
    numbers = {node: number for number, node in enumerate(nodes)}
    last_use = [max((numbers[user] for user in node.users), default=-1) for node in nodes]
    weights = [_weights(model, node) for node in nodes]
    places = []
    for number, node in enumerate(nodes):
        if node.op != "call_module" or model.get_submodule(str(node.target)) in inside:
            continue
        if not any(weight.ndim > 1 for weight in weights[number]):
            continue
        before, after = (set().union(*side) for side in (weights[:number], weights[number:]))
        num_crossing = sum(1 for last in last_use[:number] if last >= number)
        if num_crossing == 1 and before and not before & after:
            places.append(number)
    return places


def _weights(model: nn.Module, node: fx.Node) -> set[nn.Parameter]:
    if node.op != "call_module":
        return set()
    return set(model.get_submodule(str(node.target)).parameters())


def _balanced(costs: list[int], num_parts: int) -> tuple[int, ...]:
    """Return before which of `costs` each part but the first begins, the largest sum being smallest."""
    ends = [0, *accumulate(costs)]

    @cache
    def best(parts: int, stop: int) -> tuple[int, tuple[int, ...]]:
        if parts == 1:
            return ends[stop], ()
        choices = []
        for start in range(parts - 1, stop):
            largest, borders = best(parts - 1, start)
            choices.append((max(largest, ends[stop] - ends[start]), (*borders, start)))
        return min(choices)

    return best(num_parts, len(costs))[1]


def _part(model: nn.Module, nodes: list[fx.Node], start: int, stop: int) -> fx.GraphModule:
    """Return the nodes from `start` up to `stop` as a module of its own, one tensor in and one out."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    if start:
        copied[_crossing(nodes, start)] = graph.placeholder("x")
    for node in nodes[start:stop]:
        copied[node] = graph.node_copy(node, copied.__getitem__)
    if stop < len(nodes):
        graph.output(copied[_crossing(nodes, stop)])
    return fx.GraphModule(model, graph, class_name=f"{type(model).__name__}Part")


def _crossing(nodes: list[fx.Node], at: int) -> fx.Node:
    later = set(nodes[at:])
    return next(node for node in nodes[:at] if later & set(node.users))
