"""All GPUs that the driver shows, and who is on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cnnbench.measure.gpu.nvml import ask, is_split, session
from cnnbench.measure.gpu.processes import COMPUTE_PROCESSES, GRAPHICS_PROCESSES, bytes_by_pid

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process on a GPU, by the number that the driver gives it; `num_bytes` is what it holds there.

    One that computes and draws counts as one that computes.
    """

    pid: int
    num_bytes: int | None
    is_graphics: bool


@dataclass(frozen=True, kw_only=True)
class ListedGpu:
    """A GPU, or with MIG an instance of one, and who is on it; `None` is unknown.

    `parent_uuid` is the GPU that an instance is a part of. CUDA cannot use a GPU that is split
    (`is_mig`) but by its instances.
    """

    uuid: str
    name: str | None
    is_mig: bool | None
    memory_bytes: int | None
    used_bytes: int | None
    processes: tuple[GpuProcess, ...] | None
    parent_uuid: str | None = None
    unknowns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The driver, NVML and every GPU that they show; without them `unknowns` says why."""

    driver: str | None
    nvml: str | None
    gpus: tuple[ListedGpu, ...]
    unknowns: dict[str, str]


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver."""
    with session() as refusal:
        if refusal is not None:
            return None
        version = ask({}, "driver", "nvmlSystemGetDriverVersion")
    return None if version is None else str(version)


def list_gpus() -> Listing:
    """Return the driver's version, NVML's, and every GPU with its processes; it never raises.

    A GPU that is split into MIG instances is followed by them.
    """
    unknowns: dict[str, str] = {}
    with session() as refusal:
        if refusal is not None:
            unknowns["NVML"] = refusal
            return Listing(driver=None, nvml=None, gpus=(), unknowns=unknowns)
        gpus: list[ListedGpu] = []
        for index in range(ask(unknowns, "GPUs", "nvmlDeviceGetCount") or 0):
            handle = ask(unknowns, f"GPU {index}", "nvmlDeviceGetHandleByIndex", index)
            if handle is not None:
                gpus.extend(_listed(handle, f"GPU {index}", unknowns))
        return Listing(
            driver=ask(unknowns, "driver version", "nvmlSystemGetDriverVersion"),
            nvml=ask(unknowns, "NVML version", "nvmlSystemGetNVMLVersion"),
            gpus=tuple(gpus),
            unknowns=unknowns,
        )


def _listed(handle: Any, called: str, unknowns: dict[str, str]) -> Iterator[ListedGpu]:
    gpu = _look(handle, called, unknowns)
    if gpu is None:
        return
    yield gpu
    if not gpu.is_mig:
        return
    # Most places are empty, and an empty one is "not found".
    for index in range(ask(unknowns, called, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        part = ask({}, called, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        instance = None if part is None else _look(part, called, unknowns, gpu.uuid)
        if instance is not None:
            yield instance


def _look(
    handle: Any, called: str, unknowns: dict[str, str], parent_uuid: str | None = None
) -> ListedGpu | None:
    uuid = ask(unknowns, called, "nvmlDeviceGetUUID", handle)
    if uuid is None:
        return None
    own: dict[str, str] = {}
    memory = ask(own, "memory", "nvmlDeviceGetMemoryInfo", handle)
    mode = None if parent_uuid else ask(own, "MIG mode", "nvmlDeviceGetMigMode", handle)
    return ListedGpu(
        uuid=uuid,
        name=ask(own, "name", "nvmlDeviceGetName", handle),
        is_mig=bool(parent_uuid) or is_split(mode),
        memory_bytes=None if memory is None else memory.total,
        used_bytes=None if memory is None else memory.used,
        processes=_listed_processes(handle, own),
        parent_uuid=parent_uuid,
        unknowns=own,
    )


def _listed_processes(handle: Any, unknowns: dict[str, str]) -> tuple[GpuProcess, ...] | None:
    computing = ask(unknowns, "processes", COMPUTE_PROCESSES, handle)
    if computing is None:
        return None
    drawing = ask(unknowns, "graphics processes", GRAPHICS_PROCESSES, handle) or ()
    computing_bytes, drawing_bytes = bytes_by_pid(computing), bytes_by_pid(drawing)
    return tuple(
        GpuProcess(pid=pid, num_bytes=num_bytes, is_graphics=pid not in computing_bytes)
        for pid, num_bytes in {**drawing_bytes, **computing_bytes}.items()
    )
