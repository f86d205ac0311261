"""Other processes that keep every processor busy."""

from __future__ import annotations

import multiprocessing
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def burn() -> None:
    """Compute until killed, or until nobody can be waiting any more."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        pass


@contextmanager
def busy_neighbours() -> Iterator[None]:
    """Keep every processor busy inside the context."""
    context = multiprocessing.get_context("spawn")
    number = os.cpu_count() or 1
    processes = [context.Process(target=burn, daemon=True) for _ in range(number)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()
