"""Gradient checkpointing: which parts of a model are recomputed, and how their statistics stay right.

A segment's activations are dropped after its forward pass and recomputed during the backward pass
(Chen et al. 2016, arXiv:1604.06174), by PyTorch's non-reentrant `torch.utils.checkpoint`. Run plainly,
the second forward pass would move BatchNorm's running statistics a second time: gradients stay equal,
evaluation does not. Here a segment is recomputed from its buffers and random numbers of the first
pass, and what it does to them then is thrown away.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cnnbench.errors import UnsupportedError
from cnnbench.selective import KeptOutputs, compiled_contexts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What is being recomputed now. Not kept by thread: on CUDA autograd recomputes in a thread of its own.
_recomputing_now: list[Segment] = []

FROZEN_NOTE = "frozen trunk: it keeps no activations, so checkpointing has nothing to recompute"

# A module with a forward pass of its own is a block; these only call their children in order.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a model that is recomputed as one: `modules` run one after the other.

    Of a plain module there is one; `method` names the method to wrap when it is not `forward`.
    `draws_random` says that it takes random numbers while it trains (dropout, stochastic depth),
    `keeps_products` that its convolutions and matrix products are kept and the rest is recomputed.
    """

    name: str
    modules: tuple[nn.Module, ...]
    method: str = "forward"
    draws_random: bool = False
    keeps_products: bool = False


def apply_checkpointing(
    model: nn.Module, granularity: str, example: torch.Tensor, *, captured: bool = False
) -> tuple[list[Segment], tuple[str, ...]]:
    """Make `model` recompute its segments in every later training step, in place.

    Args:
        model: any image classifier.
        granularity: `none`, `stage` (consecutive blocks of one resolution), `block`, or `activations`
            (of each block what is cheap to compute).
        example: one small batch, shape (B, 3, H, W), for finding the segments.
        captured: the steps will be recorded as a CUDA graph.

    Returns:
        The wrapped segments, and notes for the record.

    Raises:
        UnsupportedError: no segment was found in a model that has something to recompute, or what is
            captured draws random numbers.
    """
    if granularity == "none":
        return [], ()
    is_selective = granularity == "activations"
    part = "block" if is_selective else granularity
    found = find_segments(model, part, example)
    if not found:
        kind = type(model).__name__
        msg = f"checkpointing={granularity}: found no {part} to recompute in {kind}"
        raise UnsupportedError(msg)
    segments = [
        replace(segment, keeps_products=is_selective)
        for segment in found
        if _needs_grad(model, segment)
    ]
    # Nobody may ask for a generator's state while a graph is recorded, and recomputing begins with it.
    if captured and any(segment.draws_random for segment in segments):
        msg = (
            f"checkpointing={granularity} with compile=graph: the model draws random numbers (dropout,"
            " stochastic depth), which cannot be drawn again inside a recorded graph; take compile=off"
            " or default, or checkpointing=none"
        )
        raise UnsupportedError(msg)
    for segment in segments:
        _wrap(segment)
    return segments, () if segments else (FROZEN_NOTE,)


def is_recomputing() -> bool:
    """Say whether a segment is being recomputed at this moment, in any thread."""
    return bool(_recomputing_now)


def find_segments(model: nn.Module, granularity: str, example: torch.Tensor) -> list[Segment]:
    """Return the stages or blocks of `model` in the order in which they run.

    A model may name its own (`checkpoint_methods`); in any other they are found by watching one
    forward pass: blocks are the topmost modules with a forward pass of their own that are no mere row
    of such (in a flat `nn.Sequential`, each convolution or linear layer with what follows it); stages
    are rows of blocks, joined while they feed each other and end at one resolution. What begins by
    changing its input in place is left out, for its input could not be recomputed from.
    """
    calls = _watch(model, example)
    methods = getattr(model, "checkpoint_methods", ())
    if methods:
        draws = calls[model].draws_random
        return [
            Segment(name=name, modules=(model,), method=name, draws_random=draws)
            for name in methods
        ]

    def splits(module: nn.Module) -> bool:
        return _is_row(module) and (granularity == "block" or _changes_resolution(module, calls))

    found = _blocks(model, "", splits)
    while len(found) == 1:
        # One block alone is a wrapper's inner model, unless it holds no blocks itself.
        inner = _blocks(found[0].modules[0], f"{found[0].name}.", splits)
        if len(inner) <= 1:
            break
        found = inner
    blocks = [block for block in found if all(module in calls for module in block.modules)]
    if granularity == "stage":
        blocks = _merge(blocks, calls)
    return [
        replace(block, draws_random=any(calls[module].draws_random for module in block.modules))
        for block in blocks
        if not calls[block.modules[0]].changes_input
    ]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What one module did in the watched forward pass."""

    first_input: int
    output: int
    resolution: tuple[int, ...]
    changes_input: bool
    draws_random: bool


def _watch(model: nn.Module, example: torch.Tensor) -> dict[nn.Module, _Call]:
    """Run `model` once as in training, and return what each module that ran exactly once did.

    The model's modes and buffers and the random state stay as they were.
    """
    calls: dict[nn.Module, list[_Call]] = {}
    alive: list[object] = []  # keeps every tensor, so that no identity is used twice
    device = example.device

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        starts[module] = (_versions(args), _random_state(device))

    def after(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        alive.extend((args, output))
        versions, random_state = starts[module]
        call = _Call(
            first_input=id(args[0]) if args else 0,
            output=id(output),
            resolution=tuple(output.shape[2:]) if isinstance(output, torch.Tensor) else (),
            changes_input=versions != _versions(args),
            draws_random=not torch.equal(random_state, _random_state(device)),
        )
        calls.setdefault(module, []).append(call)

    starts: dict[nn.Module, tuple[list[int], torch.Tensor]] = {}
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    # Module by module: a part that its author keeps in evaluation mode stays there.
    were_training = {module: module.training for module in model.modules()}
    model.train()
    devices = [device] if device.type == "cuda" else []
    try:
        # Not inference mode: its tensors keep no version counters.
        with torch.no_grad(), torch.random.fork_rng(devices), throwaway_buffers((model,), {}):
            model(example)
    finally:
        for module, was_training in were_training.items():
            module.training = was_training
        for handle in handles:
            handle.remove()
    return {module: seen[0] for module, seen in calls.items() if len(seen) == 1}


def _versions(args: tuple[Any, ...]) -> list[int]:
    return [arg._version for arg in args if isinstance(arg, torch.Tensor)]  # noqa: SLF001 (the documented way to notice in-place writes)


def _random_state(device: torch.device) -> torch.Tensor:
    """Return the state of the generators that a module on `device` may draw from."""
    if device.type == "cuda":
        return torch.cat([torch.get_rng_state(), torch.cuda.get_rng_state(device)])
    return torch.get_rng_state()


def _blocks(module: nn.Module, prefix: str, splits: Callable[[nn.Module], bool]) -> list[Segment]:
    """Return the blocks under `module`, which is the root, a container or a row of blocks."""
    children = [(f"{prefix}{name}", child) for name, child in module.named_children()]
    if isinstance(module, nn.Sequential) and all(_is_leaf(child) for _, child in children):
        return _flat_blocks(children)
    blocks: list[Segment] = []
    for name, child in children:
        if _is_leaf(child):
            continue
        if _is_container(child) or splits(child):
            blocks.extend(_blocks(child, f"{name}.", splits))
        else:
            blocks.append(Segment(name=name, modules=(child,)))
    return blocks


def _is_container(module: nn.Module) -> bool:
    """Say whether `module` has no forward pass of its own, even if its class has a name of its own."""
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in CONTAINERS
    )


def _is_row(module: nn.Module) -> bool:
    """Say whether `module` runs two or more alike blocks, as DenseNet's and ConvNeXt's stages do."""
    for owner in (module, *filter(_is_container, module.children())):
        kinds = [type(c) for c in owner.children() if _num_weights(c) > 1 and not _is_container(c)]
        if len(kinds) > len(set(kinds)):
            return True
    return False


def _changes_resolution(row: nn.Module, calls: dict[nn.Module, _Call]) -> bool:
    """Say whether the blocks of `row` end at several resolutions: then it is several stages."""
    blocks = _blocks(row, "", lambda _: False)
    ends = (calls[block.modules[-1]] for block in blocks if block.modules[-1] in calls)
    return len({end.resolution for end in ends}) > 1


def _num_weights(module: nn.Module) -> int:
    return sum(1 for parameter in module.parameters() if parameter.ndim > 1)


def _flat_blocks(children: list[tuple[str, nn.Module]]) -> list[Segment]:
    """Cut a chain of simple layers before each layer that has a weight matrix or filter bank."""
    runs: list[list[tuple[str, nn.Module]]] = []
    for name, child in children:
        weight = getattr(child, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim > 1:
            runs.append([])
        if runs:
            runs[-1].append((name, child))
    return [
        Segment(name=run[0][0], modules=tuple(child for _, child in run))
        for run in runs
        if len(run) > 1
    ]


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _merge(blocks: list[Segment], calls: dict[nn.Module, _Call]) -> list[Segment]:
    """Join consecutive blocks that feed each other and end at the same resolution."""
    stages: list[list[Segment]] = []
    for block in blocks:
        last = calls[stages[-1][-1].modules[-1]] if stages else None
        this = calls[block.modules[0]]
        end = calls[block.modules[-1]]
        if last and last.output == this.first_input and last.resolution == end.resolution:
            stages[-1].append(block)
        else:
            stages.append([block])
    return [
        Segment(name=stage[0].name, modules=tuple(m for block in stage for m in block.modules))
        for stage in stages
    ]


def _needs_grad(model: nn.Module, segment: Segment) -> bool:
    """Say whether a backward pass enters `segment`: it, or something before it, is trained."""
    own = {id(p) for module in segment.modules for p in module.parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            return True
        own.discard(id(parameter))
        if not own:
            return False
    return False


def _wrap(segment: Segment) -> None:
    """Replace the segment's method by one that recomputes; a run's later modules pass through."""
    first, *rest = segment.modules
    methods = [getattr(first, segment.method), *(module.forward for module in rest)]
    setattr(first, segment.method, _recomputing(methods, segment))
    for module in rest:
        module.forward = _pass_through


def _pass_through(value: torch.Tensor) -> torch.Tensor:
    """Return what the run's first module has computed already."""
    return value


def _recomputing(methods: list[Callable[..., Any]], segment: Segment) -> Callable[..., Any]:
    """Return a function that runs `methods` in a chain and keeps only the chain's input."""

    def chain(*args: Any, **kwargs: Any) -> Any:
        value = methods[0](*args, **kwargs)
        for method in methods[1:]:
            value = method(value)
        return value

    def contexts() -> tuple[Any, Any]:
        kept = KeptOutputs() if segment.keeps_products else None
        again = _recomputation(segment, _copies(segment.modules), kept)
        return kept.keeping() if kept else nullcontext(), again

    traced = compiled_contexts()

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return chain(*args, **kwargs)
        # A compiler traces the segment once and keeps buffer updates out of the recomputation.
        extra: dict[str, Any] = {"context_fn": contexts}
        if torch.compiler.is_compiling():
            extra = {"context_fn": traced} if segment.keeps_products else {}
        # DenseNet's blocks hand each layer the one list that they go on to fill.
        inputs = [list(arg) if isinstance(arg, list) else arg for arg in args]
        # Saving and restoring the random state takes time in each segment: only where it matters.
        preserve = segment.draws_random
        return checkpoint(
            chain, *inputs, use_reentrant=False, preserve_rng_state=preserve, **extra, **kwargs
        )

    return forward


@contextmanager
def _recomputation(
    segment: Segment,
    earlier: dict[tuple[nn.Module, str], torch.Tensor],
    kept: KeptOutputs | None,
) -> Iterator[None]:
    """Recompute `segment` from its `earlier` buffers inside the context, and say so to who asks."""
    _recomputing_now.append(segment)
    try:
        handing_out = kept.handing_out() if kept else nullcontext()
        with throwaway_buffers(segment.modules, earlier), handing_out:
            yield
    finally:
        _recomputing_now.pop()


def _copies(modules: tuple[nn.Module, ...]) -> dict[tuple[nn.Module, str], torch.Tensor]:
    """Return copies of the buffers that decide what a training step computes.

    Statistics of normalisation do not, or do not change. Spectral normalisation's vectors do.
    """
    return {
        (owner, name): buffer.clone()
        for owner, name, buffer in _buffers(modules)
        if not isinstance(owner, nn.modules.batchnorm._NormBase)  # noqa: SLF001 (its public children are many)
    }


@contextmanager
def throwaway_buffers(
    modules: tuple[nn.Module, ...], earlier: dict[tuple[nn.Module, str], torch.Tensor]
) -> Iterator[None]:
    """Let `modules` begin with the `earlier` buffers inside the context, and change nothing that lasts."""
    kept = list(_buffers(modules))
    for owner, name, buffer in kept:
        owner._buffers[name] = earlier.get((owner, name), buffer).clone()  # noqa: SLF001
    try:
        yield
    finally:
        for owner, name, buffer in kept:
            owner._buffers[name] = buffer  # noqa: SLF001


def _buffers(modules: tuple[nn.Module, ...]) -> Iterator[tuple[nn.Module, str, torch.Tensor]]:
    for module in modules:
        for owner in module.modules():
            for name, buffer in owner._buffers.items():  # noqa: SLF001 (register_buffer would clone)
                if buffer is not None:
                    yield owner, name, buffer
