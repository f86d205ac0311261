"""Collects the `Environment` of this process: it imports torch and may start CUDA, so a worker does it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
import torchvision

import cnnbench
from cnnbench.digest import digest
from cnnbench.environment import Environment
from cnnbench.measure import gpu
from cnnbench.measure.flags import numeric_flags

PACKAGE = Path(cnnbench.__file__).parent

# What may change a number. Nothing here can hold a secret.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDNN_LOGLEVEL_DBG",
    "KMP_AFFINITY",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def collect_environment(device: torch.device) -> Environment:
    """Return what `device` and this process are."""
    cpu = cpu_name()
    commit, dirty = git_state(PACKAGE)
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Environment(
        device=properties.name if properties else cpu,
        device_type=device.type,
        device_index=device.index if properties else None,
        device_uuid=gpu.uuid(device) if properties else None,
        device_memory_bytes=properties.total_memory if properties else None,
        driver=gpu.driver_version() if properties else None,
        cuda=torch.version.cuda if properties else None,
        cudnn=str(torch.backends.cudnn.version()) if properties else None,
        cpu=cpu,
        num_cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        num_threads=torch.get_num_threads(),
        operating_system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=str(torch.__version__),
        torchvision=torchvision.__version__,
        numpy=np.__version__,
        cnnbench=cnnbench.__version__,
        code_digest=code_digest(PACKAGE),
        git_commit=commit,
        git_dirty=dirty,
        flags=numeric_flags(),
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def cpu_name() -> str:
    """Return the processor's marketing name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
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
