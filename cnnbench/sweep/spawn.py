"""Workers spawned afresh."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from typing import IO, TYPE_CHECKING

from cnnbench.sweep.interpreter import start_python
from cnnbench.sweep.isolated import KILL_GRACE_SECONDS, Isolated

if TYPE_CHECKING:
    import socket


class Spawn(Isolated):
    """Starts a fresh interpreter for each request: seconds, and nothing shared at all."""

    _process: subprocess.Popen[bytes] | None = None
    _pidfd = -1

    def _start(self, connection: socket.socket, stderr: IO[bytes]) -> None:
        self._process = start_python("cnnbench.sweep.child", connection, self._place, stderr=stderr)
        self._pidfd = os.pidfd_open(self._process.pid)

    def _has_ended(self) -> bool:
        if self._pidfd >= 0 and select.select([self._pidfd], [], [], 0)[0]:
            self.close()
        return self._pidfd < 0

    def _event_file(self) -> int:
        return self._pidfd

    def _status(self) -> int:
        return self._process.wait() if self._process else 0

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Kill what still runs, also what the worker itself had started."""
        if self._pidfd >= 0:
            # Before it is waited for: after that its number may be another's.
            self._signal(signal.SIGKILL)
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(KILL_GRACE_SECONDS)
            os.close(self._pidfd)
            self._pidfd = -1
