"""Tests of downloads, from a web server on this machine."""

from __future__ import annotations

import hashlib
import socket
from typing import TYPE_CHECKING

import pytest

from cnnbench.data.download import fetch
from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = b"pixels" * 1000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@pytest.fixture
def address(tmp_path: Path, serve: Callable[[Path], str]) -> str:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "images.gz").write_bytes(CONTENT)
    return serve(tmp_path / "server")


def test_a_file_arrives_whole_with_its_progress(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch([f"{address}images.gz"], md5s=[MD5], folder=tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["images.gz"]
    assert (tmp_path / "data" / "images.gz").read_bytes() == CONTENT
    assert "100%" in capsys.readouterr().err


def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match="by other means"):
        fetch([f"{address}images.gz"], md5s=["0" * 32], folder=tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_server_that_refuses_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(DataError, match=r"404.*missing\.gz by other means"):
        fetch([f"{address}missing.gz"], md5s=[MD5], folder=tmp_path / "data")


def test_without_a_network_the_remedy_is_said(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/images.gz"
        with pytest.raises(DataError, match="put the files there, and run again"):
            fetch([url], md5s=[MD5], folder=tmp_path / "data")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, address: str) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataError, match=str(tmp_path / "data")):
        fetch([f"{address}images.gz"], md5s=[MD5], folder=tmp_path / "data" / "raw")
