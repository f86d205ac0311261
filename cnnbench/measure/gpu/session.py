"""One NVML session on one GPU: its settings, and what came of a window."""

from __future__ import annotations

from typing import Any, Self

from cnnbench.environment import GpuSettings
from cnnbench.measure.gpu import nvml
from cnnbench.measure.gpu.processes import Processes
from cnnbench.measure.gpu.slowdowns import (
    POLICIES,
    POWER_BRAKE,
    POWER_CAP,
    THERMAL,
    Counters,
    Slowdowns,
    slowdown_fields,
    throttle_words,
)
from cnnbench.measurement import GpuReading

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
_MILLI = 1e-3

_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
_THROTTLE_REASONS = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)


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
        self._power_fields: tuple[int, ...] = ()
        self._slowdowns = Slowdowns(None, self.unknowns)
        self._processes = Processes(None, self.unknowns)

    def __enter__(self) -> Self:
        """Open NVML, find the GPU, choose what is asked for slowdowns and power, and see who is there."""
        refusal = nvml.start()
        if refusal is not None:
            self._note("NVML", refusal)
            return self
        self._is_open = True
        self._find()
        if self._handle is not None:
            self._choose_fields()
            is_hidden = self._is_part and not str(self.uuid).startswith("MIG-")
            self._processes = Processes(self._handle, self.unknowns, is_hidden=is_hidden)
        return self

    def __exit__(self, *_: object) -> None:
        """Close NVML."""
        self._handle = self._board = None
        self._slowdowns = Slowdowns(None, self.unknowns)
        self._processes = Processes(None, self.unknowns)
        if self._is_open:
            self._is_open = False
            nvml.stop()

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
            max_sm_clock_mhz=ask("highest SM clock", "nvmlDeviceGetMaxClockInfo", nvml.CLOCK_SM),
            max_memory_clock_mhz=ask(
                "highest memory clock", "nvmlDeviceGetMaxClockInfo", nvml.CLOCK_MEMORY
            ),
            is_persistent=None if persistence is None else bool(persistence),
            has_ecc=None if ecc is None else bool(ecc[0]),
            num_ecc_errors=ask(
                "ECC errors",
                "nvmlDeviceGetTotalEccErrors",
                nvml.ERRORS_UNCORRECTED,
                nvml.ERRORS_SINCE_LOADED,
            ),
            is_mig=self._is_part or nvml.is_split(mig),
            unknowns={what: self.unknowns[what] for what in _SETTINGS if what in self.unknowns},
        )

    def counters(self) -> Counters:
        """Return the cumulative slowdowns, to difference around a window: one or a few calls."""
        return self._slowdowns.counters(nvml.field_values(self._board, self._slowdowns.numbers))

    def reading(self, before: Counters | None) -> GpuReading:
        """Return what came of a window that has just ended.

        Call it while the clocks still are what they were. This process must have been computing on the
        GPU by now, or it cannot be told from others.

        Args:
            before: the counters from before the window; without them no slowdown is known.
        """
        before = before or Counters()
        slowdowns = self._slowdowns
        answers = nvml.field_values(self._board, [*slowdowns.numbers, *self._power_fields])
        after = slowdowns.counters(answers)
        return GpuReading(
            thermal_seconds=slowdowns.rise(THERMAL, before.thermal_seconds, after.thermal_seconds),
            power_brake_seconds=slowdowns.rise(
                POWER_BRAKE, before.power_brake_seconds, after.power_brake_seconds
            ),
            power_cap_seconds=slowdowns.rise(
                POWER_CAP, before.power_cap_seconds, after.power_cap_seconds
            ),
            sm_clock_mhz=self._ask("SM clock", "nvmlDeviceGetClockInfo", nvml.CLOCK_SM),
            memory_clock_mhz=self._ask("memory clock", "nvmlDeviceGetClockInfo", nvml.CLOCK_MEMORY),
            temperature_celsius=self._ask("temperature", _TEMPERATURE, nvml.SENSOR_GPU),
            watts=self._watts(answers),
            num_foreign_processes=self.num_foreign_processes(),
        )

    def energy_joules(self) -> float | None:
        """Return the energy that the GPU has used since its driver was loaded, to be differenced.

        Volta and newer have the counter. A MIG instance has none of its own, and so no answer.
        """
        if self._is_part:
            self._note("energy", nvml.WHOLE_GPU)
            return None
        return _scaled(self._ask("energy", "nvmlDeviceGetTotalEnergyConsumption"), _MILLI)

    def watts(self) -> float | None:
        """Return the power that the GPU draws now; of a MIG instance it is unknown.

        It is the momentary draw where the driver tells it, else NVML's plain one, which Ampere and
        newer average over a second.
        """
        return self._watts(nvml.field_values(self._board, self._power_fields))

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Return in words what holds the clocks down at this moment.

        Empty if nothing does; that an idle GPU lowers them itself is no reason to tell.
        """
        bits = self._ask("throttle reasons", _THROTTLE_REASONS)
        return None if bits is None else throttle_words(bits)

    def process_bytes(self) -> int | None:
        """Return what the driver charges this process with here, as `nvidia-smi` shows it."""
        return self._processes.own_bytes()

    def num_foreign_processes(self) -> int | None:
        """Return how many other processes compute on this GPU; unknown where a container hides them."""
        return self._processes.num_foreign(self._num_companions)

    def _find(self) -> None:
        """Get the handle of the GPU or instance, and of the whole GPU that settings are asked of."""
        if self.uuid is None:
            self._note("NVML", "the GPU's UUID is not known")
            return
        for uuid in _candidates(self.uuid):
            try:
                self._handle = self._board = nvml.call("nvmlDeviceGetHandleByUUID", uuid.encode())
            except nvml.Error as error:
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
            mode = nvml.ask({}, "MIG mode", "nvmlDeviceGetMigMode", self._handle)
            self._is_part = bool(nvml.is_split(mode))
        if self._is_part:
            self._note(MIG_INSTANCE, "its settings, clocks and slowdowns are the whole GPU's")

    def _choose_fields(self) -> None:
        """Decide once which fields are asked: two sources of a counter need not start at one zero."""
        fields = slowdown_fields(nvml.ask({}, "driver", "nvmlSystemGetDriverVersion"))
        power = nvml.POWER_INSTANT
        numbers = [number for numbers in fields.values() for number in numbers]
        answers = nvml.field_values(self._board, [*numbers, power])
        fields = {
            cause: numbers
            for cause, numbers in fields.items()
            if cause not in POLICIES or not any(nvml.is_missing(answers[n]) for n in numbers)
        }
        self._slowdowns = Slowdowns(self._board, self.unknowns, fields)
        self._power_fields = () if self._is_part or nvml.is_missing(answers[power]) else (power,)

    def _watts(self, answers: dict[int, Any]) -> float | None:
        if self._board is None:
            return None
        if self._is_part:
            self._note("power draw", nvml.WHOLE_GPU)
            return None
        if not self._power_fields:
            return _scaled(self._ask("power draw", "nvmlDeviceGetPowerUsage"), _MILLI)
        (answer,) = (answers[number] for number in self._power_fields)
        if isinstance(answer, nvml.Error):
            self._note("power draw", nvml.reason_of(answer))
            return None
        return _scaled(answer, _MILLI)

    def _ask(self, what: str, names: str | tuple[str, ...], *arguments: Any) -> Any:
        """Return what the whole GPU answers, or `None`."""
        if self._board is None:
            return None
        return nvml.ask(self.unknowns, what, names, self._board, *arguments)

    def _note(self, what: str, reason: str) -> None:
        # The first reason tells most: a driver that dies is "lost" once and "uninitialized" after.
        self.unknowns.setdefault(what, reason)


def _candidates(uuid: str) -> tuple[str, ...]:
    """Return the names that NVML may know `uuid` by: CUDA leaves out the first word."""
    return (uuid,) if uuid.startswith(("GPU-", "MIG-")) else (f"GPU-{uuid}", f"MIG-{uuid}")


def _scaled(value: Any, factor: float) -> float | None:
    return None if value is None else float(value * factor)
