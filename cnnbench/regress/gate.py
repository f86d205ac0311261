"""Measures a suite: by turns with another state of the code, or alone, until enough is known."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How long may be measured, from when it was made."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Say whether the time is used up."""
        return time.monotonic() - self.started > self.seconds


def measure_by_turns(
    sides: tuple[Side, Side],
    subjects: Sequence[Subject],
    *,
    budget_seconds: float,
    delta: float,
    say: Say,
) -> list[Race]:
    """Let base and candidate take turns at every test, round after round, until all are decided.

    A round gives each test that is still open one more pair of fresh processes: so the pairs of a test
    are spread over the whole session, and what is inconclusive is measured again. The fork servers are
    new in each round, as their workers share what memory they have got, and with it how fast they are.

    Args:
        sides: base and candidate.
        subjects: what to measure.
        budget_seconds: of measuring; after it no further pair begins, but for the first of each test.
        delta: the relative difference in speed that does not matter.
        say: told how each round went.
    """
    base_jobs, candidate_jobs = (side.jobs(subjects) for side in sides)
    races = {
        subject.name: Race(base=_empty(subject), candidate=_empty(subject)) for subject in subjects
    }
    undecided = list(subjects)
    clock = Clock(seconds=budget_seconds)  # workers, data and models are ready
    for number in range(MAX_RUNS):
        if number and not clock.is_over and any(s.kind != ACCURACY for s in undecided):
            renew(side.workers for side in sides)
        if number and (clock.is_over or not undecided):
            break
        for subject in undecided:
            race = races[subject.name]
            if clock.is_over and race.num_runs:
                continue
            jobs = base_jobs[subject.name], candidate_jobs[subject.name]
            race.add(*_pair(sides, subject, jobs, number))
        undecided = [s for s in undecided if not _is_over(races[s.name], delta)]
        say(
            f"round {number + 1}: {len(subjects) - len(undecided)} of {len(subjects)} tests decided"
        )
    return list(races.values())


def measure_alone(
    side: Side, subjects: Sequence[Subject], *, number: Mapping[str, int], say: Say
) -> list[Measured]:
    """Run every test in fresh processes of one side.

    Args:
        side: whose workers.
        subjects: what to measure.
        number: how many processes a test gets, by its name; `NUM_ALONE` where it does not say.
        say: told how each round went.
    """
    jobs = side.jobs(subjects)
    found = {subject.name: _empty(subject) for subject in subjects}
    wanted = {s.name: max(MIN_RUNS, number.get(s.name, NUM_ALONE)) for s in subjects}
    num_rounds = max(wanted.values(), default=0)
    for done in range(num_rounds):
        if done:
            renew([side.workers])
        for subject in subjects:
            if done < wanted[subject.name]:
                job = _seeded(subject, jobs[subject.name], done)
                run = Run.of(run_job(side.workers, job, side.environment))
                test = found[subject.name]
                found[subject.name] = replace(test, runs=(*test.runs, run))
        say(f"round {done + 1} of {num_rounds}")
    return list(found.values())


def _pair(
    sides: tuple[Side, Side], subject: Subject, jobs: tuple[CellJob, CellJob], number: int
) -> tuple[Run, Run]:
    base, candidate = sides
    ours, theirs = (_seeded(subject, job, number) for job in jobs)
    order = random.Random(digest([subject.name, number]))  # noqa: S311 (an order, no secret)
    before, after = take_turns(
        (base.workers, candidate.workers), (ours, theirs), candidate.environment, order
    )
    return Run.of(before), Run.of(after)


def _seeded(subject: Subject, job: CellJob, number: int) -> CellJob:
    """Return the job; of an accuracy each process trains from a seed of its own."""
    return seeded(job, subject.cell.seed + number) if subject.kind == ACCURACY else job


def _is_over(race: Race, delta: float) -> bool:
    return is_decided(race.base, race.candidate, delta=delta)


def _empty(subject: Subject) -> Measured:
    return Measured(name=subject.name, kind=subject.kind, batch_size=subject.cell.batch_size)
