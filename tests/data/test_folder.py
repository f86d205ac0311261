"""Tests of a user's own folder of images."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from cnnbench.data.datasets import prepare
from cnnbench.data.folder import decode, folder
from cnnbench.data.prepared import load
from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cnnbench.data.prepared import Request
    from cnnbench.environment import DatasetInfo


def prepare_folder(root: Path, *, image_size: int | None = 16) -> DatasetInfo:
    cache = root.parent / "cache"
    return prepare(
        f"folder:{root}",
        data_dir=cache,
        cache_dir=cache,
        download=False,
        image_size=image_size,
    )


@pytest.fixture
def root(tmp_path: Path, make_tiny_folder: Callable[..., Path]) -> Path:
    return make_tiny_folder(tmp_path / "pets")


def test_a_plain_folder_is_split_80_10_10(root: Path) -> None:
    info = prepare_folder(root)
    assert (info.num_train, info.num_val, info.num_test) == (16, 2, 2)
    assert (info.num_classes, info.num_channels, info.image_size) == (2, 3, 16)
    prepared = load(root.parent / info.path)
    assert prepared.images.shape == (20, 3, 16, 16)
    for name in ("train", "val", "test"):
        part = prepared.labels[getattr(prepared.splits, name)]
        assert part.sum() * 2 == len(part)


def test_without_a_size_images_are_cut_to_224(root: Path) -> None:
    assert prepare_folder(root, image_size=None).image_size == 224


def test_folders_train_val_and_test_are_the_splits(
    tmp_path: Path, make_tiny_folder: Callable[..., Path]
) -> None:
    for name, number in (("train", 8), ("val", 3), ("test", 2)):
        make_tiny_folder(tmp_path / "pets" / name, number=number)
    info = prepare_folder(tmp_path / "pets")
    assert (info.num_train, info.num_val, info.num_test) == (16, 6, 4)


@pytest.mark.parametrize(("held_out", "sizes"), [("val", (18, 8, 2)), ("test", (18, 2, 8))])
def test_a_missing_part_comes_from_the_training_images(
    tmp_path: Path,
    make_tiny_folder: Callable[..., Path],
    held_out: str,
    sizes: tuple[int, int, int],
) -> None:
    make_tiny_folder(tmp_path / "pets" / "train", number=10)
    make_tiny_folder(tmp_path / "pets" / held_out, number=4)
    info = prepare_folder(tmp_path / "pets")
    assert (info.num_train, info.num_val, info.num_test) == sizes
    splits = load(tmp_path / info.path).splits
    assert len(set(np.concatenate([splits.train, splits.val, splits.test]))) == sum(sizes)


def test_a_class_may_be_called_train(tmp_path: Path, make_tiny_folder: Callable[..., Path]) -> None:
    make_tiny_folder(tmp_path / "vehicles", classes=("car", "plane", "train"))
    assert prepare_folder(tmp_path / "vehicles").num_classes == 3


@pytest.mark.parametrize("size", [(48, 32), (32, 48), (64, 16), (32, 32)])
def test_images_are_scaled_and_cut_as_torchvision_does(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    # Sizes that scale to whole pixels: at others torchvision is off by up to half a pixel.
    pixels = np.random.RandomState(0).randint(0, 256, (*size, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "image.png")
    expected = np.asarray(v2.CenterCrop(16)(v2.Resize(16)(image))).transpose(2, 0, 1)
    np.testing.assert_allclose(decode(tmp_path / "image.png", 16), expected, atol=1)


def test_a_square_image_at_its_own_size_stays_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    np.testing.assert_array_equal(decode(tmp_path / "image.png", 16), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_every_common_kind_of_image_becomes_colour(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (20, 10), 1).save(tmp_path / "image.png")
    assert decode(tmp_path / "image.png", 8).shape == (3, 8, 8)


def test_an_image_of_16_bits_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png.*not 8 bits"):
        decode(tmp_path / "deep.png", 8)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_broken_image_is_named_and_nothing_is_kept(root: Path, suffix: str, damage: str) -> None:
    path = root / "dog" / f"{3 if suffix == 'png' else 4}.{suffix}"
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(DataError, match=rf"cannot read the image .*dog/\d\.{suffix}"):
        prepare_folder(root)
    assert list((root.parent / "cache").iterdir()) == []


def test_a_flipped_byte_of_a_png_is_named(root: Path) -> None:
    path = root / "dog" / "3.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"dog/3\.png"):
        prepare_folder(root)


@pytest.mark.usefixtures("as_ordinary_user")
def test_an_unreadable_image_is_named(
    tmp_path: Path, make_tiny_folder: Callable[..., Path]
) -> None:
    root = make_tiny_folder(tmp_path / "pets")
    (root / "cat" / "5.png").chmod(0)
    with pytest.raises(DataError, match=r"cat/5\.png: Permission denied"):
        prepare_folder(root)


@pytest.mark.usefixtures("as_ordinary_user")
def test_an_unreadable_folder_is_named(
    tmp_path: Path, make_tiny_folder: Callable[..., Path]
) -> None:
    root = make_tiny_folder(tmp_path / "pets")
    root.chmod(0)
    with pytest.raises(DataError, match=r"Permission denied: '.*pets"):
        prepare_folder(root)
    root.chmod(0o755)


def test_a_link_to_nothing_is_named(root: Path) -> None:
    (root / "cat" / "lost.png").symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match=r"cat/lost\.png"):
        prepare_folder(root)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot take .*nowhere as a folder of images"):
        prepare_folder(tmp_path / "nowhere")


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="any class folder"):
        prepare_folder(tmp_path / "empty")


def test_a_class_without_images_is_named(root: Path) -> None:
    (root / "horse").mkdir()
    with pytest.raises(DataError, match="horse"):
        prepare_folder(root)


def test_a_single_class_is_refused(tmp_path: Path, make_tiny_folder: Callable[..., Path]) -> None:
    make_tiny_folder(tmp_path / "pets", classes=("cat",))
    with pytest.raises(DataError, match="one class cat"):
        prepare_folder(tmp_path / "pets")


def test_too_few_images_to_split_are_refused(
    tmp_path: Path, make_tiny_folder: Callable[..., Path]
) -> None:
    make_tiny_folder(tmp_path / "pets", number=1)
    with pytest.raises(DataError, match="too few images"):
        prepare_folder(tmp_path / "pets")


def test_parts_with_different_classes_are_refused(
    tmp_path: Path, make_tiny_folder: Callable[..., Path]
) -> None:
    make_tiny_folder(tmp_path / "pets" / "train")
    make_tiny_folder(tmp_path / "pets" / "val", classes=("cat", "horse"))
    with pytest.raises(DataError, match="dog, horse"):
        prepare_folder(tmp_path / "pets")


def test_unchanged_images_are_not_decoded_again(root: Path) -> None:
    first = prepare_folder(root)
    path = root / "cat" / "1.png"
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert prepare_folder(root) == first


def test_a_changed_image_is_decoded_again(root: Path) -> None:
    first = prepare_folder(root)
    Image.new("RGB", (40, 30)).save(root / "cat" / "1.png")
    assert prepare_folder(root).digest != first.digest


def test_other_sizes_are_other_data(root: Path) -> None:
    assert prepare_folder(root).digest != prepare_folder(root, image_size=8).digest


def test_a_path_may_start_at_home(
    root: Path, make_request: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert folder(make_request("folder:~/pets")).source == str(root.resolve())
