"""`folder:PATH`: a user's own photos, one sub-folder a class, cut to one size."""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder

from cnnbench.cell import AUGMENTATIONS
from cnnbench.data import FOLDER
from cnnbench.data.prepared import Decoded
from cnnbench.data.splits import Splits, split
from cnnbench.digest import digest
from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cnnbench.data.prepared import Request

IMAGE_SIZE = 224
HELD_OUT = 0.1

_PARTS = ("train", "val", "test")
_CHUNK = 256
_MAX_THREADS = 8

# Modes of 8 bits a channel; others (16-bit, float) would be clipped to white without a word.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

# What Pillow raises on broken files, beside OSError.
_BROKEN_IMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Listing:
    paths: list[Path]
    labels: NDArray[np.int64]
    classes: list[str]


def folder(request: Request) -> Decoded:
    """Return the images of PATH/<class>/..., or of PATH/train, PATH/val and PATH/test.

    With PATH/train and at least one of the other two, a missing one is a seeded stratified 10 %
    of the training images; without, the whole is split 80/10/10. The middle square of each image
    is scaled to `request.image_size`, as torchvision's Resize and CenterCrop do. That takes long
    for many images, so the prepared file is used again for as long as no file's name, size or
    time of change differs.

    Raises:
        DataError: no folder, no images, one class, an empty class, or an unreadable image.
    """
    root = Path(request.name.removeprefix(FOLDER)).expanduser()
    size = request.image_size or IMAGE_SIZE
    try:
        parts = _list_parts(root)
        paths = [path for part in parts.values() for path in part.paths]
        fingerprint = _fingerprint(root, paths)
    except OSError as error:
        msg = f"cannot take {root} as a folder of images (PATH/<class>/*.png or .jpg): {error}."
        raise DataError(msg) from error
    labels, splits = _split(parts)
    return Decoded(
        source=str(root.resolve()),
        fingerprint=fingerprint,
        labels=labels,
        splits=splits,
        shape=(len(paths), 3, size, size),
        chunks=lambda: _decode_all(paths, size),
        num_classes=len(parts["train"].classes),
        image_size=size,
        augmentation="flip+crop",
        augmentations=AUGMENTATIONS[1:],
    )


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the middle square of an image, scaled to (3, `size`, `size`).

    Raises:
        DataError: naming the file, when it is corrupt, truncated, unreadable or not of 8 bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in _MODES:
                msg = f"its pixels have the mode {image.mode}, not 8 bits a channel"
                raise ValueError(msg)
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            square = image.convert("RGB").resize(
                (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
            )
    except _BROKEN_IMAGE as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"cannot read the image {path}: {reason}. Replace it or take it away."
        raise DataError(msg) from error
    return np.asarray(square).transpose(2, 0, 1)


def _decode_all(paths: list[Path], size: int) -> Iterator[NDArray[np.uint8]]:
    num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(paths), _CHUNK):
            batch = paths[start : start + _CHUNK]
            yield np.stack(list(pool.map(decode, batch, [size] * len(batch))))


def _list_parts(root: Path) -> dict[str, _Listing]:
    parts = [name for name in _PARTS if (root / name).is_dir()]
    if len(parts) < 2 or parts[0] != "train":  # noqa: PLR2004  # training images and some held out
        return {"train": _list_images(root)}
    listed = {name: _list_images(root / name) for name in parts}
    classes = listed["train"].classes
    for name in parts[1:]:
        if listed[name].classes != classes:
            odd = ", ".join(sorted(set(listed[name].classes) ^ set(classes)))
            msg = f"{root / name} and {root / 'train'} do not hold the same classes: {odd}."
            raise DataError(msg)
    return listed


def _list_images(root: Path) -> _Listing:
    found = ImageFolder(root)
    if len(found.classes) < 2:  # noqa: PLR2004  # with one class there is nothing to tell apart
        msg = f"{root} holds the one class {found.classes[0]}: it takes two or more, each a folder."
        raise DataError(msg)
    return _Listing(
        paths=[Path(path) for path, _ in found.samples],
        labels=np.array(found.targets, dtype=np.int64),
        classes=list(found.classes),
    )


def _split(parts: dict[str, _Listing]) -> tuple[NDArray[np.int64], Splits]:
    """Return the labels of all parts, one after another, and where each split is in them."""
    labels = np.concatenate([part.labels for part in parts.values()])
    ends = np.cumsum([len(part.labels) for part in parts.values()])
    given = dict(zip(parts, np.split(np.arange(len(labels)), ends[:-1]), strict=True))
    train = given["train"]
    ours = split(
        labels[train],
        val=0 if "val" in given else HELD_OUT,
        test=0 if "test" in given else HELD_OUT,
    )
    splits = Splits(
        train=train[ours.train],
        val=given.get("val", train[ours.val]),
        test=given.get("test", train[ours.test]),
    )
    for label, name in enumerate(parts["train"].classes):
        if label not in labels[splits.train]:
            msg = f"the class {name} has too few images to split: add some."
            raise DataError(msg)
    return labels, splits


def _fingerprint(root: Path, paths: list[Path]) -> str:
    stats = [(str(path.relative_to(root)), path.stat()) for path in paths]
    return digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
