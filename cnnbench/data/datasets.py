"""Find, verify, decode and split a data set, once a sweep, and describe it as `DatasetInfo`."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from cnnbench.data import DATASETS, check_name
from cnnbench.data.prepared import Decoded, Request, digest_of, load, store
from cnnbench.data.resize import fit_to_size
from cnnbench.environment import DatasetInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cnnbench.data.prepared import Prepared

_CHUNK = 1024


def prepare(
    name: str, *, data_dir: Path, cache_dir: Path, download: bool, image_size: int | None
) -> DatasetInfo:
    """Make the data set ready for the workers: found, verified, split, and laid down as one file.

    Args:
        name: a data set's name, with its path or parameters where it has them.
        data_dir: where the user's data sets lie, and where a download goes.
        cache_dir: where the prepared file goes; a sound one from an earlier call is used again.
        download: whether what is nowhere may be fetched (with progress on stderr).
        image_size: the side in pixels that the images of `folder:PATH` are cut to (`None`: 224).
            Other data sets keep their own size; `open_prepared` brings any to a cell's size.

    Raises:
        UnknownNameError: there is no such data set.
        InvalidValueError: it does not take these parameters.
        DataError: it is missing, unreadable or corrupt; the file is named.
        StoreError: `cache_dir` cannot be written to.
    """
    key = check_name(name)
    request = Request(
        name=name,
        data_dir=data_dir,
        cache_dir=cache_dir,
        download=download,
        image_size=image_size,
    )
    find = cast("Callable[[Request], Decoded | DatasetInfo]", pkgutil.resolve_name(DATASETS[key]))
    found = find(request)
    if isinstance(found, DatasetInfo):
        return found
    path = store(found, kind=key.partition(":")[0], cache_dir=cache_dir)
    return _describe(name, found, path)


def _describe(name: str, found: Decoded, path: Path) -> DatasetInfo:
    prepared = load(path)
    mean, std = _statistics(prepared, found.image_size)
    splits = prepared.splits
    return DatasetInfo(
        name=name,
        digest=digest_of(path),
        source=found.source,
        path=str(path),
        image_size=found.image_size,
        num_channels=found.shape[1],
        num_classes=found.num_classes,
        num_train=len(splits.train),
        num_val=len(splits.val),
        num_test=len(splits.test),
        augmentation=found.augmentation,
        augmentations=found.augmentations,
        mean=mean,
        std=std,
    )


def _statistics(prepared: Prepared, image_size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each of 3 channels, in 0..1, of the training images.

    They are counted exactly, at the size that models see, from histograms of the pixels' 256
    values.
    """
    histogram = np.zeros((prepared.images.shape[1], 256))
    train = prepared.splits.train
    for start in range(0, len(train), _CHUNK):
        chunk = torch.from_numpy(prepared.images[train[start : start + _CHUNK]])
        for channel, pixels in enumerate(fit_to_size(chunk, image_size).numpy().swapaxes(0, 1)):
            histogram[channel] += np.bincount(pixels.ravel(), minlength=256)
    values = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = share @ values**2 - mean**2
    # Images of one colour have no deviation to divide by: one grey level stands in.
    std = np.maximum(np.sqrt(np.maximum(variance, 0)), 1 / 255)
    return _three(mean), _three(std)


def _three(numbers: np.ndarray) -> tuple[float, ...]:
    rounded = [round(float(number), 6) for number in numbers]
    return tuple(rounded * 3 if len(rounded) == 1 else rounded)
