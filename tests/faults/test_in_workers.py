"""What may go wrong inside a worker is the end of its cell, with its reason, and of nothing else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from cnnbench.errors import CheckError, InvalidValueError
from cnnbench.forecast import Question, Setting
from cnnbench.sweep.journal import NAME, Journal, read_journal
from cnnbench.sweep.run import check
from cnnbench.sweep.workers import launcher
from processes import descendants, wait_until_ended
from shop import Shop, preflight

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE = "models_that_fail"
MODELS = """
import gc, os, signal, socket, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, error=""):
        super().__init__()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
        self.error, self.steps = error, 0

    def forward(self, images):
        self.steps += self.training
        if self.error and self.steps > 3:
            kind, _, text = self.error.partition(": ")
            raise getattr(torch, kind)(text)
        return self.head(images)

def net(num_classes):
    return Net(num_classes)

def full(num_classes):
    return Net(num_classes, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")

def asserts(num_classes):
    return Net(num_classes, "AcceleratorError: CUDA error: device-side assert triggered")

def fallen(num_classes):
    return Net(num_classes, "AcceleratorError: CUDA error: GPU is lost")

class Infinite(Net):
    def forward(self, images):
        return self.head(images) * float("inf")

def infinite(num_classes):
    return Infinite(num_classes)

def hangs(num_classes):
    time.sleep(1000)

def dies(num_classes):
    os.kill(os.getpid(), 14)

class NoFake(Net):
    # Stands every tensor that is one; `end` is what becomes of the others.

    def __init__(self, num_classes, end):
        super().__init__(num_classes)
        self.end = end

    def forward(self, images):
        if type(images) is not torch.Tensor:
            self.end()
        return super().forward(images)

def dies_in_its_forecast(num_classes):
    return NoFake(num_classes, lambda: os.kill(os.getpid(), 9))

def hangs_in_its_forecast(num_classes):
    def sleep_deaf():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])
        time.sleep(1000)
    return NoFake(num_classes, sleep_deaf)

def babbles(num_classes):
    for found in gc.get_objects():
        if isinstance(found, socket.socket) and found.fileno() >= 0:
            found.sendall(b'no json\\n{"record": 1}\\n\\xff\\n')
    return Net(num_classes)

def steps_back(num_classes):
    # What every process of the machine sees when an operator sets its clock.
    real = time.time
    time.time = lambda: real() - 3600.0
    return Net(num_classes)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / f"{MODULE}.py").write_text(MODELS)
    before = descendants(os.getpid())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        with launcher("forkserver") as workers:
            ready = check(workers, preflight(folder))
            yield Shop(workers=workers, ready=ready, folder=folder, module=MODULE)
            started = descendants(os.getpid()) - before
    wait_until_ended(started)


def test_an_accelerator_that_runs_out_of_memory_is_a_result(shop: Shop) -> None:
    record = shop.run("full")
    assert record.status == "out_of_memory"
    assert record.error == "CUDA out of memory. Tried to allocate 2.00 GiB."
    assert shop.run("net").status == "completed"


@pytest.mark.parametrize(
    ("model", "said"), [("asserts", "device-side assert triggered"), ("fallen", "GPU is lost")]
)
def test_an_accelerators_error_is_a_failed_cell_in_one_line_with_its_traceback_kept(
    shop: Shop, model: str, said: str
) -> None:
    record = shop.run(model)
    assert record.status == "failed"
    assert record.error == f"AcceleratorError: CUDA error: {said}"
    assert "Traceback" in record.stderr_tail
    assert shop.run("net").status == "completed"


def test_a_loss_that_is_not_finite_reaches_the_journal_as_diverged(
    shop: Shop, tmp_path: Path
) -> None:
    record = shop.run("infinite", epochs=2)
    assert record.status == "diverged"
    assert record.error is not None
    assert "loss of epoch 1 is" in record.error
    assert record.row()["val_accuracy"] is None
    with Journal(tmp_path / NAME) as journal:
        journal.append(record)
    assert read_journal(tmp_path / NAME) == [record]


def test_a_model_that_hangs_is_ended_and_named_before_the_first_cell(shop: Shop) -> None:
    models = (f"{MODULE}:net", f"{MODULE}:hangs")
    with pytest.raises(CheckError) as refusal:
        check(shop.workers, preflight(shop.folder, *models), model_seconds=1.0)
    assert str(refusal.value) == f"the check took longer than 3 s, while trying {MODULE}:hangs."
    assert refusal.value.exit_code == InvalidValueError.exit_code
    with pytest.raises(CheckError, match="killed by SIGALRM") as death:
        check(shop.workers, preflight(shop.folder, f"{MODULE}:dies"))
    assert death.value.exit_code == InvalidValueError.exit_code


@pytest.mark.parametrize("model", ["dies_in_its_forecast", "hangs_in_its_forecast"])
def test_a_forecast_that_breaks_or_keeps_its_worker_is_done_without(shop: Shop, model: str) -> None:
    name = f"{MODULE}:{model}"
    question = Question(setting=Setting(architecture=name), batch_sizes=(2,))
    asked = preflight(shop.folder, name, questions=(question,))
    ready = check(shop.workers, asked, model_seconds=2.0)
    assert name in ready.model_digests
    assert ready.outlooks == ()


def test_what_foreign_code_writes_to_the_parent_is_no_answer(shop: Shop) -> None:
    assert shop.run("babbles").status == "completed"


def test_a_clock_that_is_set_back_leaves_no_stamp_out_of_order(shop: Shop) -> None:
    before, record, after = shop.run("net"), shop.run("steps_back"), shop.run("net")
    assert record.status == "completed"
    assert before.finished_at <= record.started_at < record.finished_at <= after.started_at
    assert record.start_seconds is not None
    assert 0 <= record.start_seconds < 60
    assert record.profile is not None
    assert all(window.seconds > 0 for window in record.profile.windows)
