"""How sure a number is: intervals of one cell's windows, and what two settings differ by. numpy and scipy.

Steps of one process are no independent samples: a process has its own memory layout, its own clock
frequencies, its own luck. So two settings are compared over pairs of processes that took turns, window by
window and in random order, and the bootstrap resamples pairs first and windows within them second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

# Step seconds of the windows of two processes, baseline and candidate. Those at one position were timed
# right after each other; where one process has more windows than the other, its last ones do not count.
Pair: TypeAlias = "tuple[Sequence[float], Sequence[float]]"

VERDICTS = ("improved", "regressed", "same", "inconclusive", "invalid")

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
# The widened interval of few pairs reads quantiles far out, which take more resamples to find.
NUM_PAIR_RESAMPLES = 10_000
# Fewer pairs say nothing of how pairs differ.
MIN_PAIRS = 4
# Differences below this are no news, however well they are known.
MIN_DELTA = 0.02


def median_interval(
    values: Sequence[float], *, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of the median (Efron 1979), in the unit of `values`.

    The resampling is seeded: the same values give the same interval, here and in a reader's check.

    Raises:
        ValueError: `values` is empty.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        msg = "the median of no values has no interval"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    medians = np.median(resampled(sample, NUM_RESAMPLES, rng), axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def relative_half_width(values: Sequence[float]) -> float:
    """Return half the median's 95 % interval over the median itself."""
    low, high = median_interval(values)
    return (high - low) / 2 / float(np.median(values))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a candidate differs from its baseline by, and what that means.

    `ratio` is the candidate's rate over the baseline's (above 1: the candidate is faster), and `low`
    and `high` bound it with 95 % confidence; all three are `None` where there is nothing to compare.
    `delta` is the relative difference up to which the two count as the same.

    - `improved`, `regressed`: the whole interval lies beyond `delta`, above or below.
    - `same`: the whole interval lies within `delta` of 1.
    - `inconclusive`: neither; more pairs would tell, or a quieter machine. `reason` says which.
    - `invalid`: one of the two may not be compared; `reason` says why.
    """

    verdict: str
    delta: float
    num_pairs: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def compare(
    pairs: Sequence[Pair],
    *,
    delta: float = MIN_DELTA,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Judge a candidate against its baseline by the windows of processes that ran in pairs.

    Args:
        pairs: for each pair of processes the step seconds of the baseline's windows and of the
            candidate's.
        delta: the relative difference that does not matter: max(2 %, the machine's noise floor).
        confidence: of the interval.
        seed: of the resampling; the same pairs give the same verdict.
    """
    if not pairs:
        return Comparison(
            verdict="invalid", delta=delta, num_pairs=0, reason="no pair was measured"
        )
    ratio, low, high = ratio_interval(pairs, confidence=confidence, seed=seed)
    verdict = judge(low, high, delta=delta)
    reason = ""
    if len(pairs) < MIN_PAIRS:
        verdict = "inconclusive"
        reason = f"{len(pairs)} of at least {MIN_PAIRS} pairs"
    elif verdict == "inconclusive":
        reason = f"the interval spans ±{delta:.1%}: measure more pairs, or on a quieter machine"
    return Comparison(
        verdict=verdict,
        delta=delta,
        num_pairs=len(pairs),
        ratio=ratio,
        low=low,
        high=high,
        reason=reason,
    )


def judge(low: float, high: float, *, delta: float) -> str:
    """Return the verdict on a ratio of rates known to lie between `low` and `high`.

    The zone of "same" is symmetric on the logarithmic scale: from 1 / (1 + delta) to 1 + delta.
    """
    zone = math.log1p(delta)
    if math.log(low) > zone:
        return "improved"
    if math.log(high) < -zone:
        return "regressed"
    return "same" if -zone <= math.log(low) and math.log(high) <= zone else "inconclusive"


def ratio_interval(
    pairs: Sequence[Pair], *, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float, float]:
    """Return the candidate's rate over the baseline's, and the bounds of its interval.

    The estimate is the mean over pairs of the interquartile mean of log-ratios of windows timed right
    after each other: as deaf to stray windows as the median, and less noisy.
    The interval is a hierarchical percentile bootstrap (Davison and Hinkley 1997, section 3.8: the outer
    level is resampled whole, the inner one within it). Percentile intervals of few samples are too
    narrow; the quantiles are moved out as far as Student's t is wider than the normal ("expanded
    percentile interval", Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 4.2).

    Raises:
        ValueError: `pairs` is empty.
    """
    if not pairs:
        msg = "no pairs have no ratio"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    ratios = [_log_ratios(*pair) for pair in pairs]
    estimate = float(np.mean([midmeans(each[None]) for each in ratios]))
    # One column a pair: the means that its windows, resampled, could have given.
    draws = [resampled(each, NUM_PAIR_RESAMPLES, rng) for each in ratios]
    inner = np.stack([midmeans(each) for each in draws], axis=1)
    chosen = rng.integers(len(pairs), size=(NUM_PAIR_RESAMPLES, len(pairs)))
    # A pair that is drawn twice is resampled twice: each draw takes a row of its own.
    rows = rng.integers(NUM_PAIR_RESAMPLES, size=chosen.shape)
    means = inner[rows, chosen].mean(axis=1)
    tail = expanded_tail(len(pairs), confidence)
    low, high = np.quantile(means, [tail, 1 - tail])
    return math.exp(estimate), math.exp(float(low)), math.exp(float(high))


def noise_floor(pairs: Sequence[Pair], *, seed: int = 0) -> float:
    """Return the relative difference that two identical settings show on this machine.

    Args:
        pairs: an A/A measurement: both of a pair ran the same setting.
        seed: of the resampling.

    It is the smallest `delta` with which `compare` would call the two the same.
    """
    _, low, high = ratio_interval(pairs, seed=seed)
    return math.expm1(max(abs(math.log(low)), abs(math.log(high))))


def _log_ratios(baseline: Sequence[float], candidate: Sequence[float]) -> Floats:
    """Return the log-ratio of rates, candidate over baseline, of each two adjacent windows."""
    number = min(len(baseline), len(candidate))
    ratios: Floats = np.log(np.asarray(baseline[:number]) / np.asarray(candidate[:number]))
    return ratios


def resampled(sample: Floats, number: int, rng: np.random.Generator) -> Floats:
    """Return so many rows, each as large as `sample` and drawn from it with replacement."""
    drawn: Floats = sample[rng.integers(sample.size, size=(number, sample.size))]
    return drawn


def midmeans(rows: Floats) -> Floats:
    """Return the interquartile mean of each row: that of its middle half."""
    means: Floats = np.asarray(stats.trim_mean(rows, 0.25, axis=1))
    return means


def expanded_tail(num_pairs: int, confidence: float) -> float:
    """Return the share of resamples to leave out on each side."""
    tail = (1 - confidence) / 2
    if num_pairs == 1:  # nothing tells how pairs differ: the windows' own interval
        return tail
    spread = math.sqrt(num_pairs / (num_pairs - 1))
    return float(stats.norm.cdf(stats.t.ppf(tail, num_pairs - 1) * spread))
