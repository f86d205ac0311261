"""What a GPU says of itself, through NVIDIA's management library (NVML).

Every question is asked on its own. What the driver, the GPU or a partition of it (MIG) does not answer
is `None`, never zero, and `unknowns` says by question whether it is unsupported, absent from this
driver, refused or broken. Nothing here imports torch: a GPU is known by its UUID.
"""

from __future__ import annotations

from cnnbench.measure.gpu.listing import GpuProcess, ListedGpu, Listing, driver_version, list_gpus
from cnnbench.measure.gpu.processes import PROCESSES
from cnnbench.measure.gpu.session import MIG_INSTANCE, Gpu
from cnnbench.measure.gpu.slowdowns import POWER_BRAKE, POWER_CAP, THERMAL, Counters

__all__ = [
    "MIG_INSTANCE",
    "POWER_BRAKE",
    "POWER_CAP",
    "PROCESSES",
    "THERMAL",
    "Counters",
    "Gpu",
    "GpuProcess",
    "ListedGpu",
    "Listing",
    "driver_version",
    "list_gpus",
]
