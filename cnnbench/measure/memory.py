"""Peak memory of a training step: CUDA's allocator counters, or on a CPU what torch's profiler saw."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from cnnbench.measure.machine import peak_resident_bytes, reset_peak_resident, resident_bytes
from cnnbench.measurement import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cnnbench.measure.gpu import Gpu
    from cnnbench.measure.timing import Step


class MemoryMeter:
    """Memory of a CPU cell: tensors by torch's profiler, the process by its peak resident set."""

    def __init__(self) -> None:
        """Take the resident set before the model as the zero of `process_bytes`."""
        reset_peak_resident()
        self._imported_bytes = resident_bytes()
        self._setup_peak_bytes: int | None = None

    def steady_state(self) -> None:
        """Keep the set-up's peak and start a new one for the steps."""
        self._setup_peak_bytes = self._process_bytes()
        reset_peak_resident()

    def read(
        self, step: Step, *, held: Callable[[], Iterable[torch.Tensor]], data_bytes: int
    ) -> Memory:
        """Return the peaks, after one more step that is watched and not timed.

        Args:
            step: the training step.
            held: returns the tensors that live from step to step (model, optimizer).
            data_bytes: the size of the resident data set, which is not part of the peak.
        """
        held_bytes = sum(_storage_bytes(held()).values())
        peak = _peak_of(step)
        return Memory(
            peak_allocated_bytes=None if peak is None else held_bytes + peak,
            process_bytes=self._process_bytes(),
            setup_peak_bytes=self._setup_peak_bytes,
            data_bytes=data_bytes,
        )

    def last_peak(self) -> Memory:
        """Return the peaks up to an allocation that failed; a CPU keeps that of the process only."""
        return Memory(process_bytes=self._process_bytes())

    def write_snapshot(self, path: Path | None) -> None:
        """Write what holds the memory now, where the allocator can tell; a CPU's cannot."""

    def _process_bytes(self) -> int | None:
        peak = peak_resident_bytes()
        if peak is None or self._imported_bytes is None:
            return None
        return max(0, peak - self._imported_bytes)


class CudaMemoryMeter(MemoryMeter):
    """Memory of a CUDA cell: the caching allocator's counters, the process by NVML."""

    def __init__(self, device: torch.device, gpu: Gpu | None) -> None:
        """Reset the allocator's peaks; `gpu` tells what the driver charges."""
        super().__init__()
        self._device = device
        self._gpu = gpu
        self._retries_before = 0
        # A fresh process has nothing to reset, and no allocator yet that could be asked to.
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats(device)

    def steady_state(self) -> None:
        """Keep the set-up's peak and start a new one for the steps."""
        self._setup_peak_bytes = torch.cuda.max_memory_allocated(self._device)
        self._retries_before = _num_alloc_retries(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)

    def read(
        self,
        step: Step,  # noqa: ARG002 (the counters ran during the timed steps)
        *,
        held: Callable[[], Iterable[torch.Tensor]],  # noqa: ARG002
        data_bytes: int,
    ) -> Memory:
        """Return the peaks of the steps since `steady_state`."""
        return Memory(
            peak_allocated_bytes=torch.cuda.max_memory_allocated(self._device) - data_bytes,
            peak_reserved_bytes=torch.cuda.max_memory_reserved(self._device),
            process_bytes=self._process_bytes(),
            setup_peak_bytes=self._setup_peak_bytes,
            data_bytes=data_bytes,
            num_alloc_retries=_num_alloc_retries(self._device) - self._retries_before,
        )

    def last_peak(self) -> Memory:
        """Return the peaks up to an allocation that failed, the resident data set among them."""
        return Memory(
            peak_allocated_bytes=torch.cuda.max_memory_allocated(self._device),
            peak_reserved_bytes=torch.cuda.max_memory_reserved(self._device),
            process_bytes=self._process_bytes(),
        )

    def write_snapshot(self, path: Path | None) -> None:
        """Write the caching allocator's segments and blocks, for https://pytorch.org/memory_viz."""
        if path is not None:
            with contextlib.suppress(OSError, RuntimeError):  # the cell has its result without it
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.cuda.memory._dump_snapshot(str(path))  # noqa: SLF001 (the documented way)

    def _process_bytes(self) -> int | None:
        return self._gpu.process_bytes() if self._gpu else None


def memory_meter(device: torch.device, gpu: Gpu | None = None) -> MemoryMeter:
    """Return the meter that is right for `device`; `gpu` is its session with NVML."""
    return CudaMemoryMeter(device, gpu) if device.type == "cuda" else MemoryMeter()


def _num_alloc_retries(device: torch.device) -> int:
    return int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0))


def _storage_bytes(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """Return the bytes of every storage once, by its address."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _peak_of(step: Step) -> int | None:
    """Return how far allocations rise above what is held when one step starts, in bytes.

    The profiler sees no release of what was allocated before it began, such as the last gradients.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    kineto = profiler.profiler
    if kineto is None or kineto.kineto_results is None:
        return None
    changes = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak
