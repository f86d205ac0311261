"""Whether cnnbench's numbers may be believed: A/A and A/B comparisons, and a loop written by hand.

- A/A: two identical settings. A verdict other than `same` is a false alarm if it names a difference,
  and no rigour if it never decides.
- A/B: one of the two has a convolution more, chosen in this session to cost about 5 % of a step.
- both again beside a neighbour that computes in bursts.
- the harness's images per second over those of a bare loop with the same step.

Run by `make bench-harness ARGS="--only aa"`, `ab`, `aa-busy`, `ab-busy` or `bare`.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING

import click

from bench.figures import Figure, count_figure, ratio_figure
from bench.neighbour import noisy_neighbour
from bench.preflight import preflight
from bench.side_by_side import by_turns
from cnnbench.analysis.paired import compare_until_decided
from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.job import CellJob
from cnnbench.noise import CPU_CELL, CUDA_CELL
from cnnbench.session import device_of
from cnnbench.stats import Comparison, compare
from cnnbench.sweep.interleave import interleaved
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.run import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.sweep.workers import Launcher

NUM_COMPARISONS = 20
MAX_PAIRS = 24
# Beside a neighbour more pairs decide little, and last long: its windows are measured again and again.
MAX_BUSY_PAIRS = 6
MIN_SAME_SHARE = 0.9
PLANTED = 0.05
# Channels of the planted convolution to choose from.
EXTRAS = range(4, 82, 2)
NUM_CALIBRATION_PAIRS = 4
# Three steps a window, also with one thread.
CPU_BATCH_SIZE = 16
NUM_BARE_PROCESSES = 8
MAX_BARE_DIFFERENCE = 0.03
BARE_LOOPS = (
    ("simple_cnn", "fp32", 64),
    ("simple_cnn", "bf16", 64),
    ("resnet(width=16,depth=1)", "fp32", 64),
    ("resnet(width=16,depth=1)", "bf16", 64),
)
# A disturbed window is measured again for as long as the timed ones may take: short, or a neighbour
# that never rests would make this last for hours.
TIMING = Timing(min_windows=12, max_windows=12, limit_seconds=3.0, warmup_steps=3)
BUSY_TIMING = replace(TIMING, limit_seconds=1.0)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the comparisons run on."""

    workers: tuple[Launcher, Launcher]
    ready: Ready
    baseline: CellJob
    delta: float
    busy: bool
    folder: Path

    @property
    def device(self) -> str:
        """Return the device's name."""
        return self.ready.environment.device

    def with_extra(self, channels: int) -> CellJob:
        """Return the job of the baseline with a convolution of so many channels more."""
        cell = self.baseline.cell
        architecture = cell.architecture.replace(")", f",extra={channels})")
        return replace(self.baseline, cell=replace(cell, architecture=architecture))


def identical(bench: Bench, *, number: int) -> list[Figure]:
    """Return how often each verdict came in `number` comparisons of A/A.

    Half a minute to a minute a comparison on two processors, up to three times that beside a neighbour.
    """
    with noisy_neighbour() if bench.busy else nullcontext():
        found = [_compare(bench, bench.baseline, f"A/A {n + 1}", seed=n) for n in range(number)]
    around, workload = _surroundings(bench)
    count = partial(count_figure, workload=workload, device=bench.device, total=number)
    return [
        count(
            f"aa_{around}_false_alarms",
            value=_count(found, "improved", "regressed"),
            at_most=0,
        ),
        count(
            f"aa_{around}_same",
            value=_count(found, "same"),
            at_least=None if bench.busy else round(MIN_SAME_SHARE * number),
        ),
    ]


def slowed(bench: Bench, *, number: int) -> list[Figure]:
    """Return how often each verdict came in `number` comparisons of A/B, B being slower by some 5 %."""
    planted, slowdown = calibrate(bench)
    click.echo(f"planted: {planted.cell.architecture}, {slowdown:.1%} slower", err=True)
    with noisy_neighbour() if bench.busy else nullcontext():
        found = [_compare(bench, planted, f"A/B {n + 1}", seed=n) for n in range(number)]
    around, workload = _surroundings(bench)
    count = partial(
        count_figure,
        workload=f"{workload}; planted: {slowdown:.1%} slower",
        device=bench.device,
        total=number,
    )
    return [
        count(
            f"ab_{around}_found",
            value=_count(found, "regressed"),
            at_least=None if bench.busy else number,
        ),
        count(
            f"ab_{around}_called_same",
            value=_count(found, "same", "improved"),
            at_most=0,
        ),
    ]


def bare_loops(bench: Bench) -> list[Figure]:
    """Return the harness's rate over a bare loop's, by setting."""
    return [_bare_loop(bench, *setting) for setting in BARE_LOOPS]


def prepare(
    workers: tuple[Launcher, Launcher], folder: Path, *, delta: float, busy: bool = False
) -> Bench:
    """Return what the comparisons run on.

    Args:
        workers: start the processes that take turns.
        folder: for files that may go.
        delta: the machine's noise floor, or 2 %.
        busy: whether to compare beside a neighbour.
    """
    asked = preflight("bench.planted:SlowedResNet", CPU_CELL.dataset, folder)
    ready = check(workers[0], asked)
    cuda = ready.environment.device_type == "cuda"
    shape = "width=64,depth=2" if cuda else "width=32,depth=1"
    cell = replace(
        CUDA_CELL if cuda else replace(CPU_CELL, batch_size=CPU_BATCH_SIZE),
        architecture=f"bench.planted:SlowedResNet({shape})",
        timing=BUSY_TIMING if busy else TIMING,
    )
    return Bench(
        workers=workers,
        ready=ready,
        baseline=job_of(ready, cell),
        delta=delta,
        busy=busy,
        folder=folder,
    )


def job_of(ready: Ready, cell: Cell) -> CellJob:
    """Return what a worker is asked to do for `cell` on the device that the preflight found."""
    environment = ready.environment
    return CellJob(
        cell=resolve(cell, ready.dataset),
        dataset=ready.dataset,
        device=device_of(environment),
        device_uuid=environment.device_uuid,
        sweep_id="bench",
        environment_hash="",
    )


def calibrate(bench: Bench) -> tuple[CellJob, float]:
    """Return the job whose convolution slows the step by the least that is at least 5 %."""

    @cache
    def slowdown(channels: int) -> float:
        pairs = _pairs(bench, bench.with_extra(channels), NUM_CALIBRATION_PAIRS, seed=channels)
        slower = statistics.median(_ratio(pair) for pair in pairs) - 1
        click.echo(f"  {channels} channels: {slower:+.1%}", err=True)
        return slower

    index = bisect_left(EXTRAS, PLANTED, key=slowdown)
    if index == len(EXTRAS):
        msg = f"no convolution of up to {EXTRAS[-1]} channels slows the step by {PLANTED:.0%}"
        raise RuntimeError(msg)
    return bench.with_extra(EXTRAS[index]), slowdown(EXTRAS[index])


def _ratio(pair: tuple[Record, Record]) -> float:
    baseline, candidate = (record.profile for record in pair)
    if baseline is None or candidate is None:
        msg = f"a cell was not timed: {pair[0].error or pair[1].error}"
        raise RuntimeError(msg)
    return candidate.median_step_seconds / baseline.median_step_seconds


def _pairs(
    bench: Bench, candidate: CellJob, number: int, *, seed: int
) -> Iterable[tuple[Record, Record]]:
    return interleaved(
        bench.workers,
        (bench.baseline, candidate),
        bench.ready.environment,
        num_pairs=number,
        interchangeable=True,
        seed=seed,
    )


def _surroundings(bench: Bench) -> tuple[str, str]:
    """Return what goes on around the comparisons, in a word, and the workload in words."""
    around = "beside a neighbour that computes in bursts" if bench.busy else "nothing else running"
    return "busy" if bench.busy else "quiet", f"{bench.baseline.cell.name}, {around}"


def _compare(bench: Bench, candidate: CellJob, name: str, *, seed: int) -> Comparison:
    runs = _pairs(bench, candidate, MAX_BUSY_PAIRS if bench.busy else MAX_PAIRS, seed=seed)
    found = compare_until_decided(runs, delta=bench.delta)
    click.echo(f"  {name}: {words_of(found)}", err=True)
    return found


def words_of(found: Comparison) -> str:
    words = f"{found.verdict} after {found.num_pairs} pairs"
    if found.ratio is None or found.low is None or found.high is None:
        return f"{words} ({found.reason})"
    return f"{words}: {found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}] {found.reason}"


def _count(found: Sequence[Comparison], *verdicts: str) -> int:
    counts = Counter(one.verdict for one in found)
    return sum(counts[verdict] for verdict in verdicts)


def _bare_loop(bench: Bench, architecture: str, precision: str, batch_size: int) -> Figure:
    """Let the harness and the loop take turns, and return the ratio of their rates."""
    cell = Cell(
        architecture=architecture,
        precision=precision,
        batch_size=batch_size,
        memory_format="channels_last",
        dataset=CPU_CELL.dataset,
        recipe=Recipe(weights="none", augmentation="none"),
    )
    found = compare(by_turns(cell, num_processes=NUM_BARE_PROCESSES), delta=bench.delta)
    name = f"{architecture}-{precision}-b{batch_size}"
    click.echo(f"  {name} over a bare loop: {words_of(found)}", err=True)
    one = ratio_figure(
        "bare_loop_ratio",
        f"{name}: the harness's images/s over a bare loop's",
        found,
        device=bench.device,
        at_least=1 - MAX_BARE_DIFFERENCE,
    )
    # Much faster than the same step by hand would be as wrong.
    return replace(one, met=abs(one.value - 1) <= MAX_BARE_DIFFERENCE)
