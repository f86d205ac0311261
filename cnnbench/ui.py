"""Starts the MLflow UI on a store, waits until it answers, and opens it in the browser."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import webbrowser
from typing import TYPE_CHECKING

from cnnbench.environment import masked
from cnnbench.errors import StoreError
from cnnbench.tracking import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cnnbench.tracking import Ui

EXIT_INTERRUPTED = 128 + signal.SIGINT
START_SECONDS = 90.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.2
_STDERR = 2


def serve(
    uri: str | None,
    results_dir: Path,
    *,
    port: int,
    open_browser: bool,
    say: Callable[[str], object],
    architecture: str | None = None,
) -> int:
    """Serve the store until it is interrupted, and return the server's exit status.

    Raises:
        StoreError: there is no store, no cell of that architecture, the port is taken, or the
            server does not start.
    """
    tracker = open_store(uri, results_dir, create=False)
    try:
        shown = tracker.ui(port=port, architecture=architecture)
    finally:
        tracker.close()
    if not shown.command:  # a server runs already
        _show(shown.address, say, open_browser=open_browser)
        return 0
    _check_free(port)
    with running(shown) as server:
        _show(shown.address, say, open_browser=open_browser)
        with contextlib.suppress(KeyboardInterrupt):
            return server.wait()
        return EXIT_INTERRUPTED


@contextlib.contextmanager
def running(shown: Ui) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server with all its workers, from when it answers on; in the end, end them all.

    Raises:
        StoreError: it does not start.
    """
    server = subprocess.Popen(
        shown.command,
        env={**os.environ, **shown.environment},
        stdout=_STDERR,  # the address alone is for a script to read
        start_new_session=True,
    )
    try:
        _await(shown, server)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _await(shown: Ui, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            msg = f"the MLflow UI ended at once, with status {server.returncode}."
            raise StoreError(msg)
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(shown.health, timeout=5).close()  # noqa: S310 (our own address)
            return
        time.sleep(_POLL_SECONDS)
    msg = f"the MLflow UI did not answer within {START_SECONDS:.0f} s."
    raise StoreError(msg)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            msg = f"port {port} is in use: choose another with --port."
            raise StoreError(msg) from error


def _show(address: str, say: Callable[[str], object], *, open_browser: bool) -> None:
    say(f"MLflow UI: {masked(address)}  (Ctrl-C ends it)")
    if open_browser:
        webbrowser.open(address)
