"""NVIDIA's management library (NVML): the only import of pynvml.

Every question is asked on its own and answers `None` where the driver, the GPU or a partition of it
(MIG) does not tell: unknown is not zero.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pynvml
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver."""
    with _session() as open_:
        return str(pynvml.nvmlSystemGetDriverVersion()) if open_ else None
    return None


def process_bytes(device: torch.device) -> int | None:
    """Return what the driver charges this process with on `device`, as `nvidia-smi` shows it."""
    with _session() as open_:
        if open_:
            handle = _handle(device)
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid == os.getpid() and process.usedGpuMemory is not None:
                    return int(process.usedGpuMemory)
    return None


def uuid(device: torch.device) -> str:
    """Return the identity of the GPU, in NVML's form (`GPU-...`)."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _handle(device: torch.device) -> Any:
    # By UUID: NVML counts all GPUs of the machine, CUDA those that CUDA_VISIBLE_DEVICES shows.
    return pynvml.nvmlDeviceGetHandleByUUID(uuid(device))


@contextmanager
def _session() -> Iterator[bool]:
    """Open NVML; yields whether it could be, and swallows what it cannot answer."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    except pynvml.NVMLError:
        return
    finally:
        pynvml.nvmlShutdown()
