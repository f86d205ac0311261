"""Collects the `Environment` of this process: it imports torch and may start CUDA, so a worker does it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
import torchvision

import cnnbench
from cnnbench.digest import digest
from cnnbench.environment import Environment, masked
from cnnbench.measure import machine
from cnnbench.measure.flags import numeric_flags
from cnnbench.measure.gpu import Gpu, driver_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.environment import GpuSettings

PACKAGE = Path(cnnbench.__file__).parent

# What may change a number. Nothing here is meant to hold a secret, and user parts are masked all the same.
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "CUDNN_LOGLEVEL_DBG",
    "DISABLE_ADDMM_CUDA_LT",
    "GLIBC_TUNABLES",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LRU_CACHE_CAPACITY",
    "MALLOC_ARENA_MAX",
    "MALLOC_CONF",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "THP_MEM_ALLOC_ENABLE",
    "TORCHDYNAMO_DISABLE",
    "TORCHINDUCTOR_COORDINATE_DESCENT_TUNING",
    "TORCHINDUCTOR_EMULATE_PRECISION_CASTS",
    "TORCHINDUCTOR_FREEZING",
    "TORCHINDUCTOR_LAYOUT_OPTIMIZATION",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_COMPILE_DISABLE",
    "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
    "TORCH_CUDNN_V8_API_LRU_CACHE_LIMIT",
)

# The packages that take part in a number, by the names that they are installed under.
PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "timm",
    "numpy",
    "scipy",
    "pandas",
    "mlflow",
    "nvidia-ml-py",
)
# What PyTorch says that it was built with.
BUILT_WITH = {
    "oneDNN": r"MKL-DNN v(\S+)",
    "MKL": r"Math Kernel Library Version (\S+)",
    "OpenMP": r"OpenMP (\d+)",
}

# A limit beyond is none: the older control groups say "unlimited" with a number.
_UNLIMITED_BYTES = 2**60


def collect_environment(device: torch.device) -> Environment:
    """Return what `device` and this process are."""
    cpu = cpu_name()
    commit, dirty = git_state(PACKAGE)
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    device_uuid, settings = _gpu(str(properties.uuid)) if properties else (None, None)
    return Environment(
        device=properties.name if properties else cpu,
        device_type=device.type,
        device_index=device.index if properties else None,
        device_uuid=device_uuid,
        device_memory_bytes=properties.total_memory if properties else None,
        gpu=settings,
        driver=driver_version() if properties else None,
        cuda=torch.version.cuda if properties else None,
        cudnn=_cudnn_version() if properties else None,
        cpu=cpu,
        num_cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        num_threads=torch.get_num_threads(),
        processors=processors(),
        operating_system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=str(torch.__version__),
        torchvision=torchvision.__version__,
        numpy=np.__version__,
        cnnbench=cnnbench.__version__,
        code_digest=code_digest(PACKAGE),
        git_commit=commit,
        git_dirty=dirty,
        libraries=library_versions(device),
        flags=numeric_flags(),
        allocator=allocator(device),
        variables={name: masked(os.environ[name]) for name in VARIABLES if name in os.environ},
    )


def library_versions(device: torch.device) -> dict[str, str]:
    """Return the versions of what takes part in numbers on `device`, where it is there.

    Nothing is imported for it, and for a CPU no CUDA started.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    said = torch.__config__.show()
    for name, pattern in BUILT_WITH.items():
        if found := re.search(pattern, said):
            versions[name] = found[1]
    if device.type == "cuda":
        own = {"cuDNN": _cudnn_version(), "NCCL": _nccl_version()}
        versions |= {name: version for name, version in own.items() if version is not None}
    return versions


def allocator(device: torch.device) -> dict[str, str]:
    """Return how memory is handed out: by PyTorch on a CUDA device, by the C library and by the system.

    PyTorch tells which of its allocators is at work, and its settings as it has parsed them.
    """
    said = {"malloc": _malloc(), **_caching_allocator(device)}
    pages = _read(Path("/sys/kernel/mm/transparent_hugepage/enabled"))
    if chosen := re.search(r"\[(\w+)\]", pages):
        said["transparent_hugepages"] = chosen[1]
    limit = memory_limit_bytes()
    if limit is not None:
        said["memory_limit_bytes"] = str(limit)
    return said


def processors(folder: Path = Path("/sys/devices/system/cpu")) -> dict[str, str]:
    """Return how the processors are shared out and clocked, as far as Linux tells (in `folder`).

    `affinity` is how many this process may run on, `quota` how many a control group allows it at a
    time. `smt` (two threads a core) and `boost` are `on` or `off`.
    """
    quota, governor = machine.processor_quota(), machine.frequency_governor()
    said = {
        "affinity": str(len(os.sched_getaffinity(0))),
        "quota": None if quota is None else f"{quota:g}",
        "governor": governor,
        "smt": {"0": "off", "1": "on"}.get(_read(folder / "smt" / "active")),
        "boost": {"0": "off", "1": "on"}.get(_read(folder / "cpufreq" / "boost"))
        or {"0": "on", "1": "off"}.get(_read(folder / "intel_pstate" / "no_turbo")),
    }
    return {name: value for name, value in said.items() if value is not None}


def cpu_name() -> str:
    """Return the processor's marketing name."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def code_digest(folder: Path) -> str:
    """Return the digest of every Python file under `folder`: other code measures anew."""
    files = sorted(folder.rglob("*.py"))
    return digest([[str(f.relative_to(folder)), f.read_text(encoding="utf-8")] for f in files])


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return the commit that `folder` is checked out from, and whether files differ from it.

    Both are `None` without git, or where the repository around `folder` does not track it: that of a
    user, say, in whose virtual environment it is installed.
    """
    is_tracked = _git(folder, "ls-files", "--error-unmatch", ".") is not None
    commit = _git(folder, "rev-parse", "HEAD") if is_tracked else None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit, None if commit is None or changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 (the user's own git)
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _gpu(uuid: str) -> tuple[str | None, GpuSettings]:
    """Return the name that NVML knows the GPU by, and how it is set up; CUDA's is without its first word."""
    with Gpu(uuid) as gpu:
        settings = gpu.settings()
    return (f"GPU-{uuid}" if gpu.uuid == uuid else gpu.uuid), settings


def _cudnn_version() -> str | None:
    try:
        version = torch.backends.cudnn.version()
    except RuntimeError:  # it does not fit the GPU or this PyTorch
        return None
    return None if version is None else str(version)


def _nccl_version() -> str | None:
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except AttributeError:  # a PyTorch without it
        return None


def _malloc() -> str:
    """Return the allocator that is loaded before the C library's, or else the C library."""
    loaded = [Path(name).name for name in re.split("[: ]+", os.environ.get("LD_PRELOAD", ""))]
    return " ".join(name for name in loaded if "malloc" in name) or " ".join(platform.libc_ver())


def _caching_allocator(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    said = {"backend": torch.cuda.memory.get_allocator_backend()}
    try:
        parsed = torch.cuda.memory._snapshot()["allocator_settings"]  # noqa: SLF001 (no public way)
    except (KeyError, RuntimeError):  # CUDA's own allocator takes no snapshots
        return said
    return said | {name: masked(str(value)) for name, value in parsed.items()}


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """Return the least memory that a control group around this process allows, `None` without a limit."""
    limits = [int(text) for text in map(_read, _memory_limits(root)) if text.isdecimal()]
    return min((limit for limit in limits if limit < _UNLIMITED_BYTES), default=None)


def _memory_limits(root: Path) -> Iterator[Path]:
    """Yield where the limits of this process's control groups stand, those of their parents included."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            folder, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            folder, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(name)
        for each in (group, *group.parents):
            yield folder / str(each).lstrip("/") / file


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
