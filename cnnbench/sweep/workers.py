"""Runs requests in worker processes: forked from a warm server, spawned afresh, or inline."""

from __future__ import annotations

from cnnbench.errors import lookup
from cnnbench.sweep.forkserver import Forkserver
from cnnbench.sweep.inline import Inline
from cnnbench.sweep.launcher import ANYWHERE, Launcher, OnProgress, OnTurn, Outcome, Place
from cnnbench.sweep.spawn import Spawn
from cnnbench.sweep.variables import proxy_variables, worker_variables

__all__ = [
    "ANYWHERE",
    "ISOLATIONS",
    "Forkserver",
    "Inline",
    "Launcher",
    "OnProgress",
    "OnTurn",
    "Outcome",
    "Place",
    "Spawn",
    "launcher",
    "proxy_variables",
    "worker_variables",
]

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
