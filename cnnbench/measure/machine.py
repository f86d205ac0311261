"""The machine's own accounting on Linux: who used the processors, and how much memory is resident."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# /proc/stat: user nice system idle iowait irq softirq steal ...; idle and iowait are no load.
_IDLE_FIELDS = (3, 4)
_NUM_FIELDS = 8


@dataclass(frozen=True, kw_only=True)
class Load:
    """Processor seconds since boot: of the whole machine (hypervisor's steal included) and our own."""

    busy_seconds: float
    own_seconds: float


def read_load() -> Load | None:
    """Return the processor time used so far, or `None` where the system does not tell."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    ticks = [int(field) for field in line.split()[1 : _NUM_FIELDS + 1]]
    busy = sum(t for index, t in enumerate(ticks) if index not in _IDLE_FIELDS)
    return Load(
        busy_seconds=busy / _TICKS_PER_SECOND,
        own_seconds=time.process_time(),
    )


def foreign_fraction(before: Load | None, after: Load | None, seconds: float) -> float | None:
    """Return the share of all processors that others used between two readings, 0 to 1.

    The kernel counts in ticks of 10 ms: over 0.2 s on two processors one tick is 2.5 %.
    """
    if before is None or after is None or seconds <= 0:
        return None
    others = (after.busy_seconds - before.busy_seconds) - (after.own_seconds - before.own_seconds)
    return max(0.0, others / (seconds * (os.cpu_count() or 1)))


def resident_bytes() -> int | None:
    """Return this process's resident set in bytes, or `None` where the system does not tell."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int | None:
    """Return the largest resident set since `reset_peak_resident`, in bytes."""
    return _status_bytes("VmHWM")


def reset_peak_resident() -> None:
    """Forget the peak so far (Linux's /proc/self/clear_refs, value 5); without it, it stays."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status_bytes(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
