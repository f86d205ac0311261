"""A prepared data set as a cell has it: uint8 images and their labels, resident on the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from cnnbench.data.prepared import load
from cnnbench.data.resize import fit_to_size
from cnnbench.data.splits import stratified_order
from cnnbench.errors import DataError, InvalidValueError

if TYPE_CHECKING:
    from cnnbench.data.prepared import Prepared
    from cnnbench.environment import DatasetInfo

# Up to this, all images are kept at the cell's size; above, at their own, and each batch is
# resized. A constant, not what happens to be free: equal cells must do equal work everywhere.
MAX_RESIZED_BYTES = 2 * 2**30

_PIECE_BYTES = 2**26
_SYNTHETIC_SEED = 0

# Mean and standard deviation, each of 3 channels, in 0..1.
Statistics: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]

# Of each split, uint8 images (N, C, S, S) and int64 labels (N,).
_Parts: TypeAlias = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The images of one split on the device, and how batches of them are to look.

    `images` is uint8 (N, C, S, S), S being `image_size` or, for sets too large at that size,
    their own; `labels` is int64 (N,). `mean` and `std`, of 3 channels in 0..1, are what batches
    are normalised with.
    """

    images: torch.Tensor
    labels: torch.Tensor
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        """Return the device memory that images and labels take."""
        return self.images.nbytes + self.labels.nbytes


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceData:
    """The three splits of a data set on one device."""

    train: Split
    val: Split
    test: Split

    @property
    def num_bytes(self) -> int:
        """Return the device memory that all images and labels take."""
        return self.train.num_bytes + self.val.num_bytes + self.test.num_bytes


def open_prepared(
    info: DatasetInfo,
    *,
    device: torch.device,
    image_size: int,
    statistics: Statistics | None = None,
    train_subset: int | None = None,
) -> DeviceData:
    """Bring a prepared data set to the device.

    Images are brought to `image_size` once, here, while that takes at most `MAX_RESIZED_BYTES`; of
    larger sets each batch is, which gives the same pixels. Synthetic ones are made at that size.

    Args:
        info: the description that `prepare` gave.
        device: where the images are to lie.
        image_size: the side in pixels that batches will have.
        statistics: instead of the data set's own mean and deviation (what pretrained weights
            expect).
        train_subset: keep that many training images, the classes in proportion; a larger subset
            contains a smaller one.

    Raises:
        InvalidValueError: `train_subset` is more than there are training images.
        DataError: the prepared file is gone or damaged, or is not the described one.
    """
    num_train = check_subset(info, train_subset)
    mean, std = statistics or (info.mean, info.std)
    parts = (_read if info.path else _generate)(info, device, num_train, image_size)
    splits = {
        name: Split(images=images, labels=labels, image_size=image_size, mean=mean, std=std)
        for name, (images, labels) in parts.items()
    }
    return DeviceData(**splits)


def check_subset(info: DatasetInfo, train_subset: int | None) -> int:
    """Return how many training images to keep, all of them without a subset.

    Raises:
        InvalidValueError: there are not so many.
    """
    if train_subset is not None and train_subset > info.num_train:
        msg = (
            f"train_subset = {train_subset} is more than the {info.num_train} training images "
            f"of {info.name}."
        )
        raise InvalidValueError(msg)
    return info.num_train if train_subset is None else train_subset


def check_written(info: DatasetInfo, prepared: Prepared) -> None:
    """Refuse a prepared file that is not the described one.

    Raises:
        DataError: its splits have other sizes.
    """
    splits = prepared.splits
    sizes = (len(splits.train), len(splits.val), len(splits.test))
    if sizes != (info.num_train, info.num_val, info.num_test):
        msg = f"{info.path} is not the prepared copy of {info.name}: delete the file and run again."
        raise DataError(msg)


def _read(info: DatasetInfo, device: torch.device, num_train: int, image_size: int) -> _Parts:
    prepared = load(Path(info.path))
    check_written(info, prepared)
    splits, labels = prepared.splits, prepared.labels
    train = splits.train
    if num_train < info.num_train:
        train = train[stratified_order(labels[train])[:num_train]]
    num_images, num_channels, _, side = prepared.images.shape
    fits = num_images * num_channels * image_size**2 <= MAX_RESIZED_BYTES
    held_size = image_size if fits or image_size < side else side
    images = torch.from_numpy(prepared.images)
    return {
        name: (
            _take(images, torch.from_numpy(at), held_size, device),
            torch.from_numpy(labels[at]).to(device),
        )
        for name, at in (("train", train), ("val", splits.val), ("test", splits.test))
    }


def _take(images: torch.Tensor, at: torch.Tensor, size: int, device: torch.device) -> torch.Tensor:
    """Return the images `at` some positions, on the device, at `size` x `size`."""
    num_channels, side = images.shape[1], images.shape[-1]
    taken = torch.empty((len(at), num_channels, size, size), dtype=torch.uint8, device=device)
    # In pieces: interpolation works on 32-bit floats, several times the size of what is kept.
    step = max(1, _PIECE_BYTES // (4 * num_channels * max(size, side) ** 2))
    for start in range(0, len(at), step):
        piece = images.index_select(0, at[start : start + step]).to(device)
        taken[start : start + step] = fit_to_size(piece, size)
    return taken


def _generate(info: DatasetInfo, device: torch.device, num_train: int, image_size: int) -> _Parts:
    generator = torch.Generator(device).manual_seed(_SYNTHETIC_SEED)

    def make(num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (num_images, info.num_channels, image_size, image_size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator, device=device)
        return images, torch.arange(num_images, device=device) % info.num_classes

    return {"train": make(num_train), "val": make(info.num_val), "test": make(info.num_test)}
