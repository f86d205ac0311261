"""Results of the gate as a CPU gives them, for tests that need some without measuring anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cnnbench.measurement import Window
from cnnbench.regress.machine import Machine
from cnnbench.regress.results import Measured, Results, Run

MIB = 2**20
STEP_SECONDS = 0.02
TRAINING = "training/resnet-fp32-b64-none"
TRAINED = "accuracy/simple_cnn-fp32-b64-none"


def sample_machine(**changes: Any) -> Machine:
    """Return a plausible machine with `changes`."""
    machine = Machine(device="Intel Xeon", device_type="cpu", torch="2.11.0+cu130", num_threads=1)
    return replace(machine, **changes)


def sample_run(number: int, step_seconds: float = STEP_SECONDS, **changes: Any) -> Run:
    """Return a process whose windows vary by half a percent, differently for each `number`."""
    factors = np.exp(np.random.default_rng(number).normal(0, 0.005, size=8))
    run = Run(
        effective_precision="fp32",
        windows=tuple(Window(seconds=10 * step_seconds * float(f), num_steps=10) for f in factors),
        peak_allocated_bytes=200 * MIB,
        process_bytes=300 * MIB + number % 8 * MIB // 4,
    )
    return replace(run, **changes)


def sample_test(
    step_seconds: float = STEP_SECONDS, *, offset: int = 0, number: int = 8, **changes: Any
) -> Measured:
    """Return a timed test; two with another `offset` differ by chance alone."""
    runs = tuple(sample_run(offset + n, step_seconds, **changes) for n in range(number))
    return Measured(name=TRAINING, kind="training", batch_size=64, runs=runs)


def sample_training(accuracies: list[float]) -> Measured:
    """Return a test of accuracy, one seed for each value."""
    runs = tuple(
        Run(seed=seed, effective_precision="fp32", accuracy=accuracy)
        for seed, accuracy in enumerate(accuracies)
    )
    return Measured(name=TRAINED, kind="accuracy", batch_size=64, runs=runs)


def sample_results(*tests: Measured, **changes: Any) -> Results:
    """Return what one call measured; by default one timed test."""
    chosen = tests or (sample_test(),)
    results = Results(
        machine=sample_machine(),
        tests={test.name: test for test in chosen},
        commit="0123456789abcdef0123456789abcdef01234567",
        measured_at="2026-01-02T03:04:05+00:00",
    )
    return replace(results, **changes)
