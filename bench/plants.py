"""Regressions planted on purpose: whether the gate finds each by the right verdict, and cries no wolf.

Run by `make bench-regress`; adds a row a call of the gate to results/local/plants.csv, and leaves out
what stands there already for this commit: an interrupted run goes on. `--only` runs one of its parts:

    plants      each planted regression, against the commit without it
    unchanged   the commit against itself, which must pass every time
    busy        the same beside a noisy neighbour: at worst inconclusive

The commit is cloned into a temporary folder, the plant edits the clone's files, and the clone's own
`cnnbench regress --base HEAD` judges it, as it would in a review. The unchanged commit is judged by the
machine's noise floor, measured with `cnnbench doctor --noise` before the first call (some minutes); an
edited tree is another environment, for which none is known, and judged by 2 %.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench import trust
from bench.neighbour import noisy_neighbour
from cnnbench.noise import NAME
from cnnbench.regress.machine import this_machine, threads_exported
from cnnbench.regress.revision import checkout, state
from cnnbench.stats import MIN_DELTA
from cnnbench.sweep.workers import Forkserver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnnbench.regress.machine import Machine

NUM_UNCHANGED = 20
BUDGET = "15m"
PARTS = ("plants", "unchanged", "busy")
TIMED, TRAINED = "training/", "accuracy/"

SUITES = {
    "cpu": """
[recipe]
weights = "none"
[timing]
min_windows = 8
max_windows = 8
limit_seconds = 2.0
warmup_steps = 3
[[training]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "bench.planted:SlowedResNet(width=32,depth=1)"
batch_size = 16
memory_format = "channels_last"
[[inference]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "mbconv_net(width=0.25,depth=0.25)"
precision = "bf16"
batch_size = 64
memory_format = "channels_last"
[[accuracy]]
dataset = "digits"
architecture = "simple_cnn"
batch_size = 64
recipe = { epochs = 2, image_size = 16 }
""",
    "cuda": """
[recipe]
weights = "none"
[timing]
min_windows = 8
max_windows = 8
limit_seconds = 4.0
[[training]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "bench.planted:SlowedResNet(width=64,depth=2)"
precision = ["fp32", "bf16"]
batch_size = 256
memory_format = "channels_last"
[[inference]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "mbconv_net"
precision = "bf16"
batch_size = 256
memory_format = "channels_last"
[[accuracy]]
dataset = "digits"
architecture = "simple_cnn"
batch_size = 64
recipe = { epochs = 2, image_size = 16 }
""",
}


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A text that stands once in a file of the tree, and what takes its place."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A regression: the edits that make it, the tests that show it, and the measures that may tell."""

    name: str
    edits: tuple[Edit, ...]
    tests: str
    measures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One call of the gate, and what was expected of it."""

    part: str
    plant: str
    number: int
    commit: str
    device: str
    delta: float
    expected: str
    verdict: str
    regressed: str
    inconclusive: str
    seconds: float
    as_expected: bool


LEAK = Plant(
    name="a leak of 32 MiB",
    edits=(
        Edit(
            path="cnnbench/training/step.py",
            old="        self.num_attempts = 0\n",
            new="        self.num_attempts = 0\n"
            "        self.kept = torch.ones(2**23, device=device)\n",
        ),
    ),
    tests=TIMED,
    measures=("allocated memory", "process memory"),
)
LAYOUT = Plant(
    name="channels_last lost",
    edits=(
        Edit(
            path="cnnbench/setup.py",
            old="        memory_format = MEMORY_FORMATS[cell.memory_format]\n",
            new="        memory_format = torch.contiguous_format\n",
        ),
        Edit(
            path="cnnbench/setup.py",
            old='channels_last=self.cell.memory_format == "channels_last"',
            new="channels_last=False",
        ),
    ),
    tests=TIMED,
    measures=("throughput",),
)
BF16 = Plant(
    name="a bf16 cast under fp32",
    edits=(
        Edit(
            path="cnnbench/precision.py",
            old="            return nullcontext()\n",
            new="            return torch.autocast(device.type, dtype=torch.bfloat16)\n",
        ),
    ),
    tests="fp32",
    measures=("precision",),
)
TF32 = Plant(
    name="TF32 switched on under fp32",
    edits=(
        Edit(
            path="cnnbench/precision.py",
            old="allow_tf32: ClassVar[bool] = False",
            new="allow_tf32: ClassVar[bool] = True",
        ),
    ),
    tests="fp32",
    measures=("precision",),
)
NORMALISATION = Plant(
    name="lower accuracy: images divided by 255 twice",
    edits=(
        Edit(
            path="cnnbench/data/device_loader.py",
            old="    scale = [1 / (_MAX_GREY * std)",
            new="    scale = [1 / (_MAX_GREY**2 * std)",
        ),
    ),
    tests=TRAINED,
    measures=("accuracy",),
)
SLOWER = "a step slower by"
# By construction, not by measurement: it waits for a twentieth of the time that it computed.
WAITING = Plant(
    name=f"{SLOWER} 5.0%",
    edits=(
        Edit(
            path="cnnbench/training/step.py",
            old="        loss, logits = self._compute(images, labels)\n        tally.add",
            new="        from time import perf_counter\n"
            "        begin = perf_counter()\n"
            "        loss, logits = self._compute(images, labels)\n"
            "        end = perf_counter()\n"
            "        while perf_counter() < end + (end - begin) / 20:\n"
            "            pass\n"
            "        tally.add",
        ),
    ),
    tests=TIMED,
    measures=("throughput",),
)


def convolving(channels: int, slowdown: float) -> Plant:
    """Return the plant of a convolution more, whose cost was measured in this session."""
    return Plant(
        name=f"{SLOWER} {slowdown:.1%}",
        edits=(
            Edit(
                path="bench/planted.py",
                old="extra: int = 0\n",
                new=f"extra: int = {channels}\n",
            ),
        ),
        tests=TIMED,
        measures=("throughput",),
    )


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
    return parser.parse_args()


@dataclass(frozen=True, kw_only=True)
class _Bench:
    root: Path
    commit: str
    machine: Machine
    arguments: argparse.Namespace

    def run(self, part: str) -> None:
        """Run the calls of one part that have no row yet."""
        if part == "plants":
            for plant in self._plants():
                self._call(part, plant, 1)
            return
        around = noisy_neighbour() if part == "busy" else nullcontext()
        with around:
            for number in range(1, self.arguments.number + 1):
                self._call(part, None, number)

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

    def _call(self, part: str, plant: Plant | None, number: int) -> None:
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
            if plant is None:
                self._know_the_noise(tree, results)
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

    def _know_the_noise(self, tree: Path, results: Path) -> None:
        """Put into `results` what identical settings differ by here, measured once for a commit."""
        known = self.arguments.output.parent / f"plants-{self.commit[:12]}" / NAME
        if not known.exists():
            _cnnbench(tree, "doctor", "--noise", "--json", "--results-dir", str(known.parent))
        results.mkdir(parents=True, exist_ok=True)
        shutil.copy(known, results)

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


def apply(edit: Edit, tree: Path) -> None:
    """Make an edit in a tree.

    Raises:
        ValueError: the text does not stand there exactly once: the plant has to follow the code.
    """
    path = tree / edit.path
    text = path.read_text(encoding="utf-8")
    if text.count(edit.old) != 1:
        msg = f"{edit.path} holds {text.count(edit.old)} times: {edit.old!r}"
        raise ValueError(msg)
    path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def _calibrated(folder: Path) -> tuple[int, float]:
    with Forkserver() as ours, Forkserver() as theirs:
        planted, slowdown = trust.calibrate(trust.prepare((ours, theirs), folder, delta=MIN_DELTA))
    (channels,) = re.findall(r"extra=(\d+)", planted.cell.architecture)
    return int(channels), slowdown


def judged(said: dict[str, Any], *, plant: Plant | None, **known: Any) -> Row:
    """Return the row of what the gate has said: a plant must be found, an unchanged tree must pass."""
    by_verdict = {
        verdict: sorted({f["measure"] for f in said["findings"] if f["verdict"] == verdict})
        for verdict in ("regressed", "inconclusive")
    }
    if plant is not None:
        expected = " or ".join(plant.measures)
        right = bool(set(by_verdict["regressed"]) & set(plant.measures))
    elif known["part"] == "busy":
        expected, right = "no regression", said["verdict"] != "regressed"
    else:
        expected, right = "no regression", said["verdict"] in {"same", "improved"}
    return Row(
        delta=said["delta"],
        plant=plant.name if plant else "",
        expected=expected,
        verdict=said["verdict"],
        regressed=", ".join(by_verdict["regressed"]),
        inconclusive=", ".join(by_verdict["inconclusive"]),
        as_expected=right,
        **known,
    )


def read_rows(path: Path) -> list[Row]:
    """Return the calls that earlier runs have made."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(values) for values in csv.DictReader(file)]


def _row(values: dict[str, str]) -> Row:
    kinds: dict[str, Callable[[str], Any]] = {
        "number": int,
        "delta": float,
        "seconds": float,
        "as_expected": lambda text: text == "True",
    }
    return Row(**{name: kinds.get(name, str)(value) for name, value in values.items()})


def append_row(row: Row, path: Path) -> None:
    """Add a call to the file at once: what was measured is not lost with what follows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the rows as a table of Markdown: a line a plant, and the counts of the unchanged tree."""
    yield "| what | expected | found | calls | seconds a call | δ |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        if row.part == "plants":
            found = row.regressed or row.verdict
            yield f"| {row.plant} | {row.expected} | {found} | {_costs([row])} |"
    for part, what in (("unchanged", "nothing"), ("busy", "nothing, beside a noisy neighbour")):
        own = [row for row in rows if row.part == part]
        if own:
            counts = Counter(row.verdict for row in own)
            found = ", ".join(f"`{verdict}` {number}" for verdict, number in counts.most_common())
            yield f"| {what} | {own[0].expected} | {found} | {_costs(own)} |"


def _costs(rows: list[Row]) -> str:
    seconds = statistics.median(row.seconds for row in rows)
    return f"{len(rows)} | {seconds:.0f} | {max(row.delta for row in rows):.1%}"


if __name__ == "__main__":
    sys.exit(main())
