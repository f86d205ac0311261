"""The GPU of this machine, where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from cnnbench.measure.gpu import (
    driver_version,
    list_gpus,
)
from fake_nvml import (
    GIB,
)

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
