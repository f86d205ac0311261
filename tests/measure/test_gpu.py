"""What a GPU says of itself, and that silence, refusal and death of the driver never look like zero."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import pynvml
import pytest

from cnnbench.environment import GpuSettings
from cnnbench.measure.gpu import (
    POWER_BRAKE,
    POWER_CAP,
    PROCESSES,
    THERMAL,
    Counters,
    Gpu,
    driver_version,
    list_gpus,
)
from cnnbench.measurement import GpuReading
from fake_nvml import (
    FOREIGN_PID,
    GEFORCE_UUID,
    GIB,
    H200_UUID,
    HOST_PID,
    MIG_UUID,
    NEW_FIELDS,
    OLD_FIELDS,
    POWER_CAP_FIELD,
    POWER_INSTANT_FIELD,
    UNSUPPORTED,
    FakeGpu,
    FakeNvml,
    arrive,
    container,
    container_of_old_driver,
    dying,
    h200,
    h200_of_early_580,
    installed,
    mig_instance,
    old_geforce,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000_000
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


def test_a_healthy_gpu_tells_its_settings() -> None:
    nvml = h200()
    nvml.gpus[0].power_limit_milliwatts = 500_000
    nvml.gpus[0].ecc_errors = 3
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.settings() == GpuSettings(
            power_limit_watts=500.0,
            default_power_limit_watts=700.0,
            max_sm_clock_mhz=1980,
            max_memory_clock_mhz=3201,
            is_persistent=True,
            has_ecc=True,
            num_ecc_errors=3,
            is_mig=False,
        )
        assert gpu.unknowns == {}


def test_a_healthy_gpu_tells_of_a_window() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card)
        before = gpu.counters()
        assert gpu.reading(before) == GpuReading(
            thermal_seconds=0.0,
            power_brake_seconds=0.0,
            power_cap_seconds=0.0,
            num_foreign_processes=0,
            sm_clock_mhz=1755,
            memory_clock_mhz=3201,
            temperature_celsius=41,
            watts=118.5,
        )
        assert gpu.unknowns == {}


def test_slowdowns_are_what_the_counters_rose_by_in_seconds() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    for number in (POWER_CAP_FIELD, *NEW_FIELDS.values()):
        card.fields[number] = 7_000 * SECOND
    with installed(nvml), Gpu(H200_UUID) as gpu:
        before = gpu.counters()
        assert before.thermal_seconds == 14_000
        card.fields[NEW_FIELDS["software thermal"]] += SECOND // 4
        card.fields[NEW_FIELDS["hardware thermal"]] += SECOND // 2
        card.fields[NEW_FIELDS["power brake"]] += 2 * SECOND
        card.fields[POWER_CAP_FIELD] += 3 * SECOND
        reading = gpu.reading(before)
    assert reading.thermal_seconds == pytest.approx(0.75)
    assert reading.power_brake_seconds == pytest.approx(2)
    assert reading.power_cap_seconds == pytest.approx(3)


def test_each_driver_is_asked_by_the_numbers_that_it_gives_its_counters() -> None:
    nvml = h200_of_early_580()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        before = gpu.counters()
        card.fields[OLD_FIELDS["software thermal"]] += SECOND
        card.fields[OLD_FIELDS["power brake"]] += SECOND
        reading = gpu.reading(before)
    assert reading.thermal_seconds == reading.power_brake_seconds == 1
    assert reading.power_cap_seconds == 0


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ("610.43.02", NEW_FIELDS),
        ("580.82.07", NEW_FIELDS),
        ("580.76.05", OLD_FIELDS),
        ("575.51.03", OLD_FIELDS),
        ("570.211.01", {}),
        ("no version", {}),
    ],
)
def test_no_driver_is_asked_for_another_ones_counters(version: str, asked: dict[str, int]) -> None:
    nvml = h200(version)
    (card,) = nvml.gpus
    everything = dict.fromkeys((*NEW_FIELDS.values(), *OLD_FIELDS.values()), SECOND)
    card.fields = {POWER_CAP_FIELD: 0, POWER_INSTANT_FIELD: ctypes.c_uint(1), **everything}
    with installed(nvml), Gpu(H200_UUID) as gpu:
        before = gpu.counters()
        for number in asked.values():
            card.fields[number] += SECOND
        for number in {*NEW_FIELDS.values(), *OLD_FIELDS.values()} - {*asked.values()}:
            card.fields[number] += 1000 * SECOND
        reading = gpu.reading(before)
    assert reading.thermal_seconds == (2 if asked else 0)
    assert reading.power_brake_seconds == (1 if asked else None)


def test_a_setting_that_stands_where_a_counter_should_is_not_taken_for_one() -> None:
    # An early 580 as Windows numbers it: its version says "new", its fields are the old ones.
    nvml = h200_of_early_580()
    nvml.version = "580.97"
    nvml.gpus[0].violations_nanoseconds = UNSUPPORTED
    with installed(nvml), Gpu(H200_UUID) as gpu:
        reading = gpu.reading(gpu.counters())
        assert reading.thermal_seconds is None
        assert reading.power_brake_seconds is None
        assert gpu.unknowns[POWER_BRAKE] == "absent from this driver"


def test_an_older_driver_answers_in_the_older_way() -> None:
    nvml = old_geforce()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(GEFORCE_UUID) as gpu:
        before = gpu.counters()
        card.violations_nanoseconds = {0: 2 * SECOND, 1: SECOND}
        reading = gpu.reading(before)
        assert (reading.power_cap_seconds, reading.thermal_seconds) == (2, 1)
        assert reading.power_brake_seconds is None
        assert gpu.unknowns[POWER_BRAKE] == "absent from this driver"


def test_a_source_is_chosen_once_and_never_mixed_with_another() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    card.violations_nanoseconds = {0: 500 * SECOND, 1: 500 * SECOND}
    with installed(nvml), Gpu(H200_UUID) as gpu:
        before = gpu.counters()
        for number in NEW_FIELDS.values():
            card.fields[number] = UNSUPPORTED
        reading = gpu.reading(before)
        assert reading.thermal_seconds is None
        assert gpu.unknowns[THERMAL] == "not supported by this GPU"
        assert reading.power_cap_seconds == 0


def test_half_a_counter_is_no_counter() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    card.fields[NEW_FIELDS["hardware thermal"]] = UNSUPPORTED
    card.violations_nanoseconds = {1: 5 * SECOND}
    with installed(nvml), Gpu(H200_UUID) as gpu:
        before = gpu.counters()
        assert before.thermal_seconds == 5
        card.violations_nanoseconds = {1: 6 * SECOND}
        assert gpu.reading(before).thermal_seconds == 1


def test_a_power_brake_that_is_not_counted_is_unsupported() -> None:
    nvml = h200()
    nvml.gpus[0].fields[NEW_FIELDS["power brake"]] = UNSUPPORTED
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.counters() == Counters(thermal_seconds=0, power_cap_seconds=0)
        assert gpu.unknowns == {POWER_BRAKE: "not supported by this GPU"}


def test_a_counter_that_went_backwards_is_unknown() -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.reading(None).power_cap_seconds is None
        reading = gpu.reading(Counters(thermal_seconds=1.0, power_cap_seconds=0.0))
        assert reading.thermal_seconds is None
        assert reading.power_brake_seconds is None
        assert reading.power_cap_seconds == 0
        assert gpu.unknowns[THERMAL] == "broken: the driver's counter went backwards"


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


@pytest.mark.parametrize("make", [h200, mig_instance])
def test_cudas_name_of_a_gpu_finds_it(make: Callable[[], FakeNvml]) -> None:
    nvml = make()
    uuid = nvml.everyone()[-1].uuid
    with installed(nvml), Gpu(uuid.partition("-")[2]) as gpu:
        assert gpu.uuid == uuid
        assert "NVML" not in gpu.unknowns


def test_a_mig_instance_has_the_whole_gpus_settings_and_says_so() -> None:
    nvml = mig_instance()
    part = nvml.everyone()[-1]
    with installed(nvml), Gpu(MIG_UUID) as gpu:
        arrive(part, num_bytes=3 * GIB)
        settings = gpu.settings()
        reading = gpu.reading(gpu.counters())
        assert settings.is_mig is True
        assert settings.power_limit_watts == 700
        whole = "its settings, clocks and slowdowns are the whole GPU's"
        assert settings.unknowns == {"MIG instance": whole}
        assert (reading.sm_clock_mhz, reading.thermal_seconds) == (1755, 0)
        assert (reading.num_foreign_processes, gpu.process_bytes()) == (0, 3 * GIB)


def test_a_mig_instance_claims_neither_the_power_nor_the_energy_of_the_others() -> None:
    with installed(mig_instance()), Gpu(MIG_UUID) as gpu:
        assert gpu.energy_joules() is gpu.watts() is None
        assert gpu.reading(gpu.counters()).watts is None
        reason = "only the whole GPU tells, and this is a part of it (MIG)"
        assert gpu.unknowns["energy"] == gpu.unknowns["power draw"] == reason


def test_an_instance_whose_parent_is_hidden_says_what_it_lacks() -> None:
    nvml = mig_instance()
    nvml.everyone()[-1].parent = None
    with installed(nvml), Gpu(MIG_UUID) as gpu:
        settings = gpu.settings()
        assert settings.is_mig is True
        assert settings.power_limit_watts is None
        assert settings.unknowns["power limit"] == "not supported by this GPU"
        assert gpu.counters() == Counters()


def test_where_cuda_names_the_whole_gpu_its_processes_are_not_the_instances() -> None:
    nvml = mig_instance()
    (whole,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(whole)
        arrive(whole, FOREIGN_PID)
        assert gpu.settings().is_mig is True
        assert gpu.num_foreign_processes() is gpu.process_bytes() is gpu.energy_joules() is None
        assert "part of it (MIG)" in gpu.unknowns[PROCESSES]


def test_an_old_gpu_says_what_it_lacks() -> None:
    with installed(old_geforce()), Gpu(GEFORCE_UUID) as gpu:
        settings = gpu.settings()
        assert gpu.energy_joules() is None
        assert (settings.has_ecc, settings.num_ecc_errors, settings.is_mig) == (None, None, None)
        assert settings.is_persistent is False
        unsupported = {"ECC", "ECC errors", "MIG mode"}
        assert settings.unknowns == dict.fromkeys(unsupported, "not supported by this GPU")
        assert gpu.unknowns["energy"] == "not supported by this GPU"
        assert gpu.watts() == 35
        assert gpu.reading(gpu.counters()).temperature_celsius == 41


def test_power_is_the_momentary_one_and_else_the_plain_one() -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.watts() == 118.5
    nvml.gpus[0].fields[POWER_INSTANT_FIELD] = UNSUPPORTED
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.watts() == gpu.reading(gpu.counters()).watts == 121
        nvml.gpus[0].power_milliwatts = UNSUPPORTED
        assert gpu.watts() is None
        assert gpu.unknowns == {PROCESSES: "the driver does not list this process"} | {
            "power draw": "not supported by this GPU"
        }


def test_energy_rises_in_joules() -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        before = gpu.energy_joules()
        nvml.gpus[0].energy_millijoules += 2_500
        after = gpu.energy_joules()
    assert before is not None
    assert after is not None
    assert after - before == 2.5


def test_all_counters_and_the_power_come_in_one_call() -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        nvml.calls.clear()
        before = gpu.counters()
        assert nvml.calls == {"nvmlDeviceGetFieldValues": 1}
        gpu.reading(before)
    assert nvml.calls["nvmlDeviceGetFieldValues"] == 2
    # Beside them two clocks, the temperature, and the processes in at most two.
    assert nvml.calls.total() - nvml.calls["nvmlShutdown"] <= 7


def test_who_was_there_before_and_who_comes_later_is_foreign() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, num_bytes=3 * GIB)
        assert gpu.num_foreign_processes() == 1
        assert gpu.process_bytes() == 3 * GIB
        arrive(card, FOREIGN_PID + 1)
        assert gpu.reading(gpu.counters()).num_foreign_processes == 2
        card.processes.pop(FOREIGN_PID)
        card.processes.pop(FOREIGN_PID + 1)
        assert gpu.num_foreign_processes() == 0


def test_the_other_one_of_a_pair_is_no_foreigner_and_anyone_else_is() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID, num_companions=1) as gpu:
        arrive(card, num_bytes=3 * GIB)
        assert gpu.num_foreign_processes() == 0
        arrive(card, FOREIGN_PID + 1)
        assert gpu.num_foreign_processes() == 1
        card.processes.pop(FOREIGN_PID)
        card.processes.pop(FOREIGN_PID + 1)
        assert gpu.num_foreign_processes() == 0


def test_a_desktop_is_not_foreign_but_listed() -> None:
    nvml = old_geforce()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(GEFORCE_UUID) as gpu:
        arrive(card)
        assert gpu.num_foreign_processes() == 0
        (listed,) = list_gpus().gpus
    assert listed.processes is not None
    assert {(p.pid, p.is_graphics) for p in listed.processes} == {
        (900, True),
        (os.getpid(), False),
    }


def test_a_session_that_is_opened_late_still_knows_this_process() -> None:
    nvml = h200()
    (card,) = nvml.gpus
    arrive(card)
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.num_foreign_processes() == 1
        assert gpu.process_bytes() == 2 * GIB


def test_in_a_container_with_the_hosts_numbers_the_only_newcomer_is_this_process() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    arrive(card, FOREIGN_PID)
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, HOST_PID, num_bytes=3 * GIB)
        assert gpu.process_bytes() == 3 * GIB
        assert gpu.num_foreign_processes() == 1
        card.processes.pop(FOREIGN_PID)
        assert gpu.num_foreign_processes() == 0
        # Later ones are foreign, now that this process is known.
        arrive(card, HOST_PID + 1)
        assert gpu.num_foreign_processes() == 1
        assert gpu.unknowns == {}


def test_a_process_that_is_known_is_not_taken_for_a_later_one() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, HOST_PID)
        assert gpu.num_foreign_processes() == 0
        card.processes = {HOST_PID + 1: GIB}
        assert gpu.num_foreign_processes() == 1
        assert gpu.process_bytes() is None


def test_two_newcomers_cannot_be_told_apart_until_one_has_left() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card, HOST_PID)
        arrive(card, HOST_PID + 1)
        assert gpu.num_foreign_processes() is gpu.process_bytes() is None
        assert gpu.unknowns == {PROCESSES: "cannot tell this process among 2 that have come"}
        card.processes.pop(HOST_PID + 1)
        assert gpu.num_foreign_processes() == 0


def test_someone_who_was_there_with_our_number_is_not_us() -> None:
    nvml = container_of_old_driver()
    (card,) = nvml.gpus
    arrive(card, os.getpid())  # the host's process of that number
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.num_foreign_processes() is None
        assert gpu.unknowns == {PROCESSES: "the driver does not list this process"}
        arrive(card, HOST_PID)
        assert gpu.num_foreign_processes() == 1


def test_a_container_that_sees_only_itself_cannot_say_that_it_is_alone() -> None:
    nvml = container()
    (card,) = nvml.gpus
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card)
        assert gpu.process_bytes() == 2 * GIB
        assert gpu.num_foreign_processes() is None
        assert gpu.unknowns == {PROCESSES: "a container is shown its own processes only"}
        arrive(card, 99)  # a neighbour within the container
        assert gpu.num_foreign_processes() == 1


def test_a_process_that_is_not_listed_is_unknown_and_not_without_memory() -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.process_bytes() is gpu.num_foreign_processes() is None
        assert gpu.unknowns == {PROCESSES: "the driver does not list this process"}


@pytest.mark.parametrize("told", [None, 0])
def test_memory_that_the_driver_does_not_tell_is_unknown(told: int | None) -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(nvml.gpus[0], num_bytes=told)
        assert gpu.process_bytes() is None
        assert gpu.num_foreign_processes() == 0
        assert gpu.unknowns == {
            "process memory": "the driver does not tell the memory of this process"
        }


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x000, ()),
        (0x001, ()),
        (0x001 | 0x004 | 0x020, ("software power cap", "software thermal slowdown")),
        (0x008 | 0x080, ("hardware slowdown", "external power brake")),
        (0x040 | 0x8000, ("hardware thermal slowdown", "unknown reason 0x8000")),
    ],
)
@pytest.mark.parametrize("is_old", [False, True])
def test_what_holds_the_clocks_down_is_said_in_words(
    bits: int,
    words: tuple[str, ...],
    is_old: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    nvml = h200()
    nvml.gpus[0].throttle_bits = bits
    if is_old:
        nvml.remove("nvmlDeviceGetCurrentClocksEventReasons")
    with installed(nvml), Gpu(H200_UUID) as gpu:
        assert gpu.throttle_reasons() == words


def test_the_listing_shows_every_gpu_instance_and_process() -> None:
    nvml = mig_instance()
    nvml.gpus.append(old_geforce().gpus[0])
    part = nvml.everyone()[1]
    arrive(part, FOREIGN_PID, num_bytes=None)
    with installed(nvml):
        listing = list_gpus()
    assert (listing.driver, listing.nvml) == ("595.71.05", "13.595.71.05")
    assert listing.unknowns == {}
    whole, instance, geforce = listing.gpus
    assert (whole.is_mig, instance.is_mig, geforce.is_mig) == (True, True, None)
    assert (whole.uuid, whole.name, whole.memory_bytes) == (H200_UUID, "NVIDIA H200", 141 * GIB)
    assert (instance.uuid, instance.parent_uuid) == (MIG_UUID, H200_UUID)
    assert instance.memory_bytes == 35 * GIB
    assert [asdict(process) for process in instance.processes or ()] == [
        {"pid": FOREIGN_PID, "num_bytes": None, "is_graphics": False}
    ]
    assert (geforce.uuid, geforce.used_bytes, geforce.parent_uuid) == (GEFORCE_UUID, GIB, None)


def test_a_gpu_that_cannot_be_looked_at_hides_no_other() -> None:
    nvml = FakeNvml(FakeGpu(uuid=H200_UUID), FakeGpu(uuid=GEFORCE_UUID))
    nvml.fail("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_NO_PERMISSION, after=1)
    nvml.gpus[0].processes = UNSUPPORTED
    with installed(nvml):
        first, second = list_gpus().gpus
    assert first.processes is None
    assert first.unknowns == {"processes": "not supported by this GPU"}
    assert second.memory_bytes is None
    assert second.unknowns == {"memory": "refused: insufficient permissions"}
    assert second.processes == ()
    nvml.fail("nvmlDeviceGetHandleByIndex_v2", LOST, after=1)
    with installed(nvml):
        listing = list_gpus()
    assert [gpu.uuid for gpu in listing.gpus] == [H200_UUID]
    assert listing.unknowns == {"GPU 1": "broken: GPU is lost"}


def test_a_listing_survives_the_driver_whenever_it_dies() -> None:
    healthy = mig_instance()
    with installed(healthy):
        assert len(list_gpus().gpus) == 2
    for after in range(healthy.calls.total() - 1):  # the last call closes NVML
        nvml = mig_instance()
        nvml.die(after=after)
        with installed(nvml):
            listing = list_gpus()
        assert "broken: GPU is lost" in listing.unknowns.values() or listing.unknowns.keys() == {
            "NVML"
        }


def test_a_process_with_several_contexts_counts_once_and_holds_their_sum() -> None:
    nvml = h200()
    (card,) = nvml.gpus

    class Twice(dict[int, int]):
        def items(self) -> Any:
            return [pair for pair in super().items() for _ in range(2)]

        def __len__(self) -> int:
            return 2 * super().__len__()

    card.processes = Twice()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        arrive(card)
        assert gpu.process_bytes() == 4 * GIB
        assert gpu.num_foreign_processes() == 0


def test_the_fake_leaves_pynvml_as_it_was() -> None:
    before = (pynvml.nvmlLib, pynvml.CDLL, dict(pynvml._nvmlGetFunctionPointer_cache))  # noqa: SLF001 (what the fake stands for)
    with installed(h200()), Gpu(H200_UUID):
        assert pynvml.nvmlLib is not before[0]
    after = (pynvml.nvmlLib, pynvml.CDLL, dict(pynvml._nvmlGetFunctionPointer_cache))  # noqa: SLF001
    assert after == before


def test_the_door_to_nvml_needs_no_torch() -> None:
    program = "import sys, cnnbench.measure.gpu; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# A process of its own: the session opens before CUDA does.
REAL = """
import json, sys
from dataclasses import asdict
from cnnbench.measure.gpu import Gpu
with Gpu(sys.argv[1]) as gpu:
    energy = gpu.energy_joules()
    import torch
    kept = torch.ones(256, 2**20, device="cuda")
    before = gpu.counters()
    square = torch.rand(8192, 8192, device="cuda")
    for _ in range(50):
        square = (square @ square).clamp(-1, 1)
    torch.cuda.synchronize()
    reading = gpu.reading(before)
    print(json.dumps({
        "uuid": gpu.uuid,
        "settings": asdict(gpu.settings()),
        "counters": asdict(before),
        "reading": asdict(reading),
        "joules": None if energy is None else gpu.energy_joules() - energy,
        "process_bytes": gpu.process_bytes(),
        "throttle": gpu.throttle_reasons(),
        "unknowns": gpu.unknowns,
    }))
"""


@pytest.fixture(scope="module")
def real() -> Any:
    import torch  # noqa: PLC0415  # the rest of this file needs none

    uuid = str(torch.cuda.get_device_properties(0).uuid)
    done = subprocess.run(
        [sys.executable, "-c", REAL, uuid], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.gpu
def test_a_real_gpu_is_found_by_the_name_that_cuda_gives_it(real: Any) -> None:
    assert "NVML" not in real["unknowns"]
    assert real["uuid"].startswith(("GPU-", "MIG-"))
    assert real["uuid"] in {gpu.uuid for gpu in list_gpus().gpus}
    assert driver_version()


@pytest.mark.gpu
def test_a_real_gpu_answers_or_says_why(real: Any) -> None:
    settings, reading = real["settings"], real["reading"]
    answers = [*settings.values(), *reading.values(), real["joules"], real["process_bytes"]]
    assert (None in answers) is bool(real["unknowns"])
    assert settings["power_limit_watts"] is None or 10 < settings["power_limit_watts"] < 5000
    clock, highest = reading["sm_clock_mhz"], settings["max_sm_clock_mhz"]
    assert clock is None or highest is None or 0 < clock <= highest
    assert reading["temperature_celsius"] is None or 0 < reading["temperature_celsius"] < 120
    assert reading["watts"] is None or 0 < reading["watts"] < 5000


@pytest.mark.gpu
def test_a_real_gpus_counters_are_of_the_size_of_seconds(real: Any) -> None:
    for name, seconds in real["counters"].items():
        # Up to ten years of uptime; nanoseconds or watts taken for seconds would be beyond or odd.
        assert seconds is None or 0 <= seconds < 3.2e8, name
    for name in ("thermal_seconds", "power_brake_seconds", "power_cap_seconds"):
        assert real["reading"][name] is None or 0 <= real["reading"][name] < 600
    assert real["joules"] is None or 0 < real["joules"] < 1e6


@pytest.mark.gpu
def test_the_driver_charges_this_process_with_its_tensors_at_least(real: Any) -> None:
    if real["process_bytes"] is None:
        pytest.skip(f"the driver does not tell: {real['unknowns']}")
    assert real["process_bytes"] >= GIB
