"""Interpreters that workers run in: started with their end of a connection, in their place."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from cnnbench.sweep.variables import worker_variables

if TYPE_CHECKING:
    import socket

    from cnnbench.sweep.launcher import Place


def start_python(
    module: str,
    connection: socket.socket,
    place: Place,
    *,
    stderr: Any,
) -> subprocess.Popen[bytes]:
    """Start `module` in a session of its own, so that a Ctrl-C at the terminal reaches only us."""
    fd = connection.fileno()
    variables = worker_variables(os.environ, place)
    process = subprocess.Popen(
        # -P: a user's file that is called like a module of ours or of Python's hides none.
        [str(place.python or sys.executable), "-P", "-m", module, str(fd), str(os.getpid())],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        env=variables,
        cwd=place.folder,
        start_new_session=True,
    )
    if place.processors:
        # It has one thread so far, and long before it has imported what starts more it runs there.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, place.processors)
    return process
