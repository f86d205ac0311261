"""A noisy neighbour: a process that computes in bursts, as a build or another user's job does."""

from __future__ import annotations

import multiprocessing
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BURST_SECONDS = (0.3, 3.0)


@contextmanager
def noisy_neighbour() -> Iterator[None]:
    """Let one process compute for 0.3 to 3 s and rest as long, again and again, inside the context."""
    process = multiprocessing.get_context("spawn").Process(target=_compute_in_bursts, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _compute_in_bursts() -> None:
    lengths = random.Random(0)  # noqa: S311 (the length of bursts, no secret)
    while True:
        until = time.monotonic() + lengths.uniform(*BURST_SECONDS)
        while time.monotonic() < until:
            pass
        time.sleep(lengths.uniform(*BURST_SECONDS))
