"""`cifar10` and `cifar100`: 60 000 colour images, 32 x 32, as torchvision lays them.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The files
are pickles: each is compared with its SHA-256 first, or lies in an archive that was, then read by an
unpickler that
builds arrays only.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

from cnnbench.cell import AUGMENTATIONS
from cnnbench.data import files
from cnnbench.data.download import fetch
from cnnbench.data.prepared import Decoded
from cnnbench.data.splits import split_official
from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from cnnbench.data.prepared import Request

SIDE = 32
NUM_CHANNELS = 3

# What a pickled array names, under its module's old and new name.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published set: torchvision's class for it, and the SHA-256 of its archive and of files in it."""

    base: type[CIFAR10]
    sha256s: Mapping[str, str]


# torchvision gives MD5 only. Of CIFAR-100's files in the archive none are known from two sources.
PUBLISHED_CIFAR10 = Published(
    base=CIFAR10,
    sha256s={
        "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        "batches.meta": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
    },
)
PUBLISHED_CIFAR100 = Published(
    base=CIFAR100,
    sha256s={
        "cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    },
)


def cifar10(request: Request) -> Decoded:
    """Return CIFAR-10; the official test images stay the test split."""
    return prepare_published(PUBLISHED_CIFAR10, request)


def cifar100(request: Request) -> Decoded:
    """Return CIFAR-100 with its 100 fine classes; the official test images stay the test split."""
    return prepare_published(PUBLISHED_CIFAR100, request)


def prepare_published(published: Published, request: Request) -> Decoded:
    """Find, verify and read a set.

    It lies in the data folder as the published archive or, where the SHA-256 of each of its files is
    known, unpacked. The archive is read where it is: nothing is unpacked, so no name in it can reach
    another folder.

    Raises:
        DataError: a file is missing, unreadable, corrupt, or holds something else.
    """
    base, sha256s = published.base, published.sha256s
    folder = request.data_dir / base.base_folder
    archive = request.data_dir / base.filename
    names = list(_checksums(base))
    if all(name in sha256s and files.is_file(folder / name) for name in names):
        contents = {folder / name: files.read(folder / name) for name in names}
        for path, data in contents.items():
            _check(path, data, sha256s[path.name])
        return _decode(base, contents)
    if not files.is_file(archive):
        if not request.download:
            known = [name for name in names if name in sha256s]
            raise DataError(_missing(request.name, folder, archive, known))
        fetch([base.url], md5s=[base.tgz_md5], folder=request.data_dir)
    data = files.read(archive)
    _check(archive, data, sha256s[base.filename])
    return _decode(base, _read_archive(archive, data, base))


def read_pickle(data: bytes) -> dict[str, Any]:
    """Return the mapping in a pickle written by Python 2, of text, numbers, lists and arrays only.

    Raises:
        pickle.UnpicklingError: it names anything else, which is not run.
    """
    value = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    if not isinstance(value, dict):
        msg = "no mapping"
        raise pickle.UnpicklingError(msg)
    return value


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            msg = f"it asks for {module}.{name}, which no image needs"
            raise pickle.UnpicklingError(msg)
        return _ALLOWED[module, name]


def _checksums(published: type[CIFAR10]) -> dict[str, str]:
    meta = published.meta
    return dict([*published.train_list, *published.test_list, (meta["filename"], meta["md5"])])


def _read_archive(archive: Path, data: bytes, published: type[CIFAR10]) -> dict[Path, bytes]:
    names = [f"{published.base_folder}/{name}" for name in _checksums(published)]
    try:
        members = _read_members(data, names)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(files.corrupt(archive, str(error))) from error
    lacks = [name for name in names if name not in members]
    if lacks:
        raise DataError(files.corrupt(archive, f"it has no plain file {' nor '.join(lacks)}"))
    return {archive / name: members[name] for name in names}


def _read_members(data: bytes, names: list[str]) -> dict[str, bytes]:
    """Read the named plain files of a .tar.gz, in one pass."""
    members = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None and member.name in names:
                members[member.name] = file.read()
    return members


def _decode(published: type[CIFAR10], contents: Mapping[Path, bytes]) -> Decoded:
    num_train_files = len(published.train_list)
    *batches, meta = ((path, _unpickle(path, data)) for path, data in contents.items())
    num_classes = _count_classes(*meta, key=published.meta["key"])
    pairs = [_images_and_labels(path, batch, num_classes) for path, batch in batches]
    images = np.concatenate([images for images, _ in pairs])
    train_labels = np.concatenate([labels for _, labels in pairs[:num_train_files]])
    test_labels = np.concatenate([labels for _, labels in pairs[num_train_files:]])
    return Decoded(
        source=str(next(iter(contents)).parent),
        fingerprint=" ".join(_checksums(published).values()),
        labels=np.concatenate([train_labels, test_labels]),
        splits=split_official(train_labels, len(test_labels)),
        shape=(len(images), NUM_CHANNELS, SIDE, SIDE),
        chunks=lambda: iter([images]),
        num_classes=num_classes,
        image_size=SIDE,
        augmentation="flip+crop",
        augmentations=AUGMENTATIONS[1:],
    )


def _check(path: Path, data: bytes, sha256: str) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(files.corrupt(path, "its SHA-256 is not the published one"))


def _unpickle(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return read_pickle(data)
    except _BROKEN_PICKLE as error:
        raise DataError(files.corrupt(path, str(error))) from error


def _count_classes(path: Path, meta: Mapping[str, Any], *, key: str) -> int:
    names = meta.get(key)
    if not isinstance(names, list):
        raise DataError(files.corrupt(path, "it does not name the classes"))
    return len(names)


def _images_and_labels(
    path: Path, batch: Mapping[str, Any], num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = batch.get("data"), batch.get("labels", batch.get("fine_labels"))
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and isinstance(labels, list)
        and images.shape == (len(labels), NUM_CHANNELS * SIDE * SIDE)
        and all(type(label) is int and 0 <= label < num_classes for label in labels)
    ):
        raise DataError(files.corrupt(path, "it does not hold images and their labels"))
    return images.reshape(-1, NUM_CHANNELS, SIDE, SIDE), np.array(labels, dtype=np.int64)


def _missing(name: str, folder: Path, archive: Path, names: list[str]) -> str:
    """Say where it was looked for; `names` are the files that are taken unpacked, if any are."""
    lacks = [name for name in names if not files.is_file(folder / name)]
    partly = f" (which lacks {' and '.join(lacks)})" if len(lacks) < len(names) else ""
    places = f"{folder}{partly} and {archive}" if names else f"{archive}, the archive itself"
    return (
        f"{name} was not found: looked for {places}. Let it be fetched with "
        "--download, or name the folder that holds it with --data-dir."
    )


# What Python's unpickler and numpy raise on bytes that are no pickle of theirs.
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
