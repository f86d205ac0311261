"""What a GPU says of itself: its settings, its counters and its pace in a window."""

from __future__ import annotations

import ctypes

import pytest

from cnnbench.environment import GpuSettings
from cnnbench.measure.gpu import (
    POWER_BRAKE,
    PROCESSES,
    THERMAL,
    Counters,
    Gpu,
)
from cnnbench.measurement import GpuReading
from fake_nvml import (
    GEFORCE_UUID,
    H200_UUID,
    NEW_FIELDS,
    OLD_FIELDS,
    POWER_CAP_FIELD,
    POWER_INSTANT_FIELD,
    UNSUPPORTED,
    arrive,
    h200,
    h200_of_early_580,
    installed,
    old_geforce,
)

SECOND = 1_000_000_000


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
