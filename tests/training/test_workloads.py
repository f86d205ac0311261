"""What fills a window: training changes the model, inference and loading do not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from cnnbench.errors import UnknownNameError
from cnnbench.execute import execute
from cnnbench.precision import precision
from cnnbench.training.step import Tally, TrainingStep
from cnnbench.training.workloads import workload
from sample_jobs import job, tiny_cell
from sample_models import batch, build

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo

CPU = torch.device("cpu")


def counted(name: str, mode: str = "fp32") -> tuple[int, bool, int]:
    """Return batches fetched, whether weights changed, and images counted, of one step of `name`."""
    model = build("resnet(width=4,depth=1)", 8)
    before = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(model, optimizer, precision=precision(mode), device=CPU)
    fetched: list[int] = []

    def next_batch() -> tuple[torch.Tensor, torch.Tensor]:
        fetched.append(1)
        return batch(0, 4, 8)

    tally = Tally.on(CPU)
    workload(name, step, next_batch, tally, precision=precision(mode), device=CPU)()
    after = (*model.parameters(), *model.buffers())
    changed = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return len(fetched), changed, tally.num_images


@pytest.mark.parametrize(
    ("name", "expected"),
    [("training", (1, True, 4)), ("inference", (1, False, 0)), ("loading", (1, False, 0))],
)
def test_only_training_changes_weights_and_statistics(
    name: str, expected: tuple[int, bool, int]
) -> None:
    assert counted(name) == expected
    assert counted(name, "bf16") == expected


def test_repeating_trains_on_the_first_batch_for_ever() -> None:
    model = build("resnet(width=4,depth=1)", 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainingStep(model, optimizer, precision=precision("fp32"), device=CPU)
    numbers = iter(range(3))
    tally = Tally.on(CPU)
    work = workload(
        "repeating",
        step,
        lambda: batch(next(numbers), 4, 8),
        tally,
        precision=precision("fp32"),
        device=CPU,
    )
    for _ in range(3):
        work()
    assert (next(numbers), tally.num_images) == (1, 12)


def test_an_unknown_workload_is_refused_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="inference"):
        counted("inferenec")


@pytest.mark.parametrize("name", ["inference", "loading"])
def test_a_cell_times_the_workload_that_it_is_asked_for(name: str, digits: DatasetInfo) -> None:
    asked = replace(job(tiny_cell(), digits), workload=name)
    record = execute(asked, report=lambda _: None)
    assert record.status == "completed", record.error
    assert record.profile is not None
    assert len(record.profile.windows) == 3
    assert record.memory is not None
    assert record.memory.peak_allocated_bytes
