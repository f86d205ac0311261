"""Baselines: one file for each machine and software, looked for before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.errors import StoreError
from cnnbench.regress.results import read_results, write_results

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.regress.machine import Machine
    from cnnbench.regress.results import Measured, Results

FOLDER = "baselines"
REGRESS = "regress"
LATEST = "latest.json"


def baseline_path(results_dir: Path, machine: Machine) -> Path:
    """Return where the baseline of `machine` lies, or would."""
    return results_dir / FOLDER / machine.folder / machine.file


def latest_path(results_dir: Path) -> Path:
    """Return where the gate leaves what it measured last, for `accept` to take."""
    return results_dir / REGRESS / LATEST


def load_baseline(path: Path, machine: Machine) -> Results:
    """Return the baseline in `path`, which must be of `machine`.

    Raises:
        StoreError: it is missing, damaged, empty, or another machine's: naming what differs.
    """
    try:
        baseline = read_results(path)
    except StoreError as error:
        msg = f"no baseline to compare with: {error} Measure one (--no-compare), then `cnnbench accept` it."
        raise StoreError(msg) from error
    difference = machine.difference(baseline.machine)
    if difference:
        msg = (
            f"the baseline {path} is another machine's: {difference}."
            " Compare with a revision instead: --base REV."
        )
        raise StoreError(msg)
    if not baseline.tests:
        msg = f"the baseline {path} holds no tests. Measure one anew, then `cnnbench accept` it."
        raise StoreError(msg)
    return baseline


def check_same_suite(baseline: Results, suite: str) -> None:
    """Refuse a baseline that another suite was measured for; files from before it was kept pass.

    What runs in a process of its own and what shares one with other tests differs in speed and memory,
    though the tests have the same names.

    Raises:
        StoreError: naming both suites and the remedy.
    """
    if baseline.suite and suite and baseline.suite != suite:
        msg = (
            f"the baseline is of the suite {baseline.suite}, this is {suite}."
            " Compare with a revision instead (--base REV), or accept what was measured so."
        )
        raise StoreError(msg)


def find_baseline(results_dir: Path, machine: Machine) -> Results | None:
    """Return this machine's baseline, `None` where there is none yet.

    Raises:
        StoreError: there is one, and it is damaged or not what its name says.
    """
    path = baseline_path(results_dir, machine)
    return load_baseline(path, machine) if path.exists() else None


def others(results_dir: Path, machine: Machine) -> list[Path]:
    """Return the baselines of other machines or software, those of the same device first."""
    folder = results_dir / FOLDER
    found = sorted(folder.glob("*/*.json"))
    return sorted(found, key=lambda path: path.parent.name != machine.folder)


def accept(results: Results, results_dir: Path) -> Path:
    """Make `results` the baseline of its machine and return the file.

    Raises:
        StoreError: a process of a test failed or timed out, or the folder cannot be written to.
    """
    broken = [said for test in results.tests.values() if (said := _failure(test))]
    if broken:
        msg = f"what failed is no baseline: {'; '.join(broken)}. Mend it and measure again."
        raise StoreError(msg)
    path = baseline_path(results_dir, results.machine)
    write_results(results, path)
    return path


def _failure(test: Measured) -> str:
    """Return in words how many processes of a test failed, and of what first; empty where none did."""
    if test.refused:
        return f"{test.name} ({test.refused})"
    failed = [run for run in test.runs if run.status in {"failed", "timeout"}]
    if not failed:
        return ""
    first = failed[0]
    of = f"{len(failed)} of {len(test.runs)} processes"
    return f"{test.name} ({of}, first {first.status}: {first.error})"
