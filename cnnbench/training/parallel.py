"""One cell on several devices: ranks that train together, and share out data, weights or layers.

This process is rank 0. It forks the others before anything runs that would start a thread, and tells
each of them by a byte through a pipe what to do next, so that a window of timed steps is the same for
all. On a CPU the ranks are processes that share its cores (gloo); on CUDA each has a GPU (NCCL).
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from cnnbench.cell import split_parallelism
from cnnbench.errors import UnsupportedError
from cnnbench.measure.timing import Stopwatch
from cnnbench.training.parallel_limits import unsupported_reason
from cnnbench.training.step import TrainingStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from cnnbench.cell import Cell
    from cnnbench.measure.timing import Step
    from cnnbench.training.step import Tally

STEP, BARRIER = b"s", b"b"
MAX_COMPLAINT_BYTES = 4096  # what a pipe takes at once
TIMEOUT = timedelta(minutes=2)
PATIENCE_SECONDS = 5.0  # with a rank that has no more to do


@dataclass(frozen=True, kw_only=True)
class Mate:
    """Another rank, as rank 0 knows it: its process, where to send commands, where it complains."""

    rank: int
    pid: int
    commands: int
    complaints: int


@dataclass(kw_only=True)
class Team:
    """The ranks of a cell as one of them sees them; only rank 0 has `mates`.

    `kind` is `data` (each rank has all weights and a part of the batch; gradients are averaged),
    `sharded` (each rank also keeps a part of the weights, gradients and optimizer state only) or
    `pipelined` (each rank has a part of the layers, and the whole batch passes through them all).
    """

    kind: str
    size: int
    rank: int
    device: torch.device
    mates: list[Mate] = field(default_factory=list)
    commands: int = -1

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the processes of the other ranks."""
        return tuple(mate.pid for mate in self.mates)

    @property
    def num_shares(self) -> int:
        """Return how many ranks a batch is dealt out to: those of a pipeline all see the whole of it."""
        return 1 if self.kind == "pipelined" else self.size

    def batch_seed(self, seed: int) -> int:
        """Return the seed of this rank's batches, for the cell's `seed`."""
        return seed if self.kind == "pipelined" else seed + self.rank

    def join(self, store: Path) -> None:
        """Meet the other ranks, each with its share of the processors.

        Args:
            store: a file that is not there yet, the same for all.
        """
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.device)
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // self.size))
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=f"file://{store}",
            rank=self.rank,
            world_size=self.size,
            timeout=TIMEOUT,
        )

    def distribute(self, model: nn.Module) -> nn.Module:
        """Return `model` as one that trains together with those of the other ranks.

        That of a pipeline trains by its step instead (`pipeline.own_part`, `pipeline.PipelinedStep`).
        """
        if self.kind == "data":
            ids = [self.device] if self.device.type == "cuda" else None
            return DistributedDataParallel(model, device_ids=ids)
        # Imported here, for it takes a second that no other cell need wait.
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

        mesh = init_device_mesh(self.device.type, (self.size,))
        for part in _parts(model):
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def tell(self, command: bytes) -> None:
        """Have the other ranks do `command`; of another rank than 0, do nothing."""
        for mate in self.mates:
            os.write(mate.commands, command)

    def obey(self, step: Step) -> None:
        """Do what rank 0 tells, until it tells no more."""
        while command := os.read(self.commands, 1):
            if command == STEP:
                step()
            else:
                distributed.barrier()

    def barrier(self) -> None:
        """Return when every rank has finished its steps."""
        self.tell(BARRIER)
        distributed.barrier()

    def complaint(self) -> str:
        """Return what another rank has said of its end, or nothing."""
        for mate in self.mates:
            os.set_blocking(mate.complaints, False)
            with contextlib.suppress(BlockingIOError):
                text = os.read(mate.complaints, MAX_COMPLAINT_BYTES).decode(errors="replace")
                if text:
                    return f"rank {mate.rank}: {text}"
        return ""

    def disband(self, *, kill: bool) -> None:
        """End the other ranks: they leave when their commands end, or at once."""
        for mate in self.mates:
            os.close(mate.commands)
            os.close(mate.complaints)
            if kill:
                os.kill(mate.pid, signal.SIGKILL)
        if not kill:
            distributed.destroy_process_group()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for mate in self.mates:
            while os.waitpid(mate.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(mate.pid, signal.SIGKILL)
                time.sleep(0.01)


@contextlib.contextmanager
def gather(
    cell: Cell, device: torch.device, follow: Callable[[Team], None]
) -> Iterator[Team | None]:
    """Give a cell the ranks that it asks for inside the context; `None` where it is alone.

    Args:
        cell: what it is for.
        device: that of rank 0; on CUDA the next ones belong to the other ranks.
        follow: what every other rank does, in a process of its own; it ends in `Team.obey`.

    Raises:
        UnsupportedError: saying what this machine or this cell cannot do.
        RuntimeError: another rank failed, with its own words.
    """
    if cell.parallelism == "none":
        yield None
        return
    reason = unsupported_reason(cell, device)
    if reason:
        raise UnsupportedError(reason)
    kind, size = split_parallelism(cell.parallelism)
    team = Team(kind=kind, size=size, rank=0, device=device)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        is_whole = False
        try:
            for rank in range(1, size):
                team.mates.append(_fork(team, rank, store, follow))
            team.join(store)
            yield team
            is_whole = True
        except RuntimeError as error:
            # Where another rank ended first, all that rank 0 sees is a connection that broke.
            complaint = "" if isinstance(error, torch.OutOfMemoryError) else team.complaint()
            if complaint:
                raise RuntimeError(complaint) from error
            raise
        finally:
            team.disband(kill=not is_whole)


class TeamStep(TrainingStep):
    """The plain step, which the other ranks take at the same time."""

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        """Take the team beside what every step takes."""
        super().__init__(*args, **kwargs)
        self._team = team

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, tally: Tally) -> None:
        """Train on this rank's part of a batch while the others train on theirs."""
        self._team.tell(STEP)
        super().__call__(images, labels, tally)

    def run_eagerly(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train likewise, to be watched."""
        self._team.tell(STEP)
        super().run_eagerly(images, labels)


class TeamStopwatch(Stopwatch):
    """Stops when every rank has finished, not when rank 0 has."""

    def __init__(self, watch: Stopwatch, team: Team) -> None:
        """Take the device's own stopwatch."""
        self._watch = watch
        self._team = team

    def run(self, step: Step, num_steps: int) -> float:
        """Return the seconds from the first step's start to the last rank's end."""
        left = num_steps

        def counted() -> None:
            nonlocal left
            step()
            left -= 1
            if left == 0:
                self._team.barrier()

        return self._watch.run(counted, num_steps)

    def upheavals(self) -> tuple[int, ...]:
        """Return the device's own counts."""
        return self._watch.upheavals()


def _fork(team: Team, rank: int, store: Path, follow: Callable[[Team], None]) -> Mate:
    """Fork rank `rank`, whose process never returns from here."""
    commands_read, commands_write = os.pipe()
    complaints_read, complaints_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        # A copy of a pipe's write end would keep its reader waiting for ever.
        for mate in team.mates:
            os.close(mate.commands)
        os.close(commands_write)
        mate_team = Team(
            kind=team.kind,
            size=team.size,
            rank=rank,
            device=_device_of(team.device, rank),
            commands=commands_read,
        )
        status = 1
        try:
            status = _be_mate(mate_team, store, follow, complaints_write)
        finally:
            os._exit(status)
    os.close(commands_read)
    os.close(complaints_write)
    return Mate(rank=rank, pid=pid, commands=commands_write, complaints=complaints_read)


def _be_mate(team: Team, store: Path, follow: Callable[[Team], None], complaints: int) -> int:
    """Do all that rank `team.rank` does, and return its exit status."""
    try:
        team.join(store)
        follow(team)
        distributed.destroy_process_group()
    except BaseException as error:  # noqa: BLE001 (the last frame of a process: say it and end)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(complaints, text.encode()[:MAX_COMPLAINT_BYTES])
        return 1
    return 0


def _device_of(device: torch.device, rank: int) -> torch.device:
    if device.type != "cuda":
        return device
    return torch.device("cuda", ((device.index or 0) + rank) % torch.cuda.device_count())


def _parts(model: nn.Module) -> list[nn.Module]:
    """Return the parts whose weights are gathered and let go of one after the other."""
    parts = [child for child in model.children() if next(child.parameters(), None) is not None]
    return _parts(parts[0]) if len(parts) == 1 else parts
