"""A cell on a GPU, and one whose GPU answers, lies or is gone."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING

import pytest
import torch

import fake_nvml
from cnnbench.execute import SNAPSHOT, execute
from cnnbench.precision import Precision
from cnnbench.sweep.run import look, run_job
from cnnbench.sweep.workers import launcher
from executed import RESNET, TRAINS
from sample_jobs import job, tiny_cell, tiny_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo
    from cnnbench.job import Progress


MACHINES = {
    "healthy": (fake_nvml.h200, fake_nvml.H200_UUID),
    "partitioned": (fake_nvml.mig_instance, fake_nvml.MIG_UUID),
    "without counters": (fake_nvml.old_geforce, fake_nvml.GEFORCE_UUID),
    "dying": (fake_nvml.h200, fake_nvml.H200_UUID),
    "absent": (lambda: None, fake_nvml.H200_UUID),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_whatever_nvml_answers_the_cell_finishes_with_nulls_and_reasons(
    digits: DatasetInfo, machine: str
) -> None:
    make, uuid = MACHINES[machine]
    nvml = make()

    def begin_to_compute(progress: Progress) -> None:
        if nvml is not None and progress.phase == "warming up":
            fake_nvml.arrive(nvml.gpus[0])
        if nvml is not None and (machine, progress.phase) == ("dying", "timing"):
            nvml.die(after=3)  # in the middle of the windows

    with fake_nvml.installed(nvml):
        # The cell trains on the processor; what is asked of the GPU goes all its real ways.
        record = execute(replace(job(tiny_cell(), digits), device_uuid=uuid), begin_to_compute)
    assert (record.status, record.error) == ("completed", None)
    assert record.profile is not None
    readings = [window.gpu for window in record.profile.windows]
    assert None not in readings
    row = record.row()
    if machine == "healthy":
        assert record.unknowns == {}
        assert row["joules_per_image"] is not None
        assert all(reading and reading.thermal_seconds is not None for reading in readings)
    else:
        assert record.unknowns
        assert all(record.unknowns.values())
        assert any(None in astuple(reading) for reading in readings if reading)
    if machine in {"absent", "without counters"}:
        assert row["joules_per_image"] is None
    assert row["images_per_second"] > 0


def test_others_on_the_gpu_make_a_cell_suspect(digits: DatasetInfo) -> None:
    nvml = fake_nvml.h200()

    def begin_to_compute(progress: Progress) -> None:
        if progress.phase == "warming up":
            fake_nvml.arrive(nvml.gpus[0])
            fake_nvml.arrive(nvml.gpus[0], fake_nvml.FOREIGN_PID)

    with fake_nvml.installed(nvml):
        given = replace(job(tiny_cell(), digits), device_uuid=fake_nvml.H200_UUID)
        record = execute(given, begin_to_compute)
    assert (record.status, record.validity) == ("completed", "suspect")
    assert "other processes were on the GPU in 3 of 3 windows" in record.validity_reasons


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16", "fp16"])
def test_on_cuda_a_cell_is_profiled_and_trained(digits: DatasetInfo, name: str) -> None:
    cell = tiny_cell(RESNET, recipe=TRAINS, precision=name)
    given = replace(job(cell, digits), device=f"cuda:{torch.cuda.current_device()}")
    try:
        record = execute(given, lambda _: None)
    finally:
        Precision().apply()
    if record.status == "unsupported":
        pytest.skip(str(record.error))
    assert record.status == "completed", record.error
    assert record.validity != "invalid", record.validity_reasons
    assert record.effective_precision == name
    assert record.memory is not None
    assert record.memory.peak_reserved_bytes is not None
    assert record.memory.num_alloc_retries == 0
    assert record.row()["skipped_steps"] is None or name == "fp16"
    assert record.profile is not None
    assert {window.foreign_fraction for window in record.profile.windows} == {None}
    assert record.kernels or "kernels" in record.unknowns


@pytest.mark.gpu
def test_on_cuda_a_forked_worker_measures_a_graph_like_the_plain_step(digits: DatasetInfo) -> None:
    peaks = {}
    with launcher("forkserver") as workers:
        environment = look(workers, "cuda:0")
        for compiled, loader in (("off", "device"), ("graph", "device"), ("graph", "workers")):
            cell = tiny_cell(RESNET, compile=compiled, loader=loader, batch_size=64)
            given = replace(job(cell, digits), device="cuda:0", device_uuid=environment.device_uuid)
            record = run_job(workers, given, environment)
            assert (record.status, record.error) == ("completed", None)
            assert record.memory is not None
            peaks[compiled, loader] = record.memory.peak_allocated_bytes
    plain = peaks["off", "device"]
    assert plain is not None
    for peak in peaks.values():  # a graph keeps its batch, and gradients it does not release
        assert peak is not None
        assert 0.8 * plain < peak < 2 * plain


@pytest.mark.gpu
def test_on_cuda_a_batch_that_does_not_fit_is_out_of_memory(
    digits: DatasetInfo, tmp_path: Path
) -> None:
    device = torch.cuda.current_device()
    recipe = tiny_recipe(image_size=512, train_subset=8)
    cell = tiny_cell("resnet(width=256)", recipe=recipe, batch_size=4096)
    torch.cuda.set_per_process_memory_fraction(0.1, device)
    try:
        given = replace(job(cell, digits), device=f"cuda:{device}", folder=str(tmp_path / "cell"))
        record = execute(given, lambda _: None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
    assert record.status == "out_of_memory", record.error
    assert record.memory is not None
    assert record.memory.peak_allocated_bytes
    assert record.artifacts == (SNAPSHOT,)
    assert (tmp_path / "cell" / SNAPSHOT).stat().st_size
