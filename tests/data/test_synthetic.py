"""Tests of the synthetic data set's description."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.data.datasets import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo


def describe(name: str, folder: Path) -> DatasetInfo:
    return prepare(name, data_dir=folder, cache_dir=folder, download=False, image_size=None)


def test_synthetic_is_as_asked_and_writes_nothing(tmp_path: Path) -> None:
    info = describe("synthetic(image_size=224,num_classes=1000,num_images=512)", tmp_path)
    assert (info.image_size, info.num_classes, info.path) == (224, 1000, "")
    assert info.num_train + info.num_val + info.num_test == 512
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_of_the_parameters_not_of_their_spelling(tmp_path: Path) -> None:
    plain = describe("synthetic", tmp_path).digest
    assert len(plain) == 32
    assert describe("synthetic(num_images=2048, image_size=32)", tmp_path).digest == plain
    assert describe("synthetic(num_images=2049)", tmp_path).digest != plain
