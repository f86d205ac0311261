"""Whatever goes wrong in a cell is a status with its reason, and one line."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
import torch

from cnnbench import architectures
from cnnbench import precision as modes
from cnnbench.execute import execute
from cnnbench.precision import Precision
from cnnbench.record import Record
from executed import RESNET, TRAINS, run
from sample_jobs import TINY_CNN, UNTIMED, job, tiny_cell, tiny_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo
    from cnnbench.job import CellJob


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
import torch
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

class RunsOut(nn.Sequential):
    def __init__(self, says="capture failed"):
        super().__init__(nn.Flatten(), nn.Linear(768, 10))
        self.says = says
    def forward(self, x):
        try:
            raise torch.OutOfMemoryError("no memory left") if self.says == "capture failed" else KeyError(0)
        finally:
            raise RuntimeError(self.says)
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


@pytest.mark.usefixtures("bad_models")
@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("RunsOut", "out_of_memory"),  # raised anew over what ended it
        # On a GPU that is full this would be said of the memory.
        ("RunsOut(says='unable to find an engine to execute this computation')", "failed"),
    ],
)
def test_what_ran_out_of_memory_says_so_however_it_is_told(
    digits: DatasetInfo, model: str, status: str
) -> None:
    record = run(tiny_cell(f"execute_bad_models:{model}", recipe=TRAINS), digits)
    assert record.status == status, record.error


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
