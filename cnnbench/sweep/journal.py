"""The journal of a sweep: one JSON record a line, flushed to the disk before anything else sees it.

It is the source of truth: tables, reports and MLflow are made from it and can be made again.
"""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING, Self

import msgspec

from cnnbench.errors import DiskError, StoreError
from cnnbench.record import Record

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

NAME = "journal.jsonl"


def read_journal(path: Path) -> list[Record]:
    """Return the records in `path`, of several of one cell the last. A torn last line is left out.

    Raises:
        StoreError: the file cannot be read, or a line before the last is no record.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        msg = f"cannot read the journal {path}: {error.strerror}"
        raise StoreError(msg) from error
    records: dict[str, Record] = {}
    decoder = msgspec.json.Decoder(Record)
    *lines, _torn = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            msg = (
                f"{path}, line {number}, is no record of this version: {error}. Move the file away."
            )
            raise StoreError(msg) from error
        records[record.cell_hash] = record
    return list(records.values())


def keep_still(path: Path) -> IO[bytes] | None:
    """Keep others from appending to the journal in `path` until what is returned is closed.

    Returns:
        `None` where somebody is appending to it.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        file = path.open("rb")
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        msg = f"cannot read the journal {path}: {error.strerror}"
        raise StoreError(msg) from error
    return file


class Journal:
    """Appends records to one sweep's journal; one process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        """Open and lock the journal in `path`, cutting off a torn last line.

        Raises:
            StoreError: another process holds it, or it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refused must not be tried again when the file is closed.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise StoreError(_unwritable(path, error)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            msg = f"another cnnbench is writing {path.parent}: wait for it, or stop it."
            is_locked = isinstance(error, BlockingIOError)
            raise StoreError(msg if is_locked else _unwritable(path, error)) from error
        self._path = path
        self._cut_torn_line()

    def append(self, record: Record) -> None:
        """Write `record` and return when the disk has it.

        Raises:
            DiskError: the disk does not take it; what it took is cut off by the next to open it.
        """
        line = msgspec.json.encode(record) + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DiskError(_unwritable(self._path, error)) from error

    def close(self) -> None:
        """Let go of the journal."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the journal."""
        self.close()

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)


def _unwritable(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror}. Free it, or choose another --results-dir."
