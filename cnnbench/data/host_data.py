"""A prepared data set that stays in its file: for sets too large for the device, or for its memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cnnbench.data.device_data import DeviceData, Split, check_subset, check_written, open_prepared
from cnnbench.data.prepared import load
from cnnbench.data.splits import stratified_order

if TYPE_CHECKING:
    from cnnbench.data.device_data import Statistics
    from cnnbench.environment import DatasetInfo

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, eq=False)
class HostSplit(Split):
    """The images of one split within those of the whole set, `images`, at their own size, mapped.

    `positions`, int64 (N,), says where they are. `labels` is on the CPU.
    """

    positions: torch.Tensor

    @property
    def num_bytes(self) -> int:
        """Return the device memory that they take: none."""
        return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class HostData(DeviceData):
    """The three splits of a data set that stays in its file."""

    train: HostSplit
    val: HostSplit
    test: HostSplit


def open_on_host(
    info: DatasetInfo,
    *,
    image_size: int,
    statistics: Statistics | None = None,
    train_subset: int | None = None,
) -> HostData:
    """Map a prepared data set; a page is read when an image on it is wanted.

    Synthetic images, which have no file, are made in memory. The arguments and errors are those of
    `open_prepared`, and so is which images are in a split.
    """
    if not info.path:
        made = open_prepared(
            info,
            device=CPU,
            image_size=image_size,
            statistics=statistics,
            train_subset=train_subset,
        )
        return HostData(train=_held(made.train), val=_held(made.val), test=_held(made.test))
    num_train = check_subset(info, train_subset)
    mean, std = statistics or (info.mean, info.std)
    prepared = load(Path(info.path))
    check_written(info, prepared)
    splits, labels = prepared.splits, prepared.labels
    train = splits.train
    if num_train < info.num_train:
        train = train[stratified_order(labels[train])[:num_train]]
    images = torch.from_numpy(prepared.images)
    parts = {
        name: HostSplit(
            images=images,
            labels=torch.from_numpy(labels[at]),
            image_size=image_size,
            mean=mean,
            std=std,
            positions=torch.from_numpy(at),
        )
        for name, at in (("train", train), ("val", splits.val), ("test", splits.test))
    }
    return HostData(**parts)


def _held(split: Split) -> HostSplit:
    return HostSplit(
        images=split.images,
        labels=split.labels,
        image_size=split.image_size,
        mean=split.mean,
        std=split.std,
        positions=torch.arange(len(split)),
    )
