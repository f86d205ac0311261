"""The fork server: imports everything heavy once, then forks a worker for each request.

It imports and does nothing else. After one parallel tensor operation here every forked child would
hang, for a fork copies only the calling thread; so the server proves before each fork that it has one
thread and no CUDA context. The standard library's fork server is not used because it pickles, and
because it runs the user's `__main__` again in every child.

Run as `python -m cnnbench.sweep.server FD PARENT`, FD being one end of a SOCK_SEQPACKET pair. The parent
sends JSON messages: `{"start": id}` with two file descriptors (the worker's connection and its stderr), and
`{"kill": id, "signal": number}`. The server answers `{"ready": true}`, `{"started": id, "pid": ...}`,
`{"refused": id, "reason": ...}` and `{"ended": id, "status": ...}` (as `os.waitstatus_to_exitcode`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.sweep.process import die_with_parent, outlive_parent, run_request

if TYPE_CHECKING:
    from cnnbench.sweep.process import Serve

WORKER = "cnnbench.worker"
# The optimizers import it at their first step: seconds that each worker would pay again.
PRELOADED = ("torch._dynamo",)
MAX_MESSAGE_BYTES = 4096
NUM_FDS = 2


class Server:
    """Forks workers on request and reports their ends; kills them all when the parent goes."""

    def __init__(self, control: socket.socket, serve: Serve) -> None:
        """Take the connection to the parent and the worker's entry."""
        self._control = control
        self._serve = serve
        self._workers: dict[int, int] = {}  # pid to request id
        self._wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write_end)

    def run(self) -> None:
        """Serve until the parent closes the connection or dies."""
        # From here on a closed connection tells, and leaves time to end what the workers started.
        outlive_parent()
        self._send(ready=True)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wakeup, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._control and not self._receive():
                        self._kill_all()
                        return
                self._reap()

    def _receive(self) -> bool:
        """Take one message; return False when the parent is gone."""
        message, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, NUM_FDS)
        if not message:
            return False
        request = json.loads(message)
        if "start" in request:
            self._start(request["start"], *fds)
        elif "kill" in request:
            for pid, number in self._workers.items():
                if number == request["kill"]:
                    _kill_group(pid, request["signal"])
        return True

    def _start(self, number: int, connection_fd: int, stderr_fd: int) -> None:
        reason = _unfit_to_fork()
        if reason:
            self._send(refused=number, reason=reason)
        else:
            pid = os.fork()
            if pid == 0:
                self._become_worker(connection_fd, stderr_fd)
            # Also here, for the parent may ask to kill the group before the child has made it.
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            self._workers[pid] = number
            self._send(started=number, pid=pid)
        os.close(connection_fd)
        os.close(stderr_fd)

    def _become_worker(self, connection_fd: int, stderr_fd: int) -> None:
        """Turn the forked child into a worker; never returns."""
        os.setpgid(0, 0)
        die_with_parent(_SERVER_PID)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        self._control.close()
        os.dup2(stderr_fd, 1)
        os.dup2(stderr_fd, 2)
        run_request(socket.socket(fileno=connection_fd), self._serve)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, MAX_MESSAGE_BYTES)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._workers.pop(pid, None)
            if number is not None:
                _kill_group(pid, signal.SIGKILL)  # what the worker itself had started
                self._send(ended=number, status=os.waitstatus_to_exitcode(status))

    def _kill_all(self) -> None:
        for pid in self._workers:
            _kill_group(pid, signal.SIGKILL)

    def _send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # a parent that is gone is noticed by its silence
            self._control.send(json.dumps(message).encode())


_SERVER_PID = os.getpid()


def _unfit_to_fork() -> str:
    """Return why forking would be unsafe, or nothing."""
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    if num_threads != 1:
        return f"the fork server has {num_threads} threads"
    torch = sys.modules["torch"]
    return "the fork server has a CUDA context" if torch.cuda.is_initialized() else ""


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def main() -> None:
    """Import everything, then serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Objects made by the imports will never be freed: looking through them in between takes a quarter
    # of the time. Later the collector shall not touch, and so copy, their pages in every child.
    gc.disable()
    serve = importlib.import_module(WORKER).serve
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.enable()
    Server(control, serve).run()
    # Nothing to tidy up, and the libraries' own tidying is slow and loud.
    os._exit(0)


if __name__ == "__main__":
    main()
