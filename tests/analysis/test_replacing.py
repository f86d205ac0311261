"""A file is replaced whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cnnbench.analysis.replacing import replacing
from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_new_file_takes_the_old_ones_place(tmp_path: Path) -> None:
    target = tmp_path / "page"
    target.write_text("old")
    with replacing(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_after_an_error_the_old_file_stands_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "page"
    target.write_text("old")

    def write() -> None:
        with replacing(target) as path:
            path.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert target.read_text() == "old"


def test_a_target_that_cannot_be_replaced_is_named(tmp_path: Path) -> None:
    target = tmp_path / "page"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"cannot write .*page"), replacing(target) as path:
        path.write_text("new")
