"""Shares the processors out over the lanes of a sweep, so that no cell disturbs another's windows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SYSTEM = Path("/sys/devices/system/cpu")


def share_out(
    processors: Iterable[int], num_lanes: int, *, system: Path = SYSTEM
) -> list[frozenset[int]]:
    """Return the processors of each lane: whole cores, neighbours, as many for each as for the others.

    A core is never split between two lanes (its two threads share all that computes), and where there
    are more cores than lanes one is left to the process that journals and logs meanwhile. Where there
    are fewer cores than lanes nothing can be kept apart, and each lane may run on all.
    """
    cores = _cores(processors, system)
    if len(cores) < num_lanes or num_lanes < 1:
        everywhere = frozenset().union(*cores)
        return [everywhere] * num_lanes
    size = max(1, (len(cores) - 1) // num_lanes)
    spare = len(cores) - size * num_lanes
    shares = [cores[spare + size * lane : spare + size * (lane + 1)] for lane in range(num_lanes)]
    return [frozenset().union(*share) for share in shares]


def _cores(processors: Iterable[int], system: Path) -> list[frozenset[int]]:
    """Return the usable processors core by core, in the order of their numbers."""
    usable = set(processors)
    cores = {frozenset(_siblings(processor, system) & usable) for processor in usable}
    return sorted(cores, key=min)


def _siblings(processor: int, system: Path) -> set[int]:
    """Return the processors on the same core, itself included; itself alone where nobody tells."""
    try:
        text = (system / f"cpu{processor}/topology/thread_siblings_list").read_text()
        return {processor, *_numbers(text)}
    except (OSError, ValueError):
        return {processor}


def _numbers(text: str) -> set[int]:
    """Read `0-1,8`."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
