"""Who writes a run: what a dead process has left is told from what a living one is still writing."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# In /proc/PID/stat behind the name, which may hold anything (proc_pid_stat(5)).
_STATE = 0
_START = 19
_ENDED = ("Z", "X")


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process: `start` tells it from a later one of the same number, also after a reboot."""

    host: str
    pid: int
    start: str

    def is_dead(self) -> bool:
        """Say whether the process has surely ended; of another machine nobody can tell."""
        return self.host == socket.gethostname() and _start(self.pid) != self.start


@cache
def _owner(pid: int) -> Owner:
    return Owner(host=socket.gethostname(), pid=pid, start=_start(pid) or "")


def this_process() -> Owner:
    """Return the process that calls."""
    return _owner(os.getpid())


def _start(pid: int) -> str | None:
    """Return when `pid` started, in words of this boot; `None` if it has ended."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if values[_STATE] in _ENDED else f"{boot[:8]}.{values[_START]}"
