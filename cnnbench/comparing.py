"""Two sources of records held against each other, with the noise floor of where they were measured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from cnnbench.analysis.compare import compare_sweeps
from cnnbench.environment import Environment
from cnnbench.noise import load_noise
from cnnbench.sources import read_source
from cnnbench.stats import MIN_DELTA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.analysis.compare import SweepComparison
    from cnnbench.record import Record
    from cnnbench.sources import Source


@dataclass(frozen=True, kw_only=True)
class Sides:
    """A comparison, what its two sides are called, and when they were measured."""

    base: str
    candidate: str
    base_span: str
    candidate_span: str
    delta_from: str
    found: SweepComparison


def compare_sources(base: str, candidate: str, *, delta: float | None = None) -> Sides:
    """Read both sides and compare them.

    Args:
        base: a sweep's folder, a results folder or an MLflow address.
        candidate: likewise.
        delta: the relative difference that does not matter; by default 2 %, or the noise floor that
            `doctor --noise` found in either side's environment.

    Raises:
        StoreError: one of them cannot be read.
    """
    ours, theirs = read_source(base), read_source(candidate)
    known = [one for side in (ours, theirs) for one in _noise_floors(side)]
    floor = max([MIN_DELTA, *known])
    origin = "as asked for"
    if delta is None:
        origin = f"the noise floor of {floor:.1%} measured here" if floor > MIN_DELTA else "2 %"
        origin += "" if known else "; no noise floor was measured, `cnnbench doctor --noise` does"
    return Sides(
        base=base,
        candidate=candidate,
        base_span=_span(ours.records),
        candidate_span=_span(theirs.records),
        delta_from=origin,
        found=compare_sweeps(
            ours.records,
            theirs.records,
            environments=(ours.environments, theirs.environments),
            delta=floor if delta is None else delta,
        ),
    )


def _noise_floors(source: Source) -> list[float]:
    """Return what identical settings differ by, where that was measured in the source's environments."""
    if source.results_dir is None:
        return []
    found = []
    for content in source.environments:
        try:
            environment = msgspec.convert(content, Environment)
        except msgspec.ValidationError:  # another version's: its noise is not known here
            continue
        noise = load_noise(source.results_dir, environment)
        if noise is not None:
            found.append(noise.floor)
    return found


def _span(records: Sequence[Record]) -> str:
    """Return when the records were measured, in words."""
    times = [time for record in records for time in (record.started_at, record.finished_at) if time]
    if not times:
        return "at an unknown time"
    first, last = (datetime.fromtimestamp(time, tz=UTC) for time in (min(times), max(times)))
    end = f"{last:%H:%M}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {end} UTC"
