"""Runs requests in worker processes: forked from a warm server, spawned afresh, or inline."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import msgspec

from cnnbench import clock
from cnnbench.errors import WorkerError, lookup
from cnnbench.job import Answer, decode_answer, encode
from cnnbench.sweep.server import MAX_MESSAGE_BYTES, WORKER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from cnnbench.job import Progress, Request

    OnProgress = Callable[[Progress], None]
    OnTurn = Callable[[], None]

TERM_GRACE_SECONDS = 5.0
KILL_GRACE_SECONDS = 30.0
STDERR_TAIL_BYTES = 8192
_READ_BYTES = 65536
_STDERR = 2

# A worker sees these variables and no others: results must not hang on what a shell happens to
# export, and no secret may reach a log.
_KEPT_VARIABLES = (
    *("CC", "CXX", "HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"),
    *(
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
        "GLIBC_TUNABLES",
    ),
)
_PROXY_VARIABLES = tuple(
    name
    for kind in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in (kind, kind.lower())
)
_KEPT_PREFIXES = (
    *("CNNBENCH_", "CUBLAS", "CUDA", "CUDNN", "KMP_", "LC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_"),
    *("MALLOC_", "ONEDNN_", "PYTHON", "PYTORCH_", "TORCH", "TRITON_"),
)
# By default glibc hands large blocks back to the system whenever they are freed, and every step faults
# them in again: 2,000 to 44,000 page faults a step, 20 to 50 % of its time, were seen here on CPU cells
# of the quick profile, and much of what processes differed by. So workers keep what they have had
# (mallopt(3); PyTorch's tuning guide recommends jemalloc for the same end). Blocks of 2 MiB and more may
# lie in huge pages. Whoever sets these variables otherwise is obeyed, and the environment tells.
_STEADY_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended: with an `answer`, or without one and then why (`death`).

    `started_at` is when the request was sent; `timed_out` says that the time limit ended it.
    """

    answer: Answer | None
    death: str | None
    timed_out: bool
    started_at: float
    stderr_tail: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where workers run: on which processors (empty: on all), and with which `variables` set for them."""

    processors: frozenset[int] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)


ANYWHERE = Place()


class Launcher(ABC):
    """Runs one request at a time; a context manager that leaves no process behind."""

    def __init__(self, place: Place = ANYWHERE) -> None:
        """Take where workers are to run."""
        self._place = place

    @abstractmethod
    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        timeout_seconds: float | None,
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        """Run `request` to its end and return how it ended.

        A worker that asks for its turn gets it when `on_turn` returns.
        """

    def close(self) -> None:  # noqa: B027 (inline has nothing to end)
        """End whatever still runs."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no process behind."""
        self.close()


class Inline(Launcher):
    """Runs requests in this process: for debuggers. No time limit, no isolation, no place of its own."""

    def run(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        timeout_seconds: float | None,  # noqa: ARG002 (nothing can end this process)
        on_turn: OnTurn = lambda: None,
    ) -> Outcome:
        """Call the worker's entry as a function."""
        answers: list[Answer] = []
        started_at = clock.now()

        def take(line: bytes) -> None:
            answer = decode_answer(line)
            if answer.progress is not None:
                on_progress(answer.progress)
            elif not answer.turn:
                answers.append(answer)

        def give_turn() -> bytes:
            on_turn()
            return b""

        importlib.import_module(WORKER).serve(encode(request), take, give_turn)
        return Outcome(
            answer=answers[0], death=None, timed_out=False, started_at=started_at, stderr_tail=""
        )


class _Isolated(Launcher):
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
            left = None if deadline is None else deadline - time.monotonic()
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
        return _end("the worker", self._status())

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
            self._on_turn()
            with contextlib.suppress(ConnectionError):  # it died waiting: its status will tell
                self.connection.sendall(b"\n")
        else:
            self.answer = answer


class Forkserver(_Isolated):
    """Forks each worker from a server that has imported everything: milliseconds instead of seconds.

    A server that dies takes the worker along that runs just then, and is replaced by the next request.
    """

    def __init__(self, place: Place = ANYWHERE, *, root: Path | None = None) -> None:
        """Start the server; it imports while the caller goes on.

        Args:
            place: where its workers run.
            root: a folder that holds another cnnbench, to be run instead of this one.
        """
        super().__init__(place)
        self._root = root
        self._number = 0
        self._ended: int | None = None
        self._start_server()

    def _start_server(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = _python(
                "cnnbench.sweep.server", theirs, self._place, stderr=_STDERR, root=self._root
            )
        self._ready = False
        self._worker_pid: int | None = None
        self._server_end = ""

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
            self.close()
            self._start_server()
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
            self._server_end = f"{_end('the fork server', self._server.wait())}."
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


class Spawn(_Isolated):
    """Starts a fresh interpreter for each request: seconds, and nothing shared at all."""

    _process: subprocess.Popen[bytes] | None = None
    _pidfd = -1

    def _start(self, connection: socket.socket, stderr: IO[bytes]) -> None:
        self._process = _python("cnnbench.sweep.child", connection, self._place, stderr=stderr)
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


def _python(
    module: str,
    connection: socket.socket,
    place: Place,
    *,
    stderr: Any,
    root: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `module` in a session of its own, so that a Ctrl-C at the terminal reaches only us."""
    fd = connection.fileno()
    variables = worker_variables(os.environ, place)
    if root is not None:
        variables["PYTHONPATH"] = os.pathsep.join((str(root), variables["PYTHONPATH"]))
    process = subprocess.Popen(
        # -P: a user's file that is called like a module of ours or of Python's hides none.
        [sys.executable, "-P", "-m", module, str(fd), str(os.getpid())],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        env=variables,
        start_new_session=True,
    )
    if place.processors:
        # It has one thread so far, and long before it has imported what starts more it runs there.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, place.processors)
    return process


def proxy_variables(variables: Any) -> dict[str, str]:
    """Return those of `variables` that name proxies: they may hold a password, and no cell needs them."""
    return {name: variables[name] for name in _PROXY_VARIABLES if name in variables}


def worker_variables(variables: Any, place: Place = ANYWHERE) -> dict[str, str]:
    """Return those of `variables` that a worker may see, and the ones that its place brings."""
    kept = {
        name: value
        for name, value in variables.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    # torch's profiler reports its starts, its stops and the lack of a GPU as if they were errors.
    kept.setdefault("KINETO_LOG_LEVEL", "99")
    kept.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name, value in _STEADY_MALLOC.items():
        kept.setdefault(name, value)
    kept.update(place.variables)
    # numpy's BLAS would start threads at import, and no forked worker could use them.
    kept["OPENBLAS_NUM_THREADS"] = "1"
    kept |= clock.shared()
    kept["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return kept


def _end(process: str, status: int) -> str:
    if status >= 0:
        return f"{process} ended with status {status} and no answer"
    name = signal.Signals(-status).name
    hint = " (the system's memory may have run out)" if -status == signal.SIGKILL else ""
    return f"{process} was killed by {name}{hint}"


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - STDERR_TAIL_BYTES))
    return file.read().decode(errors="replace")


_LAUNCHERS: dict[str, type[Launcher]] = {
    "forkserver": Forkserver,
    "spawn": Spawn,
    "inline": Inline,
}
ISOLATIONS = tuple(_LAUNCHERS)


def launcher(isolation: str, place: Place = ANYWHERE) -> Launcher:
    """Return the launcher called `isolation`, its workers in `place`.

    Raises:
        UnknownNameError: naming the ones there are.
    """
    return lookup("isolation", isolation, _LAUNCHERS)(place)
