"""What settings differ by that did not take turns: each resampled by itself, processes before windows.

Where two settings can run by turns, `paired` says more: here whatever changed between the two, the machine's
clock or a neighbour, counts as theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cnnbench.stats import CONFIDENCE, MIN_PAIRS, expanded_tail, judge, midmeans, resampled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cnnbench.record import Record

    Floats: TypeAlias = NDArray[np.float64]

NUM_RESAMPLES = 2000
# How a process's windows vary takes two of them.
MIN_WINDOWS = 2
# Processes of one setting differ by more than their windows tell. Where too few ran to see by how much,
# up to another delta is put down to that before a difference is claimed.
FEW_PROCESSES_FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A setting's images per second, on the logarithmic scale, and what resampling could have given.

    `draws` has one value a resample; `num_processes` ran.
    """

    estimate: float
    draws: Floats
    num_processes: int


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A candidate's rate over its baseline's, with the bounds of its 95 % interval.

    `num_processes` is that of the side with fewer: with one alone the interval knows of windows only.
    """

    value: float
    low: float
    high: float
    num_processes: int


def rate_of(records: Sequence[Record], rng: np.random.Generator) -> Rate | None:
    """Return the rate of one setting from all its records, each a process; `None` where none was timed.

    The estimate is `stats.ratio_interval`'s: the mean over processes of the interquartile mean of the
    logarithms of their windows.
    """
    logs = [found for record in records if (found := _log_rates(record)) is not None]
    if not logs:
        return None
    inner = np.stack([midmeans(resampled(each, NUM_RESAMPLES, rng)) for each in logs], axis=1)
    draws = inner[:, 0]
    if len(logs) > 1:
        chosen = rng.integers(len(logs), size=(NUM_RESAMPLES, len(logs)))
        # A process that is drawn twice is resampled twice: each draw takes a row of its own.
        rows = rng.integers(NUM_RESAMPLES, size=chosen.shape)
        draws = inner[rows, chosen].mean(axis=1)
    estimate = float(np.mean([midmeans(each[None])[0] for each in logs]))
    return Rate(estimate=estimate, draws=draws, num_processes=len(logs))


def ratio_of(baseline: Rate, candidate: Rate, *, confidence: float = CONFIDENCE) -> Ratio:
    """Return the candidate's rate over the baseline's; the two were resampled independently."""
    number = min(baseline.num_processes, candidate.num_processes)
    tail = expanded_tail(number, confidence)
    low, high = np.quantile(candidate.draws - baseline.draws, [tail, 1 - tail])
    return Ratio(
        value=math.exp(candidate.estimate - baseline.estimate),
        low=math.exp(float(low)),
        high=math.exp(float(high)),
        num_processes=number,
    )


def interval_of(rate: Rate, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the bounds of the 95 % interval of a rate, in images per second."""
    tail = expanded_tail(rate.num_processes, confidence)
    low, high = np.quantile(rate.draws, [tail, 1 - tail])
    return math.exp(float(low)), math.exp(float(high))


def judge_ratio(ratio: Ratio, *, delta: float) -> str:
    """Return the verdict on two settings that did not take turns.

    `same` is what `stats.judge` calls so. With fewer than four processes a side, a difference is claimed
    only of an interval that lies beyond twice `delta`.
    """
    verdict = judge(ratio.low, ratio.high, delta=delta)
    if verdict in {"improved", "regressed"} and ratio.num_processes < MIN_PAIRS:
        beyond = judge(ratio.low, ratio.high, delta=FEW_PROCESSES_FACTOR * delta)
        return beyond if beyond == verdict else "inconclusive"
    return verdict


def _log_rates(record: Record) -> Floats | None:
    """Return the logarithms of the windows' images per second; disturbed ones only where few others are."""
    windows = record.profile.windows if record.profile else ()
    quiet = [window.step_seconds for window in windows if not window.is_disturbed]
    if len(quiet) < MIN_WINDOWS:
        quiet = [window.step_seconds for window in windows]
    if not quiet:
        return None
    rates: Floats = np.log(record.cell.batch_size / np.asarray(quiet))
    return rates
