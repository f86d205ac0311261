"""What a baseline is keyed by is known without torch, and equals what a worker sees with it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch

from cnnbench.errors import InvalidValueError
from cnnbench.measure.collect import collect_environment, cpu_name
from cnnbench.regress.machine import (
    Machine,
    num_threads,
    processor,
    this_machine,
    threads_exported,
    torch_version,
    visible,
)
from sample_records import sample_environment
from sample_regress import sample_machine


@dataclass(frozen=True)
class Listed:
    """As much of a listed GPU as is looked at."""

    uuid: str
    is_mig: bool | None = False
    parent_uuid: str | None = None


def test_the_files_of_torch_say_what_torch_says() -> None:
    assert torch_version() == (str(torch.__version__), torch.version.cuda)


def test_the_processor_is_called_as_cells_call_it() -> None:
    assert processor() == cpu_name()


def test_this_machine_is_the_one_that_a_worker_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    assert this_machine("cpu") == Machine.of(collect_environment(torch.device("cpu")))


@pytest.mark.gpu
def test_this_gpu_is_the_one_that_a_worker_sees() -> None:
    assert this_machine("cuda") == Machine.of(collect_environment(torch.device("cuda", 0)))


def test_a_gpu_counts_no_threads_and_only_the_major_version_of_its_driver() -> None:
    environment = sample_environment(
        device="NVIDIA A100", device_type="cuda", driver="570.124.06", cuda="13.0"
    )
    machine = Machine.of(environment)
    assert (machine.driver, machine.cuda, machine.num_threads) == ("570", "13.0", None)
    assert machine.text == "NVIDIA A100, torch 2.11.0, driver 570, CUDA 13.0"


def test_one_processor_is_left_free_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert num_threads() == max(1, len(os.sched_getaffinity(0)) - 1)
    with threads_exported(sample_machine(num_threads=3)):
        assert num_threads() == 3
        assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="CUDA devices here"):
        this_machine("cuda:99")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, "abc"), ("2,0", "ca"), ("b", "b"), ("", ""), ("-1", ""), ("7", "")],
)
def test_cuda_visible_devices_chooses_and_orders(
    chosen: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    gpus = [Listed("a"), Listed("b"), Listed("c")]
    assert "".join(gpu.uuid for gpu in visible(gpus)) == expected  # type: ignore[arg-type]


def test_a_split_gpu_is_seen_by_its_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = [Listed("whole", is_mig=True), Listed("part", parent_uuid="whole")]
    assert [gpu.uuid for gpu in visible(gpus)] == ["part"]  # type: ignore[arg-type]


def test_a_difference_names_each_key_once() -> None:
    assert sample_machine().difference(sample_machine()) == ""
    other = sample_machine(torch="2.12.0", num_threads=4)
    assert sample_machine().difference(other) == (
        "torch 2.11.0+cu130 here, 2.12.0 there, num threads 1 here, 4 there"
    )
