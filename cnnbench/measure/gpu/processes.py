"""Processes on a GPU: which compute there, and which of them is this one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnbench.measure.gpu.nvml import WHOLE_GPU, ask

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

PROCESSES = "processes"

# The first that this driver knows answers.
COMPUTE_PROCESSES = (
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetComputeRunningProcesses_v2",
)
GRAPHICS_PROCESSES = (
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
)
# The inode of the first process namespace, PROC_PID_INIT_INO in Linux's proc_ns.h.
_FIRST_NAMESPACE = "pid:[4026531836]"


class Processes:
    """Those of one GPU or instance, seen from now on: who is there already is foreign."""

    def __init__(self, handle: Any, unknowns: dict[str, str], *, is_hidden: bool = False) -> None:
        """Take the GPU or instance, `None` for none, and see who is there.

        Args:
            handle: as NVML knows it.
            unknowns: where goes what cannot be answered.
            is_hidden: it is a part that is known by the whole GPU's name only, which tells of all.
        """
        self._handle = handle
        self._unknowns = unknowns
        self._is_hidden = is_hidden
        self._own_pid: int | None = None
        self._here_before = set(self.running() or {})

    def running(self) -> dict[int, int | None] | None:
        """Return the bytes of every process that computes here, by process number."""
        if self._handle is None:
            return None
        if self._is_hidden:
            self._unknowns.setdefault(PROCESSES, WHOLE_GPU)
            return None
        running = ask(self._unknowns, PROCESSES, COMPUTE_PROCESSES, self._handle)
        return None if running is None else bytes_by_pid(running)

    def own_bytes(self) -> int | None:
        """Return what the driver charges this process with here, as `nvidia-smi` shows it."""
        running = self.running()
        own = None if running is None else self._find_own(running)
        if running is None or own is None:
            return None
        # A process that computes here holds its context at least: 0 is no answer.
        num_bytes = running.get(own) or None
        if num_bytes is None:
            self._unknowns.setdefault(
                "process memory", "the driver does not tell the memory of this process"
            )
        return num_bytes

    def num_foreign(self, num_companions: int) -> int | None:
        """Return how many other processes compute on this GPU.

        Those that only draw (a desktop) do not count. Since 535.113 the driver lists to a container
        only the container's own processes, by the numbers that they have there (`gpuGetProcWithObject`
        in NVIDIA's open kernel modules): then no other one being listed is no proof, and the number is
        unknown.
        """
        running = self.running()
        own = None if running is None else self._find_own(running)
        if running is None or own is None:
            return None
        num_others = len(running.keys() - {own})
        if num_others == 0 and own == os.getpid() and not _sees_every_process():
            self._unknowns.setdefault(PROCESSES, "a container is shown its own processes only")
            return None
        return max(0, num_others - num_companions)

    def _find_own(self, running: Collection[int]) -> int | None:
        """Return this process's number: its own, or in a container that of the only one that has come."""
        come = set(running) - self._here_before
        if os.getpid() in come or (os.getpid() in running and _sees_every_process()):
            self._own_pid = os.getpid()
        elif self._own_pid is None:
            self._own_pid = self._only_one(come)
        return self._own_pid

    def _only_one(self, come: set[int]) -> int | None:
        if len(come) == 1:
            return next(iter(come))
        if come:
            self._unknowns.setdefault(
                PROCESSES, f"cannot tell this process among {len(come)} that have come"
            )
        else:
            self._unknowns.setdefault(PROCESSES, "the driver does not list this process")
        return None


def bytes_by_pid(running: Iterable[Any]) -> dict[int, int | None]:
    """Return the bytes of each process; one with several contexts is listed as often."""
    found: dict[int, int | None] = {}
    for process in running:
        known = (found.get(process.pid), process.usedGpuMemory)
        parts = [int(part) for part in known if part is not None]
        found[int(process.pid)] = sum(parts) if parts else None
    return found


def _sees_every_process() -> bool:
    """Say whether this process is in the first namespace of processes: not in a container's own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return False
