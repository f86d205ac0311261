"""Bring uint8 images to the side in pixels that a model takes."""

from __future__ import annotations

import torch
from torch.nn import functional

MNIST_SIDE, LENET_SIDE = 28, 32


def fit_to_size(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return square uint8 images (N, C, S, S) at `size` x `size`, still uint8.

    Grey 28 x 28 images become 32 x 32 by a black border of 2, as LeNet-5 took MNIST (LeCun et al.
    1998), so that no pixel is invented. Everything else is interpolated bilinearly (antialiased
    when it shrinks) and rounded.
    """
    num_channels, side = images.shape[1], images.shape[-1]
    if side == size:
        return images
    if (num_channels, side, size) == (1, MNIST_SIDE, LENET_SIDE):
        border = (size - side) // 2
        return functional.pad(images, (border, border, border, border))
    resized = functional.interpolate(
        images.to(torch.float32), size=(size, size), mode="bilinear", antialias=size < side
    )
    return resized.round_().clamp_(0, 255).to(torch.uint8)
