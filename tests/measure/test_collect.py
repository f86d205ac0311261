"""What the machine says of itself."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnbench
from cnnbench.environment import GpuSettings
from cnnbench.measure import collect
from cnnbench.measure.collect import (
    PACKAGE,
    PACKAGES,
    VARIABLES,
    allocator,
    code_digest,
    collect_environment,
    cpu_name,
    git_state,
    library_versions,
    processors,
)
from fake_nvml import GIB, H200_UUID, MIG_UUID, h200, installed, mig_instance

if TYPE_CHECKING:
    from cnnbench.environment import Environment
    from fake_nvml import FakeNvml

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@here", *arguments],  # noqa: S607  # the user's own git
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_cpu_is_described_without_a_gpus_fields() -> None:
    environment = collect_environment(torch.device("cpu"))
    assert environment.device == environment.cpu == cpu_name() != ""
    assert (environment.device_type, environment.device_index) == ("cpu", None)
    assert environment.driver is environment.cuda is environment.cudnn is None
    assert environment.torch == torch.__version__
    assert environment.cnnbench == cnnbench.__version__
    assert environment.num_threads == torch.get_num_threads()
    assert environment.memory_bytes > 2**28
    assert environment.flags
    assert environment.gpu is None
    assert "backend" not in environment.allocator


@pytest.fixture
def cuda_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Return a device that PyTorch describes as CUDA would an H200."""
    properties = SimpleNamespace(
        name="NVIDIA H200", total_memory=141 * GIB, uuid=H200_UUID.removeprefix("GPU-")
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return torch.device("cuda", 0)


def test_a_gpus_settings_are_what_nvml_tells_of_it(cuda_device: torch.device) -> None:
    nvml = h200()
    nvml.gpus[0].power_limit_milliwatts = 500_000
    with installed(nvml):
        environment = collect_environment(cuda_device)
    assert environment.device_uuid == H200_UUID
    assert environment.driver == "595.71.05"
    assert environment.gpu is not None
    assert environment.gpu.power_limit_watts == 500
    assert environment.gpu.default_power_limit_watts == 700
    assert environment.gpu.unknowns == {}
    assert msgspec.json.decode(msgspec.json.encode(environment), type=type(environment)) == (
        environment
    )


@pytest.mark.parametrize(
    ("nvml", "said"),
    [(None, "NVML is not there"), (mig_instance(), f"NVML does not find {H200_UUID}")],
)
def test_a_gpu_that_nvml_does_not_tell_of_is_described_all_the_same(
    nvml: FakeNvml | None, said: str, cuda_device: torch.device
) -> None:
    if nvml is not None:
        nvml.gpus[0].uuid = "GPU-another"
    with installed(nvml):
        environment = collect_environment(cuda_device)
    assert environment.device_uuid == H200_UUID
    assert environment.gpu is not None
    assert environment.gpu == GpuSettings(unknowns=environment.gpu.unknowns)
    assert environment.gpu.unknowns["NVML"].startswith(said)


def test_a_mig_instance_goes_by_its_own_name(
    cuda_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(
        name="NVIDIA H200 MIG 2g.35gb",
        total_memory=35 * GIB,
        uuid=MIG_UUID.removeprefix("MIG-"),
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    with installed(mig_instance()):
        environment = collect_environment(cuda_device)
    assert environment.device_uuid == MIG_UUID
    assert environment.gpu is not None
    assert environment.gpu.is_mig is True


@pytest.mark.gpu
def test_a_gpu_is_described_with_its_driver_and_libraries() -> None:
    environment: Environment = collect_environment(torch.device("cuda", 0))
    assert environment.device == torch.cuda.get_device_name(0)
    assert (environment.device_type, environment.device_index) == ("cuda", 0)
    assert environment.driver
    assert environment.cuda == torch.version.cuda
    assert environment.cudnn
    assert environment.device_uuid
    assert environment.device_uuid.startswith(("GPU-", "MIG-"))
    assert environment.device_memory_bytes
    assert environment.device_memory_bytes > 2**30
    assert environment.gpu is not None
    assert "NVML" not in environment.gpu.unknowns
    assert environment.allocator["backend"] == torch.cuda.memory.get_allocator_backend()
    assert environment.libraries["cuDNN"] == environment.cudnn
    assert environment.libraries["NCCL"]
    assert "unreadable" not in environment.flags.values()


@pytest.mark.gpu
def test_a_real_gpus_settings_are_known_or_said_to_be_not() -> None:
    gpu = collect_environment(torch.device("cuda", 0)).gpu
    assert gpu is not None
    if None in msgspec.to_builtins(gpu).values():
        assert gpu.unknowns
    for watts in (gpu.power_limit_watts, gpu.default_power_limit_watts):
        assert watts is None or 10 < watts < 5000


def test_libraries_are_told_by_version_where_they_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collect, "PACKAGES", (*PACKAGES, "no-such-package"))
    versions = library_versions(CPU)
    assert "no-such-package" not in versions
    for name in ("torch", "torchvision", "numpy", "scipy", "pandas", "mlflow", "nvidia-ml-py"):
        assert versions[name] == importlib.metadata.version(name)
    for name in ("oneDNN", "OpenMP"):
        assert versions[name] in torch.__config__.show()
    assert re.fullmatch(r"\d+\.\d+.*", versions["oneDNN"])


def test_collecting_imports_nothing_heavy_and_starts_no_cuda() -> None:
    program = """
import sys, torch
from cnnbench.measure.collect import collect_environment
modules = set(sys.modules)
libraries = collect_environment(torch.device("cpu")).libraries
assert {"mlflow", "pandas"} <= libraries.keys()
loaded = {name.partition(".")[0] for name in set(sys.modules) - modules}
assert not loaded & {"mlflow", "pandas", "timm", "triton", "torch", "pynvml"}, loaded
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("preloaded", "expected"),
    [
        ("/opt/me/lib/libjemalloc.so.2", "libjemalloc.so.2"),
        ("/usr/lib/libiomp5.so:/home/me/libtcmalloc.so.4", "libtcmalloc.so.4"),
        ("/a/libmimalloc.so /b/libother.so", "libmimalloc.so"),
    ],
)
def test_a_preloaded_allocator_is_told_without_its_folder(
    preloaded: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", preloaded)
    assert allocator(CPU)["malloc"] == expected


def test_without_one_the_c_librarys_allocator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libiomp5.so")
    named = allocator(CPU)["malloc"]
    monkeypatch.delenv("LD_PRELOAD")
    assert allocator(CPU)["malloc"] == named
    assert "iomp" not in named


def test_large_pages_are_told_as_the_system_has_them() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists():
        assert "transparent_hugepages" not in allocator(CPU)
    else:
        assert f"[{allocator(CPU)['transparent_hugepages']}]" in setting.read_text()


CACHING_ALLOCATOR = """
import torch
from cnnbench.measure.collect import allocator
said = allocator(torch.device("cuda", 0))
print(said["backend"], said.get("expandable_segments"), said.get("max_split_size"))
"""


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this PyTorch knows no CUDA")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("expandable_segments:True,max_split_size_mb:128", f"native True {128 * 2**20}"),
        ("backend:cudaMallocAsync", "cudaMallocAsync None None"),
    ],
)
def test_the_caching_allocator_is_told_as_pytorch_has_parsed_its_settings(
    given: str, expected: str
) -> None:
    # It reads the variable when it is imported, with a GPU or without.
    environment = {**os.environ, "PYTORCH_ALLOC_CONF": given}
    environment.pop("PYTORCH_CUDA_ALLOC_CONF", None)
    done = subprocess.run(
        [sys.executable, "-c", CACHING_ALLOCATOR],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(expected)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1073741824"}, 2**30),
        ("0::/\n", {"memory.max": "max"}, None),
        (
            "0::/user/job\n",
            {"user/job/memory.max": "max", "user/memory.max": "4096", "memory.max": "8192"},
            4096,
        ),
        ("0::/seen/from/outside\n", {"memory.max": "8192"}, 8192),
        (
            "4:memory:/job\n1:cpu:/\n0::/\n",
            {
                "memory/job/memory.limit_in_bytes": "4096",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            4096,
        ),
        (
            "4:memory:/\n0::/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712"},
            None,
        ),
        ("", {"memory.max": "4096"}, None),
    ],
)
def test_the_tightest_memory_limit_of_the_control_groups_counts(
    groups: str,
    files: dict[str, str],
    expected: int | None,
    tmp_path: Path,
) -> None:
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert collect.memory_limit_bytes(tmp_path) == expected


def test_the_processors_are_told_as_this_process_may_use_them() -> None:
    usable = os.sched_getaffinity(0)
    one = {min(usable)}
    assert processors()["affinity"] == str(len(usable))
    os.sched_setaffinity(0, one)
    try:
        said = processors()
    finally:
        os.sched_setaffinity(0, usable)
    assert said["affinity"] == "1"


@pytest.mark.parametrize(
    ("files", "smt", "boost"),
    [
        ({}, None, None),
        ({"smt/active": "1\n", "cpufreq/boost": "0\n"}, "on", "off"),
        ({"smt/active": "0\n", "cpufreq/boost": "1\n"}, "off", "on"),
        ({"intel_pstate/no_turbo": "1\n"}, None, "off"),
        ({"intel_pstate/no_turbo": "0\n"}, None, "on"),
        ({"smt/active": "what\n"}, None, None),
    ],
)
def test_threads_a_core_and_boost_are_on_or_off_or_not_told(
    files: dict[str, str], smt: str | None, boost: str | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    said = processors(tmp_path)
    assert (said.get("smt"), said.get("boost")) == (smt, boost)


def test_only_variables_on_the_list_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment = collect_environment(torch.device("cpu"))
    assert environment.variables["OMP_NUM_THREADS"] == "7"
    assert environment.variables == {v: os.environ[v] for v in VARIABLES if v in os.environ}
    assert not set(VARIABLES) & {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"}


@settings(max_examples=25, deadline=None)  # each asks git and digests the package's code
@given(secret=st.text("abcXYZ019@:/?#%&= ", min_size=8).map(lambda text: f"s3cret{text}s3cret"))
def test_no_secret_gets_in_by_any_variable(secret: str) -> None:
    # A secret in every variable that often holds one, and in a URI where none belongs.
    hiding = {
        "MLFLOW_TRACKING_URI": f"http://me:{secret}@host",
        "MLFLOW_TRACKING_TOKEN": secret,
        "MLFLOW_TRACKING_PASSWORD": secret,
        "AWS_SECRET_ACCESS_KEY": secret,
        "HF_TOKEN": secret,
        "HTTPS_PROXY": f"http://me:{secret}@proxy:3128",
        "PYTHONPATH": secret,
        "LD_PRELOAD": f"/home/{secret}/libjemalloc.so",
        "MALLOC_CONF": f"http://me:{secret}@host",
        "CUDA_VISIBLE_DEVICES": f"https://{secret}@host",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hiding.items():
            patch.setenv(name, value)
        environment = collect_environment(CPU)
    assert environment.variables["MALLOC_CONF"] == "http://***@host"
    assert "s3cret" not in msgspec.json.encode(environment).decode()


def test_other_code_has_another_digest_and_the_same_code_the_same(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.py").write_text("x = 1\n", encoding="utf-8")
    first = code_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code", encoding="utf-8")
    assert code_digest(tmp_path) == first
    (tmp_path / "inner" / "a.py").rename(tmp_path / "a.py")
    moved = code_digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n", encoding="utf-8")
    assert len({first, moved, code_digest(tmp_path)}) == 3
    assert code_digest(PACKAGE) == collect_environment(torch.device("cpu")).code_digest


def test_the_commit_and_changes_of_tracked_code_are_told(repository: Path) -> None:
    package = repository / "package"
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(package) == (commit, False)
    (repository / "untracked").write_text("")
    assert git_state(package) == (commit, False)
    (package / "code.py").write_text("x = 2\n")
    assert git_state(package) == (commit, True)


def test_code_that_is_installed_inside_anothers_repository_has_no_commit(repository: Path) -> None:
    installed = repository / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("x = 1\n")
    assert git_state(installed) == (None, None)
    assert git_state(repository / "nowhere") == (None, None)


def test_a_machine_without_git_has_no_commit(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert git_state(repository / "package") == (None, None)
