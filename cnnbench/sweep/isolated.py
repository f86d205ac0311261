"""A process of its own for each request: talked to, held to its time limit, and ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import tempfile
import time
from abc import abstractmethod
from typing import IO, TYPE_CHECKING, Any

import msgspec

from cnnbench import clock
from cnnbench.job import decode_answer, encode
from cnnbench.sweep.launcher import Launcher, Outcome

if TYPE_CHECKING:
    from cnnbench.job import Answer, Request
    from cnnbench.sweep.launcher import OnProgress, OnTurn

TERM_GRACE_SECONDS = 5.0
KILL_GRACE_SECONDS = 30.0
STDERR_TAIL_BYTES = 8192
_READ_BYTES = 65536


class Isolated(Launcher):
    """Runs each request in a process of its own, which the subclasses start, signal and await."""

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        timeout_seconds: float | None,
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        """Start a process, hand it `request` and listen until it has answered and ended."""
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as stderr:
            with theirs:
                started_at = clock.now()
                self._start(theirs, stderr)
            talk = _Talk(ours, on_progress, on_turn)
            with contextlib.suppress(ConnectionError):  # it died at once: its status will tell
                ours.sendall(encode(request))
            ours.setblocking(False)  # noqa: FBT003
            timed_out = not self._listen(talk, timeout_seconds)
            if timed_out:
                self._stop(talk)
                talk.answer = None  # an answer after the limit does not count
            return Outcome(
                answer=talk.answer,
                death=None if talk.answer else self._cause(timeout_seconds, timed_out=timed_out),
                timed_out=timed_out,
                started_at=started_at,
                stderr_tail=_tail(stderr),
            )

    def _listen(self, talk: _Talk, seconds: float | None) -> bool:
        """Take answers until the process has ended; return False when time runs out before."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            ended = self._has_ended()
            talk.read()
            if ended:
                return True
            # Whoever waits for its turn does not use its time up.
            left = None if deadline is None else deadline + talk.turn_seconds - time.monotonic()
            if left is not None and left <= 0:
                return False
            files = [self._event_file(), *([] if talk.closed else [talk.connection])]
            select.select(files, [], [], left)

    def _stop(self, talk: _Talk) -> None:
        """End the process and all that it started: TERM, then KILL."""
        self._signal(signal.SIGTERM)
        if not self._listen(talk, TERM_GRACE_SECONDS):
            self._signal(signal.SIGKILL)
            # What waits inside a driver whose GPU is gone cannot even be killed: it is left to itself.
            self._listen(talk, KILL_GRACE_SECONDS)

    def _cause(self, timeout_seconds: float | None, *, timed_out: bool) -> str:
        """Say in words why the process gave no answer."""
        if timed_out:
            return f"took longer than {timeout_seconds:g} s"
        return end_of("the worker", self._status())

    @abstractmethod
    def _start(self, connection: socket.socket, stderr: IO[bytes]) -> None:
        """Start the process with its end of the connection."""

    @abstractmethod
    def _has_ended(self) -> bool:
        """Say whether the process has ended, without waiting."""

    @abstractmethod
    def _event_file(self) -> Any:
        """Return what becomes readable when the process ends."""

    @abstractmethod
    def _status(self) -> int:
        """Return the exit status, negative for a signal."""

    @abstractmethod
    def _signal(self, number: int) -> None:
        """Send a signal to the process and all that it started."""


class _Talk:
    """The answers that have come over one connection."""

    def __init__(self, connection: socket.socket, on_progress: OnProgress, on_turn: OnTurn) -> None:
        self.connection = connection
        self._on_turn = on_turn
        self.answer: Answer | None = None
        self.closed = False
        self.turn_seconds = 0.0  # spent on waiting for its turns
        self._on_progress = on_progress
        self._pending = b""

    def read(self) -> None:
        """Take what has arrived, without waiting."""
        while not self.closed:
            try:
                chunk = self.connection.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                chunk = b""
            self.closed = not chunk
            *lines, self._pending = (self._pending + chunk).split(b"\n")
            for line in lines:
                # What foreign code in the worker may have written here is no answer.
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    self._take(decode_answer(line))

    def _take(self, answer: Answer) -> None:
        if answer.progress is not None:
            self._on_progress(answer.progress)
        elif answer.turn:
            asked = time.monotonic()
            self._on_turn()
            self.turn_seconds += time.monotonic() - asked
            with contextlib.suppress(ConnectionError):  # it died waiting: its status will tell
                self.connection.sendall(b"\n")
        else:
            self.answer = answer


def end_of(process: str, status: int) -> str:
    """Say in words how `process` ended, by its exit status, negative for a signal."""
    if status >= 0:
        return f"{process} ended with status {status} and no answer"
    name = signal.Signals(-status).name
    hint = " (the system's memory may have run out)" if -status == signal.SIGKILL else ""
    return f"{process} was killed by {name}{hint}"


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - STDERR_TAIL_BYTES))
    return file.read().decode(errors="replace")
