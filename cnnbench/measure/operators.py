"""The operators of one training step as they are executed: what each is, computes and moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cnnbench.measure.flops import flops_of
from cnnbench.measure.traffic import bytes_of, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch._ops import OpOverload

    from cnnbench.measure.timing import Step

KINDS = (
    "convolution",
    "matmul",
    "normalization",
    "activation",
    "pooling",
    "elementwise",
    "copy",
    "loss",
    "optimizer",
    "other",
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operator that ran, such as `aten::convolution`; its kind is one of `KINDS`.

    `flops` and `bytes` are those of `measure.flops` and `measure.traffic`. `dtype` is what it computes
    in: that of its first floating-point tensor. `is_recomputed` says that checkpointing repeats it.
    """

    name: str
    kind: str
    flops: int
    bytes: int
    dtype: torch.dtype | None
    is_recomputed: bool


def watch(step: Step, *, is_recomputing: Callable[[], bool]) -> tuple[Operation, ...]:
    """Run one real step and return its operators in the order in which they ran.

    Views and allocations, which neither compute nor move anything, are left out.

    Args:
        step: the training step, not compiled: a compiled one shows no operators.
        is_recomputing: says whether checkpointing is repeating a forward pass at this moment.
    """
    mode = OperatorWatch(is_recomputing)
    with mode:
        step()
    return tuple(mode.operations)


class OperatorWatch(TorchDispatchMode):
    """Sees each operator on its way to the device, below autograd and autocast.

    Autograd carries it into the thread in which it runs the backward pass on CUDA.
    """

    def __init__(self, is_recomputing: Callable[[], bool]) -> None:
        """Begin with nothing seen."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._is_recomputing = is_recomputing

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func` and note what it was."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            # Composite operators come whole there: see their parts instead.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = self.run(func, args, kwargs)
        operation = Operation(
            name=name_of(func),
            kind=kind_of(func),
            flops=flops_of(func, args, kwargs, out),
            bytes=bytes_of(func, args, kwargs, out),
            dtype=_compute_dtype(args, out),
            is_recomputed=self._is_recomputing(),
        )
        if operation.flops or operation.bytes:
            self.note(operation)
        return out

    def run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `func` itself."""
        return func(*args, **kwargs)

    def note(self, operation: Operation) -> None:
        """Keep what has just run."""
        self.operations.append(operation)


@cache
def kind_of(func: OpOverload) -> str:
    """Return which of `KINDS` an operator is; a gradient is of the kind that it is the gradient of."""
    name = name_of(func).partition("::")[2]
    for kind, parts in _PARTS.items():
        if any(part in name for part in parts):
            return kind
    stem = name.strip("_")
    for suffix in ("_data", "_backward", "_forward"):
        stem = stem.removesuffix(suffix)
    for kind, stems in _STEMS.items():
        if stem in stems:
            return kind
    return "elementwise" if torch.Tag.pointwise in func.tags else "other"


def _compute_dtype(args: Sequence[Any], out: Any) -> torch.dtype | None:
    """Return the type of the first floating-point tensor; a product's inputs all have the same."""
    return next((t.dtype for t in _flat((*args, out)) if t.dtype.is_floating_point), None)


def _flat(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _flat(value)


# What a name contains, looked for first, then what it is without its ends.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "convolution": ("convolution",),
    "matmul": ("dot_product_attention", "flash_attention", "efficient_attention"),
    "normalization": ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"),
    "pooling": ("pool",),
    "loss": ("_loss", "cross_entropy", "log_softmax"),
    "optimizer": ("_amp_", "_foreach_", "_fused_ada", "_fused_sgd"),
}
_STEMS: Mapping[str, frozenset[str]] = {
    "matmul": frozenset({"addbmm", "addmm", "addmv", "baddbmm", "bmm", "dot", "mm", "mv"}),
    # What PyTorch runs where the whole image becomes one pixel.
    "pooling": frozenset({"mean"}),
    "activation": frozenset(
        {
            "celu",
            "elu",
            "gelu",
            "glu",
            "hardsigmoid",
            "hardswish",
            "hardtanh",
            "leaky_relu",
            "log_sigmoid",
            "mish",
            "prelu",
            "prelu_kernel",
            "relu",
            "relu6",
            "rrelu_with_noise",
            "selu",
            "sigmoid",
            "silu",
            "softmax",
            "softplus",
            "tanh",
            "threshold",
        }
    ),
    # What moves values or lays down a constant, without arithmetic.
    "copy": frozenset(
        {
            "cat",
            "clone",
            "constant_pad_nd",
            "copy",
            "embedding",
            "fill",
            "flip",
            "full",
            "full_like",
            "gather",
            "index",
            "index_select",
            "masked_fill",
            "new_full",
            "new_ones",
            "new_zeros",
            "ones",
            "ones_like",
            "reflection_pad2d",
            "repeat",
            "roll",
            "scalar_tensor",
            "select",
            "slice",
            "stack",
            "take",
            "to_copy",
            "zero",
            "zeros",
            "zeros_like",
        }
    ),
}
