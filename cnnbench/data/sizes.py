"""The images and classes of a data set, without reading its images: what a model is built for."""

from __future__ import annotations

from pathlib import Path

from cnnbench.cell import parse_call
from cnnbench.data import FOLDER, check_name
from cnnbench.data.synthetic import Synthetic
from cnnbench.errors import DataError

# Side in pixels, and number of classes.
SIZES = {
    "digits": (32, 10),
    "fashion_mnist": (32, 10),
    "cifar10": (32, 10),
    "cifar100": (32, 100),
}
FOLDER_IMAGE_SIZE = 224


def sizes_of(dataset: str) -> tuple[int, int]:
    """Return the side of the images of `dataset` in pixels, and how many classes it has.

    Raises:
        UnknownNameError: there is no such data set.
        InvalidValueError: it does not take these parameters.
        DataError: the folder of a `folder:PATH` holds no folders of images.
    """
    key = check_name(dataset)
    if key == "synthetic(...)":
        made = Synthetic.from_parameters(parse_call(dataset)[1])
        return made.image_size, made.num_classes
    if dataset.startswith(FOLDER):
        return FOLDER_IMAGE_SIZE, _num_folders(Path(dataset.removeprefix(FOLDER)).expanduser())
    return SIZES[key]


def _num_folders(root: Path) -> int:
    """Return the number of classes, as many as folders; of a set that is split, of its training part."""
    is_split = (root / "train").is_dir() and any((root / p).is_dir() for p in ("val", "test"))
    folder = root / "train" if is_split else root
    try:
        number = sum(path.is_dir() for path in folder.iterdir())
    except OSError as error:
        msg = f"cannot take {root} as a folder of images: {error.strerror}."
        raise DataError(msg) from error
    if number < 2:  # noqa: PLR2004 (with one class there is nothing to tell apart)
        msg = f"{folder} holds {number} classes: it takes two or more, each a folder."
        raise DataError(msg)
    return number
