"""What a cell's derived figures are made of: FLOPs, peaks, layers, extras."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from cnnbench.diagnosis import DIAGNOSES
from cnnbench.environment import Peak, Peaks
from cnnbench.execute import execute
from cnnbench.measurement import Memory, Profile
from cnnbench.record import Record
from cnnbench.stats import median_interval
from cnnbench.validity import judge
from executed import RESNET, TRAINS, run
from sample_jobs import job, tiny_cell

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo


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
