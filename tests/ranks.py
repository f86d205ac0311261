"""Cells on two ranks, each in a fork of this process, which itself only imports: `python ranks.py`.

Prints what came of each of `CASES`, as JSON. Run by `training/test_parallel.py`.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cnnbench.cell import Cell, Recipe
from cnnbench.checkpointing import apply_checkpointing
from cnnbench.data.datasets import prepare
from cnnbench.execute import execute
from cnnbench.job import CellJob
from cnnbench.precision import precision
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.parallel import STEP, TeamStep, gather
from cnnbench.training.pipeline import PipelinedStep, own_part
from cnnbench.training.step import Tally, TrainingStep
from sample_jobs import BRIEF, UNTIMED
from sample_models import batch, build

if TYPE_CHECKING:
    from collections.abc import Callable

    from cnnbench.training.parallel import Team

CPU = torch.device("cpu")
NUM_STEPS, BATCH_SIZE = 3, 8
RECIPE = Recipe(
    image_size=16, num_classes=10, optimizer="adam", learning_rate=1e-3, augmentation="none"
)

TRAINED = replace(RECIPE, epochs=1)


def a_cell(parallelism: str, **changes: Any) -> Cell:
    settings: dict[str, Any] = {
        "architecture": "simple_cnn(width=4,hidden=16)",
        "batch_size": BATCH_SIZE,
        "parallelism": parallelism,
        "recipe": RECIPE,
        "timing": BRIEF,
        **changes,
    }
    return Cell(**settings)


def trained(cell: Cell, team: Team | None) -> torch.nn.Module:
    """Train for some steps on this rank's part of batches that depend on their number alone."""
    model = build(cell.architecture, 16)
    options: dict[str, Any] = {"precision": precision("fp32"), "device": CPU}
    start, stop = 0, BATCH_SIZE
    if team is None:
        step = TrainingStep(model, make_optimizer(model, RECIPE, CPU), **options)
    elif team.kind == "pipelined":
        example = torch.zeros(2, 3, 16, 16)
        segments, _ = apply_checkpointing(model, cell.checkpointing, example)
        model.train()
        part = own_part(model, team, example, segments, batch_size=BATCH_SIZE)
        model = part.module
        optimizer = make_optimizer(model, RECIPE, CPU)
        step = PipelinedStep(model, optimizer, part=part, team=team, **options)
    else:
        model = team.distribute(model)
        step = TeamStep(model, make_optimizer(model, RECIPE, CPU), team=team, **options)
        share = BATCH_SIZE // team.size
        start, stop = team.rank * share, (team.rank + 1) * share
    tally, numbers = Tally.on(CPU), itertools.count()

    def take() -> None:
        images, labels = batch(next(numbers), BATCH_SIZE, 16)
        step(images[start:stop], labels[start:stop], tally)

    if team is not None and team.rank:
        team.obey(take)
    else:
        for _ in range(NUM_STEPS):
            take()
    return model


def difference(parallelism: str) -> dict[str, Any]:
    """Return how far two ranks' weights are from those of one, and what part of them rank 0 keeps."""
    cell = a_cell(parallelism)

    def follow(team: Team) -> None:
        trained(cell, team)

    with gather(cell, CPU, follow) as team:
        together = trained(cell, team)
        ours: list[Any] = list(together.parameters())
    alone = list(trained(cell, None).parameters())
    differences, num_kept = [], 0
    for mine, whole in zip(ours, alone, strict=True):
        kept = mine.to_local() if hasattr(mine, "to_local") else mine
        # A shard is a part along the first dimension, and rank 0 has the first one.
        differences.append(float((kept - whole[: len(kept)]).detach().abs().max()))
        num_kept += kept.numel()
    return {
        "difference": max(differences),
        "kept": num_kept / sum(whole.numel() for whole in alone),
    }


def pipelined(architecture: str, checkpointing: str = "none") -> dict[str, Any]:
    """Return how far each rank's part is from the same weights of one alone, and its share of them."""
    cell = a_cell("pipelined-2", architecture=architecture, checkpointing=checkpointing)
    alone: dict[str, torch.Tensor] = {}
    read, write = os.pipe()

    def follow(team: Team) -> None:
        theirs = compared(trained(cell, team))
        os.write(write, json.dumps(theirs).encode())

    def compared(part: torch.nn.Module) -> dict[str, Any]:
        alone.update(alone or trained(cell, None).named_parameters())
        ours = dict(part.named_parameters())
        return {
            "names": list(ours),
            "difference": max(
                float((weight - alone[name]).detach().abs().max()) for name, weight in ours.items()
            ),
        }

    with gather(cell, CPU, follow) as team:
        first = trained(cell, team)
    os.close(write)
    last = json.loads(os.read(read, 100_000))
    return {"first": compared(first), "last": last, "whole": list(alone)}


def executed(parallelism: str, **changes: Any) -> dict[str, Any]:
    """Return the record's row of a cell that is run as a worker runs it, with notes."""
    folder = Path(tempfile.gettempdir())
    dataset = prepare(
        "synthetic(num_images=64,image_size=16)",
        data_dir=folder,
        cache_dir=folder,
        download=False,
        image_size=None,
    )
    cell = a_cell(parallelism, dataset=dataset.name, **changes)
    job = CellJob(
        cell=cell, dataset=dataset, device="cpu", sweep_id="test-0", environment_hash="e" * 16
    )
    record = execute(job, lambda _: None)
    foreign = [w.foreign_fraction for w in record.profile.windows] if record.profile else []
    return {**record.row(), "notes": record.notes, "foreign": foreign}


def failing() -> dict[str, Any]:
    """Return what rank 0 hears of another one's end."""

    def fail(_: Team) -> None:
        msg = "out of memory,\nfor one"
        raise RuntimeError(msg)

    try:
        with gather(a_cell("data-2"), CPU, fail) as team:
            assert team is not None
            team.barrier()
    except RuntimeError as error:
        return {"error": str(error)}
    return {}


def abandoned(parallelism: str, last_command: bytes) -> dict[str, Any]:
    """Kill rank 0 while another one waits for it, and return the process of that one."""
    cell = a_cell(parallelism)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:

        def follow(team: Team) -> None:
            trained(cell, team)

        with gather(cell, CPU, follow) as team:
            assert team is not None
            trained(cell, team)
            team.tell(last_command)
            os.write(write, str(team.pids[0]).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    mate = int(os.read(read, 100))
    os.waitpid(pid, 0)
    return {"pid": mate}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "data": lambda: difference("data-2"),
    "sharded": lambda: difference("sharded-2"),
    "pipelined": lambda: pipelined("simple_cnn(width=4,hidden=16)"),
    "pipelined recomputed": lambda: pipelined(
        "resnet(width=4,depth=1,normalization=none)", "block"
    ),
    "executed data": lambda: executed("data-2", recipe=TRAINED),
    "executed sharded": lambda: executed(
        "sharded-2", architecture="resnet(width=4,depth=1)", checkpointing="block"
    ),
    "executed pipelined": lambda: executed(
        "pipelined-2", architecture="resnet(width=4,depth=1)", batch_size=64
    ),
    "executed bf16": lambda: executed(
        "pipelined-2", architecture="resnet(width=4,depth=1)", batch_size=64, precision="bf16"
    ),
    "executed diverging": lambda: executed(
        "pipelined-2", recipe=replace(RECIPE, learning_rate=1e30)
    ),
    "executed in stages": lambda: executed(
        "pipelined-2",
        architecture="mbconv_net(width=0.25,depth=0.5)",
        checkpointing="stage",
        memory_format="channels_last",
    ),
    "executed uneven": lambda: executed("pipelined-2", batch_size=12),
    "executed overflowing": lambda: executed("pipelined-2", precision="fp16"),
    "executed frozen": lambda: executed("pipelined-2", architecture="transfer_resnet50"),
    "executed methods": lambda: executed("pipelined-2", checkpointing="stage"),
    "executed odd": lambda: executed("data-2", batch_size=7),
    "executed many": lambda: executed("data-999"),
    "executed compiled": lambda: executed("data-2", compile="default"),
    "executed untimed": lambda: executed("data-2", recipe=TRAINED, timing=UNTIMED),
    "executed stages": lambda: executed("sharded-2", checkpointing="stage"),
    "executed sgd": lambda: executed("sharded-2", recipe=replace(RECIPE, optimizer="sgd")),
    "executed scaled": lambda: executed("sharded-2", precision="fp16"),
    "failing": failing,
    "abandoned": lambda: abandoned("data-2", b""),
    "abandoned in a pipeline": lambda: abandoned("pipelined-2", STEP),
}


def in_a_fork(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        with os.fdopen(write, "w") as file:
            json.dump(run(), file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return dict(json.loads(text))


if __name__ == "__main__":
    json.dump({name: in_a_fork(run) for name, run in CASES.items()}, sys.stdout)
