"""Which precision a step really computes in, told from the numbers it makes.

A convolution and a matrix product, forward and backward, run in the step's own context and are
compared with float64. The relative error tells fp32 (24 bits of mantissa) from the short formats;
among these the output's type and a value above 65504 (the largest float16) tell which, for TF32 and
float16 have the same 11 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from cnnbench.measurement import Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.precision import Precision

# Unit round-offs are 6e-8 (fp32), 5e-4 (tf32, fp16) and 4e-3 (bf16). Seen on a CPU, by the order of
# summation: 2e-7 to 7e-7, 3.6e-4 to 6.3e-4 and 2.7e-3 to 3.5e-3; the bounds lie midway between
# these, on a logarithmic scale.
FP32_MAX_ERROR = 1.5e-5
ELEVEN_BITS_MAX_ERROR = 1.3e-3
# Images and filters of the convolution. Of smaller ones than the second cuDNN computes some in fp32 where
# TF32 is allowed (H200, NCHW: with 32 channels at 16 x 16 forward and backward, with 64 backward).
CPU_SHAPES = (8, 32, 16, 16), (64, 32, 3, 3)
CUDA_SHAPES = (16, 64, 32, 32), (64, 64, 3, 3)
LARGE = 300.0  # squared it is 90000: infinite in float16


def probe_precision(
    mode: Precision, device: torch.device, memory_format: torch.memory_format
) -> tuple[Probe, ...]:
    """Probe convolution and matrix product as a training step of this cell would run them."""
    generator = torch.Generator().manual_seed(0)
    shapes = CUDA_SHAPES if device.type == "cuda" else CPU_SHAPES
    images, filters = (torch.randn(shape, generator=generator) for shape in shapes)
    rows = torch.randn(128, 256, generator=generator)
    weights = torch.randn(128, 256, generator=generator)

    def convolve(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, w, padding=1)

    def place(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, memory_format=memory_format)

    return (
        _probe("convolution", convolve, images, filters, mode, device, place),
        _probe("matmul", functional.linear, rows, weights, mode, device, lambda t: t.to(device)),
    )


def effective_precision(probes: tuple[Probe, ...]) -> str:
    """Return the one precision that every probe saw, or `mixed(...)` with each that was seen."""
    seen = dict.fromkeys(kind for probe in probes for kind in (probe.forward, probe.backward))
    return next(iter(seen)) if len(seen) == 1 else f"mixed({'+'.join(seen)})"


def _probe(
    operation: str,
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    weight: torch.Tensor,
    mode: Precision,
    device: torch.device,
    place: Callable[[torch.Tensor], torch.Tensor],
) -> Probe:
    exact_x = x.double().requires_grad_()
    exact_weight = weight.double().requires_grad_()
    exact = function(exact_x, exact_weight)
    gradient = torch.ones_like(exact) + torch.linspace(0, 1, exact.numel()).reshape(exact.shape)
    exact.backward(gradient)
    seen_x = place(x).requires_grad_()
    seen_weight = place(weight).requires_grad_()
    with mode.autocast(device):
        seen = function(seen_x, seen_weight)
        large = function(place(torch.full_like(x, LARGE)), place(torch.full_like(weight, LARGE)))
    seen.backward(gradient.to(seen.dtype).to(device))
    forward_error = _relative_error(seen, exact)
    backward_error = max(
        _relative_error(seen_x.grad, exact_x.grad),
        _relative_error(seen_weight.grad, exact_weight.grad),
    )
    overflows = bool(torch.isinf(large).any())
    return Probe(
        operation=operation,
        forward=_classify(forward_error, seen.dtype, overflows=overflows),
        backward=_classify(backward_error, seen.dtype, overflows=overflows),
        forward_error=forward_error,
        backward_error=backward_error,
    )


def _classify(error: float, dtype: torch.dtype, *, overflows: bool) -> str:
    if error < FP32_MAX_ERROR:
        return "fp32"
    if error > ELEVEN_BITS_MAX_ERROR:
        return "bf16"
    return "fp16" if overflows or dtype is torch.float16 else "tf32"


def _relative_error(seen: torch.Tensor | None, exact: torch.Tensor | None) -> float:
    if seen is None or exact is None:
        return float("nan")
    difference = seen.detach().double().cpu() - exact.detach()
    return float(difference.norm() / exact.detach().norm())
