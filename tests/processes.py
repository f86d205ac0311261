"""Which processes there are, from /proc: for tests that nothing is left behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATIENCE_SECONDS = 60.0


def is_running(pid: int) -> bool:
    """Say whether `pid` is a process that has not ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def descendants(pid: int) -> set[int]:
    """Return the processes under `pid`, those of its children included."""
    children: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children.update(map(int, task.read_text().split()))
    return children.union(*map(descendants, children))


def wait_for(what: Callable[[], object], *, said: str) -> None:
    """Wait until `what` returns something true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {said}"
        time.sleep(0.05)


def wait_until_ended(pids: Iterable[int]) -> None:
    """Wait until none of `pids` runs any more: what is killed takes a moment to end."""
    watched = list(pids)
    wait_for(lambda: not any(map(is_running, watched)), said=f"the end of {watched}")
