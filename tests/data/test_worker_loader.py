"""Batches that worker processes make are the device loader's, whoever trains on them."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import warnings
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cnnbench.data.datasets import prepare
from cnnbench.data.device_data import open_prepared
from cnnbench.data.device_loader import DeviceLoader
from cnnbench.data.host_data import HostSplit, open_on_host
from cnnbench.data.worker_loader import WorkerLoader, num_workers
from cnnbench.errors import DataError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.environment import DatasetInfo

    Batch = tuple[torch.Tensor, torch.Tensor]

CPU = torch.device("cpu")
NUM_IMAGES = 40


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("digits")
    return prepare("digits", data_dir=folder, cache_dir=folder, download=False, image_size=None)


def random_split(num_channels: int, side: int = 16) -> HostSplit:
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_IMAGES, num_channels, side, side)
    return HostSplit(
        images=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        labels=torch.arange(NUM_IMAGES) % 10,
        image_size=16,
        mean=(0.4, 0.5, 0.6) if num_channels > 1 else (0.5,) * 3,
        std=(0.2, 0.3, 0.4) if num_channels > 1 else (0.25,) * 3,
        positions=torch.arange(NUM_IMAGES),
    )


def assert_same(ours: Iterator[Batch], theirs: Iterator[Batch]) -> None:
    for (images, labels), (expected, expected_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, expected_labels)
        torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)
        assert images.stride() == expected.stride()


@pytest.mark.parametrize(
    ("augment", "num_channels", "side", "channels_last"),
    [
        ("none", 1, 16, False),
        ("crop", 1, 8, False),  # brought to size in the workers
        ("flip+crop", 3, 16, True),
        ("flip+crop+cutout", 3, 24, False),
    ],
)
def test_the_batches_are_those_of_the_device_loader(
    augment: str, num_channels: int, side: int, *, channels_last: bool
) -> None:
    split = random_split(num_channels, side)
    settings: dict[str, Any] = {
        "batch_size": 12,
        "augment": augment,
        "channels_last": channels_last,
    }
    ours = WorkerLoader(split, device=CPU, **settings)
    theirs = DeviceLoader(split, **settings)
    assert ours.num_batches == theirs.num_batches == 3
    for seed in (3, 4):
        assert_same(ours.epoch(seed), theirs.epoch(seed))
    assert_same(ours.ordered(16), theirs.ordered(16))
    # More than one pass, each drawn anew.
    assert_same(itertools.islice(ours.forever(5), 7), itertools.islice(theirs.forever(5), 7))


def test_a_batch_larger_than_the_split_repeats_it_for_timing_and_is_no_epoch() -> None:
    split = random_split(1)
    ours, theirs = (
        WorkerLoader(split, device=CPU, batch_size=50),
        DeviceLoader(split, batch_size=50),
    )
    assert_same(itertools.islice(ours.forever(0), 2), itertools.islice(theirs.forever(0), 2))
    with pytest.raises(InvalidValueError, match="no epoch has a full batch"):
        ours.epoch(0)


def test_a_pass_that_is_broken_off_leaves_nothing_to_the_next() -> None:
    split = random_split(1)
    ours, theirs = WorkerLoader(split, device=CPU, batch_size=8), DeviceLoader(split, batch_size=8)
    next(ours.forever(0))
    assert_same(ours.epoch(1), theirs.epoch(1))


def test_the_workers_are_forked_once_are_told_and_end_with_the_loader() -> None:
    before = set(multiprocessing.active_children())
    pids: list[int] = []
    loader = WorkerLoader(random_split(1), device=CPU, batch_size=8, pids=pids)
    for seed in range(2):
        for _ in loader.epoch(seed):
            workers = set(multiprocessing.active_children()) - before
            assert len(workers) == num_workers()
    assert len(pids) == num_workers()
    assert set(pids) == {worker.pid for worker in workers}
    del loader, _
    for worker in workers:
        worker.join(10)
    assert not set(multiprocessing.active_children()) & workers


@contextmanager
def no_cycle_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("way", ["forever", "epoch"])
def test_a_loader_left_amid_a_pass_ends_with_its_last_reference(way: str) -> None:
    before = set(multiprocessing.active_children())
    with no_cycle_collector():
        # Small batches: more than the workers make ahead.
        loader = WorkerLoader(random_split(1), device=CPU, batch_size=1)
        batches = getattr(loader, way)(0)
        for _ in range(2):
            next(batches)
        workers = set(multiprocessing.active_children()) - before
        reference = weakref.ref(loader)
        del loader, batches
        assert reference() is None
        # They ended by themselves; one that is waited for in vain is killed.
        assert [worker.exitcode for worker in workers] == [0] * num_workers()


def test_a_plan_that_fails_leaves_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    before = set(multiprocessing.active_children())
    loader = WorkerLoader(random_split(1), device=CPU, batch_size=8)
    with no_cycle_collector():
        with monkeypatch.context() as broken:
            broken.setattr(loader, "_plan", fail)
            with suppress(ZeroDivisionError):
                next(loader.epoch(0))
        assert set(multiprocessing.active_children()) == before
    assert len(list(loader.epoch(0))) == loader.num_batches


def test_threads_of_this_process_are_no_reason_for_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork, num_forks = os.fork, 0

    def fork_as_python_3_12() -> int:
        nonlocal num_forks
        num_forks += 1
        warnings.warn(
            f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to "
            "deadlocks in the child.",
            DeprecationWarning,
            stacklevel=2,
        )
        return fork()

    monkeypatch.setattr(os, "fork", fork_as_python_3_12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(WorkerLoader(random_split(1), device=CPU, batch_size=8).ordered())
    assert num_forks == num_workers()


def test_a_mapped_data_set_has_the_splits_of_a_resident_one(digits: DatasetInfo) -> None:
    mapped = open_on_host(digits, image_size=32, train_subset=100)
    resident = open_prepared(digits, device=CPU, image_size=32, train_subset=100)
    assert mapped.num_bytes == 0
    for name in ("train", "val", "test"):
        ours, theirs = getattr(mapped, name), getattr(resident, name)
        assert torch.equal(ours.labels, theirs.labels)
        assert (ours.mean, ours.std) == (theirs.mean, theirs.std)
    batches = WorkerLoader(mapped.val, device=CPU, batch_size=64).ordered()
    assert_same(batches, DeviceLoader(resident.val, batch_size=64).ordered())


def test_synthetic_images_are_those_of_a_resident_set(tmp_path: Path) -> None:
    name = "synthetic(image_size=8,num_images=40)"
    info = prepare(name, data_dir=tmp_path, cache_dir=tmp_path, download=False, image_size=None)
    mapped = open_on_host(info, image_size=8)
    resident = open_prepared(info, device=CPU, image_size=8)
    assert torch.equal(mapped.val.images, resident.val.images)


def test_what_cannot_be_opened_says_so_as_a_resident_set_does(digits: DatasetInfo) -> None:
    with pytest.raises(InvalidValueError, match="more than the"):
        open_on_host(digits, image_size=32, train_subset=10**6)
    with pytest.raises(DataError, match="cannot be read"):
        open_on_host(replace(digits, path="/nonexistent/digits.bin"), image_size=32)


@pytest.mark.gpu
def test_on_cuda_the_batches_are_those_of_the_processor() -> None:
    split, cuda = random_split(3), torch.device("cuda", 0)
    ours = WorkerLoader(split, device=cuda, batch_size=8, augment="flip+crop")
    theirs = WorkerLoader(split, device=CPU, batch_size=8, augment="flip+crop")
    for (images, labels), (expected, expected_labels) in zip(
        ours.epoch(1), theirs.epoch(1), strict=True
    ):
        assert images.device == labels.device == cuda
        assert torch.equal(images.cpu(), expected)
        assert torch.equal(labels.cpu(), expected_labels)
