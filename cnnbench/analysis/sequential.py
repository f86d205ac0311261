"""Judges an effect over seeds that are added until it is decided, with few false alarms over all looks.

The seeds of both arms are paired, so one effect a seed is what there is, and often there are three. A
percentile bootstrap of so few is far too narrow; Student's t is exact for normal effects and is taken up to
nine seeds, and from ten on the bootstrap with its quantiles moved out as far as t is wider than the normal
(Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 4.2).

A study's error of 5 % is shared out evenly among its verdicts (Bonferroni), and each verdict's among its
looks in proportion to the seeds that each adds (an alpha-spending function linear in the seeds, Lan and
DeMets 1983, doi:10.1093/biomet/70.3.659, its increments added up: no assumption on how looks hang together).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ERROR = 0.05
# Fewer say nothing of how seeds differ.
MIN_SEEDS = 3
# From so many on the effects' own distribution is known well enough to resample it.
MANY_SEEDS = 10
NUM_RESAMPLES = 10_000
MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is known after the last look that was needed, and how it was worked out.

    `effect` and its bounds are on the scale of the effects that were judged. `num_needed` is how many seeds
    would decide it if they go on as these did; `None` where it is decided, or takes more than a thousand.
    """

    outcome: str
    num_seeds: int
    effect: float
    low: float
    high: float
    confidence: float
    method: str
    num_needed: int | None = None


def decide(
    effects: Sequence[float | None],
    *,
    direction: str,
    margin: float,
    looks: Sequence[int],
    num_tests: int = 1,
    rounding: float = 0.0,
) -> Decision | None:
    """Return the verdict at the first look that decides, else at the last; `None` where none was possible.

    Only looks all of whose seeds were run count, whatever else was run since: what comes after a decision
    cannot change it.

    Args:
        effects: one a seed, in order; `None` where a seed cannot be judged.
        direction: `up` or `down` (by at least `margin`), or `same` (within `margin`).
        margin: the least effect that matters, above 0, on the scale of `effects`.
        looks: at how many seeds it is looked at, the last being the most there may be.
        num_tests: how many verdicts share the error.
        rounding: standard deviation that effects have from being counted in steps: seeds that agree to
            the last step are no proof that there is no spread.
    """
    sign = -1.0 if direction == "down" else 1.0
    found = None
    before = 0
    for look in looks:
        if len(effects) < look:
            break
        level = ERROR / num_tests * (look - before) / looks[-1]
        before = look
        sample = [sign * one for one in effects[:look] if one is not None]
        if len(sample) < MIN_SEEDS:
            continue
        low, high, method = interval(sample, level, rounding=rounding)
        outcome = _outcome(low, high, margin, is_same=direction == "same")
        bounds = (low, high) if sign > 0 else (-high, -low)
        found = Decision(
            outcome=outcome,
            num_seeds=len(sample),
            effect=sign * float(np.mean(sample)),
            low=bounds[0],
            high=bounds[1],
            confidence=1 - level,
            method=method,
        )
        if outcome != "inconclusive":
            return found
    if found is None:
        return None
    values = [one for one in effects[:before] if one is not None]
    return _with_need(found, values, margin, direction, looks, num_tests, rounding)


def interval(
    sample: Sequence[float], level: float, *, rounding: float = 0.0
) -> tuple[float, float, str]:
    """Return the bounds between which the mean effect lies but for a chance of `level`, and the method.

    Raises:
        ValueError: fewer than two effects.
    """
    values = np.asarray(sample, dtype=np.float64)
    mean = float(values.mean())
    spread = max(float(values.std(ddof=1)), rounding)
    half = t_quantile(len(sample) - 1, level) * spread / math.sqrt(len(sample))
    if len(sample) < MANY_SEEDS or spread == rounding:
        return mean - half, mean + half, "Student's t"
    drawn = values[_draws(values.size)].mean(axis=1)
    low, high = np.quantile(drawn, [_tail(values.size, level), 1 - _tail(values.size, level)])
    return float(low), float(high), "bootstrap"


@cache
def _draws(size: int) -> NDArray[np.int64]:
    """Return which values each resample takes; seeded, so that the same effects give the same verdict."""
    return np.random.default_rng(0).integers(size, size=(NUM_RESAMPLES, size))


@cache
def t_quantile(freedom: int, level: float) -> float:
    """Return the value that Student's t exceeds, on either side, with a chance of `level`."""
    return float(stats.t.ppf(1 - level / 2, freedom))


@cache
def _tail(number: int, level: float) -> float:
    spread = math.sqrt(number / (number - 1))
    return float(stats.norm.cdf(-t_quantile(number - 1, level) * spread))


def _outcome(low: float, high: float, margin: float, *, is_same: bool) -> str:
    if is_same:
        if -margin <= low and high <= margin:
            return "confirmed"
        return "refuted" if low > margin or high < -margin else "inconclusive"
    if low >= margin:
        return "confirmed"
    return "refuted" if high < margin else "inconclusive"


def _with_need(
    found: Decision,
    values: Sequence[float],
    margin: float,
    direction: str,
    looks: Sequence[int],
    num_tests: int,
    rounding: float,
) -> Decision:
    """Return the decision with the number of seeds that would end it, if they spread as these do."""
    edges = {"up": (margin,), "down": (-margin,), "same": (margin, -margin)}[direction]
    distance = min(abs(found.effect - edge) for edge in edges)
    spread = max(float(np.std(values, ddof=1)), rounding)
    last = looks[-2] if len(looks) > 1 else 0
    level = ERROR / num_tests * (looks[-1] - last) / looks[-1]
    needed = next(
        (
            number
            for number in range(found.num_seeds + 1, MOST_SEEDS + 1)
            if t_quantile(number - 1, level) * spread / math.sqrt(number) < distance
        ),
        None,
    )
    return replace(found, num_needed=needed)
