"""The time of day that records carry: it never steps back, and all processes of a sweep share it.

An operator or NTP may set a machine's clock while a sweep runs. What is measured is taken from monotonic
clocks in any case; this one keeps the stamps of a record in their order, too.
"""

from __future__ import annotations

import os
import time

# Handed to the workers: one that starts after the clock was set would otherwise be early, or late.
VARIABLE = "CNNBENCH_CLOCK_OFFSET"


def now() -> float:
    """Return the seconds since 1970, by the clock as it was when the sweep's process started."""
    return _OFFSET + _since_boot()


def shared() -> dict[str, str]:
    """Return the variable that gives another process of this machine the same clock."""
    return {VARIABLE: repr(_OFFSET)}


def _since_boot() -> float:
    # Unlike the monotonic one it goes on while a machine sleeps (clock_gettime(2)).
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _first_offset() -> float:
    try:
        return float(os.environ[VARIABLE])
    except (KeyError, ValueError):
        return time.time() - _since_boot()


_OFFSET = _first_offset()
