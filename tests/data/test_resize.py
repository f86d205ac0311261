"""Tests of bringing images to a size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cnnbench.data.resize import fit_to_size

GENERATOR = torch.Generator().manual_seed(0)


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=GENERATOR)


def test_images_of_the_right_size_are_left_alone() -> None:
    images = random_images(4, 3, 32, 32)
    assert fit_to_size(images, 32) is images


def test_grey_28_becomes_32_by_a_black_border() -> None:
    images = random_images(4, 1, 28, 28)
    fitted = fit_to_size(images, 32)
    assert torch.equal(fitted[:, :, 2:30, 2:30], images)
    assert fitted.sum(dtype=torch.int64) == images.sum(dtype=torch.int64)


@pytest.mark.parametrize(("side", "size"), [(8, 32), (32, 64), (28, 64), (64, 32), (33, 8)])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_other_sizes_are_interpolated_as_pillow_does(
    side: int, size: int, num_channels: int
) -> None:
    images = random_images(2, num_channels, side, side)
    fitted = fit_to_size(images, size)
    assert fitted.dtype == torch.uint8
    for image, result in zip(images.reshape(-1, side, side), fitted.flatten(0, 1), strict=True):
        expected = Image.fromarray(image.numpy()).resize((size, size), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(result.numpy(), np.asarray(expected), atol=1)


def test_the_extremes_of_brightness_stay() -> None:
    for value in (0, 255):
        images = torch.full((1, 1, 8, 8), value, dtype=torch.uint8)
        assert set(fit_to_size(images, 32).flatten().tolist()) == {value}
