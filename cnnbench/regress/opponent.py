"""What a change is compared with: a baseline of this machine, or a revision measured beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnbench.errors import StoreError
from cnnbench.regress.baseline import baseline_path, find_baseline, load_baseline, others
from cnnbench.regress.results import read_results
from cnnbench.regress.revision import checkout, default_revision, find_revision

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.regress.machine import Machine
    from cnnbench.regress.results import Results
    from cnnbench.regress.revision import Revision

MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """Stored results, or a revision to be measured; `text` says in words what it is."""

    text: str
    target: Results | Revision


def choose_opponent(
    machine: Machine, results_dir: Path, *, base: str | None, baseline: Path | None
) -> Opponent:
    """Return what to compare with; nothing is measured, and no torch imported, before this is known.

    Args:
        machine: this one.
        results_dir: where its baselines lie.
        base: a revision that the user names.
        baseline: a file that the user names.

    Raises:
        CnnbenchError: it is missing, damaged, or of another machine: named with the remedy.
    """
    if base is not None:
        named = find_revision(checkout(), base)
        return Opponent(text=f"revision {named.text}", target=named)
    if baseline is not None:
        return _stored(load_baseline(baseline, machine))
    stored = find_baseline(results_dir, machine)
    if stored is not None:
        return _stored(stored)
    found = default_revision(checkout())
    if found is None:
        raise StoreError(_missing(machine, results_dir))
    text = f"revision {found.text}; {_no_baseline(machine, results_dir)}"
    return Opponent(text=text, target=found)


def _no_baseline(machine: Machine, results_dir: Path) -> str:
    """Return in words why no baseline is compared with, and which of the same device comes nearest.

    That is the one that differs in the fewest keys, and of several the newest. A damaged one is passed
    over: nothing is compared with it.
    """
    near = [path for path in others(results_dir, machine) if path.parent.name == machine.folder]
    same = [
        (path, kept)
        for path in near
        if (kept := _readable(path)) and machine.difference(kept.machine)
    ]
    if not same:
        return "this machine has no baseline yet"
    newest_first = sorted(same, key=lambda one: one[1].measured_at, reverse=True)
    path, kept = min(newest_first, key=lambda one: len(machine.differing(one[1].machine)))
    # Reports show this to others, whom the path to the results does not concern.
    shown, difference = path.relative_to(results_dir), machine.difference(kept.machine)
    return f"this device's baseline {shown} cannot be compared with: {difference}"


def _readable(path: Path) -> Results | None:
    try:
        return read_results(path)
    except StoreError:
        return None


def _stored(baseline: Results) -> Opponent:
    text = f"the baseline of {baseline.measured_at or 'an unknown time'}, {baseline.code}"
    return Opponent(text=text, target=baseline)


def _missing(machine: Machine, results_dir: Path) -> str:
    near = [str(path) for path in others(results_dir, machine)[:MAX_NAMED]]
    known = f" There are others': {', '.join(near)}." if near else ""
    return (
        f"there is no baseline of this machine ({machine.text}) in"
        f" {baseline_path(results_dir, machine)}, and no git history to compare with.{known}"
        " Run `cnnbench regress --no-compare`, then `cnnbench accept`."
    )
