"""The journal of a sweep: one JSON record a line, flushed to the disk before anything else sees it.

It is the source of truth: tables, reports and MLflow are made from it and can be made again.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

import msgspec

from cnnbench.errors import StoreError
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
                f"{path}, line {number}, is no record of this version: {error}."
                " Move the file away, or pass --fresh to measure anew."
            )
            raise StoreError(msg) from error
        records[record.cell_hash] = record
    return list(records.values())


class Journal:
    """Appends records to one sweep's journal; one process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        """Open and lock the journal in `path`, cutting off a torn last line.

        Raises:
            StoreError: another process holds it, or it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another cnnbench is writing {path.parent}: wait for it, or stop it."
            raise StoreError(msg) from error
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror}"
            raise StoreError(msg) from error
        self._cut_torn_line()

    def append(self, record: Record) -> None:
        """Write `record` and return when the disk has it."""
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

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
