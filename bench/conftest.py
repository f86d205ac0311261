"""Fixtures of the benchmarks, and what they tell pytest-benchmark of the machine.

`pytest bench/` takes a minute or two and shows that everything runs; `--bench-window 0.2
--bench-rounds 10` makes figures of it. Those of pytest-benchmark's options that leave rounds and warm-up
to the test work as ever: `--benchmark-json`, `-save`, `-compare`, `-columns`, `-disable`, `-cprofile`.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from bench.preflight import preflight
from cnnbench.cell import Cell, Recipe, Timing
from cnnbench.errors import UnsupportedError
from cnnbench.job import CellJob
from cnnbench.regress.machine import num_threads, this_machine
from cnnbench.regress.results import KEY
from cnnbench.regress.suite import load_suite, suite_path
from cnnbench.session import device_of
from cnnbench.sweep.plan import resolve
from cnnbench.sweep.run import check
from cnnbench.sweep.workers import Forkserver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from cnnbench.environment import DatasetInfo
    from cnnbench.job import Ready
    from cnnbench.measure.gpu import Gpu
    from cnnbench.regress.suite import Subject
    from cnnbench.sweep.workers import Launcher

WINDOW_SECONDS = 0.05
NUM_ROUNDS = 5

# The least that a cell can be: what is measured is what surrounds it.
TINY_CELL = Cell(
    architecture="simple_cnn(width=4)",
    recipe=Recipe(augmentation="none", weights="none"),
    timing=Timing(window_seconds=0.01, min_windows=2, max_windows=2, warmup_steps=1),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cnnbench")
    group.addoption("--bench-window", type=float, default=WINDOW_SECONDS, help="seconds a round")
    group.addoption("--bench-rounds", type=int, default=NUM_ROUNDS, help="rounds a test")


def pytest_configure() -> None:
    # Before torch is imported: it reads this once.
    if this_machine().device_type == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(num_threads()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark that takes a `subject` those of the suite that are of its kind."""
    if "subject" in metafunc.fixturenames:
        (mark,) = metafunc.definition.iter_markers("kind")
        suite = load_suite(suite_path(this_machine().device_type))
        subjects = [subject for subject in suite if subject.kind == mark.args[0]]
        metafunc.parametrize("subject", subjects, ids=lambda subject: subject.cell.name)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add what the gate compares results by, and all that is known of the GPU."""
    from cnnbench.measure.collect import collect_environment  # noqa: PLC0415 (brings torch)
    from cnnbench.preflight import find_device  # noqa: PLC0415 (as above)

    machine_info[KEY] = asdict(this_machine())
    machine_info["environment"] = asdict(collect_environment(find_device("auto")))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def prepared(data_folder: Path) -> Callable[[str], DatasetInfo]:
    """Return what prepares a data set, once."""
    from cnnbench.data.datasets import prepare  # noqa: PLC0415 (brings torch)

    found: dict[str, DatasetInfo] = {}

    def prepare_once(name: str) -> DatasetInfo:
        if name not in found:
            found[name] = prepare(
                name, data_dir=data_folder, cache_dir=data_folder, download=False, image_size=None
            )
        return found[name]

    return prepare_once


@pytest.fixture(scope="session")
def gpu() -> Iterator[Gpu | None]:
    """Return NVML's view of the GPU, from before this process computes there: who is there is foreign."""
    import torch  # noqa: PLC0415 (for what needs it only)

    from cnnbench.measure.gpu import Gpu  # noqa: PLC0415 (as above)
    from cnnbench.preflight import find_device  # noqa: PLC0415 (as above)

    device = find_device("auto")
    if device.type == "cpu":
        yield None
        return
    with Gpu(str(torch.cuda.get_device_properties(device).uuid)) as session:
        yield session


@pytest.fixture
def take(
    benchmark: BenchmarkFixture,
    prepared: Callable[[str], DatasetInfo],
    gpu: Gpu | None,
    pytestconfig: pytest.Config,
) -> Callable[[Subject], None]:
    """Return what times a test of the suite; what the device cannot do is skipped."""
    from bench.in_process import time_subject  # noqa: PLC0415 (brings torch)
    from cnnbench.preflight import find_device  # noqa: PLC0415 (as above)

    def timed(subject: Subject) -> None:
        try:
            time_subject(
                benchmark,
                subject,
                prepared(subject.cell.dataset),
                find_device("auto"),
                gpu,
                window_seconds=pytestconfig.getoption("--bench-window"),
                num_rounds=pytestconfig.getoption("--bench-rounds"),
            )
        except UnsupportedError as error:
            pytest.skip(str(error))

    return timed


@pytest.fixture(scope="session")
def workers() -> Iterator[Launcher]:
    """Return warm workers, as a sweep has them."""
    with Forkserver() as launcher:
        launcher.wait_until_ready()
        yield launcher


@pytest.fixture(scope="session")
def ready(workers: Launcher, data_folder: Path) -> Ready:
    """Return what the preflight of the tiny cell found."""
    return check(workers, preflight(TINY_CELL.architecture, TINY_CELL.dataset, data_folder))


@pytest.fixture(scope="session")
def tiny_job(ready: Ready) -> CellJob:
    return CellJob(
        cell=resolve(TINY_CELL, ready.dataset),
        dataset=ready.dataset,
        device=device_of(ready.environment),
        device_uuid=ready.environment.device_uuid,
        sweep_id="bench",
        environment_hash="",
    )
