"""Skips the tests that need a GPU where there is none, and says how many they are."""

from __future__ import annotations

import gc
import signal
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

import parallel

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo


@cache
def has_cuda() -> bool:
    import torch  # noqa: PLC0415  # takes seconds: only a run of GPU tests pays them

    return torch.cuda.is_available()


# A minute and more each. Begun last, one of them would keep a single processor busy at the end.
LONG_FILES = ("test_torture.py", "test_gate.py", "test_run_command.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


def pytest_configure() -> None:
    # A shell starts background jobs deaf to SIGINT, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parallel.share_threads()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return parallel.num_workers()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    del error
    for name, value in getattr(node, "workeroutput", {}).items():
        parallel.tell(node.config, name, value)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    gpu_tests = [item for item in session.items if item.get_closest_marker("gpu")]
    if gpu_tests:
        parallel.tell(session.config, parallel.NUM_GPU_TESTS, len(gpu_tests))
        parallel.tell(session.config, parallel.HAS_CUDA, has_cuda())
    if gpu_tests and not has_cuda():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    number = parallel.told(config, parallel.NUM_GPU_TESTS)
    if number:
        on_cuda = parallel.told(config, parallel.HAS_CUDA)
        outcome = "run on CUDA" if on_cuda else "skipped, for they need a CUDA device"
        terminalreporter.write_line(f"GPU tests: {number} {outcome}")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """Return the real digits, prepared for cells."""
    from cnnbench.data.datasets import prepare  # noqa: PLC0415  # brings torch: as above

    folder = tmp_path_factory.mktemp("digits")
    return prepare(
        "digits", data_dir=folder, cache_dir=folder / "cache", download=False, image_size=None
    )


@pytest.fixture(autouse=True)
def clean_gpu(request: pytest.FixtureRequest) -> None:
    """Before a test on the GPU, let go of what earlier ones have left in reference cycles there."""
    if request.node.get_closest_marker("gpu"):
        gc.collect()
