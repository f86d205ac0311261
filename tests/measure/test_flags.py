"""The switches are read as they are set, and reading them changes nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cnnbench.measure import flags
from cnnbench.measure.flags import numeric_flags

if TYPE_CHECKING:
    from collections.abc import Callable

SETTERS: dict[str, tuple[Callable[[Any], object], Any, Any]] = {
    "backends.cudnn.allow_tf32": (
        lambda on: setattr(torch.backends.cudnn, "allow_tf32", on),
        True,
        False,
    ),
    "get_float32_matmul_precision": (torch.set_float32_matmul_precision, "high", "highest"),
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction": (
        lambda on: setattr(
            torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", on
        ),
        False,
        True,
    ),
    "backends.cudnn.benchmark": (
        lambda on: setattr(torch.backends.cudnn, "benchmark", on),
        True,
        False,
    ),
    "backends.cudnn.deterministic": (
        lambda on: setattr(torch.backends.cudnn, "deterministic", on),
        True,
        False,
    ),
    "backends.mkldnn.enabled": (
        lambda on: setattr(torch.backends.mkldnn, "enabled", on),
        False,
        True,
    ),
    "are_deterministic_algorithms_enabled": (torch.use_deterministic_algorithms, True, False),
    "get_default_dtype": (torch.set_default_dtype, torch.float64, torch.float32),
    "is_autocast_cache_enabled": (torch.set_autocast_cache_enabled, False, True),
}


COMPILERS = ("max_autotune", "freezing", "layout_optimization")


@pytest.mark.parametrize("name", SETTERS)
def test_a_switch_is_read_as_it_is_set(name: str) -> None:
    setter, value, usual = SETTERS[name]
    try:
        setter(value)
        assert numeric_flags()[name] == str(value)
    finally:
        setter(usual)
    assert numeric_flags()[name] == str(usual)


def test_both_families_follow_the_older_one_which_cells_set() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        read = numeric_flags()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert read["backends.cuda.matmul.allow_tf32"] == "True"
    assert read["backends.cuda.matmul.fp32_precision"] == "tf32"


def test_the_compilers_switches_are_read_once_it_is_loaded() -> None:
    config: Any = importlib.import_module("torch._inductor.config")
    with config.patch(fallback_random=True):
        assert numeric_flags()["_inductor.config.fallback_random"] == "True"
    read = numeric_flags()
    assert read["_inductor.config.fallback_random"] == str(config.fallback_random) == "False"
    assert not {"absent", "not loaded"} & {read[f"_inductor.config.{n}"] for n in COMPILERS}


def test_denormals_are_told_by_what_the_processor_does_with_them() -> None:
    assert numeric_flags()["set_flush_denormal"] == "False"
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        assert numeric_flags()["set_flush_denormal"] == "True"
    finally:
        torch.set_flush_denormal(False)


def test_the_processors_capability_is_pytorchs_own_word() -> None:
    read = numeric_flags()
    assert read["backends.cpu.get_cpu_capability"] == torch.backends.cpu.get_cpu_capability()


def test_a_switch_that_this_pytorch_does_not_have_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flags, "_SWITCHES", ("backends.cudnn.no_such_switch", "no.such.module"))
    read = numeric_flags()
    assert read["backends.cudnn.no_such_switch"] == read["no.such.module"] == "absent"


def test_reading_starts_no_cuda_imports_no_compiler_and_changes_nothing() -> None:
    program = """
import sys, torch
from cnnbench.measure.flags import numeric_flags
modules = set(sys.modules)
assert numeric_flags() == numeric_flags()
assert numeric_flags()["_inductor.config.max_autotune"] == "not loaded"
assert set(sys.modules) == modules, set(sys.modules) - modules
assert not torch.cuda.is_initialized()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.gpu
def test_on_cuda_every_switch_can_be_read() -> None:
    torch.zeros(1, device="cuda")
    read = numeric_flags()
    assert "unreadable" not in read.values()
    assert int(read["backends.cudnn.benchmark_limit"]) > 0
    assert read["backends.cudnn.enabled"] == "True"
