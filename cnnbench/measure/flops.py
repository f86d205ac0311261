"""How many floating-point operations one operator takes, a multiplication and an addition as two.

Counted are convolutions, matrix products and attention, as the field does: what else a network computes
(normalisation, activations, the optimizer) is bound by the bytes that it moves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch._ops import OpOverload

aten = torch.ops.aten


def flops_of(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Return the operations of one call of `func` as executed: a gradient nobody asks for costs none.

    The formulas are those of `torch.utils.flop_counter`, except for our own in `_FORMULAS`.

    Args:
        func: the operator.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: what it returned.
    """
    packet = func.overloadpacket
    if packet in _FORMULAS:
        return _FORMULAS[packet](*args, **kwargs)
    formula = flop_registry.get(_ALIKE.get(packet, packet))
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def _convolution_backward(
    grad_output: torch.Tensor,
    images: torch.Tensor,
    weight: torch.Tensor,
    *rest: Any,
) -> int:
    """Count a convolution's gradients, each of which takes what the forward pass takes.

    PyTorch's own formula (2.11 to 2.15) lets the weight's gradient of a grouped convolution connect
    all channels: forward and backward, a depthwise layer of 96 would read 98 times its forward pass
    instead of 3 times.
    """
    transposed, output_mask = rest[4], rest[7]
    # A transposed convolution meets each position of its input, any other each of its output.
    positions = images.shape if transposed else grad_output.shape
    per_gradient = 2 * positions[0] * math.prod(positions[2:]) * weight.numel()
    return per_gradient * sum(map(bool, output_mask[:2]))


def _matrix_times_vector(matrix: torch.Tensor, _: torch.Tensor) -> int:
    return 2 * matrix.numel()


def _add_matrix_times_vector(_: torch.Tensor, matrix: torch.Tensor, *__: Any, **___: Any) -> int:
    return 2 * matrix.numel()


def _dot(left: torch.Tensor, _: torch.Tensor) -> int:
    return 2 * left.numel()


# PyTorch's registry miscounts the first and lacks the others (spectral normalisation runs on them).
_FORMULAS: Mapping[Any, Callable[..., int]] = {
    aten.convolution_backward: _convolution_backward,
    aten.mv: _matrix_times_vector,
    aten.addmv: _add_matrix_times_vector,
    aten.dot: _dot,
}

# Missing from the registry of torch 2.11.
_ALIKE: Mapping[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (  # noqa: SLF001 (their names)
        aten._scaled_dot_product_flash_attention_backward  # noqa: SLF001
    ),
}
