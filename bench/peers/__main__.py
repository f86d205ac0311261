"""cnnbench beside others: who is ahead, and by how much, on this machine.

Run by `make bench-peers`; writes results/local/peers.csv. Each comparison runs pairs of fresh processes that
take turns window by window, so that what disturbs the machine hits both. `--only` runs some of them and
leaves the rows of the others as they are:

    bare         the training step as anyone would write it by hand, in the same process
    item         the same, with two `.item()` a step
    torchvision  a DataLoader with v2 transforms in worker processes: loading alone, and training
    timm         timm's models under its own benchmark procedure
    fabric       Lightning Fabric's step

A peer that is not installed has no row: `pip install 'cnnbench[peers]'` brings them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.figures import describe, ratio_figure, read_figures, write_figures
from bench.peers.opponents import GROUPS, described, opponents
from bench.preflight import preflight
from bench.side_by_side import by_turns
from bench.trust import job_of, words_of
from cnnbench import noise
from cnnbench.analysis.paired import compare_pairs
from cnnbench.stats import compare
from cnnbench.sweep.interleave import interleaved
from cnnbench.sweep.run import check, look
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    from bench.figures import Figure
    from bench.peers.opponents import Opponent
    from cnnbench.job import Ready
    from cnnbench.sweep.workers import Launcher

NUM_PAIRS = 8


def main() -> int:
    """Run what was asked for and write the table; return 1 where something could not be compared."""
    arguments = _arguments()
    # One processor is left to the rest of the machine, unless the user has said how many threads to take.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) - 1)))
    figures = read_figures(arguments.output)
    status = 0
    with launcher("forkserver") as workers, tempfile.TemporaryDirectory() as folder:
        environment = look(workers, "auto")
        delta = noise.delta(arguments.results_dir, environment)
        cuda = environment.device_type == "cuda"
        chosen = [one for one in opponents(cuda=cuda) if one.group in arguments.only]
        for one in chosen:
            if one.missing():
                click.echo(f"{one.name}: not measured, {one.missing()} is not installed", err=True)
                continue
            cell = one.cell
            asked = preflight(
                cell.architecture, cell.dataset, folder, image_size=cell.recipe.image_size
            )
            ready = check(workers, asked)
            try:
                fresh = _compare(one, workers, ready, num_pairs=arguments.pairs, delta=delta)
            except (
                RuntimeError,
                subprocess.CalledProcessError,
            ) as error:  # the others can be measured all the same
                click.echo(f"{one.name}: not measured: {error}", err=True)
                status = 1
                continue
            click.echo(describe(fresh))
            figures = [old for old in figures if old.name != fresh.name] + [fresh]
            write_figures(figures, arguments.output)
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("results/local/peers.csv"))
    parser.add_argument("--results-dir", type=Path, default=Path("results/local"))
    parser.add_argument("--only", type=_groups, default=GROUPS, metavar=",".join(GROUPS))
    parser.add_argument("--pairs", type=_enough, default=NUM_PAIRS, help="of processes, each")
    return parser.parse_args()


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in GROUPS:
            msg = f"unknown peer {name!r}. There are: {', '.join(GROUPS)}."
            raise argparse.ArgumentTypeError(msg)
    return names


def _enough(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        msg = f"{text!r} is not a whole number from 2: one pair has no interval."
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _compare(
    one: Opponent, workers: Launcher, ready: Ready, *, num_pairs: int, delta: float
) -> Figure:
    """Let the other's loop and our cell take turns, and return the ratio of their rates."""
    if one.loop == "bare":  # as near to us as can be: what two processes differ by would hide it
        found = compare(by_turns(one.cell, num_processes=num_pairs), delta=delta)
    else:
        job = replace(job_of(ready, one.cell), workload=one.workload)
        runs = interleaved(
            (one.launcher(), workers), (job, job), ready.environment, num_pairs=num_pairs
        )
        found = compare_pairs(list(runs), delta=delta)
    click.echo(f"  {described(one)}: {words_of(found)}", err=True)
    return ratio_figure(
        one.name, described(one), found, device=ready.environment.device, at_least=one.target
    )


if __name__ == "__main__":
    sys.exit(main())
