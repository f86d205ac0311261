"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; on success it takes `target`'s place at once.

    A reader sees the old file or the new one, never a part; after an error the old one stands.

    Raises:
        StoreError: the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            path = Path(folder) / target.name
            yield path
            with path.open("rb") as written:
                os.fsync(written.fileno())
            path.replace(target)
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror or error}. Free it or choose another folder."
        raise StoreError(msg) from error
