"""How sure a number is: intervals and, later, verdicts. numpy and scipy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_RESAMPLES = 2000


def median_interval(
    values: Sequence[float], *, confidence: float = 0.95, seed: int = 0
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
    draws = np.random.default_rng(seed).integers(sample.size, size=(NUM_RESAMPLES, sample.size))
    medians = np.median(sample[draws], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def relative_half_width(values: Sequence[float]) -> float:
    """Return half the median's 95 % interval over the median itself."""
    low, high = median_interval(values)
    return (high - low) / 2 / float(np.median(values))
