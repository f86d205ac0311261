"""Tests of the data sets' names."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from cnnbench.data import DATASETS, augmentation_for, check_name
from cnnbench.environment import DatasetInfo
from cnnbench.errors import CnnbenchError, InvalidValueError, UnknownNameError

INFO = DatasetInfo(
    name="digits",
    digest="0" * 32,
    source="",
    path="",
    image_size=32,
    num_channels=1,
    num_classes=10,
    num_train=1,
    num_val=1,
    num_test=1,
    augmentation="crop",
    augmentations=("none", "crop"),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)


@pytest.mark.parametrize(
    ("dataset", "key"),
    [
        ("digits", "digits"),
        ("fashion_mnist", "fashion_mnist"),
        ("cifar10", "cifar10"),
        ("cifar100", "cifar100"),
        ("folder:/data/my flowers (2024)", "folder:PATH"),
        ("synthetic", "synthetic(...)"),
        ("synthetic(image_size=224,num_classes=1000)", "synthetic(...)"),
    ],
)
def test_every_data_set_is_known_by_its_name(dataset: str, key: str) -> None:
    assert check_name(dataset) == key
    assert key in DATASETS


def test_an_unknown_name_is_refused_with_the_nearest_and_all() -> None:
    with pytest.raises(UnknownNameError) as refusal:
        check_name("cifar01")
    assert "Did you mean 'cifar10'?" in str(refusal.value)
    assert all(name in str(refusal.value) for name in DATASETS)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("folder:", "needs a path"),
        ("folder", "needs a path"),
        ("digits(size=3)", "takes no parameters"),
        ("synthetic(size=3)", "image_size, num_classes, num_images"),
        ("synthetic(image_size=0)", "image_size = 0"),
        ("synthetic(num_images='many')", "num_images = 'many'"),
        ("synthetic(num_classes=True)", "num_classes = True"),
        ("synthetic(32)", "NAME(parameter=value"),
        ("", "cannot read ''"),
    ],
)
def test_what_no_data_set_can_be_is_refused(dataset: str, said: str) -> None:
    with pytest.raises(CnnbenchError) as refusal:
        check_name(dataset)
    assert said in str(refusal.value)


def test_names_are_checked_without_torch() -> None:
    program = (
        "import sys; from cnnbench.data import check_name; check_name('synthetic(image_size=8)');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_default_augmentation_is_the_data_sets_own() -> None:
    assert augmentation_for(INFO, "default") == "crop"
    assert augmentation_for(replace(INFO, augmentation="none"), "default") == "none"
    assert augmentation_for(INFO, "none") == "none"


def test_digits_are_never_flipped() -> None:
    with pytest.raises(InvalidValueError, match=r"'flip\+crop' does not suit digits.*none, crop"):
        augmentation_for(INFO, "flip+crop")
