"""What every worker process does first, whether forked or spawned."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    Serve = Callable[[bytes, Callable[[bytes], None], Callable[[], bytes]], None]

_PR_SET_PDEATHSIG = 1
EXIT_CRASHED = 70  # sysexits.h: internal software error


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when `parent` ends, however it ends (prctl(2))."""
    _set_death_signal(signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(EXIT_CRASHED)


def outlive_parent() -> None:
    """Take back what `die_with_parent` asked for: this process will notice the end by itself."""
    _set_death_signal(0)


def _set_death_signal(number: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def run_request(connection: socket.socket, serve: Serve) -> None:
    """Read one request line from `connection`, serve it, and end this process."""
    status = 0
    try:
        with connection, connection.makefile("rb") as lines:
            serve(lines.readline(), connection.sendall, lines.readline)
    except BrokenPipeError:
        status = EXIT_CRASHED  # nobody listens any more
    except BaseException:  # noqa: BLE001 (the last frame of a process: say it and end)
        sys.excepthook(*sys.exc_info())
        status = EXIT_CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    # No interpreter shutdown: its handlers were registered by the server, for the server.
    os._exit(status)
