"""Small data sets in the true formats, a local web server, and an ordinary user's rights."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cnnbench.data.prepared import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

NOBODY = 65534


@pytest.fixture
def make_request(tmp_path: Path) -> Callable[..., Request]:
    def make(name: str, *, download: bool = False, image_size: int | None = None) -> Request:
        return Request(
            name=name,
            data_dir=tmp_path / "data",
            cache_dir=tmp_path / "cache",
            download=download,
            image_size=image_size,
        )

    return make


@pytest.fixture
def make_tiny_idx() -> Callable[..., dict[str, str]]:
    """Return what writes Fashion-MNIST's four files with 60 + 20 images, and says their SHA-256."""

    def make(folder: Path, *, gzipped: bool) -> dict[str, str]:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(1)
        checksums = {}
        for part, number in (("train", 60), ("t10k", 20)):
            images = pixels.randint(0, 256, (number, 28, 28)).astype(np.uint8)
            labels = (np.arange(number) % 10).astype(np.uint8)
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                name = f"{part}-{kind}-ubyte"
                data = idx_bytes(array)
                checksums[name] = hashlib.sha256(data).hexdigest()
                if gzipped:
                    (folder / f"{name}.gz").write_bytes(gzip.compress(data))
                else:
                    (folder / name).write_bytes(data)
        return checksums

    return make


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def python2_pickle() -> Callable[[object], bytes]:
    """Return what pickles as Python 2 did, which is how CIFAR's files were written."""
    return lambda value: b"\x80\x02" + pickled(value) + b"."


def pickled(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return pickled_array(value)
    if isinstance(value, dict):
        items = b"".join(pickled(key) + pickled(held) for key, held in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list | tuple):
        items = b"".join(map(pickled, value))
        return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"
    if isinstance(value, bool | None):
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    raw = value.encode("latin1") if isinstance(value, str) else value
    return b"T" + struct.pack("<i", len(raw)) + raw


def pickled_array(array: NDArray[np.generic]) -> bytes:
    order, kind = array.dtype.str[0], array.dtype.str[1:]
    dtype = b"cnumpy\ndtype\n" + pickled((kind, 0, 1)) + b"R"
    dtype += pickled((3, order, None, None, None, -1, -1, 0)) + b"b"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    empty += pickled((0,)) + pickled("b") + b"tR"
    fortran = False
    values = pickled(fortran) + pickled(array.tobytes())
    return empty + b"(" + pickled(1) + pickled(array.shape) + dtype + values + b"tb"


@pytest.fixture
def make_tiny_folder() -> Callable[..., Path]:
    """Return what writes `number` PNG and JPEG images of 40 x 30 pixels for each class."""

    def make(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), number: int = 10) -> Path:
        pixels = np.random.RandomState(2)
        for name in classes:
            (root / name).mkdir(parents=True)
            for index in range(number):
                image = Image.fromarray(pixels.randint(0, 256, (30, 40, 3)).astype(np.uint8))
                image.save(root / name / f"{index}.{'png' if index % 2 else 'jpg'}")
        return root

    return make


class SilentHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing: pytest would show it as the test's own output."""


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Return what serves a folder over HTTP on this machine, and gives the address."""
    servers = []

    def start(folder: Path) -> str:
        handler = partial(SilentHandler, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def as_ordinary_user(tmp_path: Path) -> Iterator[None]:
    """Give up root's right to read and write everything, so that permissions mean something."""
    if os.geteuid() != 0:
        yield
        return
    # Up to the user's folder of all runs; one of several processes has one more in between.
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.owner() != "root" or folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    tmp_path.chmod(0o777)
    Image.init()  # Pillow imports its formats on first use, perhaps from a folder closed to others
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
