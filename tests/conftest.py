"""Skips the tests that need a GPU where there is none, and says how many they are."""

from __future__ import annotations

import signal
from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo

NUM_GPU_TESTS = pytest.StashKey[int]()


@cache
def has_cuda() -> bool:
    import torch  # noqa: PLC0415  # takes seconds: only a run of GPU tests pays them

    return torch.cuda.is_available()


def pytest_configure() -> None:
    # A shell starts background jobs deaf to SIGINT, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    gpu_tests = [item for item in session.items if item.get_closest_marker("gpu")]
    session.config.stash[NUM_GPU_TESTS] = len(gpu_tests)
    if gpu_tests and not has_cuda():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    num_gpu_tests = config.stash.get(NUM_GPU_TESTS, 0)
    if num_gpu_tests:
        outcome = "run on CUDA" if has_cuda() else "skipped, for they need a CUDA device"
        terminalreporter.write_line(f"GPU tests: {num_gpu_tests} {outcome}")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """Return the real digits, prepared for cells."""
    from cnnbench.data.datasets import prepare  # noqa: PLC0415  # brings torch: as above

    folder = tmp_path_factory.mktemp("digits")
    return prepare(
        "digits", data_dir=folder, cache_dir=folder / "cache", download=False, image_size=None
    )
