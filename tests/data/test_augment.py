"""Tests of the augmentations against a slow reference that takes one image at a time."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from cnnbench.data.augment import Augmentation, Draws

CPU = torch.device("cpu")
NAMES = ("crop", "flip+crop", "flip+crop+cutout")


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def draw(augmentation: Augmentation, num_images: int, seed: int = 0) -> Draws:
    return augmentation.draw(num_images, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_channels", "size"), [(1, 32), (3, 32), (3, 33), (1, 8), (3, 2)])
def test_crops_and_flips_equal_a_per_image_reference(
    name: str, num_channels: int, size: int
) -> None:
    images = random_images(50, num_channels, size, size)
    index = torch.randint(0, 50, (200,), generator=torch.Generator().manual_seed(1))
    augmentation = Augmentation(name, size=size, device=CPU)
    draws = draw(augmentation, 200)
    taken = augmentation.take(images, index, draws)
    padding = augmentation.padding
    num_shifts = 2 * padding + 1
    for position, image in enumerate(images[index].numpy()):
        padded = np.pad(image, ((0, 0), (padding,) * 2, (padding,) * 2), mode="reflect")
        top, column = int(draws.row[position]), int(draws.column[position])
        left = column % num_shifts
        crop = padded[:, top : top + size, left : left + size]
        expected = crop[:, :, ::-1] if column >= num_shifts else crop
        np.testing.assert_array_equal(taken[position], expected)


def test_cutout_equals_a_per_image_reference() -> None:
    augmentation = Augmentation("flip+crop+cutout", size=32, device=CPU)
    draws = draw(augmentation, 100)
    images = torch.rand(100, 3, 32, 32) + 1
    expected = images.clone()
    for position in range(100):
        top = int(draws.cut_row[position]) - 8
        left = int(draws.cut_column[position]) - 8
        expected[position, :, max(top, 0) : max(top + 16, 0), max(left, 0) : max(left + 16, 0)] = 0
    assert torch.equal(augmentation.cut(images, draws), expected)


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (64, 8), (224, 28), (28, 3), (4, 1)])
def test_padding_is_4_at_32_and_in_proportion(size: int, padding: int) -> None:
    assert Augmentation("crop", size=size, device=CPU).padding == padding


def test_every_shift_is_drawn_about_equally_often() -> None:
    augmentation = Augmentation("crop", size=32, device=CPU)
    draws = draw(augmentation, 9000)
    for shift in (draws.row, draws.column):
        counts = torch.bincount(shift)
        assert len(counts) == 9
        assert counts.min() > 800


def test_half_of_the_images_are_flipped() -> None:
    draws = draw(Augmentation("flip+crop", size=32, device=CPU), 10_000)
    flipped = (draws.column >= 9).float().mean()
    assert 0.48 < float(flipped) < 0.52


def test_crop_alone_never_flips() -> None:
    augmentation = Augmentation("crop", size=32, device=CPU)
    ramp = torch.arange(32, dtype=torch.uint8).expand(500, 1, 32, 32).contiguous()
    taken = augmentation.take(ramp, torch.arange(500), draw(augmentation, 500))
    middle = taken[:, :, :, 8:24].to(torch.int16)
    assert (middle.diff(dim=3) == 1).all()


def test_none_takes_the_images_as_they_are() -> None:
    images = random_images(10, 3, 16, 16)
    augmentation = Augmentation("none", size=16, device=CPU)
    index = torch.tensor([3, 3, 0])
    draws = draw(augmentation, 3)
    assert torch.equal(augmentation.take(images, index, draws), images[index])
    ones = torch.ones(3, 3, 16, 16)
    assert torch.equal(augmentation.cut(ones, draws), torch.ones(3, 3, 16, 16))


def test_the_same_seed_draws_the_same() -> None:
    augmentation = Augmentation("flip+crop", size=32, device=CPU)
    first, again, other = (draw(augmentation, 64, seed) for seed in (1, 1, 2))
    assert torch.equal(first.row, again.row)
    assert torch.equal(first.column, again.column)
    assert not torch.equal(first.column, other.column)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_takes_the_same_pixels(name: str) -> None:
    images = random_images(50, 3, 32, 32)
    device = torch.device("cuda")
    on_cpu, on_gpu = (Augmentation(name, size=32, device=at) for at in (CPU, device))
    draws = draw(on_cpu, 50)
    moved = Draws(**{f.name: getattr(draws, f.name).to(device) for f in fields(draws)})
    taken = on_gpu.take(images.to(device), torch.arange(50, device=device), moved)
    assert torch.equal(taken.cpu(), on_cpu.take(images, torch.arange(50), draws))
