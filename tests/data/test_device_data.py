"""Tests of data on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from cnnbench.data import device_data
from cnnbench.data.datasets import prepare
from cnnbench.data.device_data import open_prepared
from cnnbench.data.device_loader import DeviceLoader
from cnnbench.data.prepared import load
from cnnbench.data.resize import fit_to_size
from cnnbench.errors import DataError, InvalidValueError

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("digits")
    return prepare("digits", data_dir=folder, cache_dir=folder, download=False, image_size=None)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("synthetic")
    name = "synthetic(image_size=24,num_classes=7,num_images=300)"
    return prepare(name, data_dir=folder, cache_dir=folder, download=False, image_size=None)


def test_each_split_holds_its_own_images(
    digits: DatasetInfo, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prepared = load(tmp_path_factory.getbasetemp() / digits.path)
    data = open_prepared(digits, device=CPU, image_size=8)
    for name in ("train", "val", "test"):
        split, at = getattr(data, name), getattr(prepared.splits, name)
        np.testing.assert_array_equal(split.images, prepared.images[at])
        np.testing.assert_array_equal(split.labels, prepared.labels[at])


def test_images_are_held_at_the_size_asked_for(digits: DatasetInfo) -> None:
    data = open_prepared(digits, device=CPU, image_size=32)
    native = open_prepared(digits, device=CPU, image_size=8)
    assert data.train.images.shape == (1257, 1, 32, 32)
    assert data.train.images.dtype == torch.uint8
    assert torch.equal(data.val.images, fit_to_size(native.val.images, 32))
    assert data.num_bytes == 1797 * (32 * 32 + 8)


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_images_too_many_to_be_held_resized_give_the_same_batches(
    digits: DatasetInfo, augment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = open_prepared(digits, device=CPU, image_size=32)
    monkeypatch.setattr(device_data, "MAX_RESIZED_BYTES", 1797 * 32 * 32 - 1)
    resized_later = open_prepared(digits, device=CPU, image_size=32)
    assert resized_later.train.images.shape == (1257, 1, 8, 8)
    for first, second in zip(
        *(
            DeviceLoader(data.train, batch_size=100, augment=augment).epoch(3)
            for data in (held, resized_later)
        ),
        strict=True,
    ):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


def test_what_shrinks_is_always_held_resized(
    digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_data, "MAX_RESIZED_BYTES", 0)
    assert open_prepared(digits, device=CPU, image_size=4).train.images.shape[-1] == 4


def test_the_statistics_may_be_those_of_pretrained_weights(digits: DatasetInfo) -> None:
    own = open_prepared(digits, device=CPU, image_size=8).train
    assert (own.mean, own.std) == (digits.mean, digits.std)
    other = open_prepared(digits, device=CPU, image_size=8, statistics=IMAGENET).train
    assert (other.mean, other.std) == IMAGENET


def test_a_subset_has_the_classes_in_proportion(digits: DatasetInfo) -> None:
    data = open_prepared(digits, device=CPU, image_size=8, train_subset=100)
    assert len(data.train) == 100
    assert (len(data.val), len(data.test)) == (270, 270)
    counts = torch.bincount(data.train.labels)
    assert counts.min() >= 9
    assert counts.max() <= 11


def test_a_larger_subset_contains_a_smaller_one(digits: DatasetInfo) -> None:
    small, large = (
        open_prepared(digits, device=CPU, image_size=8, train_subset=number).train
        for number in (50, 200)
    )
    assert torch.equal(large.images[:50], small.images)


def test_the_whole_as_a_subset_is_the_whole(digits: DatasetInfo) -> None:
    whole = open_prepared(digits, device=CPU, image_size=8)
    subset = open_prepared(digits, device=CPU, image_size=8, train_subset=1257)
    assert torch.equal(whole.train.images, subset.train.images)


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_a_subset_larger_than_the_training_split_is_refused(
    name: str, request: pytest.FixtureRequest
) -> None:
    info: DatasetInfo = request.getfixturevalue(name)
    with pytest.raises(InvalidValueError, match=f"train_subset = 9999.*{info.num_train} training"):
        open_prepared(info, device=CPU, image_size=8, train_subset=9999)


def test_synthetic_images_are_made_as_asked(synthetic: DatasetInfo) -> None:
    data = open_prepared(synthetic, device=CPU, image_size=24)
    assert data.train.images.shape == (240, 3, 24, 24)
    assert (len(data.val), len(data.test)) == (30, 30)
    assert torch.bincount(data.train.labels).tolist() == [35, 35, 34, 34, 34, 34, 34]
    assert data.train.images.float().mean() == pytest.approx(127.5, abs=1)
    assert not torch.equal(data.val.images, data.test.images)


def test_synthetic_images_are_the_same_each_time(synthetic: DatasetInfo) -> None:
    first, again = (open_prepared(synthetic, device=CPU, image_size=24) for _ in range(2))
    assert torch.equal(first.train.images, again.train.images)


def test_synthetic_images_are_made_at_the_cells_size(synthetic: DatasetInfo) -> None:
    data = open_prepared(synthetic, device=CPU, image_size=48, train_subset=14)
    assert data.train.images.shape == (14, 3, 48, 48)
    assert data.train.labels.tolist() == [*range(7), *range(7)]


def test_a_prepared_file_that_is_gone_is_named(digits: DatasetInfo, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.bin"):
        open_prepared(replace(digits, path=str(tmp_path / "gone.bin")), device=CPU, image_size=8)


def test_a_prepared_file_of_another_data_set_is_refused(digits: DatasetInfo) -> None:
    with pytest.raises(DataError, match="not the prepared copy of other"):
        open_prepared(replace(digits, name="other", num_train=9), device=CPU, image_size=8)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_the_data_lie_on_the_gpu(name: str, request: pytest.FixtureRequest) -> None:
    info: DatasetInfo = request.getfixturevalue(name)
    before = torch.cuda.memory_allocated()
    data = open_prepared(info, device=torch.device("cuda"), image_size=32)
    assert data.train.images.is_cuda
    assert data.test.labels.is_cuda
    assert torch.cuda.memory_allocated() - before >= data.num_bytes
