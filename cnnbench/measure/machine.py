"""The machine's own accounting on Linux: who used the processors, and how much memory is resident."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# /proc/stat: user nice system idle iowait irq softirq steal ...; idle and iowait are no load.
_IDLE_FIELDS = (3, 4)
_NUM_FIELDS = 8


@dataclass(frozen=True, kw_only=True)
class Load:
    """Processor seconds since boot: of the whole machine (hypervisor's steal included) and our own."""

    busy_seconds: float
    own_seconds: float


def read_load(mates: Iterable[int] = ()) -> Load | None:
    """Return the processor time used so far, or `None` where the system does not tell.

    `mates` are processes that count as our own.
    """
    line = _read("/proc/stat").partition("\n")[0]
    if not line:
        return None
    ticks = [int(field) for field in line.split()[1 : _NUM_FIELDS + 1]]
    busy = sum(t for index, t in enumerate(ticks) if index not in _IDLE_FIELDS)
    return Load(
        busy_seconds=busy / _TICKS_PER_SECOND,
        own_seconds=time.process_time() + sum(map(_seconds_of, mates)),
    )


def _seconds_of(pid: int) -> float:
    # Linux's clock of another process's processor time (clock_getcpuclockid(3)).
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has ended
        return 0.0


def foreign_fraction(before: Load | None, after: Load | None, seconds: float) -> float | None:
    """Return the share of all processors that others used between two readings, 0 to 1.

    The kernel counts in ticks of 10 ms: over 0.2 s on two processors one tick is 2.5 %.
    """
    if before is None or after is None or seconds <= 0:
        return None
    others = (after.busy_seconds - before.busy_seconds) - (after.own_seconds - before.own_seconds)
    return max(0.0, others / (seconds * (os.cpu_count() or 1)))


def processor_seconds() -> dict[int, tuple[str, float]]:
    """Return name and processor time, until now, of every other process, by its number."""
    used = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:  # it has just ended, or is not ours to look at
            continue
        # The name, in brackets, may hold spaces and brackets itself.
        name, fields = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :]
        if folder.name != str(os.getpid()):
            ticks = sum(int(field) for field in fields.split()[11:13])
            used[int(folder.name)] = (name, ticks / _TICKS_PER_SECOND)
    return used


def processor_quota() -> float | None:
    """Return how many processors a control group allows (cgroup v2 or v1), `None` without a limit."""
    v2 = _read("/sys/fs/cgroup/cpu.max").split()
    v1 = [_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{part}_us").strip() for part in ("quota", "period")]
    for quota, period in (v2[:2] or ("max", "1"), v1):
        if quota.isdecimal() and period.isdecimal():
            return int(quota) / int(period)
    return None


def frequency_governor() -> str | None:
    """Return what decides the first processor's clock, `None` where the system does not tell."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def available_bytes() -> int | None:
    """Return the memory that new processes could have, in bytes."""
    for line in _read("/proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


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


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _status_bytes(name: str) -> int | None:
    for line in _read("/proc/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
