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
    version = None
    with _session() as is_open:
        if is_open:
            version = str(pynvml.nvmlSystemGetDriverVersion())
    return version


def process_bytes(device: torch.device) -> int | None:
    """Return what the driver charges this process with on `device`, as `nvidia-smi` shows it."""
    used = None
    with _session() as is_open:
        if is_open:
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(_handle(device)):
                if process.pid == os.getpid() and process.usedGpuMemory is not None:
                    used = int(process.usedGpuMemory)
    return used


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
