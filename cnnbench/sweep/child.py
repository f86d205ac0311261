"""A spawned worker, a fresh interpreter for one request: `python -m cnnbench.sweep.child FD PARENT`."""

from __future__ import annotations

import importlib
import socket
import sys

from cnnbench.sweep.process import die_with_parent, run_request
from cnnbench.sweep.server import WORKER


def main() -> None:
    """Import the worker and serve the one request."""
    die_with_parent(int(sys.argv[2]))
    run_request(socket.socket(fileno=int(sys.argv[1])), importlib.import_module(WORKER).serve)


if __name__ == "__main__":
    main()
