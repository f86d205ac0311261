"""Environment variables that a worker may see, and those that are set for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from cnnbench import clock
from cnnbench.sweep.launcher import ANYWHERE, Place

# A worker sees these variables and no others: results must not hang on what a shell happens to
# export, and no secret may reach a log.
_KEPT_VARIABLES = (
    *("CC", "CXX", "HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"),
    *(
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
        "GLIBC_TUNABLES",
    ),
)
_PROXY_VARIABLES = tuple(
    name
    for kind in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
    for name in (kind, kind.lower())
)
_KEPT_PREFIXES = (
    *("CNNBENCH_", "CUBLAS", "CUDA", "CUDNN", "KMP_", "LC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_"),
    *("MALLOC_", "ONEDNN_", "PYTHON", "PYTORCH_", "TORCH", "TRITON_"),
)
# By default glibc hands large blocks back to the system whenever they are freed, and every step faults
# them in again: 2,000 to 44,000 page faults a step, 20 to 50 % of its time, were seen here on CPU cells
# of the quick profile, and much of what processes differed by. So workers keep what they have had
# (mallopt(3); PyTorch's tuning guide recommends jemalloc for the same end). Blocks of 2 MiB and more may
# lie in huge pages. Whoever sets these variables otherwise is obeyed, and the environment tells.
_STEADY_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def proxy_variables(variables: Any) -> dict[str, str]:
    """Return those of `variables` that name proxies: they may hold a password, and no cell needs them."""
    return {name: variables[name] for name in _PROXY_VARIABLES if name in variables}


def worker_variables(variables: Any, place: Place = ANYWHERE) -> dict[str, str]:
    """Return those of `variables` that a worker may see, and the ones that its place brings."""
    kept = {
        name: value
        for name, value in variables.items()
        if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    # torch's profiler reports its starts, its stops and the lack of a GPU as if they were errors.
    kept.setdefault("KINETO_LOG_LEVEL", "99")
    kept.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name, value in _STEADY_MALLOC.items():
        kept.setdefault(name, value)
    # numpy's BLAS would start threads at import, and no forked worker could use them.
    kept["OPENBLAS_NUM_THREADS"] = "1"
    kept |= clock.shared()
    kept["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    kept.update(place.variables)
    return kept
