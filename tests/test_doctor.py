"""The doctor on this machine, on one with a neighbour, and on machines that lack things."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import fake_nvml
from cnnbench import doctor
from cnnbench.doctor import examine
from cnnbench.errors import InvalidValueError
from cnnbench.job import Examination, Finding
from cnnbench.measure import machine
from cnnbench.measure.gpu import Gpu
from neighbours import busy_neighbours
from sample_records import sample_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.environment import Environment


@pytest.fixture(autouse=True)
def brief_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOAD_SECONDS", 0.5)


def found(folder: Path, subject: str) -> list[Finding]:
    findings = examine(Examination(device="cpu", data_dir=str(folder)))
    return [finding for finding in findings if finding.subject == subject]


def test_every_check_speaks_and_what_is_wrong_has_a_remedy(tmp_path: Path) -> None:
    findings = examine(Examination(device="cpu", data_dir=str(tmp_path)))
    subjects = {finding.subject for finding in findings}
    assert {"device", "precision", "load", "memory", "compiling", "data", "weights"} <= subjects
    for finding in findings:
        assert finding.status in {"ok", "warning", "problem", "unknown"}
        assert finding.text
        assert "\n" not in finding.text
        if finding.status in {"warning", "problem"}:
            assert finding.remedy, finding


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="unknown device"):
        examine(Examination(device="tpu", data_dir=str(tmp_path)))


def test_it_says_which_precisions_cannot_be_measured_and_why(tmp_path: Path) -> None:
    texts = [finding.text for finding in found(tmp_path, "precision")]
    assert texts[0].startswith("can be measured: fp32")
    assert "tf32 cannot: TF32 needs an NVIDIA GPU" in texts


def test_a_busy_machine_is_told_with_who_keeps_it_busy(tmp_path: Path) -> None:
    with busy_neighbours():
        (load,) = found(tmp_path, "load")
    assert load.status == "warning"
    assert "python" in load.text


@pytest.mark.parametrize(
    ("name", "value", "is_told"),
    [
        ("NVIDIA_TF32_OVERRIDE", "0", True),
        ("NVIDIA_TF32_OVERRIDE", "1", True),
        ("CUDA_LAUNCH_BLOCKING", "1", True),
        ("CUDA_LAUNCH_BLOCKING", "0", False),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", True),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT", False),
    ],
)
def test_variables_that_spoil_numbers_are_problems(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    is_told: bool,  # noqa: FBT001 (a column of the table)
) -> None:
    for each in doctor.SPOILING:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    problems = found(tmp_path, "variables")
    assert bool(problems) == is_told
    for problem in problems:
        assert problem.status == "problem"
        assert problem.text.startswith(f"{name}={value}")
        assert name in problem.remedy


def test_missing_data_sets_are_named_with_what_to_do(tmp_path: Path) -> None:
    by_text = {finding.text: finding for finding in found(tmp_path, "data")}
    assert any(text.startswith("digits is there and whole") for text in by_text)
    (missing,) = [finding for text, finding in by_text.items() if text.startswith("cifar10 ")]
    assert missing.status == "warning"
    assert "--download" in missing.remedy


@pytest.mark.parametrize(
    ("function", "value", "subject", "status", "said"),
    [
        ("processor_quota", 0.5, "quota", "warning", "a control group allows 0.5 of"),
        ("frequency_governor", "powersave", "clocks", "warning", "the frequency governor is"),
        ("frequency_governor", "performance", "clocks", "ok", "performance"),
        ("frequency_governor", None, "clocks", "unknown", "not told here"),
        ("available_bytes", 2**30, "memory", "warning", "1.0 GiB of memory are free"),
        ("available_bytes", None, "memory", "unknown", "not told here"),
        ("read_load", None, "load", "unknown", "cannot notice other load"),
    ],
)
def test_what_the_machine_says_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    value: object,
    subject: str,
    status: str,
    said: str,
) -> None:
    monkeypatch.setattr(machine, function, lambda: value)
    (finding,) = [one for one in found(tmp_path, subject) if said in one.text]
    assert finding.status == status


def test_a_check_that_breaks_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[Finding]:
        msg = "the kernel says no"
        raise OSError(msg)

    monkeypatch.setitem(doctor._CHECKS, "memory", broken)  # noqa: SLF001 (the table to corrupt)
    findings = examine(Examination(device="cpu", data_dir=str(tmp_path)))
    (memory,) = [finding for finding in findings if finding.subject == "memory"]
    assert (memory.status, memory.text) == ("unknown", "could not be read: the kernel says no")
    assert findings[-1].subject == "disk"


def test_a_compiler_that_is_missing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    warnings = [one for one in found(tmp_path, "compiling") if one.status == "warning"]
    assert "no-such-compiler is not installed" in warnings[0].text
    assert "install g++" in warnings[0].remedy


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_nvml.FakeNvml]:
    """Let the environment name an H200, whose library answers as its C functions would."""
    library = fake_nvml.h200()

    def environment(_: object) -> Environment:
        with Gpu(fake_nvml.H200_UUID) as gpu:
            return sample_environment(device_uuid=gpu.uuid, gpu=gpu.settings())

    monkeypatch.setattr(doctor, "collect_environment", environment)
    with fake_nvml.installed(library):
        fake_nvml.arrive(library.gpus[0])
        yield library


def test_a_gpu_in_order_has_no_remedy(tmp_path: Path, nvml: fake_nvml.FakeNvml) -> None:
    del nvml.gpus[0].processes[os.getpid()]
    findings = found(tmp_path, "GPU")
    assert [one.status for one in findings if one.status not in {"ok", "unknown"}] == []


@pytest.mark.parametrize(
    ("field", "value", "status", "said"),
    [
        ("power_limit_milliwatts", 350_000, "warning", "its power limit is 350 W, 700 W by"),
        ("persistence", 0, "warning", "persistence mode is off"),
        ("ecc_errors", 3, "problem", "3 uncorrected errors"),
        ("energy_millijoules", fake_nvml.UNSUPPORTED, "unknown", "energy cannot be read"),
        ("processes", {fake_nvml.FOREIGN_PID: 2**30}, "warning", str(fake_nvml.FOREIGN_PID)),
        ("graphics_processes", {900: 2**20}, "warning", "a desktop draws on this GPU"),
    ],
)
def test_what_is_wrong_with_a_gpu_is_told(
    tmp_path: Path,
    nvml: fake_nvml.FakeNvml,
    field: str,
    value: object,
    status: str,
    said: str,
) -> None:
    setattr(nvml.gpus[0], field, value)
    told = [one for one in found(tmp_path, "GPU") if said in one.text]
    assert [one.status for one in told] == [status]


def test_a_partition_of_a_gpu_says_what_it_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_nvml.installed(fake_nvml.mig_instance()):
        with Gpu(fake_nvml.MIG_UUID) as gpu:
            part = sample_environment(device_uuid=gpu.uuid, gpu=gpu.settings())
        monkeypatch.setattr(doctor, "collect_environment", lambda _: part)
        findings = found(tmp_path, "GPU")
    texts = [one.text for one in findings]
    assert any("partitioned (MIG)" in text for text in texts)
    assert not any("MIG instance cannot be read" in text for text in texts)
    assert any(text.endswith("Cells say so, and leave it empty") for text in texts)
