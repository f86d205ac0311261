"""What an operator needs on a CPU besides its inputs and outputs, while it runs.

oneDNN convolves in layouts of its own: it copies what lies otherwise before, and the result back after.
The copies come from PyTorch's allocator, so they are part of the peak. As
`aten/src/ATen/native/mkldnn/Conv.cpp` does it: in NCHW images and weights are copied, in channels_last the
weights alone. It was seen to copy so by torch's profiler, convolution by convolution. Its other scratch
pads, which depend on the processor and the number of threads, are left out.
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
MAX_DEPTHWISE_KERNEL = 3


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
    """First the images' gradient is made, then the weights'; each copies what it needs.

    The weights' gradient is made in oneDNN's layout and copied back, in channels_last once more.
    """
    gradient, images, weight = args[:3]
    plain, weight_gradient = (_bytes(one) for one in out[:2])
    if _is_channels_last(images, weight):
        moments = [plain + _bytes(weight) if plain else 0, plain + 3 * weight_gradient]
        if weight_gradient and _is_padded_depthwise(images, weight):
            moments.append(plain + _padded_depthwise_work(weight))
    else:
        copied = _copy(gradient)
        moments = [
            max(copied + _bytes(weight), plain) + _copy(images) if plain else 0,
            plain + copied + _copy_of_images(images, weight) + weight_gradient,
            plain + 2 * weight_gradient,
        ]
    return max(0, max(moments) - plain - weight_gradient)


def _is_padded_depthwise(images: torch.Tensor, weight: torch.Tensor) -> bool:
    """Say whether oneDNN has no depthwise kernel: for kernels over 3x3, or larger than the images."""
    is_depthwise = weight.shape[1] == 1 < weight.shape[0]
    largest = max(weight.shape[-2:])
    return is_depthwise and largest > min(MAX_DEPTHWISE_KERNEL, *images.shape[-2:])


def _padded_depthwise_work(weight: torch.Tensor) -> int:
    """Return the bytes of a gradient in which each channel fills up a block of inputs and of outputs.

    16-bit ones are summed up in float32 beside it.
    """
    padded = weight.nbytes * BLOCK_CHANNELS**2
    is_short = weight.itemsize < torch.float32.itemsize
    return padded + (2 * padded if is_short else 2 * weight.nbytes)


def _max_pool_backward(args: Sequence[Any], out: torch.Tensor) -> int:
    """In the layout of the incoming gradient; what lies otherwise is copied before, or back after."""
    gradient, indices = args[0], args[-1]
    layout = suggest_memory_format(gradient)
    copied = [one for one in (indices, out) if not one.is_contiguous(memory_format=layout)]
    return sum(one.nbytes for one in copied)


def _copy_of_images(images: torch.Tensor, weight: torch.Tensor) -> int:
    """Return the bytes of the images' copy; few channels are read as they lie, but for 1x1 kernels."""
    is_pointwise = weight.shape[-2:].numel() == 1
    return _copy(images) if images.shape[1] >= BLOCK_CHANNELS or is_pointwise else 0


def _copy(tensor: torch.Tensor) -> int:
    """Return the bytes of a copy in oneDNN's layout, which fills up the last block of channels."""
    num_channels = tensor.shape[1]
    return tensor.nbytes * _filled(num_channels) // num_channels


def _filled(num_channels: int) -> int:
    return -(-num_channels // BLOCK_CHANNELS) * BLOCK_CHANNELS


def _is_channels_last(images: torch.Tensor, weight: torch.Tensor) -> bool:
    return torch.channels_last in {suggest_memory_format(images), suggest_memory_format(weight)}


def _bytes(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.nbytes


_RULES: dict[OpOverload, Callable[[Sequence[Any], Any], int]] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
}
