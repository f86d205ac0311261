"""One call of `cnnbench regress`: looks for what to compare with, measures, judges, writes it down."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from cnnbench import noise
from cnnbench.environment import Environment
from cnnbench.errors import InvalidValueError, ProfileError, StoreError
from cnnbench.regress.arms import side
from cnnbench.regress.baseline import check_same_suite, latest_path
from cnnbench.regress.copies import present_state, revision_state
from cnnbench.regress.gate import Clock, Limits, measure_alone, measure_by_turns
from cnnbench.regress.judge import Judgement, judge
from cnnbench.regress.machine import Machine, threads_exported
from cnnbench.regress.results import Measured, Results, now, only_tests, write_results
from cnnbench.regress.revision import Revision, checkout, find_revision, state
from cnnbench.regress.suite import ACCURACY, load_suite, suite_path
from cnnbench.session import check_writable
from cnnbench.stats import MIN_DELTA
from cnnbench.sweep.workers import ANYWHERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cnnbench.regress.arms import Side
    from cnnbench.regress.copies import Copy
    from cnnbench.regress.gate import Say
    from cnnbench.regress.opponent import Opponent
    from cnnbench.regress.suite import Subject

# Without a budget of the user's: a test takes some eight pairs of processes, each of these a few seconds
# in a quiet hour, and what is decided sooner ends sooner.
SECONDS_A_TEST = 120.0
MIN_BUDGET_SECONDS = 1200.0
# No process of any suite takes nearly as long, unless it hangs.
PROCESS_SECONDS = 600.0
# Against a stored baseline: measured alone for so long at most, then again by turns.
ALONE_SHARE = 0.5
# Where projects keep the versions that they run on.
LOCKS = ("requirements.lock", "requirements.txt", "uv.lock", "poetry.lock", "pdm.lock")
# What every revision can do that can be measured at all.
OLD_KINDS = ("training", ACCURACY)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured, where, and for how long; without a budget the number of tests decides.

    `base_python` is the interpreter that a revision runs on, in an environment with another torch, say.
    """

    results_dir: Path
    data_dir: Path
    device: str = "auto"
    suite: Path | None = None
    only: str = ""
    budget_seconds: float | None = None
    process_seconds: float = PROCESS_SECONDS
    base_python: Path | None = None

    def suite_for(self, device_type: str) -> Path:
        """Return the suite's file."""
        return self.suite or suite_path(device_type)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call found; `base` and `judgement` are `None` where nothing was compared."""

    candidate: Results
    opponent: str = ""
    base: Results | None = None
    judgement: Judgement | None = None
    delta: float = 0.0
    notes: tuple[str, ...] = ()


def subjects_of(settings: Settings, device_type: str) -> tuple[Subject, ...]:
    """Return the tests that are asked for.

    Raises:
        CnnbenchError: the suite cannot be read, or none of its tests has that name.
    """
    subjects = load_suite(settings.suite_for(device_type))
    kept = tuple(subject for subject in subjects if settings.only in subject.name)
    if not kept:
        msg = f"no test's name holds {settings.only!r}. There are: "
        raise InvalidValueError(msg + ", ".join(subject.name for subject in subjects))
    return kept


def regress(
    settings: Settings, machine: Machine, opponent: Opponent | None, *, say: Say
) -> Outcome:
    """Measure the suite, against `opponent` where there is one, and keep it for `accept`.

    Raises:
        CnnbenchError: what the user can put right, found before anything was measured.
    """
    subjects = subjects_of(settings, machine.device_type)
    check_writable(settings.results_dir)
    with ExitStack() as stack:
        stack.enter_context(threads_exported(machine))
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="cnnbench-regress-")))
        root = checkout()
        code = state(root)  # before anybody edits it
        say("starting the workers")
        place = stack.enter_context(present_state(root)).place() if root else ANYWHERE
        ours = stack.enter_context(
            side("candidate", settings.device, settings.data_dir, folder, place)
        )
        session = _Session(settings, ours, folder, code, _limits(settings, len(subjects)), say)
        if opponent is None:
            outcome = Outcome(candidate=session.results(session.alone(subjects, {})))
        elif isinstance(opponent.target, Revision):
            outcome = session.against_revision(opponent.target, subjects)
        else:
            outcome = session.against_baseline(opponent.target, subjects)
    if not settings.only:  # a part of the suite is no baseline
        verdict = outcome.judgement.verdict if outcome.judgement else ""
        latest = replace(outcome.candidate, verdict=verdict)
        write_results(latest, latest_path(settings.results_dir))
    return replace(outcome, opponent=opponent.text if opponent else "")


def _limits(settings: Settings, num_tests: int) -> Limits:
    seconds = settings.budget_seconds or max(MIN_BUDGET_SECONDS, num_tests * SECONDS_A_TEST)
    return Limits(process_seconds=settings.process_seconds, clock=Clock(seconds=seconds))


def judged(
    base: Results, candidate: Results, *, opponent: str, delta: float = MIN_DELTA, only: str = ""
) -> Outcome:
    """Return what two results that were measured before say; `only` as in `Settings`."""
    base = only_tests(base, (name for name in base.tests if only in name))
    candidate = only_tests(candidate, (name for name in candidate.tests if only in name))
    judgement = judge(base, candidate, delta=delta)
    return Outcome(
        base=base, candidate=candidate, judgement=judgement, delta=delta, opponent=opponent
    )


def stored_delta(results: Results, results_dir: Path) -> float:
    """Return the difference in speed that does not matter on the machine of stored results."""
    try:
        environment = msgspec.convert(results.environment, Environment)
    except msgspec.ValidationError:  # another version's
        return MIN_DELTA
    return noise.delta(results_dir, environment)


class _Session:
    """The candidate's workers, and what they are compared with."""

    def __init__(
        self,
        settings: Settings,
        ours: Side,
        folder: Path,
        code: tuple[str | None, bool],
        limits: Limits,
        say: Say,
    ) -> None:
        self._settings = settings
        self._ours = ours
        self._folder = folder
        self._commit, self._is_dirty = code
        self._limits = limits
        self._say = say

    def results(self, tests: Iterable[Measured]) -> Results:
        """Return what was measured of the present code."""
        return Results(
            machine=Machine.of(self._ours.environment),
            tests={test.name: test for test in tests},
            commit=self._commit,
            is_dirty=self._is_dirty,
            measured_at=now(),
            environment=asdict(self._ours.environment),
            suite=self._suite.stem,
        )

    @property
    def _suite(self) -> Path:
        return self._settings.suite_for(self._ours.environment.device_type)

    def alone(
        self, subjects: Sequence[Subject], number: dict[str, int], *, share: float = 1.0
    ) -> list[Measured]:
        return measure_alone(
            self._ours, subjects, number=number, limits=self._limits, share=share, say=self._say
        )

    @property
    def delta(self) -> float:
        """Return the difference in speed that does not matter on this machine."""
        return noise.delta(self._settings.results_dir, self._ours.environment)

    def against_revision(self, revision: Revision, subjects: Sequence[Subject]) -> Outcome:
        """Measure revision and candidate by turns."""
        notes: list[str] = []
        if not revision.knows_workloads:
            kept = tuple(subject for subject in subjects if subject.kind in OLD_KINDS)
            if len(kept) < len(subjects):
                notes.append(
                    f"{len(subjects) - len(kept)} tests of inference and loading were left out:"
                    " the base is older than they are"
                )
            subjects = kept
        device, data_dir = self._settings.device, self._settings.data_dir
        with ExitStack() as stack:
            copy = stack.enter_context(revision_state(revision))
            place = copy.place(self._settings.base_python)
            base = stack.enter_context(side("base", device, data_dir, self._folder, place))
            notes += self._differences(copy, base)
            vanished = self._vanished(copy, notes)
            races = measure_by_turns(
                (base, self._ours),
                subjects,
                limits=self._limits,
                delta=self.delta,
                say=self._say,
            )
        before = replace(
            self.results([*(race.base for race in races), *vanished]),
            commit=revision.commit,
            is_dirty=False,
        )
        after = self.results(race.candidate for race in races)
        return self._judged(before, after, notes)

    def against_baseline(self, baseline: Results, subjects: Sequence[Subject]) -> Outcome:
        """Measure the candidate alone; what then looks worse is measured by turns, where it can be.

        A machine's pace differs from one day to the next. So a stored number alone condemns nobody
        where the revision that it came from can be asked again.
        """
        difference = Machine.of(self._ours.environment).difference(baseline.machine)
        if difference:
            msg = f"the baseline is another machine's: {difference}. Compare with --base REV."
            raise StoreError(msg)
        check_same_suite(baseline, self._suite.stem)
        names = [name for name in baseline.tests if self._settings.only in name]
        base = only_tests(baseline, names)
        number = {name: len(test.runs) for name, test in base.tests.items()}
        after = self.results(self.alone(subjects, number, share=ALONE_SHARE))
        outcome = self._judged(base, after, [])
        doubtful = {
            finding.test
            for finding in (outcome.judgement.findings if outcome.judgement else ())
            if finding.verdict == "inconclusive"
            or (finding.measure == "throughput" and finding.verdict == "regressed")
        }
        again = [subject for subject in subjects if subject.name in doubtful]
        if not again or baseline.is_dirty or not baseline.commit:
            return outcome
        try:
            revision = find_revision(checkout(), baseline.commit)
        except InvalidValueError:
            return outcome
        self._say(f"measuring {len(again)} tests by turns with {revision.commit[:10]}")
        turns = self.against_revision(revision, again)
        if turns.base is None:
            return outcome
        note = (
            f"{len(again)} tests that looked slower, or were not decided, were measured by turns with the"
            " baseline's commit"
        )
        return self._judged(
            replace(base, tests={**base.tests, **turns.base.tests}),
            replace(after, tests={**after.tests, **turns.candidate.tests}),
            [note, *turns.notes],
        )

    def _judged(self, base: Results, candidate: Results, notes: list[str]) -> Outcome:
        delta = self.delta
        return Outcome(
            base=base,
            candidate=candidate,
            judgement=judge(base, candidate, delta=delta),
            delta=delta,
            notes=tuple(notes),
        )

    def _differences(self, copy: Copy, base: Side) -> Iterator[str]:
        """Yield what else than the code differs between the sides, or should and does not."""
        ours, theirs = (Machine.of(one.environment) for one in (self._ours, base))
        if difference := ours.difference(theirs):
            yield f"the sides run on different software (here: the candidate's): {difference}"
            return
        changed = [name for name in LOCKS if _differs(copy.folder / name, copy.root / name)]
        if changed:
            yield (
                f"{' and '.join(changed)} changed, and both sides ran on what is installed here:"
                f" {ours.text}. What other versions cost is told by --base-python."
            )

    def _vanished(self, copy: Copy, notes: list[str]) -> list[Measured]:
        """Return the tests of the base's own suite that this one has no more."""
        own = self._suite
        path = copy.counterpart(own.absolute())
        if path == own.absolute():  # a suite from elsewhere is the same for both
            return []
        try:
            theirs = load_suite(path)
        except ProfileError as error:
            notes.append(
                f"the base's own suite cannot be read, so vanished tests go unseen: {error}"
            )
            return []
        own_names = {subject.name for subject in load_suite(own)}
        return [
            Measured.of(subject)
            for subject in theirs
            if subject.name not in own_names and self._settings.only in subject.name
        ]


def _differs(one: Path, other: Path) -> bool:
    """Say whether one of two files is missing or holds something else."""
    contents = [path.read_bytes() if path.is_file() else None for path in (one, other)]
    return contents[0] != contents[1]
