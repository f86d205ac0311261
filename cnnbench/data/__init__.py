"""Data sets: their names here, without torch; the modules prepare, hold and serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.cell import parse_call
from cnnbench.data.synthetic import Synthetic
from cnnbench.errors import InvalidValueError, UnknownNameError, miss

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo

FOLDER = "folder:"

DATASETS = {
    "digits": "cnnbench.data.digits:digits",
    "fashion_mnist": "cnnbench.data.fashion_mnist:fashion_mnist",
    "cifar10": "cnnbench.data.cifar:cifar10",
    "cifar100": "cnnbench.data.cifar:cifar100",
    "folder:PATH": "cnnbench.data.folder:folder",
    "synthetic(...)": "cnnbench.data.synthetic:synthetic",
}


def check_name(dataset: str) -> str:
    """Return the key of `DATASETS` that `dataset` belongs to; no file is looked at.

    Raises:
        UnknownNameError: no such data set, with the nearest name and all of them.
        InvalidValueError: parameters that the data set does not have, or a folder without a path.
    """
    if dataset.startswith(FOLDER):
        if dataset == FOLDER:
            raise InvalidValueError(_NO_PATH)
        return "folder:PATH"
    name, parameters = parse_call(dataset)
    if name == "folder":
        raise InvalidValueError(_NO_PATH)
    if name == "synthetic":
        Synthetic.from_parameters(parameters)
        return "synthetic(...)"
    if name not in DATASETS:
        raise UnknownNameError(miss("dataset", name, DATASETS))
    if "(" in dataset:
        msg = f"the dataset {name!r} takes no parameters: write {name!r} instead of {dataset!r}."
        raise InvalidValueError(msg)
    return name


def augmentation_for(info: DatasetInfo, asked: str) -> str:
    """Return the augmentation that `asked` (a recipe's `augmentation`) means on this data set.

    Raises:
        InvalidValueError: the data set does not stand it (a flipped digit is another sign).
    """
    if asked == "default":
        return info.augmentation
    if asked not in info.augmentations:
        msg = (
            f"the augmentation {asked!r} does not suit {info.name}. "
            f"There are: {', '.join(info.augmentations)}."
        )
        raise InvalidValueError(msg)
    return asked


_NO_PATH = "the dataset 'folder:' needs a path, as in folder:/data/flowers."
