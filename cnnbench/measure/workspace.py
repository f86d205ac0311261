"""What an operator needs on a CPU besides its inputs and outputs, while it runs.

oneDNN convolves in layouts of its own: it copies what lies otherwise before, and the result back after.
The copies come from PyTorch's allocator, so they are part of the peak. As
`aten/src/ATen/native/mkldnn/Conv.cpp` does it: in NCHW images and weights are copied, in channels_last the
weights alone. It was seen to copy so by torch's profiler, convolution by convolution. Its scratch pads,
which depend on the processor and the number of threads, are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._prims_common import suggest_memory_format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch._ops import OpOverload

aten = torch.ops.aten
# nChw16c, the layout for AVX-512; processors without it block by 8, and fill up less.
BLOCK_CHANNELS = 16


def workspace_of(func: OpOverload, args: Sequence[Any], out: Any) -> int:
    """Return how many bytes `func` needs at most beyond its inputs and what it returns.

    Args:
        func: the operator.
        args: its arguments in their order.
        out: what it returned.
    """
    rule = _RULES.get(func)
    return rule(args, out) if rule else 0


def _convolution(args: Sequence[Any], out: torch.Tensor) -> int:
    """Images, weights and result are copied; the images' copy goes before the plain result comes."""
    images, weight = args[:2]
    if _is_channels_last(images, weight):
        return _bytes(weight)
    result = _copy(out)
    return max(_copy_of_images(images, weight) + _bytes(weight) + result - _bytes(out), result)


def _convolution_backward(args: Sequence[Any], out: Sequence[torch.Tensor | None]) -> int:
    """First the images' gradient is made, then the weights'; each copies what it needs."""
    gradient, images, weight = args[:3]
    plain, weight_gradient = (_bytes(one) for one in out[:2])
    if _is_channels_last(images, weight):
        return max(0, _bytes(weight) - (0 if plain else weight_gradient))
    copied = _copy(gradient)
    first = 0
    if out[0] is not None:
        first = max(copied + _bytes(weight), plain) + _copy(out[0])
    second = plain + copied + _copy_of_images(images, weight) + _bytes(weight)
    return max(0, max(first, second) - plain - weight_gradient)


def _copy_of_images(images: torch.Tensor, weight: torch.Tensor) -> int:
    """Return the bytes of the images' copy; few channels are read as they lie, but for 1x1 kernels."""
    is_pointwise = weight.shape[-2:].numel() == 1
    return _copy(images) if images.shape[1] >= BLOCK_CHANNELS or is_pointwise else 0


def _copy(tensor: torch.Tensor) -> int:
    """Return the bytes of a copy in oneDNN's layout, which fills up the last block of channels."""
    num_channels = tensor.shape[1]
    return tensor.nbytes * (-num_channels // BLOCK_CHANNELS) * -BLOCK_CHANNELS // num_channels


def _is_channels_last(images: torch.Tensor, weight: torch.Tensor) -> bool:
    return torch.channels_last in {suggest_memory_format(images), suggest_memory_format(weight)}


def _bytes(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.nbytes


_RULES: dict[OpOverload, Callable[[Sequence[Any], Any], int]] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}
