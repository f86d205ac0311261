"""A test of the suite timed inside pytest is looked after as a cell in its worker is."""

from __future__ import annotations

import gc
import itertools
import os
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import torch

from bench import in_process
from bench.in_process import time_subject
from cnnbench.cell import Cell, Recipe
from cnnbench.measure.gpu import Gpu
from cnnbench.measure.timing import Stopwatch
from cnnbench.regress.results import KEY, Run
from cnnbench.regress.suite import Subject
from fake_nvml import FOREIGN_PID, GIB, H200_UUID, h200, installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

    from cnnbench.environment import DatasetInfo
    from cnnbench.measure.timing import Step

CPU = torch.device("cpu")


class Rounds:
    """Runs rounds as pytest-benchmark's fixture does, and keeps what is told it."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(
        self,
        target: Callable[[], None],
        *,
        setup: Callable[[], None],
        teardown: Callable[[], None],
        rounds: int,
    ) -> None:
        for _ in range(rounds):
            setup()
            target()
            teardown()


def timed(dataset: DatasetInfo, device: torch.device = CPU, gpu: Gpu | None = None) -> Run:
    benchmark = Rounds()
    cell = Cell(
        architecture="simple_cnn(width=4)",
        dataset="digits",
        batch_size=16,
        recipe=Recipe(augmentation="none", weights="none"),
    )
    time_subject(
        cast("BenchmarkFixture", benchmark),
        Subject(kind="inference", cell=cell),
        dataset,
        device,
        gpu,
        window_seconds=0.01,
        num_rounds=5,
    )
    (run,) = benchmark.extra_info[KEY]["runs"]
    return msgspec.convert(run, Run)


def test_on_a_gpu_it_is_asked_who_else_is_there(digits: DatasetInfo) -> None:
    nvml = h200()
    with installed(nvml), Gpu(H200_UUID) as gpu:
        nvml.gpus[0].processes = {os.getpid(): GIB, FOREIGN_PID: GIB}
        run = timed(digits, gpu=gpu)
    assert [window.gpu and window.gpu.num_foreign_processes for window in run.windows] == [1] * 5
    # Who uses the processors says little about a GPU.
    assert {window.foreign_fraction for window in run.windows} == {None}
    assert run.validity == "suspect"
    assert "other processes were on the GPU in 5 of 5 windows" in run.validity_reasons


def test_windows_that_differ_much_make_it_unstable(
    digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Uneven(Stopwatch):
        factors = itertools.cycle([1.0, 2.0])

        def run(self, step: Step, num_steps: int) -> float:
            step()
            return 0.001 * num_steps * next(self.factors)

    monkeypatch.setattr(in_process, "stopwatch", lambda _: Uneven())
    run = timed(digits)
    assert run.validity == "suspect"
    assert any(reason.startswith("unstable") for reason in run.validity_reasons)
    assert all(window.data_seconds is not None for window in run.windows)


def test_what_earlier_tests_left_on_a_gpu_is_let_go_before_the_set_up(
    digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def no_set_up(*_: object) -> None:
        order.append("set up")
        raise InterruptedError

    monkeypatch.setattr(gc, "collect", lambda: order.append("collect"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("empty"))
    monkeypatch.setattr(in_process, "set_up", no_set_up)
    with pytest.raises(InterruptedError):
        timed(digits, torch.device("cuda"))
    assert order == ["collect", "empty", "set up"]
    order.clear()
    with pytest.raises(InterruptedError):
        timed(digits)
    assert order == ["collect", "set up"]


@pytest.mark.gpu
def test_what_it_reserves_does_not_depend_on_the_tests_before(digits: DatasetInfo) -> None:
    device = torch.device("cuda", 0)
    torch.empty(2**30, dtype=torch.uint8, device=device)  # freed at once, and kept by the allocator
    run = timed(digits, device)
    assert run.peak_reserved_bytes is not None
    assert run.peak_reserved_bytes < 2**30
