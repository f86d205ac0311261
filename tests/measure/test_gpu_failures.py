"""Silence, refusal and death of the driver never look like zero."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import pynvml
import pytest

from cnnbench.measure.gpu import (
    POWER_BRAKE,
    POWER_CAP,
    PROCESSES,
    THERMAL,
    Gpu,
    driver_version,
    list_gpus,
)
from fake_nvml import (
    GEFORCE_UUID,
    H200_UUID,
    arrive,
    dying,
    h200,
    installed,
)

if TYPE_CHECKING:
    from collections.abc import Callable


LOST, UNKNOWN, UNINITIALIZED = (
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNKNOWN,
    pynvml.NVML_ERROR_UNINITIALIZED,
)


def all_answers(gpu: Gpu) -> list[object]:
    """Return every answer but the settings' reasons: readings before and after, and the rest."""
    settings = {name: value for name, value in asdict(gpu.settings()).items() if name != "unknowns"}
    return [
        *settings.values(),
        *asdict(gpu.counters()).values(),
        *asdict(gpu.reading(gpu.counters())).values(),
        gpu.energy_joules(),
        gpu.watts(),
        gpu.throttle_reasons(),
        gpu.process_bytes(),
        gpu.num_foreign_processes(),
    ]


# pynvml before 12.570 knows the older function only.
TEMPERATURE = next(
    name
    for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
    if hasattr(pynvml, name)
)

GETTERS: dict[str, Callable[[Gpu], object]] = {
    "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: gpu.settings().power_limit_watts,
    "nvmlDeviceGetPowerManagementDefaultLimit": (
        lambda gpu: gpu.settings().default_power_limit_watts
    ),
    "nvmlDeviceGetMaxClockInfo": lambda gpu: gpu.settings().max_sm_clock_mhz,
    "nvmlDeviceGetPersistenceMode": lambda gpu: gpu.settings().is_persistent,
    "nvmlDeviceGetEccMode": lambda gpu: gpu.settings().has_ecc,
    "nvmlDeviceGetTotalEccErrors": lambda gpu: gpu.settings().num_ecc_errors,
    "nvmlDeviceGetMigMode": lambda gpu: gpu.settings().is_mig,
    "nvmlDeviceGetClockInfo": lambda gpu: gpu.reading(gpu.counters()).sm_clock_mhz,
    TEMPERATURE: lambda gpu: gpu.reading(gpu.counters()).temperature_celsius,
    "nvmlDeviceGetFieldValues": lambda gpu: gpu.counters().power_brake_seconds,
    "nvmlDeviceGetTotalEnergyConsumption": lambda gpu: gpu.energy_joules(),
    "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: gpu.throttle_reasons(),
    "nvmlDeviceGetComputeRunningProcesses_v3": lambda gpu: gpu.num_foreign_processes(),
}

WORDS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this GPU",
    pynvml.NVML_ERROR_NO_PERMISSION: "refused: insufficient permissions",
    LOST: "broken: GPU is lost",
    UNKNOWN: "broken: Unknown Error",
    UNINITIALIZED: "broken: Uninitialized",
    777: "broken: the driver's words for 777",
}


@pytest.mark.parametrize("code", WORDS)
@pytest.mark.parametrize("name", GETTERS)
def test_one_getter_that_fails_costs_no_other_one(name: str, code: int) -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(nvml.gpus[0])
        known = all_answers(gpu)
        assert None not in known
        assert gpu.unknowns == {}
        nvml.fail(name, code)
        assert GETTERS[name](gpu) is None
        assert WORDS[code] in gpu.unknowns.values()
        lost = all_answers(gpu).count(None)
    # Two clocks of each kind, two ways to list processes; all counters come in one call, and power.
    assert 1 <= lost <= (8 if name == "nvmlDeviceGetFieldValues" else 3)


@pytest.mark.parametrize("name", GETTERS)
def test_a_function_that_the_driver_lacks_is_absent_or_has_a_forerunner(name: str) -> None:
    nvml = h200()
    nvml.remove(name)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(nvml.gpus[0])
        answer = GETTERS[name](gpu)
        if name in {"nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"}:
            assert answer is not None
            assert gpu.unknowns == {}
        else:
            assert answer is None
            assert "absent from this driver" in gpu.unknowns.values()


def test_a_function_that_pynvml_lacks_is_absent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption")
    with installed(h200()), Gpu(H200_UUID) as gpu:
        assert gpu.energy_joules() is None
        assert gpu.unknowns == {"energy": "absent from this driver"}


@pytest.mark.parametrize("code", [LOST, UNKNOWN, UNINITIALIZED])
def test_a_driver_that_dies_between_two_windows_leaves_nulls_with_reasons(code: int) -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(nvml.gpus[0])
        before = gpu.counters()
        assert gpu.energy_joules() is not None
        nvml.die(code)
        assert set(asdict(gpu.reading(before)).values()) == {None}
        assert gpu.energy_joules() is gpu.watts() is gpu.process_bytes() is None
        settings = gpu.settings()
        assert {getattr(settings, f.name) for f in fields(settings) if f.name != "unknowns"} == {
            None
        }
        assert set(settings.unknowns.values()) == {WORDS[code]}
        assert {THERMAL, POWER_BRAKE, POWER_CAP, PROCESSES, "energy"} <= gpu.unknowns.keys()
        assert set(gpu.unknowns.values()) == {WORDS[code]}


def test_the_first_reason_stays() -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        for code in (LOST, UNINITIALIZED):
            nvml.die(code)
            assert gpu.energy_joules() is gpu.counters().thermal_seconds is None
        assert gpu.unknowns["energy"] == gpu.unknowns[THERMAL] == "broken: GPU is lost"


@pytest.mark.parametrize("after", range(60))
def test_whenever_the_driver_dies_nothing_is_raised_and_nothing_becomes_zero(after: int) -> None:
    whole = h200()
    with installed(whole), Gpu(H200_UUID) as gpu:
        arrive(whole.gpus[0])
        expected = all_answers(gpu)
    nvml = dying(after=after)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(nvml.gpus[0])
        answers = all_answers(gpu)
        assert all(got is None or got == want for got, want in zip(answers, expected, strict=True))
        assert (None in answers) is bool(gpu.unknowns)


def test_without_nvml_every_question_has_one_reason() -> None:
    with installed(None), Gpu(H200_UUID) as gpu:
        assert set(all_answers(gpu)) == {None}
        reason = "NVML is not there: NVML Shared Library Not Found"
        assert gpu.unknowns == gpu.settings().unknowns == {"NVML": reason}
    with installed(None):
        assert driver_version() is None
        listing = list_gpus()
    assert (listing.driver, listing.nvml, listing.gpus) == (None, None, ())
    assert listing.unknowns == {"NVML": reason}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "NVML is not there: Driver Not Loaded"),
        (
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            "NVML does not start: RM has detected an NVML/RM version mismatch.",
        ),
    ],
)
def test_an_nvml_that_does_not_start_says_why(code: int, said: str) -> None:
    nvml = h200()
    nvml.fail("nvmlInitWithFlags", code)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.watts() is None
        assert gpu.unknowns == list_gpus().unknowns == {"NVML": said}


def test_a_gpu_that_nvml_does_not_know_has_one_reason() -> None:
    nvml = h200()
    with installed(nvml), Gpu(GEFORCE_UUID) as gpu:
        assert set(all_answers(gpu)) == {None}
        assert gpu.unknowns == {"NVML": f"NVML does not find {GEFORCE_UUID}: Not Found"}
    with installed(nvml), Gpu(None) as gpu:
        assert set(all_answers(gpu)) == {None}
        assert gpu.unknowns == {"NVML": "the GPU's UUID is not known"}


def test_what_was_opened_is_closed_and_answers_no_more() -> None:
    nvml = h200()
    with installed(nvml):
        with Gpu(H200_UUID) as gpu:
            assert gpu.watts() is not None
        assert nvml.calls["nvmlInitWithFlags"] == nvml.calls["nvmlShutdown"] == 1
        assert set(all_answers(gpu)) == {None}
        assert driver_version() == "595.71.05"
        list_gpus()
        assert nvml.calls["nvmlInitWithFlags"] == nvml.calls["nvmlShutdown"] == 3
