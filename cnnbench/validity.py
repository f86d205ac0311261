"""Whether a cell's numbers may be believed: judged from its raw record, with every reason in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.measurement import MAX_FOREIGN_FRACTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.measurement import GpuReading, Memory, Profile, Window

MAX_DATA_WAIT_FRACTION = 0.05
MAX_NOISE = 0.10
# Counters tick while nothing is lowered as well: below this share of a window it is no throttling.
MIN_THROTTLED_FRACTION = 0.01


def judge(
    *,
    asked_precision: str,
    effective_precision: str | None,
    profile: Profile | None,
    memory: Memory | None,
    contradicting_kernels: tuple[str, ...] = (),
    loss_is_finite: bool = True,
) -> tuple[str, tuple[str, ...]]:
    """Return a cell's validity and the reasons for it, the gravest first.

    - `invalid`: it computed in another precision than was asked for, so its numbers belong to another
      setting.
    - `suspect`: something beside the setting took part in the numbers, which are kept and shown.
    - `valid`: nothing of the kind is known. What could not be measured is no reason: it is listed
      with the record's `unknowns`.

    Args:
        asked_precision: the cell's.
        effective_precision: what the probe saw; `None` where it has not run.
        profile: the timed windows, where there are some.
        memory: the peaks, where they were read.
        contradicting_kernels: CUDA kernels of the step whose names say that they compute in another
            precision than was asked for.
        loss_is_finite: whether the loss of the timed steps stayed a finite number.
    """
    invalid = list(_mismatch(asked_precision, effective_precision))
    if contradicting_kernels:
        number, first = len(contradicting_kernels), contradicting_kernels[0]
        invalid.append(f"asked for {asked_precision}, but {number} kernels such as {first} ran")
    suspect = [*_of_profile(profile), *_of_memory(memory)]
    if not loss_is_finite:
        suspect.append("the loss became infinite or not a number while steps were timed")
    validity = "invalid" if invalid else "suspect" if suspect else "valid"
    return validity, (*invalid, *suspect)


def _mismatch(asked: str, effective: str | None) -> Iterator[str]:
    if effective is not None and effective != asked:
        yield f"asked for {asked}, computed in {effective}"


def _of_profile(profile: Profile | None) -> Iterator[str]:
    if profile is None:
        return
    windows = profile.windows
    yield from _throttling(windows)
    yield from _foreign(windows)
    wait = profile.data_wait_fraction
    if wait is not None and wait > MAX_DATA_WAIT_FRACTION:
        yield f"loader-bound: {wait:.0%} of the time went into waiting for data"
    if profile.noise > MAX_NOISE:
        yield f"unstable: the median is known to ±{profile.noise:.0%} only"
    if not profile.is_steady:
        yield "unsteady: steps still changed pace, memory or code when they were timed"


def _foreign(windows: tuple[Window, ...]) -> Iterator[str]:
    total = len(windows)
    shares = [w.foreign_fraction for w in windows if w.foreign_fraction is not None]
    loaded = [share for share in shares if share > MAX_FOREIGN_FRACTION]
    if loaded:
        most = f"up to {max(loaded):.0%} of the processors"
        yield f"others used {most} in {len(loaded)} of {total} windows"
    shared = sum(1 for w in windows if w.gpu is not None and w.gpu.num_foreign_processes)
    if shared:
        yield f"other processes were on the GPU in {shared} of {total} windows"


def _throttling(windows: tuple[Window, ...]) -> Iterator[str]:
    """Name what lowered the clocks. A software power cap is a setting of the device, and no fault."""
    causes: dict[str, Callable[[GpuReading], float | None]] = {
        "heat": lambda gpu: gpu.thermal_seconds,
        "the power brake": lambda gpu: gpu.power_brake_seconds,
    }
    for cause, seconds in causes.items():
        throttled = [
            window
            for window in windows
            if window.gpu is not None
            and (seconds(window.gpu) or 0.0) > MIN_THROTTLED_FRACTION * window.seconds
        ]
        if throttled:
            yield (
                f"throttled: clocks were lowered because of {cause}"
                f" in {len(throttled)} of {len(windows)} windows"
            )


def _of_memory(memory: Memory | None) -> Iterator[str]:
    if memory is not None and memory.num_alloc_retries:
        yield f"the allocator retried {memory.num_alloc_retries} times"
