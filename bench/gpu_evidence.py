"""Everything that needs a GPU, in stages that end within minutes and can be resumed.

Run by `make gpu-evidence`; `DEVICE=cpu` rehearses it with the quick profile. The stages, the most
valuable first:

    tests     the GPU-marked tests
    doctor    what this machine can measure, and its noise
    sweep     the `gpu` profile, whose trained cells come first
    baseline  the gate's suite, accepted as this machine's baseline
    harness   what cnnbench itself costs on this machine, and a bare loop beside it
    trust     A/A and A/B comparisons, a few of each
    plants    planted regressions, TF32 under fp32 among them; without a git checkout it is left out
    peers     the training step beside those of others
    speedrun  the profile `speedrun`: time to 94 % on CIFAR-10; on a CPU it is left out
    studies   the documented advice, judged: as many seeds as fit into the stage's time

Each stage writes small files to results/reference/<device>/ and packs them, with what a resumed sweep
needs, into one archive; `--resume ARCHIVE` takes an earlier one back. A stage that runs out of its time
is ended by SIGTERM: nothing finished is lost, and the next call goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cnnbench import results
from cnnbench.errors import StoreError
from cnnbench.regress.revision import checkout
from cnnbench.report.tables import markdown_table
from cnnbench.sweep.run import look
from cnnbench.sweep.workers import launcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.environment import Environment

STAGES = (
    *("tests", "doctor", "sweep", "baseline", "harness", "trust"),
    *("plants", "peers", "speedrun", "studies"),
)
# In the time of a stage; on a machine of one's own, `make bench-harness` runs 20.
NUM_COMPARISONS = 4
LIMIT_SECONDS = 480.0
GRACE_SECONDS = 60.0
# For the last cell, and for the pages that are written when the budget is used up.
STUDIES_RESERVE_SECONDS = 90.0
# For trying the models, and for the first process of each test, which no budget cuts off.
BASELINE_RESERVE_SECONDS = 240.0
PLANT_BUDGET = "90s"
RESULTS = Path("results/local")
REFERENCE = Path("results/reference")
KEPT = ("cells.csv", "environment.json", "journal.jsonl")


def main() -> int:
    """Run the stages asked for and return the exit status: 0, or 1 when one of them failed."""
    arguments = _parse()
    if arguments.resume:
        _unpack(arguments.resume)
    with launcher("forkserver") as workers:
        environment = look(workers, arguments.device)
    folder = REFERENCE / environment.slug
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for stage in arguments.stage or STAGES:
        click.echo(f"== {stage} on {environment.device}", err=True)
        if not _STAGES[stage](environment, folder, arguments):
            failed.append(stage)
        _pack(folder, arguments.archive)
    click.echo(f"evidence: {folder}, packed in {arguments.archive}", err=True)
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stage", action="append", choices=STAGES, help="default: all, in order")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for a stage")
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path, help="where the data set lies")
    parser.add_argument("--archive", type=Path, default=Path("build/gpu-evidence.tar.gz"))
    parser.add_argument("--resume", type=Path, help="an earlier archive")
    return parser.parse_args()


def _tests(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """Run the GPU tests; on a CPU they are all skipped, each with its reason."""
    del environment
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    status, text = _run(command, arguments.limit)
    (folder / "gpu-tests.txt").write_text(text, encoding="utf-8")
    return status == 0


def _doctor(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """Examine the machine; what it finds wrong is evidence, and no failure of the stage."""
    del environment
    command = [sys.executable, "-m", "cnnbench", "doctor", "--noise", "--device", arguments.device]
    status, text = _run([*command, "--results-dir", str(RESULTS)], arguments.limit)
    (folder / "doctor.txt").write_text(text, encoding="utf-8")
    noise = RESULTS / "noise.json"
    if noise.exists():
        shutil.copy(noise, folder / noise.name)
    return status in {0, 1}


def _sweep(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """Run or resume the sweep; interrupted by the time limit it has not failed."""
    cuda = environment.device_type == "cuda"
    command = [sys.executable, "-m", "cnnbench", "run", "--device", arguments.device]
    command += ["--profile", "gpu" if cuda else "quick", "--no-download"]
    command += ["--results-dir", str(RESULTS)]
    if arguments.data_dir:
        command += ["--data-dir", str(arguments.data_dir)]
    if cuda:
        command += ["--dataset", arguments.dataset]
    if importlib.util.find_spec("mlflow") is None:
        command += ["--tracking-uri", "none"]
    status, text = _run(command, arguments.limit)
    (folder / "sweep.txt").write_text(text, encoding="utf-8")
    with contextlib.suppress(StoreError):  # interrupted before the first cell
        sweep = results.latest_sweep(RESULTS)
        results.write_report(sweep)
        _keep(sweep, folder)
    return status in {0, 128 + signal.SIGTERM}


def _keep(sweep: Path, folder: Path) -> None:
    """Copy what a reader wants of a sweep: the cells, the environment, the table, the figures."""
    for name in KEPT:
        shutil.copy(sweep / name, folder / name)
    for figure in sorted((sweep / "report").glob("*.png")):
        shutil.copy(figure, folder / figure.name)
    (folder / "comparison.md").write_text(markdown_table(results.load(sweep)), encoding="utf-8")


def _baseline(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """Measure the gate's suite and accept it; processes that do not fit into the time are left out."""
    del environment
    options = ["--device", arguments.device, "--results-dir", str(RESULTS)]
    budget = f"{max(1.0, arguments.limit - BASELINE_RESERVE_SECONDS):.0f}s"
    command = [sys.executable, "-m", "cnnbench", "regress", "--no-compare", "--budget", budget]
    status, _ = _run([*command, *options], arguments.limit)
    if status != 0:
        return False
    status, text = _run([sys.executable, "-m", "cnnbench", "accept", *options], arguments.limit)
    (folder / "baseline.txt").write_text(text, encoding="utf-8")
    for baseline in RESULTS.glob("baselines/*/*.json"):
        shutil.copy(baseline, folder / "baseline.json")
    return status == 0


def _plants(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """See that the gate finds what is planted; the calls that are left are made by the next call."""
    del environment
    if checkout() is None:
        click.echo("plants are set in a clone, and this is no git checkout: left out", err=True)
        return True
    command = [sys.executable, "-m", "bench.plants", "--only", "plants", "--budget", PLANT_BUDGET]
    status, _ = _run([*command, "--output", str(folder / "plants.csv")], arguments.limit)
    return status in {0, 128 + signal.SIGTERM}


def _harness(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    del environment
    if importlib.util.find_spec("mlflow") is None:
        click.echo("the harness measures MLflow too, which is not installed: left out", err=True)
        return True
    return _measure_harness(folder, arguments, "--only", "cost", "--only", "bare")


def _trust(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    del environment
    number = str(NUM_COMPARISONS)
    return _measure_harness(
        folder, arguments, "--only", "aa", "--only", "ab", "--comparisons", number
    )


def _peers(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """Measure beside others; a peer that is not installed is named, and no failure."""
    del environment
    command = [sys.executable, "-m", "bench.peers", "--output", str(folder / "peers.csv")]
    status, _ = _run([*command, "--results-dir", str(RESULTS)], arguments.limit)
    return status == 0


def _speedrun(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """Train to the target within the stage's time; seeds that are left are run by the next call."""
    if environment.device_type != "cuda":
        click.echo("the speedrun is for a GPU: left out", err=True)
        return True
    command = [sys.executable, "-m", "cnnbench", "run", "--profile", "speedrun", "--no-download"]
    command += ["--device", arguments.device, "--results-dir", str(RESULTS)]
    if arguments.data_dir:
        command += ["--data-dir", str(arguments.data_dir)]
    if importlib.util.find_spec("mlflow") is None:
        command += ["--tracking-uri", "none"]
    status, text = _run(command, arguments.limit)
    (folder / "speedrun.txt").write_text(text, encoding="utf-8")
    return status in {0, 128 + signal.SIGTERM}


def _studies(environment: Environment, folder: Path, arguments: argparse.Namespace) -> bool:
    """Judge the advice within the stage's time; open verdicts are evidence, and no failure."""
    del environment
    command = [sys.executable, "-m", "cnnbench", "study", "--all", "--device", arguments.device]
    command += ["--no-download", "--results-dir", str(RESULTS)]
    command += ["--budget", f"{arguments.limit - STUDIES_RESERVE_SECONDS:.0f}s"]
    if arguments.data_dir:
        command += ["--data-dir", str(arguments.data_dir)]
    if importlib.util.find_spec("mlflow") is None:
        command += ["--tracking-uri", "none"]
    status, text = _run(command, arguments.limit)
    (folder / "studies.txt").write_text(text, encoding="utf-8")
    for pages in sorted(RESULTS.glob("studies-*/studies"))[-1:]:
        shutil.copytree(pages, folder / "studies", dirs_exist_ok=True)
        for name in ("cells.csv", "environment.json", "journal.jsonl"):
            shutil.copy(pages.parent / name, folder / "studies" / name)
    # 3 is a verdict that is still open.
    return status in {0, 3, 128 + signal.SIGTERM}


def _measure_harness(folder: Path, arguments: argparse.Namespace, *options: str) -> bool:
    output = str(folder / "harness.csv")
    command = [sys.executable, "-m", "bench.harness", "--output", output, *options]
    status, _ = _run(command, arguments.limit)
    return status == 0


_STAGES = {
    "tests": _tests,
    "doctor": _doctor,
    "sweep": _sweep,
    "baseline": _baseline,
    "harness": _harness,
    "trust": _trust,
    "plants": _plants,
    "peers": _peers,
    "speedrun": _speedrun,
    "studies": _studies,
}


def _run(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run `command`, its output shown and returned; interrupt it when its time is over."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        output.seek(0)
        text = output.read()
    click.echo(text, err=True)
    return process.returncode, text


def _pack(folder: Path, archive: Path) -> None:
    """Pack the evidence, and the journals that a resumed sweep starts from."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder)
        for sweep in sorted(RESULTS.glob("*/journal.jsonl")):
            tar.add(sweep)
            tar.add(sweep.with_name("environment.json"))


def _unpack(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(filter="data")


if __name__ == "__main__":
    sys.exit(main())
