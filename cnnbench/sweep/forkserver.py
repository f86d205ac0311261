"""Workers forked from a warm server."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from typing import IO, TYPE_CHECKING

from cnnbench.errors import WorkerError
from cnnbench.sweep.interpreter import start_python
from cnnbench.sweep.isolated import TERM_GRACE_SECONDS, Isolated, end_of
from cnnbench.sweep.launcher import ANYWHERE, Place
from cnnbench.sweep.server import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDERR = 2


class Forkserver(Isolated):
    """Forks each worker from a server that has imported everything: milliseconds instead of seconds.

    A server that dies takes the worker along that runs just then, and is replaced by the next request.
    """

    def __init__(self, place: Place = ANYWHERE) -> None:
        """Start the server; it imports while the caller goes on."""
        super().__init__(place)
        self._number = 0
        self._ended: int | None = None
        self._start_server()

    def _start_server(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = start_python(
                "cnnbench.sweep.server", theirs, self._place, stderr=_STDERR
            )
        self._ready = False
        self._worker_pid: int | None = None
        self._server_end = ""

    def renew(self) -> None:
        """Replace the server: workers share its pages, and so the luck of where these lie in caches."""
        self.close()
        self._start_server()

    def wait_until_ready(self) -> None:
        """Wait until the server has imported everything.

        Raises:
            WorkerError: it cannot even do that.
        """
        while not self._ready:
            self._take_message()
            if self._server_end:
                raise WorkerError(self._server_end)

    def _start(self, connection: socket.socket, stderr: IO[bytes]) -> None:
        self._take_messages()  # of a server that died since the last request
        if self._server_end:
            self.renew()
        self.wait_until_ready()
        self._number += 1
        self._ended = None
        message = json.dumps({"start": self._number}).encode()
        with self._watching_server():
            socket.send_fds(self._control, [message], [connection.fileno(), stderr.fileno()])

    def _take_messages(self) -> None:
        """Remember what the server has said, without waiting for more."""
        while not self._server_end and select.select([self._control], [], [], 0)[0]:
            self._take_message()

    def _take_message(self) -> None:
        """Wait for one message of the server and remember what it says."""
        data = b""
        with self._watching_server():
            data = self._control.recv(MAX_MESSAGE_BYTES)
            if not data:
                raise BrokenPipeError
        message = json.loads(data or b"{}")
        self._ready = self._ready or "ready" in message
        if "refused" in message:
            raise WorkerError(message["reason"])
        if message.get("started") == self._number:
            self._worker_pid = message["pid"]
        if message.get("ended") == self._number:
            self._ended = message["status"]
            self._worker_pid = None

    @contextlib.contextmanager
    def _watching_server(self) -> Iterator[None]:
        """Do something with the server; that it is dead, and how it died, is remembered."""
        try:
            yield
        except ConnectionError:
            self._server_end = f"{end_of('the fork server', self._server.wait())}."
            self._ended = 0
            if self._worker_pid is not None:
                # The worker dies with the server; what that one had started, nobody else would end.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._worker_pid, signal.SIGKILL)

    def _cause(self, timeout_seconds: float | None, *, timed_out: bool) -> str:
        if self._server_end and not timed_out:
            return self._server_end.rstrip(".")
        return super()._cause(timeout_seconds, timed_out=timed_out)

    def _has_ended(self) -> bool:
        if self._ended is None:
            self._take_messages()
        return self._ended is not None

    def _event_file(self) -> socket.socket:
        return self._control

    def _status(self) -> int:
        return self._ended or 0

    def _signal(self, number: int) -> None:
        with self._watching_server():
            self._control.send(json.dumps({"kill": self._number, "signal": number}).encode())

    def close(self) -> None:
        """Close the connection: the server kills its workers and ends."""
        # A thread that waits for a message of the server would hold the connection open.
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        if not self._ready:  # it still imports, and would hear of it seconds later
            self._server.kill()
        try:
            self._server.wait(TERM_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()  # its workers die with it
            self._server.wait()
