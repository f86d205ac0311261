"""Runs the real command line: in a process of its own, or, for what it refuses, in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnbench.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_SECONDS = 200
LEFT_OUT = ("MLFLOW_TRACKING_URI", "XDG_CACHE_HOME", "TORCH_HOME")

# Two cells of a few milliseconds each: what is tested is not what they measure.
TINY_PROFILE = """
description = "Two cells that take no time"
[recipe]
epochs = 2
train_subset = 256
[timing]
window_seconds = 0.005
min_windows = 3
max_windows = 3
limit_seconds = 0.05
warmup_steps = 1
[[grid]]
architecture = "simple_cnn(width=4)"
batch_size = [32, 64]
"""


def environment(home: Path) -> dict[str, str]:
    """Return this process's variables, without what would make a run depend on the machine."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1"}


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `cnnbench ARGUMENTS` in a session of its own, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "cnnbench", *arguments],
        cwd=cwd,
        env=environment(cwd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def cnnbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `cnnbench ARGUMENTS` to its end."""
    with start(*arguments, cwd=cwd) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextmanager
def as_a_process(folder: Path) -> Iterator[None]:
    """Stand in `folder` as a fresh process would; afterwards, be as before."""
    on_sigterm, modules = signal.getsignal(signal.SIGTERM), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        for name in LEFT_OUT:
            patch.delenv(name, raising=False)
        patch.setattr(sys, "path", list(sys.path))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
            for name in set(sys.modules) - modules:
                file = getattr(sys.modules[name], "__file__", None)
                if file and folder in Path(file).parents:
                    del sys.modules[name]


def run_here(*arguments: str, folder: Path) -> int:
    """Run `cnnbench ARGUMENTS` in this process, where torch is imported already."""
    with as_a_process(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cnnbench", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    return int(str(end.value.code))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all files under `folder`; compiled modules do not count."""
    found = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    folders = {str(path): (0, 0) for path in found if path.is_dir()}
    return folders | {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in found
        if path.is_file()
    }


def refusal(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """Return the one line with which a run is refused; nothing may be written."""
    before = listing(folder)
    assert run_here(*arguments, folder=folder) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    *progress, last = err.splitlines()
    assert last.startswith("cnnbench: ")
    assert all(line.endswith(" ...") for line in progress)
    assert listing(folder) == before
    return last
