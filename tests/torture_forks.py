"""Sweeps, and the servers that start their workers, as forks of a process that has imported everything."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cnnbench.execute as execute_module
import cnnbench.worker as worker_module
from cnnbench import session
from cnnbench.sweep import forkserver, server
from cnnbench.sweep.variables import worker_variables
from torture_points import PATIENCE_SECONDS, Victim, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket

    from cnnbench.sweep.workers import Place

MAX_FDS = 4096


def patch_always() -> None:
    """Let the server be forked, and leave out peaks and figures."""
    put(forkserver, "start_python", fork_server)
    put(session.Session, "_peaks", lambda *_: None)
    put(session, "write_report", write_page)
    original = execute_module.execute

    def execute(job: Any, *rest: Any) -> Any:
        Victim.batch_size = job.cell.batch_size
        return original(job, *rest)

    put(worker_module, "execute", execute)


def write_page(folder: Any) -> Path:
    page = Path(folder) / "report" / "index.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text("<p>no figures")
    return page


class Forked:
    """A forked child, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout or PATIENCE_SECONDS)
        while self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or PATIENCE_SECONDS)
            else:
                time.sleep(0.002)
        return self._status

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def fork_server(_module: str, connection: socket, place: Place, *, stderr: int) -> Forked:
    """Start the fork server as `start_python` does, but by a fork: all is imported already."""
    assert place.python is None  # what is imported is this cnnbench
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return Forked(pid)
    with dying():
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if place.processors:
            os.sched_setaffinity(0, place.processors)
        variables = worker_variables(os.environ, place)
        os.environ.clear()
        os.environ.update(variables)
        os.dup2(stderr, 1)
        fd = os.dup2(connection.fileno(), 3)
        os.closerange(fd + 1, MAX_FDS)
        put(server, "_SERVER_PID", os.getpid())
        sys.argv = ["server", str(fd), str(parent)]
        server.main()
    raise AssertionError


@contextlib.contextmanager
def dying() -> Iterator[None]:
    """End this process, a fork, with what comes of it; never come back."""
    status = 99
    try:
        yield
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 (the last frame of a fork)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
