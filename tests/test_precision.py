"""The numeric switches are what a precision says, in both of PyTorch's families of them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from cnnbench.cell import PRECISIONS
from cnnbench.errors import UnknownNameError
from cnnbench.measure.flags import numeric_flags
from cnnbench.precision import FP16, TF32, Precision, precision

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU = torch.device("cpu")

OLD_FAMILY = ("backends.cuda.matmul.allow_tf32", "backends.cudnn.allow_tf32")
NEW_FAMILY = (
    "backends.cuda.matmul.fp32_precision",
    "backends.cudnn.conv.fp32_precision",
    "backends.mkldnn.matmul.fp32_precision",
)


@pytest.fixture(autouse=True)
def _fp32_afterwards() -> Iterator[None]:
    yield
    Precision().apply()


def test_every_precision_of_a_cell_has_a_mode_of_its_name() -> None:
    assert [precision(name).name for name in PRECISIONS] == list(PRECISIONS)


def test_an_unknown_precision_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'fp23'\. Did you mean 'fp32'"):
        precision("fp23")


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_tf32_is_off_in_both_families_for_matmul_and_for_convolutions(name: str) -> None:
    precision("tf32").apply()
    precision(name).apply()
    flags = numeric_flags()
    assert {flags[switch] for switch in OLD_FAMILY} == {"False"}
    assert not {flags[switch] for switch in NEW_FAMILY} & {"tf32", "bf16", "unreadable"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_tf32_is_on_in_both_families_for_matmul_and_for_convolutions() -> None:
    precision("tf32").apply()
    flags = numeric_flags()
    assert {flags[switch] for switch in OLD_FAMILY} == {"True"}
    assert flags["backends.cuda.matmul.fp32_precision"] == "tf32"
    assert flags["backends.cudnn.conv.fp32_precision"] == "tf32"


def test_no_switch_is_unreadable_after_any_mode() -> None:
    for name in PRECISIONS:
        precision(name).apply()
        assert "unreadable" not in numeric_flags().values(), name


def test_switches_that_pytorch_will_not_report_read_unreadable() -> None:
    # A process of its own: what the newer family was set to cannot be taken back.
    program = """
import torch
from cnnbench.measure.flags import numeric_flags
torch.backends.cudnn.allow_tf32 = True
torch.backends.cudnn.conv.fp32_precision = "ieee"
print(numeric_flags()["backends.cudnn.allow_tf32"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "unreadable"


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_the_forward_pass_computes_in_the_modes_type(name: str, dtype: torch.dtype) -> None:
    weight = torch.ones(4, 4)
    with precision(name).autocast(CPU):
        assert torch.nn.functional.linear(weight, weight).dtype is dtype
    assert torch.nn.functional.linear(weight, weight).dtype is torch.float32


def test_only_fp16_scales_its_gradients() -> None:
    scaled = {name: precision(name).grad_scaler(CPU).is_enabled() for name in PRECISIONS}
    assert scaled == {"fp32": False, "tf32": False, "bf16": False, "fp16": True}
    assert FP16().grad_scaler(CPU).get_scale() == 65536


def test_tf32_on_a_cpu_is_unsupported_with_its_reason() -> None:
    assert TF32().unsupported_reason(CPU) == "TF32 needs an NVIDIA GPU"


def test_short_formats_on_a_cpu_need_its_instructions() -> None:
    # oneDNN's own answer decides: the reason must be there exactly where the instructions are not.
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 (no public query exists)
    has_fp16 = torch.ops.mkldnn._is_mkldnn_fp16_supported()  # noqa: SLF001
    reasons = [precision(name).unsupported_reason(CPU) for name in ("bf16", "fp16")]
    assert [reason is None for reason in reasons] == [has_bf16, has_fp16]
    assert all("this processor has no AVX" in reason for reason in reasons if reason)


@pytest.mark.gpu
def test_on_cuda_what_is_supported_follows_the_devices_generation() -> None:
    device = torch.device("cuda", 0)
    is_ampere = torch.cuda.get_device_capability(device) >= (8, 0)
    assert precision("fp32").unsupported_reason(device) is None
    assert precision("fp16").unsupported_reason(device) is None
    for name in ("tf32", "bf16"):
        assert (precision(name).unsupported_reason(device) is None) is is_ampere
