"""What a data set's models are built for, told without reading its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cnnbench.data.cifar import SIDE
from cnnbench.data.sizes import SIZES, sizes_of
from cnnbench.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo


def test_the_sizes_are_those_of_the_prepared_data(digits: DatasetInfo) -> None:
    assert sizes_of("digits") == (digits.image_size, digits.num_classes)
    assert {SIZES["cifar10"][0], SIZES["cifar100"][0]} == {SIDE}
    assert sizes_of("synthetic(image_size=224,num_classes=1000)") == (224, 1000)


def test_the_classes_of_a_folder_are_its_folders(tmp_path: Path) -> None:
    for name in ("cats", "dogs", "owls"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train" / "note.txt").touch()
    assert sizes_of(f"folder:{tmp_path / 'train'}") == (224, 3)
    (tmp_path / "val").mkdir()
    assert sizes_of(f"folder:{tmp_path}") == (224, 3)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it takes two or more"):
        sizes_of(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="cannot take"):
        sizes_of(f"folder:{tmp_path / 'gone'}")
    with pytest.raises(UnknownNameError):
        sizes_of("digit")
