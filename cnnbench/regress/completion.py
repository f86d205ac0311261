"""Whether the processes of a test still complete: by their numbers, for one may fail by chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy import stats as distributions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.regress.results import Measured, Run

# A single process may be lost on a GPU that others share; a second one tells.
MIN_LOST = 2
# By then a lone loss is put down to chance.
ENOUGH_FOR_CHANCE = 10
SIGNIFICANCE = 0.05
# How a process ends that broke; the other ends are results, which two sides may have in common.
BROKEN = {"failed", "timeout"}


def judge_completion(base: Measured, candidate: Measured) -> tuple[str, str] | None:
    """Return verdict and reason where a process of either side did not complete, `None` where all did.

    - `regressed`: of the candidate's none completes and of the base's some do, or significantly fewer
      (Fisher's exact test, one-sided).
    - `inconclusive`: fewer, and chance might be the reason.
    - `improved`: of the base's none completes, and of the candidate's some do.
    - `same`: the losses of a few are no more than the base's, or both sides end alike as out of memory,
      unsupported or diverged.
    - `invalid`: neither side completes, and they end differently or break.
    """
    before, after = _lost(base.runs), _lost(candidate.runs)
    if not before and not after and base.runs and candidate.runs:
        return None
    none_before, none_after = len(before) == len(base.runs), len(after) == len(candidate.runs)
    if none_before and none_after:
        return _of_none(before, after)
    if none_before:
        return "improved", "it completes now"
    is_worse = _is_worse(len(before), len(base.runs), len(after), len(candidate.runs))
    if none_after:
        is_sure = is_worse or (not before and len(after) >= MIN_LOST)
        return "regressed" if is_sure else "inconclusive", _error(after)
    reason = _told(candidate.runs, after) if after else f"{_told(base.runs, before)}, of the base"
    if is_worse:
        return "regressed", reason
    excess = len(after) - len(before)
    is_chance = excess <= 0 or (excess < MIN_LOST and len(candidate.runs) >= ENOUGH_FOR_CHANCE)
    return ("same" if is_chance else "inconclusive"), reason


def _of_none(before: Sequence[Run], after: Sequence[Run]) -> tuple[str, str]:
    ended_before, ended_after = ({run.status for run in runs} for runs in (before, after))
    if ended_after and ended_before == ended_after and not ended_after & BROKEN:
        return "same", f"both ended as {', '.join(sorted(ended_after))}"
    return "invalid", f"neither side completes: {_error(after) or 'not measured'}"


def _is_worse(lost_before: int, before: int, lost_after: int, after: int) -> bool:
    """Say whether the candidate loses more by Fisher's exact test: the hypergeometric tail."""
    tail = distributions.hypergeom.sf(
        lost_after - 1, before + after, lost_before + lost_after, after
    )
    return bool(tail <= SIGNIFICANCE)


def _told(runs: Sequence[Run], lost: Sequence[Run]) -> str:
    return f"{len(lost)} of {len(runs)} processes ended as {lost[0].status}: {_error(lost)}"


def _error(lost: Sequence[Run]) -> str:
    return (lost[0].error or lost[0].status) if lost else ""


def _lost(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.status != "completed"]
