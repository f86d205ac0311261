"""Reading a data set's files, so that whatever goes wrong names the file."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

from cnnbench.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def is_file(path: Path) -> bool:
    """Return whether `path` is there and is no folder.

    Raises:
        DataError: its folder may not be looked into.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(_unreadable(path, error)) from error
    return path.is_file()


def read(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(_unreadable(path, error)) from error


def read_decompressed(path: Path) -> bytes:
    """Return the bytes of a file, decompressed when its name ends in `.gz`.

    Raises:
        DataError: it cannot be read, or is no whole gzip file.
    """
    data = read(path)
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(corrupt(path, str(error))) from error


def corrupt(path: Path | str, reason: str) -> str:
    """Return the sentence for a file of a published data set that is not as published."""
    return (
        f"{path} is corrupt ({reason}): delete it, then put a good copy there "
        "or let it be fetched with --download."
    )


def _unreadable(path: Path, error: OSError) -> str:
    return f"cannot read {path}: {error.strerror or error}."
