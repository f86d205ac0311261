"""The prepared copy of a data set: one file, named by its own SHA-256, that every worker maps.

The file is a line of JSON (`shape` of the images, `sizes` of the splits), then as plain
little-endian arrays: the labels (int64), the positions of the training, validation and test
images (int64), and the images (uint8, N x C x H x W). The last 32 characters of its name are the
first of `sha256sum FILE`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnbench.data.splits import Splits
from cnnbench.digest import digest
from cnnbench.errors import DataError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

FORMAT = "cnnbench data 1"
DIGEST_LENGTH = 32


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a preparing function is asked for, as `datasets.prepare` explains it."""

    name: str
    data_dir: Path
    cache_dir: Path
    download: bool
    image_size: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A data set that was found, verified and split, its pixels perhaps still to be read.

    `fingerprint` stands for the bytes that the pixels come from. `labels` has the shape (N,),
    `shape` is (N, C, H, W), and `chunks()` gives the images in order, any number at a time.
    """

    source: str
    fingerprint: str
    labels: NDArray[np.int64]
    splits: Splits
    shape: tuple[int, int, int, int]
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]
    num_classes: int
    image_size: int
    augmentation: str
    augmentations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A prepared file, open: `images` (N, C, H, W) are mapped, not read."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: Splits


def store(decoded: Decoded, *, kind: str, cache_dir: Path) -> Path:
    """Return the prepared file of `decoded` in `cache_dir`, written unless a sound one is there.

    It appears under its name only when it is complete and on disk.

    Raises:
        StoreError: the folder cannot be written to.
        DataError: an image cannot be read.
    """
    stem = f"{kind}-{_key(decoded)}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        found = _find_sound(cache_dir, stem)
        return found or _write(decoded, stem, cache_dir)
    except OSError as error:
        msg = f"cannot keep the prepared data in {cache_dir}: {error.strerror or error}."
        raise StoreError(msg) from error


def digest_of(path: Path) -> str:
    """Return the digest that a prepared file's name ends in."""
    return path.stem.rpartition("-")[2]


def load(path: Path) -> Prepared:
    """Open a prepared file: read its labels and splits, map its images.

    Raises:
        DataError: the file is missing, or not as long as its first line says.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            shape, sizes = tuple(header["shape"]), header["sizes"]
            counts = [shape[0], *sizes]
            numbers = [np.frombuffer(file.read(8 * count), dtype="<i8") for count in counts]
            offset = file.tell()
        # Copy-on-write: torch wants memory that it may write to, and the file stays as it is.
        images = np.memmap(path, dtype=np.uint8, mode="c", offset=offset, shape=shape)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        msg = f"the prepared data {path} cannot be read ({error}): delete the file and run again."
        raise DataError(msg) from error
    labels, train, val, test = (np.array(part, dtype=np.int64) for part in numbers)
    return Prepared(images=images, labels=labels, splits=Splits(train=train, val=val, test=test))


def _key(decoded: Decoded) -> str:
    numbers = b"".join(_numbers(decoded))
    inputs = [FORMAT, decoded.fingerprint, decoded.shape, hashlib.sha256(numbers).hexdigest()]
    return digest(inputs)


def _numbers(decoded: Decoded) -> list[bytes]:
    splits = decoded.splits
    arrays = (decoded.labels, splits.train, splits.val, splits.test)
    return [array.astype("<i8").tobytes() for array in arrays]


def _find_sound(cache_dir: Path, stem: str) -> Path | None:
    for path in cache_dir.glob(f"{stem}-*.bin"):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_LENGTH] == digest_of(path):
                return path.resolve()
    return None


def _write(decoded: Decoded, stem: str, cache_dir: Path) -> Path:
    handle, temporary = tempfile.mkstemp(dir=cache_dir, prefix=f".{stem}-", suffix=".part")
    try:
        sha256 = hashlib.sha256()
        with os.fdopen(handle, "wb") as file:
            for part in _parts(decoded):
                file.write(part)
                sha256.update(part)
            file.flush()
            os.fsync(file.fileno())
        path = cache_dir / f"{stem}-{sha256.hexdigest()[:DIGEST_LENGTH]}.bin"
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path.resolve()


def _parts(decoded: Decoded) -> Iterator[Any]:
    splits = decoded.splits
    sizes = [len(splits.train), len(splits.val), len(splits.test)]
    yield json.dumps({"format": FORMAT, "shape": decoded.shape, "sizes": sizes}).encode() + b"\n"
    yield from _numbers(decoded)
    for chunk in decoded.chunks():
        yield np.ascontiguousarray(chunk)
