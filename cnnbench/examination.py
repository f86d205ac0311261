"""One call of `cnnbench doctor`: what the machine can measure, what would spoil it, and its noise."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.errors import CnnbenchError
from cnnbench.job import Examination, Finding
from cnnbench.logbook import logbook
from cnnbench.noise import Noise, load_noise, measure_noise
from cnnbench.regress.machine import this_machine, threads_exported
from cnnbench.session import device_of
from cnnbench.sweep.run import Observer, examine, look
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.environment import Environment
    from cnnbench.options import Options


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """What the doctor found on the device of `environment`; `noise` where it is known."""

    environment: Environment
    findings: tuple[Finding, ...]
    noise: Noise | None

    @property
    def has_problem(self) -> bool:
        """Say whether something would make numbers wrong, or measuring impossible."""
        return any(finding.status == "problem" for finding in self.findings)


def diagnose_machine(
    options: Options, *, with_noise: bool, say: Callable[[str], None]
) -> Diagnostics:
    """Look at the machine as a sweep with the same options would find it.

    Args:
        options: the device, the folders and the store.
        with_noise: measure the noise floor as well: some minutes of a quiet machine.
        say: told what is being done.

    Raises:
        CnnbenchError: there is no such device, or the noise could not be measured.
    """
    results_dir = Path(options.results_dir).expanduser().absolute()
    data_dir = Path(options.data_dir).expanduser().absolute()
    with ExitStack() as stack:
        workers = stack.enter_context(launcher("forkserver"))
        say("looking at the machine")
        environment = look(workers, options.device)
        device = device_of(environment)
        job = Examination(device=device, data_dir=str(data_dir))
        found = examine(workers, job)
        store = _store(options.tracking_uri, results_dir)
        if with_noise:
            say("measuring the noise: one setting against itself")
            noise: Noise | None = _noise(options.device, results_dir, say)
        else:
            noise = load_noise(results_dir, environment)
    return Diagnostics(
        environment=environment, findings=(*found, store, _of_noise(noise)), noise=noise
    )


def _noise(device: str, results_dir: Path, say: Callable[[str], None]) -> Noise:
    """Measure the noise with as many threads as comparisons take."""
    with (
        threads_exported(this_machine(device)),
        launcher("forkserver") as ours,
        launcher("forkserver") as theirs,
    ):
        environment = look(ours, device)
        both = ours, theirs
        return measure_noise(both, environment, device_of(environment), results_dir, say=say)


def _store(uri: str | None, results_dir: Path) -> Finding:
    try:
        logbook(uri, results_dir, Observer()).check()
    except CnnbenchError as error:
        text, _, remedy = str(error).partition(". ")
        return Finding(subject="tracking", status="problem", text=text, remedy=remedy)
    return Finding(subject="tracking", status="ok", text="the MLflow store can be used")


def _of_noise(noise: Noise | None) -> Finding:
    if noise is None:
        text = "this machine's noise is not known: differences below 2% count as none"
        remedy = "cnnbench doctor --noise"
        return Finding(subject="noise", status="unknown", text=text, remedy=remedy)
    text = (
        f"identical settings differ by up to {noise.floor:.1%} here ({noise.cell},"
        f" {noise.num_pairs} pairs of processes, threads: {noise.num_threads}): differences below"
        f" {noise.delta:.1%} count as none"
    )
    return Finding(subject="noise", status="ok", text=text)
