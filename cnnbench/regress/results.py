"""What the gate measured, kept as pytest-benchmark's JSON, so that its tools read it as well."""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from cnnbench.analysis.replacing import replacing
from cnnbench.errors import StoreError
from cnnbench.measurement import Window
from cnnbench.regress.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cnnbench.record import Record
    from cnnbench.regress.suite import Subject

FORMAT = 1
# Where ours lies in pytest-benchmark's `machine_info` and `extra_info`.
KEY = "cnnbench"
# The suite of results that pytest wrote, whose file has no document of ours.
BENCH = "bench"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of one process; `accuracy` is the best epoch's on the validation images."""

    seed: int = 0
    status: str = "completed"
    validity: str = "valid"
    validity_reasons: tuple[str, ...] = ()
    effective_precision: str | None = None
    windows: tuple[Window, ...] = ()
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    process_bytes: int | None = None
    accuracy: float | None = None
    start_seconds: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, record: Record) -> Run:
        """Return what the gate keeps of a record."""
        memory, best = record.memory, record.fit.best if record.fit else None
        return cls(
            seed=record.cell.seed,
            status=record.status,
            validity=record.validity,
            validity_reasons=record.validity_reasons,
            effective_precision=record.effective_precision,
            windows=record.profile.windows if record.profile else (),
            peak_allocated_bytes=memory.peak_allocated_bytes if memory else None,
            peak_reserved_bytes=memory.peak_reserved_bytes if memory else None,
            process_bytes=memory.process_bytes if memory else None,
            accuracy=best.val_accuracy if best else None,
            start_seconds=record.start_seconds,
            error=record.error,
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All processes of one test; of two that took turns, those at one position were a pair.

    `setting` is the digest of what was asked for, which the name tells in part; files from before there
    was one have none. `refused` says why none could even begin.
    """

    name: str
    kind: str
    batch_size: int
    setting: str = ""
    runs: tuple[Run, ...] = ()
    refused: str = ""

    @property
    def completed(self) -> tuple[Run, ...]:
        """Return the processes that came to their end."""
        return tuple(run for run in self.runs if run.status == "completed")

    @classmethod
    def of(cls, subject: Subject, runs: Iterable[Run] = ()) -> Measured:
        """Return what `runs` have measured of a test of the suite."""
        return cls(
            name=subject.name,
            kind=subject.kind,
            batch_size=subject.cell.batch_size,
            setting=subject.cell.setting,
            runs=tuple(runs),
        )

    @property
    def step_seconds(self) -> list[float]:
        """Return the step time of every window of every process."""
        return [window.step_seconds for run in self.runs for window in run.windows]

    @property
    def images_per_second(self) -> float | None:
        """Return the batch size over the step time of the median window, `None` if untimed."""
        steps = self.step_seconds
        return self.batch_size / statistics.median(steps) if steps else None

    def median(self, name: str) -> float | None:
        """Return the median over processes of a number of `Run`, of those that have it."""
        values = [v for run in self.runs if (v := getattr(run, name)) is not None]
        return statistics.median(values) if values else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """What was measured of one state of the code on one machine, by the name of the test.

    `environment` tells of the machine, and of its GPU, what is no key. `suite` is the stem of the suite's
    file, or `bench` for what pytest measured in one process; it is empty in files from before it was kept.
    `verdict` is what a comparison said of it, empty where there was none.
    """

    machine: Machine
    tests: dict[str, Measured] = field(default_factory=dict)
    commit: str | None = None
    is_dirty: bool = False
    measured_at: str = ""
    suite: str = ""
    verdict: str = ""
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """Return the commit in short, and whether files were changed since."""
        changed = " with changes" if self.is_dirty else ""
        return f"{self.commit[:10]}{changed}" if self.commit else "code without a commit"


def now() -> str:
    """Return the present time as ISO 8601, in UTC."""
    return datetime.now(tz=UTC).isoformat(timespec="seconds")


def write_results(results: Results, path: Path) -> None:
    """Write `results` as pytest-benchmark's JSON, whole or not at all.

    Raises:
        StoreError: the folder cannot be written to.
    """
    timed = [test for test in results.tests.values() if test.step_seconds]
    untimed = [test for test in results.tests.values() if not test.step_seconds]
    document = {
        "machine_info": {
            "system": platform.system(),
            "machine": platform.machine(),
            "python_version": platform.python_version(),
            KEY: results.machine,
            "environment": results.environment,
        },
        "commit_info": {"id": results.commit, "dirty": results.is_dirty},
        "benchmarks": [_benchmark(test) for test in timed],
        "datetime": results.measured_at,
        "version": f"{KEY} {FORMAT}",
        # pytest-benchmark knows no test without a time: trainings, and what never got so far.
        KEY: {
            "format": FORMAT,
            "suite": results.suite,
            "verdict": results.verdict,
            "untimed": untimed,
        },
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}. Choose another --results-dir."
        raise StoreError(msg) from error
    with replacing(path) as partial:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def read_results(path: Path) -> Results:
    """Return what `write_results` or `pytest bench/ --benchmark-json` wrote.

    Raises:
        StoreError: the file is missing, damaged, or tells no machine.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        machine = msgspec.convert(document["machine_info"][KEY], Machine)
        tests = [
            msgspec.convert(one["extra_info"][KEY], Measured)
            for one in document["benchmarks"]
            if KEY in one["extra_info"]
        ]
        own = document.get(KEY, {"suite": BENCH})
        tests += msgspec.convert(own.get("untimed", []), list[Measured])
        commit = document.get("commit_info") or {}
        return Results(
            machine=machine,
            tests={test.name: test for test in tests},
            commit=msgspec.convert(commit.get("id"), str | None),
            is_dirty=bool(commit.get("dirty")),
            measured_at=str(document.get("datetime", "")),
            suite=msgspec.convert(own.get("suite", ""), str),
            verdict=msgspec.convert(own.get("verdict", ""), str),
            environment=dict(document["machine_info"].get("environment") or {}),
        )
    except FileNotFoundError as error:
        msg = f"there is no file {path}."
        raise StoreError(msg) from error
    except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        msg = f"{path} is damaged, or no results of the gate: {what}."
        raise StoreError(msg) from error


def merge_results(several: Sequence[Results]) -> Results:
    """Return the processes of several calls on one machine as those of one.

    Raises:
        StoreError: they come from different machines or suites.
    """
    first = several[0]
    for other in several[1:]:
        difference = first.machine.difference(other.machine)
        if difference:
            msg = f"these results come from different machines: {difference}."
            raise StoreError(msg)
    suites = sorted({results.suite for results in several} - {""})
    if len(suites) > 1:
        msg = f"these results come from different suites: {', '.join(suites)}."
        raise StoreError(msg)
    tests: dict[str, Measured] = {}
    for results in several:
        for name, test in results.tests.items():
            known = tests.get(name)
            tests[name] = replace(test, runs=known.runs + test.runs) if known else test
    return replace(first, tests=tests, suite="".join(suites))


def only_tests(results: Results, names: Iterable[str]) -> Results:
    """Return `results` with the tests of these names alone."""
    kept = set(names)
    return replace(results, tests={n: t for n, t in results.tests.items() if n in kept})


def _benchmark(test: Measured) -> dict[str, Any]:
    return {
        "group": test.kind,
        "name": test.name,
        "fullname": test.name,
        "params": None,
        "param": None,
        "extra_info": {KEY: test},
        "options": {},
        "stats": _statistics(test.step_seconds),
    }


def _statistics(seconds: list[float]) -> dict[str, Any]:
    """Return what pytest-benchmark shows of a test, of the step times of its windows."""
    several = len(seconds) > 1
    q1, median, q3 = statistics.quantiles(seconds, n=4) if several else 3 * seconds
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    mean, deviation = statistics.mean(seconds), statistics.stdev(seconds) if several else 0.0
    num_far = sum(1 for one in seconds if abs(one - mean) > deviation)
    num_outliers = sum(1 for one in seconds if not low <= one <= high)
    return {
        "min": min(seconds),
        "max": max(seconds),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(seconds),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": num_outliers,
        "stddev_outliers": num_far,
        "outliers": f"{num_far};{num_outliers}",
        "ld15iqr": min((one for one in seconds if one >= low), default=min(seconds)),
        "hd15iqr": max((one for one in seconds if one <= high), default=max(seconds)),
        "ops": 1 / mean,
        "total": sum(seconds),
        "iterations": 1,
    }
