"""Fetch the files of a published data set, each appearing under its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torchvision.datasets.utils import download_url

from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SILENCE_SECONDS = 60.0


def fetch(urls: Sequence[str], *, md5s: Sequence[str], folder: Path) -> None:
    """Download `urls` into `folder`, with torchvision's progress bar on stderr.

    Each file is fetched into a temporary folder beside, compared with its MD5, then renamed.

    Raises:
        DataError: the network fails, a checksum differs, or `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            for url, md5 in zip(urls, md5s, strict=True):
                name = url.rpartition("/")[2]
                with _patience(_SILENCE_SECONDS):
                    download_url(url, temporary, filename=name, md5=md5)
                _make_durable(Path(temporary, name))
                Path(temporary, name).replace(folder / name)
    except (OSError, RuntimeError) as error:
        msg = (
            f"cannot download into {folder}: {error}. Fetch {', '.join(urls)} by other means, "
            "put the files there, and run again."
        )
        raise DataError(msg) from error


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Give up on a server that stays silent: torchvision itself waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _make_durable(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
