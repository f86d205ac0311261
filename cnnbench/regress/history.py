"""What the gate has measured over time on one machine, and where its level changed for good."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from statistics import median
from typing import IO, TYPE_CHECKING

import msgspec

from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cnnbench.regress.machine import Machine
    from cnnbench.regress.results import Results
    from cnnbench.stats import Floats

NAME = "regress-history.jsonl"
# Fewer points on either side of a step are no level.
MIN_SEGMENT = 3
# Steps smaller than this are no news, however well they are known.
MIN_STEP = 0.02
# Of one point: what never varied, such as memory, may still do so by this much.
MIN_NOISE = MIN_STEP / 10
# A single point that lies this many times the noise off its neighbours says nothing of a level.
OUTLIER = 4
# How many of the series that stay as they are may show a step, by chance: the tests' bound, from which
# LIKENESS takes more. docs/regression-gate.md has what it is in fact.
MAX_FALSE_ALARMS = 0.02
# Calls soon after each other resemble each other, so their mean varies by more than that of independent
# points: by this factor where neighbours correlate by a quarter.
LIKENESS = 1.3
MEASURES = (
    "images_per_second",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "process_bytes",
    "accuracy",
)
# Of these more is better.
RATES = ("images_per_second", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One test as one call of the gate measured it: medians over its processes."""

    measured_at: str
    commit: str | None
    is_dirty: bool
    machine: str
    test: str
    images_per_second: float | None = None
    peak_allocated_bytes: float | None = None
    peak_reserved_bytes: float | None = None
    process_bytes: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A lasting change of level: `index` is that of the first point of the new level.

    `since` is when the level began to move, where it did so by several changes that are each too small
    to be told.
    """

    test: str
    measure: str
    index: int
    before: float
    after: float
    measured_at: str
    commit: str | None
    since: str | None = None

    @property
    def text(self) -> str:
        """Return the step as a sentence."""
        change = self.after / self.before - 1
        better = (change > 0) == (self.measure in RATES)
        where = f" ({self.commit[:10]})" if self.commit else ""
        when = f"little by little from {self.since} to" if self.since else "at"
        return (
            f"history: {self.measure.replace('_', ' ')} of {self.test} went {change:+.1%}, for the"
            f" {'better' if better else 'worse'}, {when} {self.measured_at}{where}"
        )


def key_of(machine: Machine) -> str:
    """Return what the points of one machine and software share."""
    return f"{machine.folder}/{machine.file}"


def append_history(folder: Path, results: Results) -> None:
    """Add a line for each test to the history in `folder`, all of them on the disk at the end.

    Raises:
        StoreError: it cannot be written.
    """
    points = [
        Point(
            measured_at=results.measured_at,
            commit=results.commit,
            is_dirty=results.is_dirty,
            machine=key_of(results.machine),
            test=test.name,
            images_per_second=test.images_per_second,
            peak_allocated_bytes=test.median("peak_allocated_bytes"),
            peak_reserved_bytes=test.median("peak_reserved_bytes"),
            process_bytes=test.median("process_bytes"),
            accuracy=test.median("accuracy"),
        )
        for test in results.tests.values()
    ]
    path = folder / NAME
    data = b"".join(msgspec.json.encode(point) + b"\n" for point in points)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if _is_torn(file):  # by a crash: its beginning is skipped when read, ours must not be
                data = b"\n" + data
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}. Choose another --results-dir."
        raise StoreError(msg) from error


def read_history(folder: Path, machine: Machine) -> list[Point]:
    """Return the points of `machine` in the order of their measuring; torn lines are left out."""
    path = folder / NAME
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            point = msgspec.json.decode(line, type=Point)
        except msgspec.DecodeError:
            continue
        if point.machine == key_of(machine):
            found.append(point)
    return found


def find_steps(points: Iterable[Point]) -> list[Step]:
    """Return every lasting change of level, by test and measure.

    PELT (Killick, Fearnhead and Eckley 2012) with a shift of the mean of logarithms as its model, and
    the Bayesian information criterion's penalty, for noise as it is between neighbouring points (from
    the median of their absolute differences, which a step does not move), proposes levels. Those that
    a t-test does not tell from a neighbour are joined with it. What remains is told once it lies
    `MIN_STEP` off the level before it, or off the one told last: so small changes add up.
    """
    steps: list[Step] = []
    by_test: dict[str, list[Point]] = {}
    for point in points:
        by_test.setdefault(point.test, []).append(point)
    for test, own in by_test.items():
        for measure in MEASURES:
            kept = [point for point in own if getattr(point, measure)]
            steps.extend(_steps(test, measure, kept))
    return steps


def _steps(test: str, measure: str, points: Sequence[Point]) -> Iterable[Step]:
    if len(points) < 2 * MIN_SEGMENT:
        return
    values = [float(getattr(point, measure)) for point in points]
    starts = _starts([math.log(value) for value in values])
    levels = [median(values[a:b]) for a, b in pairwise([*starts, len(values)])]
    told, first = levels[0], 1
    for number in range(1, len(levels)):
        is_sudden = _is_news(levels[number - 1], levels[number])
        before, after = levels[number - 1] if is_sudden else told, levels[number]
        if not _is_news(before, after):
            continue
        point = points[starts[number]]
        yield Step(
            test=test,
            measure=measure,
            index=starts[number],
            before=before,
            after=after,
            measured_at=point.measured_at,
            commit=point.commit,
            since=None if is_sudden else points[starts[first]].measured_at,
        )
        # What came little by little before a sudden step is still to be told.
        told *= after / before
        if not is_sudden or first == number:
            first = number + 1


def _is_news(before: float, after: float) -> bool:
    return abs(math.log(after / before)) >= math.log1p(MIN_STEP)


def _starts(logs: Sequence[float]) -> list[int]:
    """Return where each level starts, the first one at 0."""
    numpy, ruptures = import_module("numpy"), import_module("ruptures")
    signal = numpy.asarray(logs)
    # Of normal differences the median of the absolute ones is 0.954 times the noise of one value.
    noise = max(float(numpy.median(numpy.abs(numpy.diff(signal)))) / 0.954, MIN_NOISE)
    signal = _without_outliers(signal, OUTLIER * noise)
    penalty = 2 * noise**2 * math.log(len(signal))
    pelt = ruptures.Pelt(model="l2", min_size=MIN_SEGMENT, jump=1).fit(signal)
    starts = [0, *(int(end) for end in pelt.predict(pen=penalty)[:-1])]
    while len(starts) > 1:
        scores = _scores(signal, starts)
        weakest = scores.index(min(scores))
        if scores[weakest] > 1:
            break
        del starts[weakest + 1]
    return starts


def _without_outliers(signal: Floats, limit: float) -> Floats:
    """Return `signal` with each value that lies `limit` off the median of it and its neighbours as that.

    A step has neighbours on its own side, and stays where it is.
    """
    numpy = import_module("numpy")
    smooth = signal.copy()
    smooth[1:-1] = numpy.median([signal[:-2], signal[1:-1], signal[2:]], axis=0)
    kept: Floats = numpy.where(numpy.abs(signal - smooth) > limit, smooth, signal)
    return kept


def _scores(signal: Floats, starts: Sequence[int]) -> list[float]:
    """Return how far each level is from the one before it, in units of what is significant.

    A t-test with the noise within all levels, corrected (Bonferroni) for the places where a step can
    be, of which the best looking one is asked about.
    """
    numpy, special = import_module("numpy"), import_module("scipy.special")
    levels = numpy.split(signal, starts[1:])
    num_free = len(signal) - len(levels)
    squares = sum(float(numpy.square(level - level.mean()).sum()) for level in levels)
    noise = LIKENESS * max(math.sqrt(squares / num_free), MIN_NOISE)
    num_places = len(signal) - 2 * MIN_SEGMENT + 1
    limit = float(special.stdtrit(num_free, 1 - MAX_FALSE_ALARMS / 2 / num_places))
    return [
        abs(float(b.mean() - a.mean())) / (noise * limit * math.sqrt(1 / len(a) + 1 / len(b)))
        for a, b in pairwise(levels)
    ]


def _is_torn(file: IO[bytes]) -> bool:
    """Say whether the last line has no end."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return False
    file.seek(size - 1)
    return bool(file.read(1) != b"\n")
