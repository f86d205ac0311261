"""How many bytes one operator must move at least.

What it needs of its tensors is read once and what it makes is written once, nothing kept in a cache from
the operator before: a lower bound of what an unfused step moves. Elements that a tensor repeats
(stride 0) count once, those that the operator does not touch not at all; views and allocations are free.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch._ops import OpOverload

ALL = sys.maxsize


def name_of(func: OpOverload) -> str:
    """Return what `func` is called without its overload, such as `aten::add_`."""
    return str(func.name()).partition(".")[0]


def bytes_of(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Return the bytes that one call of `func` reads and writes at least.

    Where some tensors lie on a GPU, those on the CPU are left out: they do not pass the GPU's memory.

    Args:
        func: the operator.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: what it returned.
    """
    name = name_of(func).removeprefix("aten::")
    if name in _FREE or torch.Tag.inplace_view in func.tags:
        return 0
    parameters = _parameters(func)
    arguments = {p.name: value for p, value in zip(parameters, args, strict=False)} | dict(kwargs)
    given = [(p, tensor) for p in parameters for tensor in _tensors(arguments.get(p.name))]
    addresses = {_address(tensor) for _, tensor in given}
    made = {i: o for i, o in enumerate(_tensors(out)) if _address(o) not in addresses}
    if _is_view(given, made, out):
        return 0
    touch = _touch(_Call(name=name, arguments=arguments, out=out))
    reads = [(tensor, touch.read.get(p.name, 0 if p.is_out else ALL)) for p, tensor in given]
    writes = [
        (tensor, touch.written.get(p.name, ALL if p.is_written else 0)) for p, tensor in given
    ]
    writes += [(tensor, touch.written.get(index, ALL)) for index, tensor in made.items()]
    is_off_cpu = any(tensor.device.type != "cpu" for tensor, limit in (*reads, *writes) if limit)
    return _total(reads, skip_cpu=is_off_cpu) + _total(writes, skip_cpu=is_off_cpu)


@dataclass(frozen=True, kw_only=True)
class _Parameter:
    """One parameter of an operator: an `out` parameter is written without being read."""

    name: str
    is_written: bool
    is_out: bool


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of an operator: its arguments by name, and what it returned."""

    name: str
    arguments: Mapping[str, Any]
    out: Any


@dataclass(frozen=True, kw_only=True)
class _Touch:
    """How many bytes of each tensor of an argument are touched at most, where the schema says otherwise.

    `written` holds also what is returned as new, by its position.
    """

    read: Mapping[str, int] = field(default_factory=dict)
    written: Mapping[str | int, int] = field(default_factory=dict)


@cache
def _parameters(func: OpOverload) -> tuple[_Parameter, ...]:
    """Return the parameters of `func` in order (asking its schema each time would be slow)."""
    return tuple(
        _Parameter(
            name=argument.name,
            is_written=argument.alias_info is not None and argument.alias_info.is_write,
            is_out=argument.is_out,
        )
        for argument in func._schema.arguments  # noqa: SLF001 (the schema has no public name)
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an argument or a result, which may be lists of them."""
    if isinstance(value, torch.Tensor):
        if value.layout is torch.strided:
            yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_view(
    given: list[tuple[_Parameter, torch.Tensor]], made: dict[int, torch.Tensor], out: Any
) -> bool:
    """Say whether a call only described its inputs anew: it returned them, and wrote nothing."""
    returned = next(_tensors(out), None)
    return returned is not None and not made and not any(p.is_written for p, _ in given)


def _total(touched: Iterable[tuple[torch.Tensor, int]], *, skip_cpu: bool) -> int:
    """Return the bytes touched: of a tensor passed twice once, and of no storage more than it has."""
    views: defaultdict[int, dict[Any, int]] = defaultdict(dict)
    sizes: dict[int, int] = {}
    for tensor, limit in touched:
        if limit == 0 or (skip_cpu and tensor.device.type == "cpu"):
            continue
        address, view = _address(tensor), (tensor.storage_offset(), tensor.shape, tensor.stride())
        views[address][view] = min(limit, _distinct_bytes(tensor))
        sizes[address] = tensor.untyped_storage().nbytes()
    return sum(min(sizes[address], sum(parts.values())) for address, parts in views.items())


def _distinct_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of the elements of `tensor`, those that an expanded dimension repeats once."""
    if tensor.numel() == 0:
        return 0
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sides if stride) * tensor.element_size()


def _touch(call: _Call) -> _Touch:
    if call.name in _UNREAD:
        return _Touch(read=dict.fromkeys(_UNREAD[call.name], 0))
    return _RULES[call.name](call) if call.name in _RULES else _Touch()


def _convolution(call: _Call) -> _Touch:
    """Leave out the pixels between the windows: a 1x1 filter of stride 2 reads a quarter of them."""
    images, weight = call.arguments["input"], call.arguments["weight"]
    if call.arguments["transposed"]:
        return _Touch()
    return _Touch(read={"input": _windows(call, images, call.out, weight.shape[2:])})


def _convolution_backward(call: _Call) -> _Touch:
    """Leave out what the gradients that are asked for do not need; each needs that of the output."""
    given = call.arguments
    wants_input, wants_weight, _ = given["output_mask"]
    read = {} if wants_input else {"weight": 0}
    if not wants_weight:
        read["input"] = 0
    elif not given["transposed"]:
        kernel = given["weight"].shape[2:]
        read["input"] = _windows(call, given["input"], given["grad_output"], kernel)
    return _Touch(read=read)


def _pooling(call: _Call) -> _Touch:
    """Leave out the pixels outside all windows, such as the last row of an odd number."""
    out = next(_tensors(call.out))
    return _Touch(read={"self": _windows(call, call.arguments["self"], out, None)})


def _windows(
    call: _Call, images: torch.Tensor, out: torch.Tensor, kernel: Sequence[int] | None
) -> int:
    """Return the bytes of `images` (N, C, ...) that the windows behind `out` (N, C', ...) cover."""
    kernel = kernel or call.arguments["kernel_size"]
    num_sides = out.ndim - 2 if call.name.startswith("convolution") else len(kernel)
    sides = images.shape[images.ndim - num_sides :]
    positions = out.shape[out.ndim - num_sides :]
    sizes = (
        _per_side(kernel, num_sides),
        _per_side(call.arguments.get("stride") or kernel, num_sides),
        _per_side(call.arguments.get("padding", (0,)), num_sides),
        _per_side(call.arguments.get("dilation", (1,)), num_sides),
    )
    covered = math.prod(map(_num_covered, sides, positions, *sizes))
    return _distinct_bytes(images) * covered // max(1, math.prod(sides))


def _per_side(values: Sequence[int] | int, num_sides: int) -> tuple[int, ...]:
    """Return one value a side; PyTorch takes a single one for all."""
    listed = (values,) if isinstance(values, int) else tuple(values)
    return listed * num_sides if len(listed) == 1 else listed


@cache
def _num_covered(
    side: int, num_windows: int, kernel: int, stride: int, padding: int, dilation: int
) -> int:
    """Return how many of the `side` pixels of a row lie under any window."""
    starts = (window * stride - padding for window in range(num_windows))
    pixels = {start + tap * dilation for start in starts for tap in range(kernel)}
    return sum(1 for pixel in pixels if 0 <= pixel < side)


def _batch_norm(call: _Call) -> _Touch:
    """Add the running statistics, which training writes without the schema's saying so.

    What cuDNN returns last is its own working memory, whose use it does not tell.
    """
    written: dict[str | int, int] = {3: 0}
    if call.arguments.get("training", True):
        written |= {"running_mean": ALL, "running_var": ALL}
    return _Touch(written=written)


def _batch_norm_backward(call: _Call) -> _Touch:
    """Leave out one pair of statistics: training needs the batch's, evaluation the running ones."""
    given = call.arguments
    is_training = given.get("train", given.get("update", True))
    unread = {"reserve", "reserveSpace"}
    unread |= {"running_mean", "running_var"} if is_training else set(_SAVED_STATISTICS)
    if not is_training and not given.get("output_mask", (True, True, True))[1]:
        unread.add("input")
    return _Touch(read=dict.fromkeys(unread, 0))


def _gather(call: _Call) -> _Touch:
    """Read only what is delivered, of the table that is the first argument."""
    name, table = next(iter(call.arguments.items()))
    return _Touch(read={name: call.out.numel() * table.element_size()})


def _negative_log_likelihood(call: _Call) -> _Touch:
    """Read of each row the one value at its label."""
    given = call.arguments
    picked = given["target"].numel() * given["self"].element_size()
    return _Touch(read={"self": picked, "weight": picked})


def _scatter(call: _Call) -> _Touch:
    """Write only what is delivered, and read it first where it is added to."""
    given = call.arguments
    delivered = given[_DELIVERED[call.name]].numel() * given["self"].element_size()
    adds = "add" in call.name or given.get("accumulate", False)
    return _Touch(
        read={"self": delivered if adds else 0, "src": delivered}, written={"self": delivered}
    )


def _masked_fill(_: _Call) -> _Touch:
    """Count the mask alone: only its values, which nobody reads back here, tell what is written."""
    return _Touch(read={"self": 0}, written={"self": 0})


def _fused_optimizer(call: _Call) -> _Touch:
    """Leave out the gradients' writing: only those of a gradient scaler are stored unscaled."""
    read = {"momentum_buffer_list": 0} if call.arguments.get("is_first_step") else {}
    written: dict[str | int, int] = {}
    if call.arguments.get("grad_scale") is None:
        written["grads"] = 0
    return _Touch(read=read, written=written)


_SAVED_STATISTICS = ("save_mean", "save_var", "save_invstd")

# Operators that neither read nor write what their tensors hold.
_FREE = frozenset(
    {
        "empty",
        "empty_like",
        "empty_permuted",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "record_stream",
    }
)

# Arguments of which only the shape is needed, or that are overwritten.
_UNREAD: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("full_like", "ones_like", "zeros_like"), ("self",)),
    **dict.fromkeys(("rand_like", "randint_like", "randn_like"), ("self",)),
    **dict.fromkeys(("new_full", "new_ones", "new_zeros"), ("self",)),
    **dict.fromkeys(("copy_", "fill_", "zero_", "_foreach_copy_", "_foreach_zero_"), ("self",)),
    **dict.fromkeys(("bernoulli_", "normal_", "random_", "uniform_"), ("self",)),
    **dict.fromkeys(("cauchy_", "exponential_", "geometric_", "log_normal_"), ("self",)),
    **dict.fromkeys(("avg_pool2d_backward", "_adaptive_avg_pool2d_backward"), ("self",)),
    **dict.fromkeys(
        ("max_pool2d_with_indices_backward", "adaptive_max_pool2d_backward"), ("self",)
    ),
    **dict.fromkeys(("nll_loss_backward", "nll_loss2d_backward"), ("self",)),
}

_DELIVERED: Mapping[str, str] = {
    "_index_put_impl_": "values",
    "index_add_": "source",
    "index_copy_": "source",
    "index_put_": "values",
    "scatter_": "index",
    "scatter_add_": "index",
}

_RULES: Mapping[str, Callable[[_Call], _Touch]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    **dict.fromkeys(("avg_pool2d", "max_pool2d_with_indices"), _pooling),
    **dict.fromkeys(("_batch_norm_with_update", "_native_batch_norm_legit"), _batch_norm),
    **dict.fromkeys(("cudnn_batch_norm", "miopen_batch_norm", "native_batch_norm"), _batch_norm),
    **dict.fromkeys(
        (
            "batch_norm_backward",
            "cudnn_batch_norm_backward",
            "miopen_batch_norm_backward",
            "native_batch_norm_backward",
        ),
        _batch_norm_backward,
    ),
    **dict.fromkeys(("embedding", "gather", "index", "index_select", "take"), _gather),
    **dict.fromkeys(("nll_loss2d_forward", "nll_loss_forward"), _negative_log_likelihood),
    **dict.fromkeys(_DELIVERED, _scatter),
    "masked_fill_": _masked_fill,
    **dict.fromkeys(
        ("_fused_adagrad_", "_fused_adam_", "_fused_adamw_", "_fused_sgd_"), _fused_optimizer
    ),
}
