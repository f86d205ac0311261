"""Regressions planted on purpose: whether the gate finds each by the right verdict, and cries no wolf.

Run by `make bench-regress`; adds a row a call of the gate to results/local/plants.csv, and leaves out
what stands there already for this commit: an interrupted run goes on. `--only` runs one of its parts:

    plants      each planted regression, against the commit without it
    unchanged   the commit against itself, which must pass every time
    busy        the same beside a noisy neighbour: at worst inconclusive

The commit is cloned into a temporary folder, the plant edits the clone's files, and the clone's own
`cnnbench regress --base HEAD` judges it, as it would in a review: by the machine's noise floor. Where
`cnnbench doctor --noise` has not yet measured that, it is done before the first call (two minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench import trust
from bench.neighbour import noisy_neighbour
from bench.plant_rows import Row, append_row, judged, read_rows, table
from bench.planted_edits import (
    BF16,
    LAYOUT,
    LEAK,
    NORMALISATION,
    SLOWER,
    SUITES,
    TF32,
    WAITING,
    Plant,
    apply,
    convolving,
)
from cnnbench.noise import NAME
from cnnbench.regress.machine import this_machine, threads_exported
from cnnbench.regress.revision import checkout, state
from cnnbench.stats import MIN_DELTA
from cnnbench.sweep.workers import Forkserver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.regress.machine import Machine

NUM_UNCHANGED = 20
BUDGET = "15m"
PARTS = ("plants", "unchanged", "busy")


def main() -> int:
    """Run what is missing, print the table and return 1 where something went otherwise than expected."""
    arguments = _parse()
    machine = this_machine()
    root = checkout()
    commit, is_dirty = state(root)
    if root is None or commit is None:
        msg = "planted regressions need a git checkout"
        raise SystemExit(msg)
    if is_dirty:
        click.echo(
            "files were changed since the last commit: the commit is what is measured", err=True
        )
    bench = _Bench(root=root, commit=commit, machine=machine, arguments=arguments)
    for part in arguments.only or PARTS:
        bench.run(part)
    rows = [row for row in read_rows(arguments.output) if row.commit == commit]
    for line in table(rows):
        click.echo(line)
    return 0 if all(row.as_expected for row in rows) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", metavar="PART")
    parser.add_argument("--plant", default="", help="the plants with this text in their names")
    parser.add_argument(
        "--number", type=int, default=NUM_UNCHANGED, help="calls of an unchanged tree"
    )
    parser.add_argument(
        "--whole-suite", action="store_true", help="the gate's own suite every time"
    )
    parser.add_argument("--budget", default=BUDGET, help="of one call of the gate")
    parser.add_argument("--output", type=Path, default=Path("results/local/plants.csv"))
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results/local"), help="where the noise lies"
    )
    return parser.parse_args()


@dataclass(frozen=True, kw_only=True)
class _Bench:
    root: Path
    commit: str
    machine: Machine
    arguments: argparse.Namespace

    def run(self, part: str) -> None:
        """Run the calls of one part that have no row yet."""
        noise = self._noise()  # of a quiet machine, so before the neighbour comes
        if part == "plants":
            for plant in self._plants():
                self._call(part, plant, 1, noise)
            return
        with noisy_neighbour() if part == "busy" else nullcontext():
            for number in range(1, self.arguments.number + 1):
                self._call(part, None, number, noise)

    def _plants(self) -> Iterator[Plant]:
        cuda = self.machine.device_type == "cuda"
        known = (LEAK, LAYOUT, NORMALISATION, *((TF32,) if cuda else (BF16, WAITING)))
        yield from (plant for plant in known if self.arguments.plant in plant.name)
        # A processor that waits keeps no GPU back, and what a convolution costs there must be measured;
        # that takes a minute: only where it is asked for and not yet done.
        done = any(row.plant.startswith(SLOWER) for row in self._done("plants"))
        if cuda and self.arguments.plant in SLOWER and not done:
            with threads_exported(self.machine), tempfile.TemporaryDirectory() as folder:
                yield convolving(*_calibrated(Path(folder)))

    def _done(self, part: str) -> list[Row]:
        rows = read_rows(self.arguments.output)
        return [row for row in rows if row.part == part and row.commit == self.commit]

    def _call(self, part: str, plant: Plant | None, number: int, noise: Path) -> None:
        name = plant.name if plant else ""
        if any((row.plant, row.number) == (name, number) for row in self._done(part)):
            return
        click.echo(f"{part} {name or number} ...", err=True)
        with tempfile.TemporaryDirectory(prefix="cnnbench-plant-") as folder:
            tree = Path(folder) / "tree"
            _clone(self.root, self.commit, tree)
            for edit in plant.edits if plant else ():
                apply(edit, tree)
            results = Path(folder) / "results"
            results.mkdir()
            shutil.copy(noise, results)
            start = time.monotonic()
            said = self._gate(tree, results, plant.tests if plant else "")
        row = judged(
            said,
            part=part,
            plant=plant,
            number=number,
            commit=self.commit,
            device=self.machine.device,
            seconds=time.monotonic() - start,
        )
        click.echo(f"  {row.verdict} {row.regressed}{row.inconclusive}", err=True)
        append_row(row, self.arguments.output)

    def _noise(self) -> Path:
        """Return the file that says what identical settings differ by here, measured where there is none."""
        known: Path = self.arguments.results_dir.absolute() / NAME
        if not known.exists():
            _cnnbench(self.root, "doctor", "--noise", "--json", "--results-dir", str(known.parent))
        return known

    def _gate(self, tree: Path, results: Path, tests: str) -> dict[str, Any]:
        suite = results.parent / "suite.toml"
        suite.write_text(SUITES[self.machine.device_type], encoding="utf-8")
        options = ["--budget", self.arguments.budget, "--results-dir", str(results)]
        if not self.arguments.whole_suite:
            options += ["--suite", str(suite), "--only", tests]
        said: dict[str, Any] = json.loads(
            _cnnbench(tree, "regress", "--base", "HEAD", "--json", *options)
        )
        return said


def _cnnbench(tree: Path, *arguments: str) -> str:
    """Call the command line of `tree` and return what it printed.

    Raises:
        RuntimeError: it could not do what it was asked for.
    """
    done = subprocess.run(
        [sys.executable, "-m", "cnnbench", *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    # 1: a regression, or a problem that the doctor has found; 3: the gate could not tell.
    if done.returncode not in {0, 1, 3}:
        msg = f"cnnbench {arguments[0]} ended with status {done.returncode}"
        raise RuntimeError(msg)
    return done.stdout


def _clone(root: Path, commit: str, tree: Path) -> None:
    for command in (
        ["git", "clone", "--quiet", "--no-checkout", "--shared", str(root), str(tree)],
        ["git", "-C", str(tree), "checkout", "--quiet", "--detach", commit],
    ):
        subprocess.run(command, check=True)


def _calibrated(folder: Path) -> tuple[int, float]:
    with Forkserver() as ours, Forkserver() as theirs:
        planted, slowdown = trust.calibrate(trust.prepare((ours, theirs), folder, delta=MIN_DELTA))
    (channels,) = re.findall(r"extra=(\d+)", planted.cell.architecture)
    return int(channels), slowdown


if __name__ == "__main__":
    sys.exit(main())
