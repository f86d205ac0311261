"""`fashion_mnist`: 70 000 grey images of clothes, 28 x 28, ten classes.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torchvision.datasets import FashionMNIST

from cnnbench.cell import AUGMENTATIONS
from cnnbench.data import files
from cnnbench.data.download import fetch
from cnnbench.data.prepared import Decoded
from cnnbench.data.splits import split_official
from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from cnnbench.data.prepared import Request

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

# SHA-256 of the decompressed files: Debian's are the published ones, compressed anew.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

_NUM_CLASSES = 10
_UINT8 = 8


def fashion_mnist(request: Request) -> Decoded:
    """Return Fashion-MNIST from the data folder, Debian's package or a download.

    The official test images stay the test split; 10 % of the training images validate.
    """
    places = [
        request.data_dir / "FashionMNIST" / "raw",
        request.data_dir / "fashion-mnist",
        request.data_dir,
        DEBIAN_FOLDER,
    ]
    found = find(places)
    if found is None and request.download:
        download(FashionMNIST, places[0])
        found = find(places)
    if found is None:
        raise DataError(_missing(places))
    return decode(found, SHA256)


def find(places: list[Path]) -> list[Path] | None:
    """Return the four files, plain or gzipped, of the first place that has them all."""
    for place in places:
        there = _files_at(place)
        if len(there) == len(SHA256):
            return list(there.values())
    return None


def _files_at(place: Path) -> dict[str, Path]:
    found = {}
    for name in SHA256:
        for path in (place / name, place / f"{name}.gz"):
            if name not in found and files.is_file(path):
                found[name] = path
    return found


def download(published: type[FashionMNIST], folder: Path) -> None:
    """Fetch the four files from where torchvision knows them."""
    urls = [f"{published.mirrors[0]}{name}" for name, _ in published.resources]
    fetch(urls, md5s=[md5 for _, md5 in published.resources], folder=folder)


def decode(found: list[Path], sha256: Mapping[str, str]) -> Decoded:
    """Verify and read the four files.

    Args:
        found: their paths, in the order of `SHA256`.
        sha256: the checksum of each file's decompressed bytes, by name.

    Raises:
        DataError: naming the file that is not what its checksum says.
    """
    train_images, train_labels, test_images, test_labels = (
        _read(path, sha256[path.name.removesuffix(".gz")]) for path in found
    )
    images = np.concatenate([train_images, test_images])[:, None]
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    return Decoded(
        source=str(found[0].parent),
        fingerprint=" ".join(sha256.values()),
        labels=labels,
        splits=split_official(labels[: len(train_labels)], len(test_labels)),
        shape=(len(images), 1, *images.shape[2:]),
        chunks=lambda: iter([images]),
        num_classes=_NUM_CLASSES,
        image_size=32,
        augmentation="flip+crop",
        augmentations=AUGMENTATIONS[1:],
    )


def _read(path: Path, sha256: str) -> NDArray[np.uint8]:
    data = files.read_decompressed(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(files.corrupt(path, "its SHA-256 is not the published one"))
    return parse_idx(data)


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """Return the array of an IDX file: two zeros, the type, the rank, big-endian sizes, the values.

    Raises:
        ValueError: it holds another type than unsigned bytes, or not as many as it says.
    """
    if data[:3] != bytes([0, 0, _UINT8]):
        msg = "no IDX file of unsigned bytes"
        raise ValueError(msg)
    start = 4 + 4 * data[3]
    shape = np.frombuffer(data[4:start], dtype=">u4").tolist()
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _missing(places: list[Path]) -> str:
    looked = ", ".join(_what_lacks(place) for place in places)
    return (
        f"fashion_mnist was not found: looked in {looked}. Let it be fetched with --download, "
        "install Debian's package dataset-fashion-mnist, or name its folder with --data-dir."
    )


def _what_lacks(place: Path) -> str:
    there = _files_at(place)
    lacks = [name for name in SHA256 if name not in there]
    return f"{place} (which lacks {' and '.join(lacks)})" if there else str(place)
