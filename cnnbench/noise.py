"""This machine's noise floor: what two identical settings differ by here, and so what counts as news."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from cnnbench.analysis.paired import measure_noise_floor
from cnnbench.analysis.replacing import replacing
from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.errors import StoreError, WorkerError
from cnnbench.job import CellJob, Preflight
from cnnbench.stats import MIN_DELTA, MIN_PAIRS
from cnnbench.sweep.interleave import interleaved
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.run import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cnnbench.environment import Environment
    from cnnbench.record import Record
    from cnnbench.sweep.workers import Launcher

NAME = "noise.json"
NUM_PAIRS = 10
MAX_PAIRS = 2 * NUM_PAIRS

# A middling step, bound neither by launches nor by memory, which neighbours nobody sees share; on
# generated data, so that it runs on a bare machine.
CPU_CELL = Cell(
    architecture="resnet(width=32,depth=1)",
    batch_size=32,
    memory_format="channels_last",
    dataset="synthetic(image_size=32,num_classes=10)",
    recipe=Recipe(weights="none"),
    timing=Timing(min_windows=12, max_windows=12, limit_seconds=10.0, warmup_steps=3),
)
CUDA_CELL = Cell(
    architecture="resnet",
    precision="bf16",
    batch_size=256,
    memory_format="channels_last",
    dataset="synthetic(image_size=32,num_classes=10)",
    recipe=Recipe(weights="none"),
    timing=Timing(min_windows=12, max_windows=12, limit_seconds=10.0),
)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What `doctor --noise` found: identical settings differ by up to `floor`, a fraction.

    It holds for the machine and its libraries whose hash it carries, whatever code runs there, and for a
    quiet time like that in which it was measured.
    """

    floor: float
    num_pairs: int
    cell: str
    device: str
    num_threads: int
    machine_hash: str

    @property
    def delta(self) -> float:
        """Return the difference up to which two settings count as the same."""
        return max(MIN_DELTA, self.floor)


def measure_noise(
    workers: tuple[Launcher, Launcher],
    environment: Environment,
    device: str,
    folder: Path,
    *,
    say: Callable[[str], None],
) -> Noise:
    """Run one setting against itself until enough pairs were undisturbed, and keep what came of it.

    Args:
        workers: start the processes that take turns.
        environment: what they run on.
        device: as PyTorch calls it.
        folder: the results folder; the outcome goes to `noise.json` in it.
        say: told how each pair went.

    Raises:
        WorkerError: a cell failed.
        StoreError: others used the machine all the time, or the folder cannot be written to.
    """
    baseline, _ = workers
    job = _job(baseline, environment, device, folder)
    pairs: list[tuple[Record, Record]] = []
    for pair in interleaved(
        workers, (job, job), environment, num_pairs=MAX_PAIRS, interchangeable=True
    ):
        for record in pair:
            if record.status != "completed":
                msg = f"{record.cell.name} {record.status.replace('_', ' ')}: {record.error}"
                raise WorkerError(msg)
        pairs.append(pair)
        floor = measure_noise_floor(pairs)
        so_far = "" if floor is None else f", identical settings differ by up to {floor:.1%}"
        say(f"pair {len(pairs)}{so_far}")
        if len(pairs) >= NUM_PAIRS and floor is not None:
            break
    if floor is None:
        msg = (
            f"others used the machine in all but {MIN_PAIRS - 1} of {len(pairs)} pairs or more: its"
            " noise cannot be told from theirs. Stop them, or measure later."
        )
        raise StoreError(msg)
    noise = Noise(
        floor=floor,
        num_pairs=len(pairs),
        cell=job.cell.name,
        device=environment.device,
        num_threads=environment.num_threads,
        machine_hash=environment.machine_hash,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / NAME) as path:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(noise), indent=2) + b"\n")
    return noise


def load_noise(folder: Path, environment: Environment) -> Noise | None:
    """Return what was measured on this machine with these libraries, `None` where nothing was."""
    try:
        noise = msgspec.json.decode((folder / NAME).read_bytes(), type=Noise)
    except (OSError, msgspec.DecodeError):
        return None
    return noise if noise.machine_hash == environment.machine_hash else None


def delta(folder: Path, environment: Environment) -> float:
    """Return the difference up to which two settings count as the same: 2 %, or the noise floor."""
    noise = load_noise(folder, environment)
    return noise.delta if noise else MIN_DELTA


def _job(workers: Launcher, environment: Environment, device: str, folder: Path) -> CellJob:
    cell = CUDA_CELL if environment.device_type == "cuda" else CPU_CELL
    ready = check(
        workers,
        Preflight(
            device=device,
            dataset=cell.dataset,
            data_dir=str(folder),
            cache_dir=str(folder),
            download=False,
            image_size=None,
            models=((cell.architecture, cell.recipe.weights),),
        ),
    )
    return CellJob(
        cell=resolve(cell, ready.dataset),
        dataset=ready.dataset,
        device=device,
        device_uuid=environment.device_uuid,
        sweep_id="noise",
        environment_hash=environment.hash_with(),
    )
