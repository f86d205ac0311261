"""NVIDIA's management library without an NVIDIA GPU: the C functions' answers, and nothing above them.

`FakeNvml` stands where pynvml keeps the loaded library, so that pynvml's own code and ours run for
real: it fills the ctypes arguments and returns NVML's codes. `installed` puts it there and takes it
away again; the functions below it make the machines that tests know.

    nvml = h200()
    with installed(nvml):
        nvml.fail("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_NO_PERMISSION)
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pynvml

from cnnbench.measure.gpu import processes as processes_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

H200_UUID = "GPU-11111111-2222-3333-4444-555555555555"
MIG_UUID = "MIG-66666666-7777-8888-9999-aaaaaaaaaaaa"
GEFORCE_UUID = "GPU-bbbbbbbb-cccc-dddd-eeee-ffffffffffff"

GIB = 2**30
FOREIGN_PID = 4_100_000
HOST_PID = 4_200_000  # beyond what Linux hands out: nobody in this container can have it

POWER_CAP_FIELD = 74
POWER_INSTANT_FIELD = 186
# Driver 580.82 and newer; 575.51 to 580.76.
NEW_FIELDS = {"software thermal": 269, "hardware thermal": 270, "power brake": 271}
OLD_FIELDS = {"software thermal": 251, "hardware thermal": 252, "power brake": 253}

UNSUPPORTED = object()


@dataclass(kw_only=True)
class FakeGpu:
    """One GPU (or MIG instance) as the C library sees it, in NVML's units; set `UNSUPPORTED` for none.

    `fields` holds values by field number: an `int` is answered as 64 bits, a `ctypes.c_uint` as 32.
    """

    uuid: str
    name: str = "NVIDIA H200"
    memory_bytes: int = 141 * GIB
    used_bytes: int = 1 * GIB
    power_limit_milliwatts: Any = 700_000
    default_power_limit_milliwatts: Any = 700_000
    power_milliwatts: Any = 121_000
    energy_millijoules: Any = 5_000_000
    max_clocks_mhz: Any = field(default_factory=lambda: {1: 1980, 2: 3201})
    clocks_mhz: Any = field(default_factory=lambda: {1: 1755, 2: 3201})
    temperature_celsius: Any = 41
    persistence: Any = 1
    ecc: Any = (1, 1)
    ecc_errors: Any = 0
    mig_mode: Any = (0, 0)
    throttle_bits: Any = 0
    fields: dict[int, Any] = field(default_factory=dict)
    violations_nanoseconds: Any = field(default_factory=lambda: {0: 0, 1: 0})
    processes: Any = field(default_factory=dict)
    graphics_processes: Any = field(default_factory=dict)
    instances: list[FakeGpu] = field(default_factory=list)
    parent: FakeGpu | None = None


class FakeNvml:
    """The C library: an attribute for each function that the driver has.

    `calls` counts them by name. `version` is the driver's. In a container a process has another number
    than outside, and drivers since 535.113 show it no others.
    """

    def __init__(
        self, *gpus: FakeGpu, version: str = "595.71.05", in_container: bool = False
    ) -> None:
        self.gpus = list(gpus)
        self.version = version
        self.in_container = in_container
        self.calls: Counter[str] = Counter()
        self._failures: dict[str, tuple[int, int]] = {}
        self._death: tuple[int, int] | None = None
        self._missing: set[str] = set()
        # The structures behind the opaque handles; kept, for a pointer keeps nothing alive.
        self._handles: dict[int, tuple[FakeGpu, Any]] = {}

    def fail(self, name: str, code: int, *, after: int = 0) -> None:
        """Let `name` return `code`, once it has been called `after` more times."""
        self._failures[name] = (code, self.calls[name] + after)

    def die(self, code: int = pynvml.NVML_ERROR_GPU_IS_LOST, *, after: int = 0) -> None:
        """Let every function return `code`, after `after` more calls of any."""
        self._death = (code, self.calls.total() + after)

    def remove(self, *names: str) -> None:
        """Let the driver have no function of these names."""
        self._missing.update(names)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _FUNCTIONS or name in self._missing:
            raise AttributeError(name)

        def function(*arguments: Any) -> Any:
            self.calls[name] += 1
            return self._failure(name) or _FUNCTIONS[name](self, *arguments)

        return function

    def _failure(self, name: str) -> int:
        if name == "nvmlErrorString":  # a table of texts, which needs no driver
            return int(pynvml.NVML_SUCCESS)
        if self._death is not None and self.calls.total() > self._death[1]:
            return self._death[0]
        code, first = self._failures.get(name, (pynvml.NVML_SUCCESS, 0))
        return code if self.calls[name] > first else int(pynvml.NVML_SUCCESS)

    def everyone(self) -> list[FakeGpu]:
        """Return the GPUs and their instances."""
        return [every for gpu in self.gpus for every in (gpu, *gpu.instances)]

    def point(self, pointer: Any, gpu: FakeGpu) -> int:
        """Make the handle behind `pointer` that of `gpu`."""
        structure = pynvml.struct_c_nvmlDevice_t()
        self._handles[ctypes.addressof(structure)] = (gpu, structure)
        pointer._obj.contents = structure  # noqa: SLF001 (what byref wraps)
        return int(pynvml.NVML_SUCCESS)

    def gpu(self, handle: Any) -> FakeGpu:
        """Return the GPU behind a handle."""
        return self._handles[ctypes.addressof(handle.contents)][0]


def _set(pointer: Any, value: Any) -> int:
    if value is UNSUPPORTED:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    pointer._obj.value = value  # noqa: SLF001 (what byref wraps)
    return int(pynvml.NVML_SUCCESS)


def _getter(name: str) -> Callable[..., int]:
    """Return a C function that answers with one number."""

    def function(nvml: FakeNvml, handle: Any, pointer: Any) -> int:
        return _set(pointer, getattr(nvml.gpu(handle), name))

    return function


def _pair(name: str) -> Callable[..., int]:
    """Return a C function that answers with what is and what will be after a reboot."""

    def function(nvml: FakeNvml, handle: Any, current: Any, pending: Any) -> int:
        values = getattr(nvml.gpu(handle), name)
        if values is UNSUPPORTED:
            return _set(current, UNSUPPORTED)
        return _set(current, values[0]) or _set(pending, values[1])

    return function


def _by_key(name: str) -> Callable[..., int]:
    """Return a C function that answers with one number of several."""

    def function(nvml: FakeNvml, handle: Any, key: Any, pointer: Any) -> int:
        values = getattr(nvml.gpu(handle), name)
        return _set(pointer, values if values is UNSUPPORTED else values[key.value])

    return function


def _text(read: Callable[[FakeNvml, Any], str]) -> Callable[..., int]:
    """Return a C function that answers with a text about a handle, or about the system."""

    def function(nvml: FakeNvml, *arguments: Any) -> int:
        *handle, buffer, length = arguments
        text = read(nvml, *(handle or [None])).encode()
        assert len(text) < length.value
        buffer.value = text
        return int(pynvml.NVML_SUCCESS)

    return function


def _succeed(*_: Any) -> int:
    return int(pynvml.NVML_SUCCESS)


def _error_string(_nvml: FakeNvml, code: int) -> bytes:
    return f"the driver's words for {code}".encode()


def _handle_by_uuid(nvml: FakeNvml, uuid: Any, pointer: Any) -> int:
    for gpu in nvml.everyone():
        if gpu.uuid == uuid.value.decode():
            return nvml.point(pointer, gpu)
    return int(pynvml.NVML_ERROR_NOT_FOUND)


def _handle_by_index(nvml: FakeNvml, index: Any, pointer: Any) -> int:
    return nvml.point(pointer, nvml.gpus[index.value])


def _instance_by_index(nvml: FakeNvml, handle: Any, index: Any, pointer: Any) -> int:
    instances = nvml.gpu(handle).instances
    if index.value >= len(instances):
        return int(pynvml.NVML_ERROR_NOT_FOUND)
    return nvml.point(pointer, instances[index.value])


def _parent(nvml: FakeNvml, handle: Any, pointer: Any) -> int:
    parent = nvml.gpu(handle).parent
    return int(pynvml.NVML_ERROR_NOT_FOUND) if parent is None else nvml.point(pointer, parent)


def _count(nvml: FakeNvml, pointer: Any) -> int:
    return _set(pointer, len(nvml.gpus))


def _max_instances(_nvml: FakeNvml, _handle: Any, pointer: Any) -> int:
    return _set(pointer, 7)


def _memory(nvml: FakeNvml, handle: Any, pointer: Any) -> int:
    gpu, memory = nvml.gpu(handle), pointer._obj  # noqa: SLF001 (what byref wraps)
    memory.total, memory.used = gpu.memory_bytes, gpu.used_bytes
    memory.free = gpu.memory_bytes - gpu.used_bytes
    return int(pynvml.NVML_SUCCESS)


def _ecc_errors(nvml: FakeNvml, handle: Any, kind: Any, counter: Any, pointer: Any) -> int:
    uncorrected = kind.value == pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    volatile = counter.value == pynvml.NVML_VOLATILE_ECC
    assert uncorrected
    assert volatile
    return _set(pointer, nvml.gpu(handle).ecc_errors)


def _temperature(nvml: FakeNvml, handle: Any, pointer: Any) -> int:
    value = nvml.gpu(handle).temperature_celsius
    if value is UNSUPPORTED:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    pointer._obj.temperature = value  # noqa: SLF001 (what byref wraps)
    return int(pynvml.NVML_SUCCESS)


def _old_temperature(nvml: FakeNvml, handle: Any, _sensor: Any, pointer: Any) -> int:
    return _set(pointer, nvml.gpu(handle).temperature_celsius)


def _violation(nvml: FakeNvml, handle: Any, policy: Any, pointer: Any) -> int:
    violations = nvml.gpu(handle).violations_nanoseconds
    if violations is UNSUPPORTED or policy.value not in violations:
        return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
    pointer._obj.violationTime = violations[policy.value]  # noqa: SLF001 (what byref wraps)
    return int(pynvml.NVML_SUCCESS)


def _field_values(nvml: FakeNvml, handle: Any, count: Any, pointer: Any) -> int:
    known = nvml.gpu(handle).fields
    values = pointer._obj  # noqa: SLF001 (what byref wraps)
    assert len(values) == count.value
    for value in values:
        answer = known.get(value.fieldId)
        if answer is None:
            value.nvmlReturn = pynvml.NVML_ERROR_INVALID_ARGUMENT
        elif answer is UNSUPPORTED:
            value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED
        elif isinstance(answer, ctypes.c_uint):
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
            value.value.ullVal = 2**64 - 1  # what C leaves beside a narrower value is anything
            value.value.uiVal = answer.value
        else:
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            value.value.ullVal = answer
    return int(pynvml.NVML_SUCCESS)


def _lister(name: str) -> Callable[..., int]:
    """Return a C function that lists processes: without room it tells how many there are."""

    def function(nvml: FakeNvml, handle: Any, count: Any, room: Any) -> int:
        listed = getattr(nvml.gpu(handle), name)
        if listed is UNSUPPORTED:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        num_fitting = count._obj.value  # noqa: SLF001 (what byref wraps)
        count._obj.value = len(listed)  # noqa: SLF001
        if num_fitting < len(listed):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for place, (pid, num_bytes) in enumerate(listed.items()):
            unknown = pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value
            room[place].pid = pid
            room[place].usedGpuMemory = unknown if num_bytes is None else num_bytes
        return int(pynvml.NVML_SUCCESS)

    return function


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "nvmlInitWithFlags": _succeed,
    "nvmlShutdown": _succeed,
    "nvmlErrorString": _error_string,
    "nvmlSystemGetDriverVersion": _text(lambda nvml, _: nvml.version),
    "nvmlSystemGetNVMLVersion": _text(lambda nvml, _: f"13.{nvml.version}"),
    "nvmlDeviceGetCount_v2": _count,
    "nvmlDeviceGetHandleByIndex_v2": _handle_by_index,
    "nvmlDeviceGetHandleByUUID": _handle_by_uuid,
    "nvmlDeviceGetMaxMigDeviceCount": _max_instances,
    "nvmlDeviceGetMigDeviceHandleByIndex": _instance_by_index,
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": _parent,
    "nvmlDeviceGetUUID": _text(lambda nvml, handle: nvml.gpu(handle).uuid),
    "nvmlDeviceGetName": _text(lambda nvml, handle: nvml.gpu(handle).name),
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetEnforcedPowerLimit": _getter("power_limit_milliwatts"),
    "nvmlDeviceGetPowerManagementDefaultLimit": _getter("default_power_limit_milliwatts"),
    "nvmlDeviceGetPowerUsage": _getter("power_milliwatts"),
    "nvmlDeviceGetTotalEnergyConsumption": _getter("energy_millijoules"),
    "nvmlDeviceGetPersistenceMode": _getter("persistence"),
    "nvmlDeviceGetCurrentClocksEventReasons": _getter("throttle_bits"),
    "nvmlDeviceGetCurrentClocksThrottleReasons": _getter("throttle_bits"),
    "nvmlDeviceGetEccMode": _pair("ecc"),
    "nvmlDeviceGetMigMode": _pair("mig_mode"),
    "nvmlDeviceGetTotalEccErrors": _ecc_errors,
    "nvmlDeviceGetMaxClockInfo": _by_key("max_clocks_mhz"),
    "nvmlDeviceGetClockInfo": _by_key("clocks_mhz"),
    "nvmlDeviceGetTemperatureV": _temperature,
    "nvmlDeviceGetTemperature": _old_temperature,
    "nvmlDeviceGetViolationStatus": _violation,
    "nvmlDeviceGetFieldValues": _field_values,
    "nvmlDeviceGetComputeRunningProcesses_v3": _lister("processes"),
    "nvmlDeviceGetGraphicsRunningProcesses_v3": _lister("graphics_processes"),
}


@contextmanager
def installed(nvml: FakeNvml | None) -> Iterator[None]:
    """Let pynvml find `nvml` instead of the library; with `None` it finds none. Undoes all afterwards."""

    def no_library(name: str) -> None:
        msg = f"{name}: cannot open shared object file"
        raise OSError(msg)

    here = str(Path("/proc/self/ns/pid").readlink())
    is_first = nvml is None or not nvml.in_container
    with (
        mock.patch.object(pynvml, "nvmlLib", nvml),
        mock.patch.object(pynvml, "CDLL", no_library),
        mock.patch.object(pynvml, "_nvmlLib_refcount", 0),
        mock.patch.dict(pynvml._nvmlGetFunctionPointer_cache, clear=True),  # noqa: SLF001
        mock.patch.dict(pynvml.NVMLError._errcode_to_string),  # noqa: SLF001
        mock.patch.object(processes_module, "_FIRST_NAMESPACE", here if is_first else "another"),
    ):
        yield


def h200(version: str = "595.71.05") -> FakeNvml:
    """Return a healthy H200 that nobody uses, under a recent driver."""
    counters = dict.fromkeys([POWER_CAP_FIELD, *NEW_FIELDS.values()], 0)
    gpu = FakeGpu(uuid=H200_UUID, fields={**counters, POWER_INSTANT_FIELD: ctypes.c_uint(118_500)})
    return FakeNvml(gpu, version=version)


def h200_of_early_580() -> FakeNvml:
    """Return an H200 under 580.65, which numbers the counters as nothing before or since.

    Where later drivers have the counters it has settings of power smoothing; these are not zero here.
    """
    nvml = h200("580.65.06")
    (gpu,) = nvml.gpus
    gpu.fields = {
        **dict.fromkeys([POWER_CAP_FIELD, *OLD_FIELDS.values()], 0),
        **{number: ctypes.c_uint(50) for number in NEW_FIELDS.values()},
        POWER_INSTANT_FIELD: ctypes.c_uint(118_500),
    }
    return nvml


def mig_instance() -> FakeNvml:
    """Return a third of an H200: most of it is asked of the instance in vain."""
    nvml = h200()
    (whole,) = nvml.gpus
    whole.mig_mode = (1, 1)
    unsupported: dict[str, Any] = dict.fromkeys(_ONLY_WHOLE, UNSUPPORTED)
    part = FakeGpu(
        uuid=MIG_UUID,
        name="NVIDIA H200 MIG 2g.35gb",
        memory_bytes=35 * GIB,
        parent=whole,
        **unsupported,
    )
    whole.instances = [part]
    return nvml


_ONLY_WHOLE = (
    "power_limit_milliwatts",
    "default_power_limit_milliwatts",
    "power_milliwatts",
    "energy_millijoules",
    "max_clocks_mhz",
    "clocks_mhz",
    "temperature_celsius",
    "persistence",
    "ecc",
    "ecc_errors",
    "mig_mode",
    "throttle_bits",
    "violations_nanoseconds",
)


def old_geforce() -> FakeNvml:
    """Return a GeForce GTX 1080 under driver 550: no ECC, no MIG, no energy counter, the older counters."""
    gpu = FakeGpu(
        uuid=GEFORCE_UUID,
        name="NVIDIA GeForce GTX 1080",
        memory_bytes=8 * GIB,
        power_limit_milliwatts=180_000,
        default_power_limit_milliwatts=180_000,
        power_milliwatts=35_000,
        energy_millijoules=UNSUPPORTED,
        persistence=0,
        ecc=UNSUPPORTED,
        ecc_errors=UNSUPPORTED,
        mig_mode=UNSUPPORTED,
        graphics_processes={900: 200 * 2**20},
    )
    nvml = FakeNvml(gpu, version="550.90.07")
    nvml.remove("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons")
    return nvml


def dying(*, after: int) -> FakeNvml:
    """Return an H200 that falls off the bus after so many calls."""
    nvml = h200()
    nvml.die(after=after)
    return nvml


def container() -> FakeNvml:
    """Return an H200 as a container sees it: only the container's own processes are listed."""
    nvml = h200()
    nvml.in_container = True
    return nvml


def container_of_old_driver() -> FakeNvml:
    """Return an H100 under driver 525 in a container: all processes, by the numbers that the host has."""
    gpu = FakeGpu(
        uuid=H200_UUID, name="NVIDIA H100", fields={POWER_INSTANT_FIELD: ctypes.c_uint(118_500)}
    )
    return FakeNvml(gpu, version="525.105.17", in_container=True)


def arrive(gpu: FakeGpu, pid: int | None = None, num_bytes: int | None = 2 * GIB) -> None:
    """Let a process begin to compute on `gpu`: this one, unless `pid` is another."""
    gpu.processes[os.getpid() if pid is None else pid] = num_bytes
