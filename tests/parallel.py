"""Lets `make test` share the tests out over the processors, file by file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# Each holds torch, and often the processes of a sweep beside it.
MAX_WORKERS = 8
WORKER_MIB = 3072
NUM_GPU_TESTS = "num_gpu_tests"
HAS_CUDA = "has_cuda"


def num_processors() -> int:
    return len(os.sched_getaffinity(0))


def num_workers() -> int:
    """Return how many processes may run tests; 0: this one alone.

    Beside a GPU tests run one after the other: they look at its memory and at who else is on it.
    """
    if Path("/dev/nvidiactl").exists():
        return 0
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    number = min(num_processors(), MAX_WORKERS, memory_mib // WORKER_MIB)
    return number if number > 1 else 0


def share_threads() -> None:
    """Give this worker its share of the processors, before anything here imports torch."""
    number = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if number is not None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, num_processors() // int(number)))


def tell(config: pytest.Config, name: str, value: object) -> None:
    """Leave a fact for `told`: a worker's reaches the process that sums up."""
    config.stash.setdefault(_FACTS, {})[name] = value
    output: dict[str, Any] | None = getattr(config, "workeroutput", None)
    if output is not None:
        output[name] = value


def told(config: pytest.Config, name: str) -> Any:
    """Return what was told, here or in a worker; `None` if nobody did."""
    return config.stash.get(_FACTS, {}).get(name)


_FACTS = pytest.StashKey[dict[str, Any]]()
