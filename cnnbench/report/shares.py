"""Where a step's time goes: the share of its roofline that each kind of operator takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnbench.analysis.best import best_settings
from cnnbench.report.rows import percent_text, setting_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record


@dataclass(frozen=True, kw_only=True)
class Share:
    """The operators of one kind in a step.

    `of_bound` is their part of the least time in which the device could run all of the step's, and
    `of_step` that time over the measured one; `by_bytes` is the part of it from operators that the
    memory's bandwidth bounds. All are 0 to 1; `of_step` may be more where operators were fused.
    """

    kind: str
    num_operators: int
    of_bound: float
    of_step: float
    by_bytes: float

    @property
    def text(self) -> str:
        """Return the shares in words."""
        bound, step, by_bytes = map(percent_text, (self.of_bound, self.of_step, self.by_bytes))
        number = f"{self.num_operators:,} operator{'s' if self.num_operators > 1 else ''}"
        return f"{bound} % of the bound, {step} % of the step; {by_bytes} % by bytes ({number})"


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """The shares of one cell, the largest first; `rest` of its step is above the bound."""

    architecture: str
    setting: str
    shares: tuple[Share, ...]
    rest: float

    @property
    def rest_text(self) -> str:
        """Return what of the step no operator's bound accounts for."""
        return percent_text(max(0.0, self.rest))


def shares_of(record: Record) -> tuple[Share, ...]:
    """Return the shares of a record's step, the largest first; none where it has no roofline."""
    roofline, profile = record.roofline, record.profile
    if roofline is None or profile is None or not roofline.bound_seconds:
        return ()
    step_seconds = profile.median_step_seconds
    found = [
        Share(
            kind=kind.kind,
            num_operators=kind.num_operators,
            of_bound=kind.bound_seconds / roofline.bound_seconds,
            of_step=kind.bound_seconds / step_seconds,
            by_bytes=kind.bytes_bound_seconds / kind.bound_seconds if kind.bound_seconds else 0.0,
        )
        for kind in roofline.operators
    ]
    return tuple(sorted(found, key=lambda share: -share.of_bound))


def breakdowns(records: Sequence[Record]) -> list[Breakdown]:
    """Return the breakdown of each architecture's fastest setting, where its operators were counted."""
    found = []
    for name, best in best_settings(records).items():
        shares = shares_of(best.record)
        if shares:
            found.append(
                Breakdown(
                    architecture=name,
                    setting=setting_text(best.record),
                    shares=shares,
                    rest=1 - sum(share.of_step for share in shares),
                )
            )
    return found
