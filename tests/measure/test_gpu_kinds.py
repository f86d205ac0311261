"""Partitioned, hidden and old GPUs say what they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cnnbench.measure.gpu import (
    PROCESSES,
    Counters,
    Gpu,
)
from fake_nvml import (
    FOREIGN_PID,
    GEFORCE_UUID,
    GIB,
    H200_UUID,
    MIG_UUID,
    FakeNvml,
    arrive,
    h200,
    installed,
    mig_instance,
    old_geforce,
)

if TYPE_CHECKING:
    from collections.abc import Callable


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
