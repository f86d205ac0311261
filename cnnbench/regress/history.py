"""What the gate has measured over time on one machine, and where its level changed for good."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import IO, TYPE_CHECKING

import msgspec

from cnnbench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cnnbench.regress.machine import Machine
    from cnnbench.regress.results import Results

NAME = "regress-history.jsonl"
# Fewer points on either side of a step are no level.
MIN_SEGMENT = 3
# Steps smaller than this are no news, however well they are known.
MIN_STEP = 0.02
MEASURES = ("images_per_second", "peak_allocated_bytes", "process_bytes", "accuracy")
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
    process_bytes: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A lasting change of level: `index` is that of the first point of the new level."""

    test: str
    measure: str
    index: int
    before: float
    after: float
    measured_at: str
    commit: str | None

    @property
    def text(self) -> str:
        """Return the step as a sentence."""
        change = self.after / self.before - 1
        better = (change > 0) == (self.measure in RATES)
        where = f" ({self.commit[:10]})" if self.commit else ""
        return (
            f"history: {self.measure.replace('_', ' ')} of {self.test} went"
            f" {change:+.1%}, for the {'better' if better else 'worse'}, at {self.measured_at}{where}"
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

    PELT (Killick, Fearnhead and Eckley 2012) with a shift of the mean of logarithms as its model,
    and the Bayesian information criterion's penalty, for noise as it is between neighbouring points
    (from the median of their absolute differences, which a step does not move).
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
    ends = [0, *_change_points([math.log(value) for value in values]), len(values)]
    for start, middle, end in zip(ends, ends[1:], ends[2:], strict=False):
        before, after = median(values[start:middle]), median(values[middle:end])
        if abs(math.log(after / before)) >= math.log1p(MIN_STEP):
            yield Step(
                test=test,
                measure=measure,
                index=middle,
                before=before,
                after=after,
                measured_at=points[middle].measured_at,
                commit=points[middle].commit,
            )


def _change_points(logs: list[float]) -> list[int]:
    numpy, ruptures = import_module("numpy"), import_module("ruptures")
    differences = numpy.abs(numpy.diff(numpy.asarray(logs)))
    # A running median of three: a single outlier is no level, and a step keeps its place.
    # Of normal differences the median of the absolute ones is 0.954 times the noise of one value.
    filtered = [sorted(logs[n - 1 : n + 2])[1] for n in range(1, len(logs) - 1)]
    signal = numpy.asarray([logs[0], *filtered, logs[-1]])
    noise = max(float(numpy.median(differences)) / 0.954, MIN_STEP / 10)
    penalty = 2 * noise**2 * math.log(len(logs))
    found = ruptures.Pelt(model="l2", min_size=MIN_SEGMENT, jump=1).fit(signal).predict(pen=penalty)
    return [int(end) for end in found[:-1]]


def _is_torn(file: IO[bytes]) -> bool:
    """Say whether the last line has no end."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return False
    file.seek(size - 1)
    return bool(file.read(1) != b"\n")
