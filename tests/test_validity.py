"""Each fault that spoils a number is named, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cnnbench.measurement import GpuReading, Memory, Profile, Window
from cnnbench.validity import judge

QUIET = tuple(
    Window(seconds=0.2, num_steps=10, data_seconds=0.001, foreign_fraction=0.01) for _ in range(10)
)
STEADY = Profile(
    windows=QUIET,
    low_step_seconds=0.0199,
    high_step_seconds=0.0201,
    stop_reason="half_width",
    num_warmup_steps=3,
    setup_seconds=1.0,
)
COOL = GpuReading(thermal_seconds=0.0, power_brake_seconds=0.0, num_foreign_processes=0)


def on_gpu(*readings: GpuReading) -> dict[str, Any]:
    windows = (Window(seconds=0.2, num_steps=10, gpu=reading) for reading in readings)
    return {"windows": tuple(windows)}


def validity(profile: Profile, memory: Memory | None = None) -> tuple[str, tuple[str, ...]]:
    return judge(asked_precision="bf16", effective_precision="bf16", profile=profile, memory=memory)


@pytest.mark.parametrize(
    ("changes", "memory", "reason"),
    [
        ({}, Memory(num_alloc_retries=2), "the allocator retried 2 times"),
        ({"high_step_seconds": 0.03}, None, "unstable: the median is known to ±25% only"),
        (
            {"windows": (*QUIET, replace(QUIET[0], foreign_fraction=0.4))},
            None,
            "others used up to 40% of the processors in 1 of 11 windows",
        ),
        (
            {"windows": tuple(replace(w, data_seconds=0.02) for w in QUIET)},
            None,
            "loader-bound: 10% of the time went into waiting for data",
        ),
        (
            {"is_steady": False},
            None,
            "unsteady: steps still changed pace, memory or code when they were timed",
        ),
        (
            on_gpu(COOL, replace(COOL, thermal_seconds=0.05), COOL),
            None,
            "throttled: clocks were lowered because of heat in 1 of 3 windows",
        ),
        (
            on_gpu(replace(COOL, power_brake_seconds=0.2)),
            None,
            "throttled: clocks were lowered because of the power brake in 1 of 1 windows",
        ),
        (
            on_gpu(COOL, replace(COOL, num_foreign_processes=2)),
            None,
            "other processes were on the GPU in 1 of 2 windows",
        ),
    ],
)
def test_each_fault_makes_a_cell_suspect_and_is_named(
    changes: dict[str, Any], memory: Memory | None, reason: str
) -> None:
    assert validity(replace(STEADY, **changes), memory) == ("suspect", (reason,))


@pytest.mark.parametrize(
    ("changes", "memory"),
    [
        ({}, Memory(num_alloc_retries=0)),
        ({}, Memory()),
        ({"windows": (replace(QUIET[0], foreign_fraction=None, data_seconds=None),)}, None),
        (on_gpu(COOL), Memory(num_alloc_retries=0)),
        (on_gpu(GpuReading()), None),
        # A power cap is how the device is set up, and a tick of a counter is no throttling.
        (on_gpu(replace(COOL, power_cap_seconds=0.2, thermal_seconds=0.0005)), None),
    ],
)
def test_what_is_quiet_capped_or_unknown_is_valid(
    changes: dict[str, Any], memory: Memory | None
) -> None:
    assert validity(replace(STEADY, **changes), memory) == ("valid", ())


def test_another_precision_makes_a_cell_invalid_and_comes_first() -> None:
    verdict = judge(
        asked_precision="fp32",
        effective_precision="mixed(fp32+tf32)",
        profile=replace(STEADY, is_steady=False),
        memory=None,
        loss_is_finite=False,
    )
    assert verdict[0] == "invalid"
    assert verdict[1][0] == "asked for fp32, computed in mixed(fp32+tf32)"
    assert len(verdict[1]) == 3


def test_a_kernel_that_belies_the_precision_makes_a_cell_invalid() -> None:
    verdict = judge(
        asked_precision="fp32",
        effective_precision="fp32",
        profile=STEADY,
        memory=None,
        contradicting_kernels=("cutlass_80_tensorop_s1688gemm_128x64",),
    )
    reason = "asked for fp32, but 1 kernels such as cutlass_80_tensorop_s1688gemm_128x64 ran"
    assert verdict == ("invalid", (reason,))


def test_a_cell_that_was_not_even_probed_is_not_judged() -> None:
    verdict = judge(asked_precision="fp32", effective_precision=None, profile=None, memory=None)
    assert verdict == ("valid", ())
