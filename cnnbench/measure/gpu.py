"""NVIDIA's management library (NVML): what a GPU says of itself. The only import of pynvml.

Every question is asked on its own. What the driver, the GPU or a partition of it (MIG) does not answer
is `None`, never zero, and `unknowns` says by question whether it is unsupported, absent from this
driver, refused or broken. Nothing here imports torch: a GPU is known by its UUID.

Units and meanings are those of nvml.h (https://docs.nvidia.com/deploy/nvml-api/).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pynvml

from cnnbench.environment import GpuSettings
from cnnbench.measurement import GpuReading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

THERMAL = "thermal slowdown"
POWER_BRAKE = "power brake"
POWER_CAP = "power cap"
PROCESSES = "processes"
MIG_INSTANCE = "MIG instance"
_SETTINGS = (
    "NVML",
    MIG_INSTANCE,
    "MIG mode",
    "power limit",
    "default power limit",
    "highest SM clock",
    "highest memory clock",
    "persistence",
    "ECC",
    "ECC errors",
)

# Field values that count nanoseconds, by the first driver that numbers them so. Their numbers moved in
# 580.82 (nvml.h of 575.51 to 580.76 against nvml.h of 580.82 and newer), and what once was a counter
# now is a setting of power smoothing. pynvml's constants are those of its own version, not of the
# driver's, so they would read the wrong field without an error.
_SLOWDOWN_FIELDS: tuple[tuple[tuple[int, int], dict[str, tuple[int, ...]]], ...] = (
    ((580, 82), {THERMAL: (269, 270), POWER_BRAKE: (271,), POWER_CAP: (74,)}),
    ((575, 0), {THERMAL: (251, 252), POWER_BRAKE: (253,), POWER_CAP: (74,)}),
)
# The older way, nanoseconds as well; it never told of the power brake.
_POLICIES = {
    THERMAL: pynvml.NVML_PERF_POLICY_THERMAL,
    POWER_CAP: pynvml.NVML_PERF_POLICY_POWER,
}
_NANOSECONDS = 1e9
_MILLI = 1e-3

# The first that this driver knows answers.
_COMPUTE_PROCESSES = (
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetComputeRunningProcesses_v2",
)
_GRAPHICS_PROCESSES = (
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
)
_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
_THROTTLE_REASONS = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)
# The bits of nvmlClocksEventReasons.
_IDLE = 0x001
_THROTTLE_WORDS = {
    0x002: "clocks set by the user",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost with another GPU",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "external power brake",
    0x100: "clocks set for the display",
    0x200: "board limit",
    0x400: "reliability limit",
}

_VALUE_MEMBERS = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
}
# A counter of nanoseconds that fitted into less would wrap every four seconds: it is another field.
_COUNTER_TYPES = {
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG,
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG,
}

_WORDS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this GPU",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "absent from this driver",
    pynvml.NVML_ERROR_DEPRECATED: "absent from this driver",
    pynvml.NVML_ERROR_NO_PERMISSION: "refused: insufficient permissions",
    pynvml.NVML_ERROR_OPERATING_SYSTEM: "refused by the operating system",
}
_ABSENT = {pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_DEPRECATED}
# Another source may answer in their stead; after any other failure the same one may answer again.
_MISSING = _ABSENT | {pynvml.NVML_ERROR_NOT_SUPPORTED}

_WHOLE_GPU = "only the whole GPU tells, and this is a part of it (MIG)"
# The inode of the first process namespace, PROC_PID_INIT_INO in Linux's proc_ns.h.
_FIRST_NAMESPACE = "pid:[4026531836]"


@dataclass(frozen=True, kw_only=True)
class Counters:
    """For how many seconds the driver has lowered the clocks since it was loaded, by cause."""

    thermal_seconds: float | None = None
    power_brake_seconds: float | None = None
    power_cap_seconds: float | None = None


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


class Gpu:
    """One NVML session on one GPU; it never raises, whatever the driver does meanwhile.

    Open it before this process computes on the GPU: who is there already is foreign. `unknowns` holds
    what could not be answered, with the first reason; without NVML or the GPU that is one reason, for
    `NVML`. It belongs to one thread.
    """

    def __init__(self, uuid: str | None, *, num_companions: int = 0) -> None:
        """Name the GPU.

        Args:
            uuid: as NVML gives it (`GPU-...`, `MIG-...`) or as CUDA does, without the first word.
            num_companions: how many processes hold memory here that rest while this one works: they
                are not foreign. They are told by number alone: while one is not there, one foreign
                process passes for it.
        """
        self.uuid = uuid
        self._num_companions = num_companions
        self.unknowns: dict[str, str] = {}
        self._handle: Any = None
        self._board: Any = None
        self._is_open = False
        self._is_part = False
        self._slowdown_fields: dict[str, tuple[int, ...]] = {}
        self._power_fields: tuple[int, ...] = ()
        self._here_before: set[int] = set()
        self._own_pid: int | None = None

    def __enter__(self) -> Self:
        """Open NVML, find the GPU, choose what is asked for slowdowns and power, and see who is there."""
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._note("NVML", _refusal(error))
            return self
        self._is_open = True
        self._find()
        if self._handle is not None:
            self._choose_fields()
            self._here_before = set(self._processes() or {})
        return self

    def __exit__(self, *_: object) -> None:
        """Close NVML."""
        self._handle = self._board = None
        if self._is_open:
            self._is_open = False
            _close()

    def settings(self) -> GpuSettings:
        """Return how the GPU is set up; of a MIG instance, how the whole GPU is."""
        ask = self._ask
        ecc = ask("ECC", "nvmlDeviceGetEccMode")
        persistence = ask("persistence", "nvmlDeviceGetPersistenceMode")
        mig = ask("MIG mode", "nvmlDeviceGetMigMode")
        limit = ask("power limit", "nvmlDeviceGetEnforcedPowerLimit")
        default_limit = ask("default power limit", "nvmlDeviceGetPowerManagementDefaultLimit")
        return GpuSettings(
            power_limit_watts=_scaled(limit, _MILLI),
            default_power_limit_watts=_scaled(default_limit, _MILLI),
            max_sm_clock_mhz=ask(
                "highest SM clock", "nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_SM
            ),
            max_memory_clock_mhz=ask(
                "highest memory clock", "nvmlDeviceGetMaxClockInfo", pynvml.NVML_CLOCK_MEM
            ),
            is_persistent=None if persistence is None else bool(persistence),
            has_ecc=None if ecc is None else bool(ecc[0]),
            num_ecc_errors=ask(
                "ECC errors",
                "nvmlDeviceGetTotalEccErrors",
                pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                pynvml.NVML_VOLATILE_ECC,
            ),
            is_mig=self._is_part or _is_split(mig),
            unknowns={what: self.unknowns[what] for what in _SETTINGS if what in self.unknowns},
        )

    def counters(self) -> Counters:
        """Return the cumulative slowdowns, to difference around a window: one or a few calls."""
        return self._counters(self._slowdown_answers())

    def reading(self, before: Counters | None) -> GpuReading:
        """Return what came of a window that has just ended.

        Call it while the clocks still are what they were. This process must have been computing on the
        GPU by now, or it cannot be told from others.

        Args:
            before: the counters from before the window; without them no slowdown is known.
        """
        before = before or Counters()
        answers = self._slowdown_answers(self._power_fields)
        after = self._counters(answers)
        return GpuReading(
            thermal_seconds=self._rise(THERMAL, before.thermal_seconds, after.thermal_seconds),
            power_brake_seconds=self._rise(
                POWER_BRAKE, before.power_brake_seconds, after.power_brake_seconds
            ),
            power_cap_seconds=self._rise(
                POWER_CAP, before.power_cap_seconds, after.power_cap_seconds
            ),
            sm_clock_mhz=self._ask("SM clock", "nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(
                "memory clock", "nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM
            ),
            temperature_celsius=self._ask("temperature", _TEMPERATURE, pynvml.NVML_TEMPERATURE_GPU),
            watts=self._watts(answers),
            num_foreign_processes=self.num_foreign_processes(),
        )

    def energy_joules(self) -> float | None:
        """Return the energy that the GPU has used since its driver was loaded, to be differenced.

        Volta and newer have the counter. A MIG instance has none of its own, and so no answer.
        """
        if self._is_part:
            self._note("energy", _WHOLE_GPU)
            return None
        return _scaled(self._ask("energy", "nvmlDeviceGetTotalEnergyConsumption"), _MILLI)

    def watts(self) -> float | None:
        """Return the power that the GPU draws now; of a MIG instance it is unknown.

        It is the momentary draw where the driver tells it, else NVML's plain one, which Ampere and
        newer average over a second.
        """
        return self._watts(_field_values(self._board, self._power_fields))

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Return in words what holds the clocks down at this moment.

        Empty if nothing does; that an idle GPU lowers them itself is no reason to tell.
        """
        bits = self._ask("throttle reasons", _THROTTLE_REASONS)
        if bits is None:
            return None
        bits &= ~_IDLE
        unknown = bits & ~sum(_THROTTLE_WORDS)
        words = [word for bit, word in _THROTTLE_WORDS.items() if bits & bit]
        return (*words, *([f"unknown reason {unknown:#x}"] if unknown else []))

    def process_bytes(self) -> int | None:
        """Return what the driver charges this process with here, as `nvidia-smi` shows it."""
        running = self._processes()
        own = None if running is None else self._find_own(running)
        if running is None or own is None:
            return None
        # A process that computes here holds its context at least: 0 is no answer.
        num_bytes = running.get(own) or None
        if num_bytes is None:
            self._note("process memory", "the driver does not tell the memory of this process")
        return num_bytes

    def num_foreign_processes(self) -> int | None:
        """Return how many other processes compute on this GPU.

        Those that only draw (a desktop) do not count. Since 535.113 the driver lists to a container
        only the container's own processes, by the numbers that they have there (`gpuGetProcWithObject`
        in NVIDIA's open kernel modules): then no other one being listed is no proof, and the number is
        unknown.
        """
        running = self._processes()
        own = None if running is None else self._find_own(running)
        if running is None or own is None:
            return None
        num_others = len(running.keys() - {own})
        if num_others == 0 and own == os.getpid() and not _sees_every_process():
            self._note(PROCESSES, "a container is shown its own processes only")
            return None
        return max(0, num_others - self._num_companions)

    def _find(self) -> None:
        """Get the handle of the GPU or instance, and of the whole GPU that settings are asked of."""
        if self.uuid is None:
            self._note("NVML", "the GPU's UUID is not known")
            return
        for uuid in _candidates(self.uuid):
            try:
                self._handle = self._board = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
            except pynvml.NVMLError as error:
                self._note("NVML", f"NVML does not find {uuid}: {error}")
            else:
                self.uuid = uuid
                self.unknowns.clear()
                self._find_board()
                return

    def _find_board(self) -> None:
        if str(self.uuid).startswith("MIG-"):
            self._is_part = True
            parent = self._ask(MIG_INSTANCE, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
            if parent is not None:
                self._board = parent
        else:
            # Where CUDA gives the whole GPU's UUID: it computes on an instance whenever there are any.
            mode = _ask({}, "MIG mode", "nvmlDeviceGetMigMode", self._handle)
            self._is_part = bool(_is_split(mode))
        if self._is_part:
            self._note(MIG_INSTANCE, "its settings, clocks and slowdowns are the whole GPU's")

    def _choose_fields(self) -> None:
        """Decide once which fields are asked: two sources of a counter need not start at one zero."""
        fields = _slowdown_fields(_ask({}, "driver", "nvmlSystemGetDriverVersion"))
        power = pynvml.NVML_FI_DEV_POWER_INSTANT
        numbers = [number for numbers in fields.values() for number in numbers]
        answers = _field_values(self._board, [*numbers, power])
        self._slowdown_fields = {
            cause: numbers
            for cause, numbers in fields.items()
            if cause not in _POLICIES or not any(_is_missing(answers[n]) for n in numbers)
        }
        self._power_fields = () if self._is_part or _is_missing(answers[power]) else (power,)

    def _slowdown_answers(self, others: Iterable[int] = ()) -> dict[int, Any]:
        numbers = [n for numbers in self._slowdown_fields.values() for n in numbers]
        return _field_values(self._board, [*numbers, *others])

    def _counters(self, answers: dict[int, Any]) -> Counters:
        return Counters(
            thermal_seconds=self._slowdown_seconds(THERMAL, answers),
            power_brake_seconds=self._slowdown_seconds(POWER_BRAKE, answers),
            power_cap_seconds=self._slowdown_seconds(POWER_CAP, answers),
        )

    def _slowdown_seconds(self, cause: str, answers: dict[int, Any]) -> float | None:
        if self._board is None:
            return None
        numbers = self._slowdown_fields.get(cause, ())
        if numbers:
            return self._sum(cause, [answers[number] for number in numbers])
        if cause not in _POLICIES:
            self._note(cause, _WORDS[pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
            return None
        status = self._ask(cause, "nvmlDeviceGetViolationStatus", _POLICIES[cause])
        return None if status is None else status.violationTime / _NANOSECONDS

    def _sum(self, cause: str, answers: list[Any]) -> float | None:
        for answer in answers:
            if isinstance(answer, pynvml.NVMLError):
                self._note(cause, _reason(answer))
                return None
        return float(sum(answers) / _NANOSECONDS)

    def _rise(self, cause: str, before: float | None, after: float | None) -> float | None:
        if before is None or after is None:
            return None
        if after < before:
            self._note(cause, "broken: the driver's counter went backwards")
            return None
        return after - before

    def _watts(self, answers: dict[int, Any]) -> float | None:
        if self._board is None:
            return None
        if self._is_part:
            self._note("power draw", _WHOLE_GPU)
            return None
        if not self._power_fields:
            return _scaled(self._ask("power draw", "nvmlDeviceGetPowerUsage"), _MILLI)
        (answer,) = (answers[number] for number in self._power_fields)
        if isinstance(answer, pynvml.NVMLError):
            self._note("power draw", _reason(answer))
            return None
        return _scaled(answer, _MILLI)

    def _processes(self) -> dict[int, int | None] | None:
        """Return the bytes of every process that computes here, by process number."""
        if self._handle is None:
            return None
        if self._is_part and not str(self.uuid).startswith("MIG-"):
            self._note(PROCESSES, _WHOLE_GPU)
            return None
        running = _ask(self.unknowns, PROCESSES, _COMPUTE_PROCESSES, self._handle)
        return None if running is None else _bytes_by_pid(running)

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
            self._note(PROCESSES, f"cannot tell this process among {len(come)} that have come")
        else:
            self._note(PROCESSES, "the driver does not list this process")
        return None

    def _ask(self, what: str, names: str | tuple[str, ...], *arguments: Any) -> Any:
        """Return what the whole GPU answers, or `None`."""
        if self._board is None:
            return None
        return _ask(self.unknowns, what, names, self._board, *arguments)

    def _note(self, what: str, reason: str) -> None:
        # The first reason tells most: a driver that dies is "lost" once and "uninitialized" after.
        self.unknowns.setdefault(what, reason)


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver."""
    with _session() as refusal:
        if refusal is not None:
            return None
        version = _ask({}, "driver", "nvmlSystemGetDriverVersion")
    return None if version is None else str(version)


def list_gpus() -> Listing:
    """Return the driver's version, NVML's, and every GPU with its processes; it never raises.

    A GPU that is split into MIG instances is followed by them.
    """
    unknowns: dict[str, str] = {}
    with _session() as refusal:
        if refusal is not None:
            unknowns["NVML"] = refusal
            return Listing(driver=None, nvml=None, gpus=(), unknowns=unknowns)
        gpus: list[ListedGpu] = []
        for index in range(_ask(unknowns, "GPUs", "nvmlDeviceGetCount") or 0):
            handle = _ask(unknowns, f"GPU {index}", "nvmlDeviceGetHandleByIndex", index)
            if handle is not None:
                gpus.extend(_listed(handle, f"GPU {index}", unknowns))
        return Listing(
            driver=_ask(unknowns, "driver version", "nvmlSystemGetDriverVersion"),
            nvml=_ask(unknowns, "NVML version", "nvmlSystemGetNVMLVersion"),
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
    for index in range(_ask(unknowns, called, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        part = _ask({}, called, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        instance = None if part is None else _look(part, called, unknowns, gpu.uuid)
        if instance is not None:
            yield instance


def _look(
    handle: Any, called: str, unknowns: dict[str, str], parent_uuid: str | None = None
) -> ListedGpu | None:
    uuid = _ask(unknowns, called, "nvmlDeviceGetUUID", handle)
    if uuid is None:
        return None
    own: dict[str, str] = {}
    memory = _ask(own, "memory", "nvmlDeviceGetMemoryInfo", handle)
    mode = None if parent_uuid else _ask(own, "MIG mode", "nvmlDeviceGetMigMode", handle)
    return ListedGpu(
        uuid=uuid,
        name=_ask(own, "name", "nvmlDeviceGetName", handle),
        is_mig=bool(parent_uuid) or _is_split(mode),
        memory_bytes=None if memory is None else memory.total,
        used_bytes=None if memory is None else memory.used,
        processes=_listed_processes(handle, own),
        parent_uuid=parent_uuid,
        unknowns=own,
    )


def _is_split(mode: Any) -> bool | None:
    return None if mode is None else bool(mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE)


def _listed_processes(handle: Any, unknowns: dict[str, str]) -> tuple[GpuProcess, ...] | None:
    computing = _ask(unknowns, "processes", _COMPUTE_PROCESSES, handle)
    if computing is None:
        return None
    drawing = _ask(unknowns, "graphics processes", _GRAPHICS_PROCESSES, handle) or ()
    computing_bytes, drawing_bytes = _bytes_by_pid(computing), _bytes_by_pid(drawing)
    return tuple(
        GpuProcess(pid=pid, num_bytes=num_bytes, is_graphics=pid not in computing_bytes)
        for pid, num_bytes in {**drawing_bytes, **computing_bytes}.items()
    )


def _bytes_by_pid(running: Iterable[Any]) -> dict[int, int | None]:
    """Return the bytes of each process; one with several contexts is listed as often."""
    found: dict[int, int | None] = {}
    for process in running:
        known = (found.get(process.pid), process.usedGpuMemory)
        parts = [int(part) for part in known if part is not None]
        found[int(process.pid)] = sum(parts) if parts else None
    return found


def _candidates(uuid: str) -> tuple[str, ...]:
    """Return the names that NVML may know `uuid` by: CUDA leaves out the first word."""
    return (uuid,) if uuid.startswith(("GPU-", "MIG-")) else (f"GPU-{uuid}", f"MIG-{uuid}")


def _slowdown_fields(driver: str | None) -> dict[str, tuple[int, ...]]:
    try:
        major, minor = (int(part) for part in str(driver).split(".")[:2])
    except ValueError:
        return {}
    for first, fields in _SLOWDOWN_FIELDS:
        if (major, minor) >= first:
            return fields
    return {}


def _field_values(handle: Any, numbers: Collection[int]) -> dict[int, Any]:
    """Return each field's value, or the `NVMLError` that stands in its place; one call for all."""
    if handle is None or not numbers:
        return {}
    try:
        values = _call("nvmlDeviceGetFieldValues", handle, list(numbers))
    except pynvml.NVMLError as error:
        return dict.fromkeys(numbers, error)
    return {int(value.fieldId): _field_value(value) for value in values}


def _field_value(value: Any) -> Any:
    is_counter = value.fieldId != pynvml.NVML_FI_DEV_POWER_INSTANT
    if value.nvmlReturn == pynvml.NVML_SUCCESS:
        if value.valueType in (_COUNTER_TYPES if is_counter else _VALUE_MEMBERS):
            return getattr(value.value, _VALUE_MEMBERS[value.valueType])
    elif value.nvmlReturn != pynvml.NVML_ERROR_INVALID_ARGUMENT:
        return pynvml.NVMLError(value.nvmlReturn)
    # A driver calls the number of a field invalid that it does not know.
    return pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def _is_missing(answer: Any) -> bool:
    return isinstance(answer, pynvml.NVMLError) and answer.value in _MISSING


def _ask(unknowns: dict[str, str], what: str, names: str | tuple[str, ...], *arguments: Any) -> Any:
    """Return what the first function that the driver has answers; or `None`, and why in `unknowns`."""
    reason = ""
    for name in (names,) if isinstance(names, str) else names:
        try:
            return _call(name, *arguments)
        except pynvml.NVMLError as error:
            reason = _reason(error)
            if error.value not in _ABSENT:
                break
    unknowns.setdefault(what, reason)
    return None


def _call(name: str, *arguments: Any) -> Any:
    function = getattr(pynvml, name, None)
    if function is None:  # pynvml drops what NVML has deprecated, and older ones lack what is new
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    return function(*arguments)


def _reason(error: Any) -> str:
    return _WORDS.get(error.value) or f"broken: {error}"


def _refusal(error: Any) -> str:
    """Say why NVML did not open."""
    is_there = error.value not in {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    }
    return f"NVML {'does not start' if is_there else 'is not there'}: {error}"


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value * factor)


def _sees_every_process() -> bool:
    """Say whether this process is in the first namespace of processes: not in a container's own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return False


@contextmanager
def _session() -> Iterator[str | None]:
    """Open NVML; yields why it could not be, or nothing."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        yield _refusal(error)
        return
    try:
        yield None
    finally:
        _close()


def _close() -> None:
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return
