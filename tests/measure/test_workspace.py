"""What convolutions on a CPU copy, in numbers that torch's profiler was seen to give."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cnnbench.measure.workspace import workspace_of

aten = torch.ops.aten
KIB = 1024


def tensors(
    num_in: int, num_out: int, layout: torch.memory_format = torch.contiguous_format
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return fp32 images, weights of 3x3 kernels and what a convolution makes of them."""
    shapes = ((16, num_in, 32, 32), (num_out, num_in, 3, 3), (16, num_out, 32, 32))
    images, weight, out = (torch.empty(shape, memory_format=layout) for shape in shapes)
    return images, weight, out


def test_in_nchw_images_weights_and_results_are_copied() -> None:
    with FakeTensorMode():
        images, weight, out = tensors(16, 32)
        forward = workspace_of(aten.convolution.default, (images, weight), out)
        gradients = (images, weight, None)
        backward = workspace_of(aten.convolution_backward.default, (out, images, weight), gradients)
    # 1024 KiB of images, 18 of weights, 2048 of the result: there twice when it is copied back.
    assert forward == 2048 * KIB
    assert backward == (2048 + 1024) * KIB


def test_copies_fill_up_the_last_block_of_channels() -> None:
    with FakeTensorMode():
        images, weight, out = tensors(3, 4)
        forward = workspace_of(aten.convolution.default, (images, weight), out)
    assert forward == 1024 * KIB  # 16 channels for the result's 4; the images are read as they lie


def test_in_channels_last_only_weights_are_copied() -> None:
    with FakeTensorMode():
        images, weight, out = tensors(16, 32, torch.channels_last)
        forward = workspace_of(aten.convolution.default, (images, weight), out)
        gradients = (images, weight, None)
        backward = workspace_of(aten.convolution_backward.default, (out, images, weight), gradients)
        frozen = workspace_of(
            aten.convolution_backward.default, (out, images, weight), (None, weight, None)
        )
    assert (forward, backward, frozen) == (18 * KIB, 36 * KIB, 36 * KIB)


def test_many_weights_over_few_pixels_are_copied_back_beside_their_gradient() -> None:
    with FakeTensorMode():
        images, out = (torch.empty((16, 256, 4, 4)) for _ in range(2))
        weight = torch.empty((256, 256, 3, 3))
        gradients = (images, weight, None)
        backward = workspace_of(aten.convolution_backward.default, (out, images, weight), gradients)
    assert backward == 2304 * KIB


@pytest.mark.parametrize(
    ("size", "dtype", "factor"),
    [(3, torch.float32, 2), (5, torch.float32, 257), (5, torch.bfloat16, 767)],
)
def test_a_depthwise_gradient_without_a_kernel_of_its_own_fills_up_blocks(
    size: int, dtype: torch.dtype, factor: int
) -> None:
    with FakeTensorMode():
        images, out = (
            torch.empty((16, 64, 8, 8), dtype=dtype, memory_format=torch.channels_last)
            for _ in range(2)
        )
        weight = torch.empty((64, 1, size, size), dtype=dtype)
        gradients = (images, weight, None)
        backward = workspace_of(aten.convolution_backward.default, (out, images, weight), gradients)
    assert backward == factor * weight.nbytes


def test_a_pool_works_in_the_layout_of_the_incoming_gradient() -> None:
    with FakeTensorMode():
        shape, pooled = (16, 32, 16, 16), (16, 32, 8, 8)
        plain, last = torch.empty(pooled), torch.empty(pooled, memory_format=torch.channels_last)
        indices = torch.empty(pooled, dtype=torch.int64, memory_format=torch.channels_last)
        out = torch.empty(shape, memory_format=torch.channels_last)
        pool = aten.max_pool2d_with_indices_backward.default
        foreign, own = (workspace_of(pool, (one, out, indices), out) for one in (plain, last))
    # 256 KiB of indices, 512 of the result.
    assert (foreign, own) == ((256 + 512) * KIB, 0)


def test_other_operators_need_nothing() -> None:
    assert workspace_of(aten.relu.default, (torch.empty(4),), torch.empty(4)) == 0
