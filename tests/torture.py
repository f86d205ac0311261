"""Kills sweeps and their workers, at chosen moments and at random ones, and checks that nothing is lost.

`python tests/torture.py` kills the parent 25 times and a worker 25 times; `--points` does one of each
chosen moment. After each kill no process may be left, and the same command must go on to the end: then
each cell is in the journal once, MLflow equals the journal, and no run is left RUNNING.

This process imports everything and does nothing but fork, so that a sweep starts in no time: what it
kills are its children. Two things are left out of them that take seconds and hold no risk: the machine's
peaks, and the report's figures.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# A second thread in this process would not be there in its forks.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MLFLOW_DISABLE_TELEMETRY="true")

# The imports below must find that.
from cnnbench import cli
from cnnbench.record import METRIC_COLUMNS
from cnnbench.results import load
from cnnbench.sweep import server
from cnnbench.sweep.journal import NAME
from cnnbench.tracking import open_store
from processes import descendants
from torture_forks import Forked, dying, patch_always
from torture_points import PARENT_POINTS, PATIENCE_SECONDS, WORKER_POINTS, Victim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

NUM_KILLS = 25
RESULTS = Path("results/local")
PROFILE = """
description = "Three cells that take no time"
[recipe]
epochs = 0
[timing]
window_seconds = 0.005
min_windows = 3
max_windows = 3
limit_seconds = 0.2
warmup_steps = 1
[[grid]]
architecture = "simple_cnn(width=4)"
batch_size = [16, 32, 64]
"""
_PR_SET_CHILD_SUBREAPER = 36


class LostError(Exception):
    """Something was lost, or left behind."""


def fail(what: str) -> NoReturn:
    raise LostError(what)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@dataclass(frozen=True, kw_only=True)
class Torture:
    """A folder with a store, in which each round runs, kills and resumes a sweep of its own."""

    folder: Path

    def start(self, seed: int, *options: str, point: Callable[[], None] | None = None) -> Forked:
        """Start the sweep of `seed` in a fork, armed with `point`."""
        pid = os.fork()
        if pid:
            return Forked(pid)
        with dying():
            os.setsid()
            os.chdir(self.folder)
            log = os.open("torture.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            patch_always()
            Victim.parent = os.getpid()
            if point is not None:
                point()
            sys.argv = ["cnnbench", "run", "--profile", "torture.toml", "--seed", str(seed)]
            sys.argv += options
            cli.main()
        raise AssertionError

    def resume_and_check(self, seed: int, *, num_failures: int | None) -> None:
        """Go on with the sweep and compare what came of it; `None`: failures may be recorded."""
        status = self.start(seed, "--retry-failed").wait()
        if status:
            fail(f"the resumed sweep ended with status {status}")
        expect_no_process()
        checker = os.fork()
        if checker == 0:
            with dying():
                check(self.folder, seed, num_failures=num_failures)
        if Forked(checker).wait():
            fail("journal and MLflow are not as they should be")

    def kill_parent_at(self, point: Callable[[], None], seed: int) -> None:
        status = self.start(seed, point=point).wait()
        if status != -signal.SIGKILL:
            fail(f"the point was not reached: status {status}")
        expect_no_process()
        self.resume_and_check(seed, num_failures=0)

    def kill_parent_after(self, seconds: float, seed: int) -> None:
        sweep = self.start(seed)
        time.sleep(seconds)
        sweep.kill()
        sweep.wait()
        expect_no_process()
        self.resume_and_check(seed, num_failures=0)

    def kill_worker_at(self, point: Callable[[], None], seed: int) -> None:
        status = self.start(seed, point=point).wait()
        if status != 1:
            fail(f"a sweep with a killed worker ended with status {status}, not 1")
        expect_no_process()
        self.resume_and_check(seed, num_failures=1)

    def kill_worker_after(self, seconds: float, seed: int) -> None:
        """Kill the worker that runs after `seconds`, or the first to start after that."""
        sweep = self.start(seed)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or not (found := grandchildren(sweep.pid)):
            if os.waitid(os.P_PID, sweep.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break  # too late: the sweep had ended
            time.sleep(0.001)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pop(), signal.SIGKILL)
        sweep.wait()
        expect_no_process()
        self.resume_and_check(seed, num_failures=None)


def grandchildren(pid: int) -> set[int]:
    """Return the processes under the children of `pid`: the workers."""
    with contextlib.suppress(OSError):
        below = descendants(pid)
        return {one for one in below if one not in _children(pid)}
    return set()


def _children(pid: int) -> set[int]:
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def expect_no_process() -> None:
    """Wait until no process is left: whose parent has died becomes a child of this one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            left = sorted(descendants(os.getpid()))
            fail(f"processes {left} are left {PATIENCE_SECONDS:.0f} s after the kill")
        if not pid:
            time.sleep(0.005)


def check(folder: Path, seed: int, *, num_failures: int | None) -> None:
    """Compare the journal of the sweep of `seed` with what it should hold, and with MLflow."""
    (sweep,) = {
        path.parent
        for path in (folder / RESULTS).glob(f"*/{NAME}")
        if any(record.cell.seed == seed for record in load(path.parent))
    }
    records = list(load(sweep))
    assert [record.status for record in records] == ["completed"] * 3, records
    lines = (sweep / NAME).read_bytes().splitlines()
    if num_failures is not None:
        assert len(lines) == 3 + num_failures, len(lines)
    assert sum(b'"status":"completed"' in line for line in lines) == 3
    os.chdir(folder)
    tracker = open_store(None, RESULTS, create=False)
    (experiment,) = tracker.client.search_experiments(filter_string="name LIKE 'cnnbench/%'")
    runs = list(tracker.client.search_runs([experiment.experiment_id], max_results=1000))
    tracker.close()
    running = [run.info.run_name for run in runs if run.info.status == "RUNNING"]
    assert not running, running
    ours = [run for run in runs if run.data.tags.get("sweep_id") == sweep.name]
    kinds = Counter(run.data.tags["kind"] for run in ours)
    assert (kinds["cell"], kinds["sweep"]) == (3, 1), kinds
    logged = {run.data.tags["cell_hash"]: run for run in ours if run.data.tags["kind"] == "cell"}
    for record in records:
        run = logged[record.cell_hash]
        row = record.row()
        assert run.info.status == "FINISHED", run.info
        assert run.info.start_time == round(record.started_at * 1000)
        known = {name: row[name] for name in METRIC_COLUMNS if row[name] is not None}
        assert {name: run.data.metrics[name] for name in known} == known
        assert run.data.params["batch_size"] == str(record.cell.batch_size)


def rounds(
    torture: Torture, arguments: argparse.Namespace, seconds: float
) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Yield what to do, by its name; `seconds` is what an undisturbed sweep takes."""
    chance = random.Random(arguments.seed)  # noqa: S311 (moments, no secrets)
    num_parents = len(PARENT_POINTS) if arguments.points else arguments.parents
    num_workers = len(WORKER_POINTS) if arguments.points else arguments.workers
    for name, point in list(PARENT_POINTS.items())[:num_parents]:
        yield f"parent {name}", partial(torture.kill_parent_at, point)
    for _ in range(num_parents - len(PARENT_POINTS)):
        delay = chance.uniform(0, seconds)
        yield f"parent after {delay:.3f} s", partial(torture.kill_parent_after, delay)
    for name, point in list(WORKER_POINTS.items())[:num_workers]:
        yield f"worker {name}", partial(torture.kill_worker_at, point)
    for _ in range(num_workers - len(WORKER_POINTS)):
        delay = chance.uniform(0, seconds)
        yield f"worker after {delay:.3f} s", partial(torture.kill_worker_after, delay)


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Do all rounds and say what came of each; return how many failed."""
    (folder / "torture.toml").write_text(PROFILE)
    torture = Torture(folder=folder)
    seconds = []
    for seed in (0, 1):  # the first also makes the store and prepares the data
        started = time.monotonic()
        status = torture.start(seed).wait()
        seconds.append(time.monotonic() - started)
        if status:
            say(f"the undisturbed sweep ended with status {status}: see {folder}/torture.log")
            return 1
    say(f"an undisturbed sweep of 3 cells: {seconds[1]:.2f} s")
    part, num_parts = map(int, arguments.part.split("/"))
    chosen = list(enumerate(rounds(torture, arguments, seconds[1]), start=2))[part - 1 :: num_parts]
    num_failed = 0
    for seed, (name, work) in chosen:
        started, result = time.monotonic(), "nothing lost"
        try:
            work(seed)
        except (LostError, subprocess.TimeoutExpired) as error:
            result = f"FAILED: {error}"
            num_failed += 1
            for pid in descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            expect_no_process()
        say(f"{seed - 1:3} {name:36} {result} ({time.monotonic() - started:.1f} s)")
    say(f"{len(chosen)} kills, {num_failed} failed")
    return num_failed


def main(given: Sequence[str] | None = None) -> int:
    """Read the command line, torture, and return an exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", action="store_true", help="one kill of each chosen moment")
    parser.add_argument("--parents", type=int, default=NUM_KILLS, help="kills of the parent")
    parser.add_argument("--workers", type=int, default=NUM_KILLS, help="kills of a worker")
    parser.add_argument("--part", default="1/1", help="1/3: the first, fourth, seventh ... kill")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args(given)
    for name in ("cnnbench.analysis.frame", *server.PRELOADED):
        importlib.import_module(name)
    # pyarrow's allocator has a thread that tidies up; nobody waits for it.
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    if threading.active_count() > 1 or len(threads - {"jemalloc_bg_thd"}) > 1:
        sys.exit(f"this process has other threads and may not fork: {threads}")
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        os.environ["HOME"] = folder
        status = int(run(arguments, Path(folder)) > 0)
        if status:
            sys.stderr.write((Path(folder) / "torture.log").read_text()[-20000:])
        return status


if __name__ == "__main__":
    sys.exit(main())
