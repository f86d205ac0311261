"""Which revision a change is compared with, and its files laid out beside: on small repositories."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from cnnbench.errors import InvalidValueError
from cnnbench.regress.revision import (
    WORKLOADS,
    checkout,
    default_revision,
    find_revision,
    state,
)

if TYPE_CHECKING:
    from pathlib import Path

GIT = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")


def git(repository: Path, *arguments: str) -> str:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        [*GIT, "-C", str(repository), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**variables, "GIT_CONFIG_GLOBAL": os.devnull},
    )
    return done.stdout.strip()


def commit(repository: Path, text: str) -> str:
    package = repository / "cnnbench"
    package.mkdir(exist_ok=True)
    (package / "worker.py").write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", text)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "first")
    return folder


def test_a_branch_is_compared_with_where_it_left_the_main_one(repository: Path) -> None:
    fork = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "-q", "-b", "change")
    commit(repository, "second")
    commit(repository, "third")
    found = default_revision(repository)
    assert found is not None
    assert (found.commit, found.reason) == (fork, "where this branch left main")


def test_on_the_main_branch_it_is_the_commit_before(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    assert default_revision(repository) is None
    commit(repository, "second")
    found = default_revision(repository)
    assert found is not None
    assert (found.commit, found.reason) == (before, "the commit before the present one")


def test_with_changed_files_it_is_the_last_commit(repository: Path) -> None:
    last = commit(repository, "second")
    (repository / "cnnbench" / "worker.py").write_text("changed")
    found = default_revision(repository)
    assert found is not None
    assert (found.commit, "files were changed" in found.reason) == (last, True)
    assert state(repository) == (last, True)


def test_the_files_of_a_revision_lie_beside_and_go_again(repository: Path) -> None:
    (repository / "link").symlink_to("/etc/passwd")  # no link of a commit leads out of the folder
    first = commit(repository, "with a link")
    commit(repository, "second")
    with find_revision(repository, "HEAD~1").laid_out() as folder:
        assert (folder / "cnnbench" / "worker.py").read_text() == "with a link"
        assert not (folder / "link").exists()
    assert not folder.exists()
    assert find_revision(repository, first[:12]).commit == first
    assert git(repository, "worktree", "list").count("\n") == 0
    assert git(repository, "status", "--porcelain") == ""


def test_a_revision_tells_what_it_holds(repository: Path) -> None:
    found = find_revision(repository, "main")
    assert found.has("cnnbench/worker.py")
    assert not found.has(WORKLOADS)


@pytest.mark.parametrize("name", ["nowhere", "", "--all", "-h"])
def test_an_unknown_revision_is_refused(repository: Path, name: str) -> None:
    with pytest.raises(InvalidValueError, match="no revision"):
        find_revision(repository, name)


def test_a_revision_without_cnnbench_is_refused(repository: Path) -> None:
    git(repository, "rm", "-q", "-r", "cnnbench")
    git(repository, "commit", "-q", "-m", "nothing left")
    with (
        pytest.raises(InvalidValueError, match="holds no cnnbench"),
        find_revision(repository, "HEAD").laid_out(),
    ):
        pass


def test_without_a_checkout_only_a_stored_baseline_can_be_compared_with() -> None:
    assert default_revision(None) is None
    assert state(None) == (None, False)
    with pytest.raises(InvalidValueError, match="git checkout"):
        find_revision(None, "HEAD")


def test_the_checkout_is_that_of_the_package_itself() -> None:
    root = checkout()
    assert root is None or (root / "cnnbench" / "worker.py").exists()
