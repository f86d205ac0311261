"""Tests of the batches that a cell trains and evaluates on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from cnnbench.data.datasets import prepare
from cnnbench.data.device_data import Split, open_prepared
from cnnbench.data.device_loader import DeviceLoader
from cnnbench.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.data.device_data import DeviceData

    Batch = tuple[torch.Tensor, torch.Tensor]

NUM_IMAGES = 50


def make_split(num_channels: int = 1, num_images: int = NUM_IMAGES, side: int = 16) -> Split:
    """Return images that carry their label, which is their position, in every pixel."""
    labels = torch.arange(num_images)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, num_channels, side, side)
    return Split(
        images=images.contiguous(),
        labels=labels,
        image_size=side,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DeviceData:
    folder = tmp_path_factory.mktemp("digits")
    info = prepare("digits", data_dir=folder, cache_dir=folder, download=False, image_size=None)
    return open_prepared(info, device=torch.device("cpu"), image_size=32)


def labels_of(batches: Iterator[Batch]) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("augment", ["none", "crop", "flip+crop", "flip+crop+cutout"])
def test_batches_have_the_form_asked_for(
    augment: str, num_channels: int, *, channels_last: bool
) -> None:
    loader = DeviceLoader(
        make_split(num_channels), batch_size=8, augment=augment, channels_last=channels_last
    )
    batches = [*loader.epoch(0), *loader.ordered(), *itertools.islice(loader.forever(0), 9)]
    form = torch.channels_last if channels_last else torch.contiguous_format
    for images, labels in batches:
        assert images.shape == (len(labels), 3, 16, 16)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.is_contiguous(memory_format=form)


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_every_image_comes_with_its_label(augment: str) -> None:
    loader = DeviceLoader(make_split(), batch_size=8, augment=augment)
    for images, labels in [*loader.epoch(0), *loader.ordered()]:
        assert torch.allclose(images * 255, labels.view(-1, 1, 1, 1).float())


def test_an_epoch_is_shuffled_and_has_full_batches_only() -> None:
    loader = DeviceLoader(make_split(), batch_size=8)
    seen = labels_of(loader.epoch(0))
    assert loader.num_batches == 6
    assert len(seen) == len(set(seen)) == 48
    assert seen != sorted(seen)


@pytest.mark.parametrize("augment", ["none", "flip+crop+cutout"])
def test_the_same_seed_gives_the_same_batches(augment: str, digits: DeviceData) -> None:
    loader = DeviceLoader(digits.train, batch_size=100, augment=augment)
    first = list(loader.epoch(5))
    torch.manual_seed(99)
    torch.rand(3)
    for (images, labels), (again, labels_again) in zip(first, loader.epoch(5), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)


def test_another_seed_gives_other_batches(digits: DeviceData) -> None:
    loader = DeviceLoader(digits.train, batch_size=100, augment="crop")
    assert labels_of(loader.epoch(5)) != labels_of(loader.epoch(6))


def test_making_batches_leaves_the_global_generator_alone(digits: DeviceData) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    list(DeviceLoader(digits.train, batch_size=100, augment="crop").epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_forever_begins_as_an_epoch_and_goes_on_in_another_order() -> None:
    loader = DeviceLoader(make_split(), batch_size=8)
    endless = loader.forever(3)
    first = labels_of(itertools.islice(endless, 6))
    second = labels_of(itertools.islice(endless, 6))
    assert first == labels_of(loader.epoch(3))
    assert first != second
    assert len(set(second)) == 48


def test_forever_fills_batches_larger_than_the_split() -> None:
    loader = DeviceLoader(make_split(), batch_size=120, augment="crop")
    for images, labels in itertools.islice(loader.forever(0), 3):
        assert len(images) == 120
        assert torch.bincount(labels).min() >= 2
        assert torch.allclose(images * 255, labels.view(-1, 1, 1, 1).float())


def test_a_split_that_fills_no_batch_is_refused_at_once() -> None:
    loader = DeviceLoader(make_split(), batch_size=51)
    with pytest.raises(InvalidValueError, match=r"51 images.*50 training images"):
        loader.epoch(0)


def test_evaluation_sees_every_image_once_in_order() -> None:
    loader = DeviceLoader(make_split(), batch_size=8, augment="flip+crop+cutout")
    assert labels_of(loader.ordered(16)) == list(range(NUM_IMAGES))
    assert [len(labels) for _, labels in loader.ordered(16)] == [16, 16, 16, 2]


def test_evaluation_is_not_augmented(digits: DeviceData) -> None:
    plain = DeviceLoader(digits.val, batch_size=64, augment="none")
    augmented = DeviceLoader(digits.val, batch_size=64, augment="crop")
    for (images, _), (same, _) in zip(plain.ordered(), augmented.ordered(), strict=True):
        assert torch.equal(images, same)


def test_normalised_digits_have_mean_0_and_deviation_1(digits: DeviceData) -> None:
    loader = DeviceLoader(digits.train, batch_size=1257)
    images = torch.cat([images for images, _ in loader.ordered()])
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_each_channel_is_normalised_by_its_own_statistics(num_channels: int) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    split = replace(make_split(num_channels), mean=mean, std=std)
    images, labels = next(DeviceLoader(split, batch_size=NUM_IMAGES).ordered())
    grey = labels.view(-1, 1, 1, 1) / 255
    for channel in range(3):
        expected = (grey[:, 0] - mean[channel]) / std[channel]
        assert torch.allclose(images[:, channel], expected.expand(-1, 16, 16), atol=1e-6)


def test_cutout_fills_with_the_mean() -> None:
    split = replace(make_split(3), mean=(0.9,) * 3, std=(0.5,) * 3)
    loader = DeviceLoader(split, batch_size=NUM_IMAGES, augment="flip+crop+cutout")
    images, _ = next(loader.epoch(0))
    blank = (images == 0).all(dim=1).flatten(1).sum(dim=1)
    assert blank.max() == 64
    assert blank.min() >= 16


def test_batches_are_fresh_memory_that_may_be_written_to(digits: DeviceData) -> None:
    loader = DeviceLoader(digits.val, batch_size=10)
    first, _ = next(loader.ordered())
    kept = first.clone()
    first.zero_()
    assert torch.equal(next(loader.ordered())[0], kept)


@pytest.mark.gpu
@pytest.mark.parametrize("augment", ["none", "flip+crop+cutout"])
@pytest.mark.parametrize("image_size", [16, 48])
def test_an_epoch_never_waits_for_the_gpu(augment: str, image_size: int) -> None:
    device = torch.device("cuda")
    on_cpu = make_split(3)
    split = replace(
        on_cpu,
        images=on_cpu.images.to(device),
        labels=on_cpu.labels.to(device),
        image_size=image_size,
    )
    loader = DeviceLoader(split, batch_size=8, augment=augment, channels_last=True)
    list(loader.epoch(0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [*loader.epoch(0), *loader.ordered(), *itertools.islice(loader.forever(0), 9)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(images.is_cuda for images, _ in batches)


@pytest.mark.gpu
def test_the_same_seed_gives_the_same_batches_on_a_gpu() -> None:
    on_cpu = make_split(3)
    split = replace(on_cpu, images=on_cpu.images.cuda(), labels=on_cpu.labels.cuda())
    loader = DeviceLoader(split, batch_size=8, augment="flip+crop+cutout")
    for first, again in zip(loader.epoch(1), loader.epoch(1), strict=True):
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
