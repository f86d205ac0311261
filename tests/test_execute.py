"""One cell in, one record out, whatever happens in between."""

from __future__ import annotations

import gc
import hashlib
import json
import statistics
import subprocess
import sys
from dataclasses import astuple, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import torch

import fake_nvml
from cnnbench import architectures
from cnnbench import precision as modes
from cnnbench.architectures.resnet import ResNet
from cnnbench.checkpointing import FROZEN_NOTE
from cnnbench.diagnosis import DIAGNOSES
from cnnbench.environment import Peak, Peaks
from cnnbench.execute import NOT_MEANINGFUL, SNAPSHOT, execute
from cnnbench.measurement import Memory, Profile
from cnnbench.precision import Precision
from cnnbench.record import Record
from cnnbench.stats import median_interval
from cnnbench.validity import judge
from sample_jobs import BRIEF, TINY_CNN, UNTIMED, job, tiny_cell, tiny_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.cell import Cell
    from cnnbench.environment import DatasetInfo
    from cnnbench.job import CellJob, Progress

RESNET = "resnet(width=4,depth=1)"
TRAINS = tiny_recipe(epochs=2, learning_rate=0.01, target_accuracy=0.05)


def run(cell: Cell, digits: DatasetInfo) -> Record:
    return execute(job(cell, digits), lambda _: None)


def curves(record: Record) -> list[tuple[float, ...]]:
    assert record.fit is not None
    return [astuple(replace(e, train_seconds=0, val_seconds=0)) for e in record.fit.epochs]


def test_a_cell_is_profiled_and_trained(digits: DatasetInfo) -> None:
    told: list[Progress] = []
    cell = tiny_cell(RESNET, recipe=TRAINS, precision="bf16")
    record = execute(job(cell, digits), told.append)
    assert (record.status, record.error) == ("completed", None)
    assert (record.cell, record.cell_hash) == (cell, cell.hash)
    assert record.validity != "invalid"
    assert record.effective_precision == "bf16"
    assert record.num_parameters == record.num_trainable_parameters
    assert record.num_parameters == sum(p.numel() for p in ResNet(width=4, depth=1).parameters())
    assert record.started_at < record.finished_at
    profile, memory, fit = record.profile, record.memory, record.fit
    assert profile is not None
    assert memory is not None
    assert fit is not None
    assert profile.stop_reason in {"half_width", "max_windows", "limit_seconds"}
    assert profile.num_warmup_steps > BRIEF.warmup_steps
    assert profile.compile_seconds is None
    assert profile.low_step_seconds <= profile.median_step_seconds <= profile.high_step_seconds
    assert memory.peak_allocated_bytes is not None
    assert memory.peak_allocated_bytes > 4 * record.num_parameters
    # 256 + 270 + 270 grey images of 16 x 16 pixels, and a label of 8 bytes for each.
    assert memory.data_bytes == 796 * (16 * 16 + 8)
    assert len(fit.epochs) == 2
    assert fit.accuracy_note is None
    epochs = [(progress.epoch, progress.curves) for progress in told if progress.epoch]
    assert epochs == list(enumerate(fit.epochs, 1))
    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert phases == ["setting up", "warming up", "timing", "measuring memory", "training"]
    row = record.row()
    assert row["time_to_accuracy_seconds"] == fit.epochs[0].train_seconds
    assert all(row[name] is not None for name in ("images_per_second", "test_accuracy", "data_mib"))


def test_a_record_survives_json(digits: DatasetInfo) -> None:
    record = run(tiny_cell(recipe=TRAINS), digits)
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record


def test_a_cell_without_epochs_is_only_profiled(digits: DatasetInfo) -> None:
    record = run(tiny_cell(), digits)
    assert (record.status, record.fit) == ("completed", None)
    assert record.profile is not None


def test_a_cell_without_windows_is_only_trained(digits: DatasetInfo) -> None:
    record = run(tiny_cell(recipe=TRAINS, timing=UNTIMED), digits)
    assert record.status == "completed"
    assert (record.profile, record.memory) == (None, None)
    assert record.row()["images_per_second"] is None
    assert record.num_parameters is not None
    assert len(curves(record)) == 2


def test_a_cell_fed_by_workers_is_profiled_and_trained_and_its_waiting_measured(
    digits: DatasetInfo,
) -> None:
    record = run(tiny_cell(recipe=TRAINS, loader="workers"), digits)
    assert record.status == "completed", record.error
    assert record.profile is not None
    wait = record.profile.data_wait_fraction
    assert wait is not None
    assert 0 < wait < 1
    plain = run(tiny_cell(recipe=TRAINS), digits)
    assert record.fit is not None
    assert plain.fit is not None
    for ours, theirs in zip(record.fit.epochs, plain.fit.epochs, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-3)
        assert ours.val_accuracy == pytest.approx(theirs.val_accuracy, abs=0.01)


def test_profiling_leaves_no_trace_in_the_training(digits: DatasetInfo) -> None:
    recipe = replace(TRAINS, dropout=0.2)
    both, alone = (
        run(tiny_cell(RESNET, recipe=recipe, timing=timing), digits) for timing in (BRIEF, UNTIMED)
    )
    assert curves(both) == curves(alone)


@pytest.mark.parametrize("checkpointing", ["none", "block"])
def test_the_profiled_model_is_gone_when_training_begins(
    digits: DatasetInfo, checkpointing: str
) -> None:
    alive: list[int] = []

    def count(progress: Progress) -> None:
        if progress.phase == "training" and progress.epoch is None:
            alive.append(sum(type(each) is ResNet for each in gc.get_objects()))

    gc.collect()
    before = sum(type(each) is ResNet for each in gc.get_objects())
    cell = tiny_cell(RESNET, recipe=TRAINS, checkpointing=checkpointing)
    execute(job(cell, digits), count)
    assert alive == [before]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_no_curve(digits: DatasetInfo, dropout: float) -> None:
    recipe = replace(TRAINS, dropout=dropout)
    records = [
        run(tiny_cell(RESNET, recipe=recipe, timing=UNTIMED, checkpointing=each), digits)
        for each in ("none", "stage", "block")
    ]
    assert [record.status for record in records] == ["completed"] * 3
    assert curves(records[0]) == curves(records[1]) == curves(records[2])
    tested = {record.fit.test_accuracy for record in records if record.fit}
    assert len(tested) == 1


def test_what_the_device_cannot_do_is_unsupported(digits: DatasetInfo) -> None:
    record = run(tiny_cell(recipe=TRAINS, precision="tf32"), digits)
    assert (record.status, record.error) == ("unsupported", "TF32 needs an NVIDIA GPU")
    assert (record.profile, record.fit, record.effective_precision) == (None, None, None)


def test_batchnorm_over_a_single_value_is_unsupported(digits: DatasetInfo) -> None:
    recipe = tiny_recipe(image_size=8)
    record = run(tiny_cell("resnet(width=4,depth=1)", recipe=recipe, batch_size=1), digits)
    assert record.status == "unsupported"
    assert "more than 1 value per channel" in (record.error or "")


class SecretlyBF16(Precision):
    """Says fp32 and computes in bfloat16."""

    dtype = torch.bfloat16


def test_a_precision_that_is_not_what_was_asked_for_is_invalid(
    digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(modes.MODES, "fp32", SecretlyBF16)
    record = run(tiny_cell(), digits)
    assert (record.status, record.validity) == ("completed", "invalid")
    assert record.validity_reasons[0] == "asked for fp32, computed in bf16"
    assert record.effective_precision == "bf16"


BAD_MODELS = """
from torch import nn

class RaisesWhenTrained(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(768, 10))
        self.num_calls = 0
    def forward(self, x):
        self.num_calls += self.training
        if self.num_calls > 3:
            raise KeyError("the third step\\nwas one too many")
        return super().forward(x)
"""


@pytest.fixture
def bad_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "execute_bad_models.py").write_text(BAD_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    return "execute_bad_models:RaisesWhenTrained"


def test_a_model_that_raises_fails_with_one_line_and_its_traceback(
    digits: DatasetInfo, bad_models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(tiny_cell(bad_models, recipe=TRAINS), digits)
    assert record.status == "failed"
    assert record.error == r"KeyError: 'the third step\nwas one too many'"
    assert record.effective_precision == "fp32", "what was known before is kept"
    assert record.num_parameters == 7690
    assert "RaisesWhenTrained" not in record.error
    assert 'raise KeyError("the third step' in capsys.readouterr().err


def test_data_that_is_gone_fails_with_its_name_and_no_traceback(
    digits: DatasetInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(tiny_cell(), replace(digits, path="/nowhere/digits.bin"))
    assert record.status == "failed"
    assert "/nowhere/digits.bin" in (record.error or "")
    assert capsys.readouterr().err == ""


def test_weights_that_changed_since_they_were_checked_fail_by_name(
    digits: DatasetInfo, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    model = architectures.build(TINY_CNN, num_classes=10, image_size=16, weights="none")
    torch.save(model.state_dict(), path)
    cell = tiny_cell(recipe=tiny_recipe(epochs=1, weights=str(path)), timing=UNTIMED)
    checked = hashlib.sha256(path.read_bytes()).hexdigest()
    given = replace(job(cell, digits), weights_sha256=checked)
    assert execute(given, lambda _: None).status == "completed"
    torch.save({name: 0 * tensor for name, tensor in model.state_dict().items()}, path)
    record = execute(given, lambda _: None)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith(f"the weights {path} have changed since they were checked")


def test_a_rate_that_is_far_too_high_diverges_and_claims_no_accuracy(digits: DatasetInfo) -> None:
    recipe = tiny_recipe(epochs=3, optimizer="sgd", learning_rate=1e6, schedule="constant")
    record = run(tiny_cell(recipe=recipe, timing=UNTIMED), digits)
    assert record.status == "diverged"
    assert "loss of epoch" in (record.error or "")
    assert record.fit is not None
    assert record.fit.test_accuracy is None
    row = record.row()
    assert row["epochs_run"] == len(record.fit.epochs)
    names = ("train_accuracy", "val_accuracy", "best_val_accuracy", "test_accuracy", "val_loss")
    assert {row[name] for name in names} == {None}


def test_a_loss_that_explodes_while_steps_are_timed_is_suspect(digits: DatasetInfo) -> None:
    recipe = tiny_recipe(optimizer="sgd", learning_rate=1e38)
    record = run(tiny_cell(RESNET, recipe=recipe), digits)
    assert (record.status, record.validity) == ("completed", "suspect")
    assert any("infinite or not a number" in reason for reason in record.validity_reasons)


def test_missing_weights_are_profiled_and_claim_no_accuracy(
    digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    recipe = tiny_recipe(epochs=1, weights="imagenet", image_size=32)
    record = run(tiny_cell("transfer_resnet50", recipe=recipe, batch_size=4), digits)
    assert record.status == "completed"
    assert record.profile is not None
    assert record.row()["images_per_second"] is not None
    assert record.fit is None
    assert record.row()["test_accuracy"] is None
    assert len(record.notes) == 1
    assert "no accuracy is claimed" in record.notes[0]
    assert "--download" in record.notes[0]
    assert str(tmp_path) in record.notes[0]


@pytest.mark.parametrize(
    ("architecture", "note"),
    [("transfer_resnet50", NOT_MEANINGFUL), ("transfer_resnet50(frozen=False)", None)],
)
def test_frozen_random_weights_mark_the_accuracy_as_not_meaningful(
    digits: DatasetInfo, architecture: str, note: str | None
) -> None:
    recipe = tiny_recipe(epochs=1, train_subset=16)
    cell = tiny_cell(
        architecture, recipe=recipe, timing=UNTIMED, batch_size=8, checkpointing="stage"
    )
    record = run(cell, digits)
    assert record.status == "completed"
    assert record.fit is not None
    assert record.fit.accuracy_note == note
    assert record.notes == ((FROZEN_NOTE,) if note else ())
    assert record.num_parameters == 23_528_522
    assert record.num_trainable_parameters == (20_490 if note else 23_528_522)


IN_A_PROCESS = """
import resource, sys
from pathlib import Path
import msgspec, torch
from cnnbench.execute import execute
from cnnbench.job import CellJob

torch.nn.functional.conv2d(torch.zeros(2, 3, 8, 8), torch.zeros(4, 3, 3, 3))
job = msgspec.json.decode(sys.stdin.buffer.read(), type=CellJob)
if len(sys.argv) > 1:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = now + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
record = execute(job, lambda progress: None)
Path("record.json").write_bytes(msgspec.json.encode(record))
"""


def run_in_a_process(given: CellJob, folder: Path, *arguments: str) -> Record:
    """Run a cell in a process of its own, which may take so many MiB more than it has."""
    program = [sys.executable, "-c", IN_A_PROCESS, *arguments]
    subprocess.run(program, input=msgspec.json.encode(given), cwd=folder, check=True)
    return msgspec.json.decode((folder / "record.json").read_bytes(), type=Record)


@pytest.mark.parametrize(
    ("architecture", "batch_size", "mebibytes"),
    [
        (RESNET, 2**15, 200),  # a tensor of the step
        ("resnet(width=64,depth=2)", 8, 25),  # a parameter, while the model is built
        ("resnet(width=64,depth=1)", 32, 45),  # whatever comes first: oneDNN, perhaps
    ],
)
def test_an_allocation_that_really_fails_is_out_of_memory(
    digits: DatasetInfo, tmp_path: Path, architecture: str, batch_size: int, mebibytes: int
) -> None:
    cell = tiny_cell(architecture, recipe=TRAINS, batch_size=batch_size)
    record = run_in_a_process(job(cell, digits), tmp_path, str(mebibytes))
    assert record.status == "out_of_memory", record.error
    assert record.error
    assert "\n" not in record.error
    assert record.memory is not None
    assert record.memory.peak_allocated_bytes is None
    assert record.memory.process_bytes is not None
    assert record.row()["images_per_second"] is None


def test_a_compiler_that_does_not_work_is_unsupported(
    digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    # So that nothing compiled earlier is found.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    record = run_in_a_process(job(tiny_cell(compile="default"), digits), tmp_path)
    assert record.status == "unsupported"
    assert "InvalidCxxCompiler" in (record.error or "")


PEAKS = Peaks(
    flops={name: Peak(matmul=2e11, convolution=3e11) for name in ("fp32", "bf16")},
    bytes_per_second=2e10,
)


def test_a_cell_carries_what_its_derived_figures_are_made_of(
    digits: DatasetInfo, tmp_path: Path
) -> None:
    """Every derived figure of a real cell, computed again from the JSON that its record becomes."""
    cell = tiny_cell(RESNET, recipe=TRAINS, precision="bf16", checkpointing="block")
    given = replace(job(cell, digits), peaks=PEAKS, folder=str(tmp_path))
    raw = json.loads(msgspec.json.encode(execute(given, lambda _: None)))
    row = msgspec.json.decode(json.dumps(raw), type=Record).row()
    profile, memory, roofline, fit = (raw[n] for n in ("profile", "memory", "roofline", "fit"))
    steps = sorted(window["seconds"] / window["num_steps"] for window in profile["windows"])
    step = statistics.median(steps)
    flops = sum(kind["flops"] - kind["recomputed_flops"] for kind in roofline["operators"])
    bound = sum(kind["bound_seconds"] for kind in roofline["operators"])
    low, high = median_interval([w["seconds"] / w["num_steps"] for w in profile["windows"]])
    total = sum(w["seconds"] for w in profile["windows"])
    best = max(fit["epochs"], key=lambda epoch: epoch["val_accuracy"])
    expected = {
        "images_per_second": 32 / step,
        "images_per_second_low": 32 / high,
        "images_per_second_high": 32 / low,
        "images_per_second_total": 32 * sum(w["num_steps"] for w in profile["windows"]) / total,
        "step_ms_median": 1e3 * step,
        "step_ms_p95": 1e3 * float(np.quantile(steps, 0.95)),
        "num_windows": len(steps),
        "num_rejected_windows": len(profile["rejected_windows"]),
        "data_wait_fraction": sum(w["data_seconds"] for w in profile["windows"]) / total,
        "model_gflops_per_image": flops / 32 / 1e9,
        "mfu": flops / step / 3e11,
        "roofline_fraction": bound / step,
        "peak_allocated_mib": memory["peak_allocated_bytes"] / 2**20,
        "process_mib": memory["process_bytes"] / 2**20,
        "setup_peak_mib": memory["setup_peak_bytes"] / 2**20,
        "data_mib": memory["data_bytes"] / 2**20,
        "epochs_run": 2,
        "val_accuracy": fit["epochs"][-1]["val_accuracy"],
        "best_val_accuracy": best["val_accuracy"],
        "time_to_accuracy_seconds": fit["epochs"][0]["train_seconds"],
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    seen = {probe[way] for probe in raw["probes"] for way in ("forward", "backward")}
    assert seen == {row["effective_precision"]} == {"bf16"}
    assert raw["flags"]["backends.cudnn.allow_tf32"] == "False"
    judged = judge(
        asked_precision=raw["cell"]["precision"],
        effective_precision=raw["effective_precision"],
        profile=msgspec.convert(profile, Profile),
        memory=msgspec.convert(memory, Memory),
    )
    assert judged == (raw["validity"], tuple(raw["validity_reasons"]))
    assert row["diagnosis"] in DIAGNOSES
    assert (raw["unknowns"], raw["artifacts"]) == ({}, [])


@pytest.mark.parametrize("checkpointing", ["none", "block"])
def test_recomputation_is_hardwares_work_and_not_the_models(
    digits: DatasetInfo, checkpointing: str
) -> None:
    plain, given = (
        execute(
            replace(job(tiny_cell(RESNET, checkpointing=each), digits), peaks=PEAKS),
            lambda _: None,
        ).roofline
        for each in ("none", checkpointing)
    )
    assert plain is not None
    assert given is not None
    assert given.model_flops == plain.model_flops
    assert (given.hardware_flops > plain.hardware_flops) == (checkpointing != "none")


@pytest.mark.parametrize("compile_", ["off", "default"])
def test_extras_are_left_as_files_where_they_were_asked_for(
    digits: DatasetInfo, tmp_path: Path, compile_: str
) -> None:
    folder = tmp_path / "artifacts" / "cell"
    cell = tiny_cell(RESNET, compile=compile_)
    asked = replace(job(cell, digits), peaks=PEAKS, folder=str(folder), extras=("trace", "layers"))
    record = execute(asked, lambda _: None)
    assert record.unknowns == {}
    assert record.artifacts == ("trace.json.gz", "operators.csv", "layers.csv")
    assert {path.name for path in folder.iterdir()} == set(record.artifacts)
    plain = execute(replace(asked, extras=()), lambda _: None)
    assert plain.artifacts == ()


def test_an_extra_that_cannot_be_written_costs_the_cell_nothing_else(
    digits: DatasetInfo, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    asked = replace(job(tiny_cell(), digits), folder=str(tmp_path / "file"), extras=("layers",))
    record = execute(asked, lambda _: None)
    assert record.status == "completed"
    assert record.profile is not None
    assert record.unknowns["layers"].startswith("FileExistsError")


def test_without_peaks_there_is_no_roofline(digits: DatasetInfo) -> None:
    row = run(tiny_cell(), digits).row()
    assert {row[n] for n in ("model_gflops_per_image", "mfu", "roofline_fraction")} == {None}


def test_a_peak_that_is_missing_is_said(digits: DatasetInfo) -> None:
    lacking = replace(PEAKS, flops={"bf16": PEAKS.flops["bf16"]})
    record = execute(replace(job(tiny_cell(), digits), peaks=lacking), lambda _: None)
    assert (record.status, record.roofline) == ("completed", None)
    assert "no peak was measured in fp32" in record.unknowns["roofline"]


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
