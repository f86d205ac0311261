"""Tests of the real digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnnbench.data.datasets import prepare
from cnnbench.data.prepared import load

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.data.prepared import Prepared
    from cnnbench.environment import DatasetInfo

# Of images, labels and splits: every number ever measured on digits rests on these bytes.
DIGEST = "055acb73a355f5d678ac7ee86201d6b2"


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("digits")
    return prepare("digits", data_dir=folder, cache_dir=folder, download=False, image_size=None)


@pytest.fixture(scope="module")
def prepared(info: DatasetInfo, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return load(tmp_path_factory.getbasetemp() / info.path)


def test_the_digest_of_the_digits_never_changes(info: DatasetInfo) -> None:
    assert info.digest == DIGEST


def test_digits_are_described(info: DatasetInfo) -> None:
    assert (info.num_train, info.num_val, info.num_test) == (1257, 270, 270)
    assert (info.image_size, info.num_channels, info.num_classes) == (32, 1, 10)
    assert (info.augmentation, info.augmentations) == ("crop", ("none", "crop"))


def test_the_pixels_are_scikit_learns(prepared: Prepared) -> None:
    greys = np.asarray(load_digits(return_X_y=True)[0]).reshape(-1, 1, 8, 8)
    assert np.abs(prepared.images * (16 / 255) - greys).max() < 0.04
    assert prepared.images.max() == 255


def test_every_digit_is_in_every_split_in_proportion(prepared: Prepared) -> None:
    splits = prepared.splits
    share = np.bincount(prepared.labels) / 1797
    for part in (splits.train, splits.val, splits.test):
        counts = np.bincount(prepared.labels[part], minlength=10)
        assert np.abs(counts - share * len(part)).max() <= 1


def test_the_splits_are_disjoint(prepared: Prepared) -> None:
    splits = prepared.splits
    assert sorted(np.concatenate([splits.train, splits.val, splits.test])) == list(range(1797))


def test_a_second_preparation_finds_the_first(info: DatasetInfo, tmp_path: Path) -> None:
    again = [
        prepare("digits", data_dir=tmp_path, cache_dir=tmp_path, download=False, image_size=None)
        for _ in range(2)
    ]
    assert again[0] == again[1]
    assert again[0].digest == info.digest
    assert len(list(tmp_path.iterdir())) == 1
