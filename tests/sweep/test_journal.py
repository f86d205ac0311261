"""The journal: what is written is whole, on the disk, and one process's at a time."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cnnbench.errors import DiskError, StoreError
from cnnbench.sweep.journal import NAME, Journal, keep_still, read_journal
from sample_records import sample_cell, sample_fit, sample_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.record import Record


def records_of(*batch_sizes: int) -> list[Record]:
    return [sample_record(cell=sample_cell(batch_size=size)) for size in batch_sizes]


def write(path: Path, records: list[Record]) -> None:
    with Journal(path) as journal:
        for record in records:
            journal.append(record)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let this process make no file longer than `num_bytes`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_records_read_back_as_they_were_written(tmp_path: Path) -> None:
    records = [
        *records_of(64, 128),
        sample_record(cell=sample_cell(seed=1), status="failed", error="broke\n\u2028 \x00 ü"),
        sample_record(cell=sample_cell(seed=2), fit=sample_fit(num_epochs=1), profile=None),
    ]
    write(tmp_path / NAME, records)
    assert read_journal(tmp_path / NAME) == records
    assert len((tmp_path / NAME).read_bytes().splitlines()) == len(records)


def test_a_journal_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert read_journal(tmp_path / NAME) == []


def test_of_several_records_of_one_cell_the_last_counts(tmp_path: Path) -> None:
    first, other = records_of(64, 128)
    again = sample_record(cell=first.cell, status="failed", error="later")
    write(tmp_path / NAME, [first, other, again])
    assert read_journal(tmp_path / NAME) == [again, other]


def test_a_journal_torn_anywhere_in_its_last_line_keeps_every_record_before(
    tmp_path: Path,
) -> None:
    path = tmp_path / NAME
    kept, torn, new = records_of(64, 128, 256)
    write(path, [kept, torn])
    data = path.read_bytes()
    start = data.index(b"\n") + 1
    for end in range(start, len(data)):
        path.write_bytes(data[:end])
        assert read_journal(path) == [kept]
        if end not in {start, len(data) - 1} and end % 499:
            continue
        write(path, [new])
        assert read_journal(path) == [kept, new]
        assert path.read_bytes()[:start] == data[:start]


def test_a_first_line_that_is_torn_leaves_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b'{"sweep_id": "qui')
    assert read_journal(path) == []
    with Journal(path):
        assert path.read_bytes() == b""


@pytest.mark.parametrize("damage", [b"not json", b"{}", b"", b"\xff\xfe", b"[1, 2]"])
def test_a_damaged_line_before_the_last_is_refused_by_its_number(
    tmp_path: Path, damage: bytes
) -> None:
    path = tmp_path / NAME
    write(path, records_of(64, 128))
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage, second, b""]))
    with pytest.raises(StoreError, match="line 2, is no record of this version") as refusal:
        read_journal(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_second_writer_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "sweep" / NAME
    with Journal(path), pytest.raises(StoreError, match="another cnnbench is writing"):
        Journal(path)
    with Journal(path):
        pass


def test_whoever_copies_a_journal_keeps_writers_away_and_other_readers_not(tmp_path: Path) -> None:
    path = tmp_path / NAME
    write(path, records_of(64))
    with Journal(path):
        assert keep_still(path) is None
    first, second = keep_still(path), keep_still(path)
    assert first is not None
    assert second is not None
    first.close()
    with pytest.raises(StoreError, match="another cnnbench is writing"):
        Journal(path)
    second.close()
    write(path, records_of(128))
    with pytest.raises(StoreError, match="cannot read the journal"):
        keep_still(tmp_path / "none")


def test_a_record_that_the_disk_refuses_is_an_error_and_cut_off_by_the_next(
    tmp_path: Path,
) -> None:
    path = tmp_path / NAME
    first, second, third = records_of(64, 128, 256)
    write(path, [first])
    with (
        pytest.raises(DiskError, match=f"cannot write {path}: File too large"),
        Journal(path) as journal,
        largest_file(path.stat().st_size + 100),
    ):
        journal.append(second)
    assert read_journal(path) == [first]
    write(path, [third])
    assert read_journal(path) == [first, third]


def test_a_journal_in_a_place_for_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "sweep" / NAME, tmp_path):
        with pytest.raises(StoreError, match="cannot write"):
            Journal(path)
    with pytest.raises(StoreError, match="cannot read the journal"):
        read_journal(tmp_path)


def test_an_appended_record_is_on_the_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", watch)
    path = tmp_path / NAME
    write(path, records_of(64, 128))
    assert len(synced) == 2
    assert synced[-1] == path.stat().st_size
