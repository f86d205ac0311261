"""Measures a suite: by turns with another state of the code, or alone, until enough is known."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cnnbench.digest import digest
from cnnbench.regress.arms import seeded
from cnnbench.regress.judge import MIN_RUNS, is_decided
from cnnbench.regress.results import Measured, Run
from cnnbench.regress.suite import ACCURACY
from cnnbench.sweep.interleave import renew, take_turns
from cnnbench.sweep.run import run_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cnnbench.job import CellJob
    from cnnbench.regress.arms import Side
    from cnnbench.regress.suite import Subject

    Say = Callable[[str], None]

# The budget ends most sessions sooner; this keeps one of hours from being spent on a single test.
MAX_RUNS = 100
# As many as most comparisons by turns take; later ones are compared with these.
NUM_ALONE = 8


@dataclass(kw_only=True)
class Race:
    """One test under way: what has been measured of it on both sides."""

    base: Measured
    candidate: Measured

    @property
    def num_runs(self) -> int:
        """Return how many pairs of processes have run."""
        return len(self.candidate.runs)

    def add(self, base: Run, candidate: Run) -> None:
        """Take in one more pair."""
        self.base = replace(self.base, runs=(*self.base.runs, base))
        self.candidate = replace(self.candidate, runs=(*self.candidate.runs, candidate))


@dataclass(kw_only=True)
class Clock:
    """How long may be measured, counted from the first process on."""

    seconds: float
    started: float | None = None

    def start(self) -> None:
        """Begin to count; what calls it later changes nothing."""
        if self.started is None:
            self.started = time.monotonic()

    def is_over(self, share: float = 1.0) -> bool:
        """Say whether this share of the time is used up."""
        return self.started is not None and time.monotonic() - self.started > share * self.seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends measuring: a process's own time in seconds, and the clock of the whole call."""

    process_seconds: float
    clock: Clock


def measure_by_turns(
    sides: tuple[Side, Side],
    subjects: Sequence[Subject],
    *,
    limits: Limits,
    delta: float,
    say: Say,
) -> list[Race]:
    """Let base and candidate take turns at every test, round after round, until all are decided.

    A round gives each test that is still open one more pair of fresh processes: so the pairs of a test
    are spread over the whole session, and what is inconclusive is measured again. The fork servers are
    new in each round, as their workers share what memory they have got, and with it how fast they are.
    Tests that a side cannot even begin with are returned without processes.

    Args:
        sides: base and candidate.
        subjects: what to measure.
        limits: after the clock's time no further pair begins, but for the first of each test.
        delta: the relative difference in speed that does not matter.
        say: told how each round went.
    """
    (base_jobs, base_refused), (candidate_jobs, refused) = (side.jobs(subjects) for side in sides)
    races = {
        subject.name: Race(base=_empty(subject, base_refused), candidate=_empty(subject, refused))
        for subject in subjects
    }
    undecided = [s for s in subjects if s.name in base_jobs and s.name in candidate_jobs]
    num_begun = len(undecided)
    limits.clock.start()  # workers, data and models are ready
    for number in range(MAX_RUNS):
        if number and not limits.clock.is_over() and any(s.kind != ACCURACY for s in undecided):
            renew(side.workers for side in sides)
        if not undecided or (number and limits.clock.is_over()):
            break
        for subject in undecided:
            race = races[subject.name]
            if limits.clock.is_over() and race.num_runs:
                continue
            jobs = base_jobs[subject.name], candidate_jobs[subject.name]
            race.add(*_pair(sides, subject, jobs, number, limits.process_seconds))
        undecided = [s for s in undecided if not _is_over(races[s.name], delta)]
        say(f"round {number + 1}: {num_begun - len(undecided)} of {num_begun} tests decided")
    return list(races.values())


def measure_alone(
    side: Side,
    subjects: Sequence[Subject],
    *,
    number: Mapping[str, int],
    limits: Limits,
    share: float = 1.0,
    say: Say,
) -> list[Measured]:
    """Run every test in fresh processes of one side.

    Args:
        side: whose workers.
        subjects: what to measure.
        number: how many processes the base has of a test, by its name; more than `NUM_ALONE`, or fewer
            than decide anything, are not run.
        limits: after `share` of the clock's time no further process begins, but for the first of each test.
        share: of the clock's time.
        say: told how each round went.
    """
    jobs, refused = side.jobs(subjects)
    found = {subject.name: _empty(subject, refused) for subject in subjects}
    wanted = {name: min(NUM_ALONE, max(MIN_RUNS, number.get(name, NUM_ALONE))) for name in jobs}
    num_rounds = max(wanted.values(), default=0)
    limits.clock.start()
    for done in range(num_rounds):
        if done:
            if limits.clock.is_over(share):
                break
            renew([side.workers])
        for subject in subjects:
            is_wanted = done < wanted.get(subject.name, 0)
            if is_wanted and not (done and limits.clock.is_over(share)):
                job = _seeded(subject, jobs[subject.name], done)
                record = run_job(
                    side.workers, job, side.environment, timeout_seconds=limits.process_seconds
                )
                test = found[subject.name]
                found[subject.name] = replace(test, runs=(*test.runs, Run.of(record)))
        say(f"round {done + 1} of {num_rounds}")
    return list(found.values())


def _pair(
    sides: tuple[Side, Side],
    subject: Subject,
    jobs: tuple[CellJob, CellJob],
    number: int,
    process_seconds: float,
) -> tuple[Run, Run]:
    base, candidate = sides
    ours, theirs = (_seeded(subject, job, number) for job in jobs)
    order = random.Random(digest([subject.name, number]))  # noqa: S311 (an order, no secret)
    before, after = take_turns(
        (base.workers, candidate.workers),
        (ours, theirs),
        candidate.environment,
        order,
        timeout_seconds=process_seconds,
    )
    return Run.of(before), Run.of(after)


def _seeded(subject: Subject, job: CellJob, number: int) -> CellJob:
    """Return the job; of an accuracy each process trains from a seed of its own."""
    return seeded(job, subject.cell.seed + number) if subject.kind == ACCURACY else job


def _is_over(race: Race, delta: float) -> bool:
    return is_decided(race.base, race.candidate, delta=delta)


def _empty(subject: Subject, refused: Mapping[str, str]) -> Measured:
    return replace(Measured.of(subject), refused=refused.get(subject.name, ""))
