"""What the machine says of itself."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import torch

import cnnbench
from cnnbench.measure.collect import (
    PACKAGE,
    VARIABLES,
    code_digest,
    collect_environment,
    cpu_name,
    git_state,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import Environment


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


def test_only_variables_on_the_list_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment = collect_environment(torch.device("cpu"))
    assert environment.variables["OMP_NUM_THREADS"] == "7"
    assert environment.variables == {v: os.environ[v] for v in VARIABLES if v in os.environ}
    assert not set(VARIABLES) & {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"}


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
