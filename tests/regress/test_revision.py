"""Which revision a change is compared with, and its files laid out beside: on small repositories."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cnnbench.errors import InvalidValueError
from cnnbench.regress import revision
from cnnbench.regress.copies import present_state, revision_state
from cnnbench.regress.revision import (
    WORKLOADS,
    checkout,
    default_revision,
    find_revision,
    state,
)
from repositories import git

if TYPE_CHECKING:
    from pathlib import Path


def commit(repository: Path, text: str) -> str:
    package = repository / "cnnbench"
    package.mkdir(exist_ok=True)
    (package / "worker.py").write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", text)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "first")
    monkeypatch.setattr(revision, "PACKAGE", folder.resolve() / "cnnbench")
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
    assert not found.knows_workloads


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


def test_the_checkout_is_that_of_the_package_itself_or_of_a_users_models(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkout() == repository
    mine = tmp_path / "mine"
    (mine / "models").mkdir(parents=True)
    git(mine, "init", "-q", "-b", "main")
    monkeypatch.chdir(mine / "models")
    assert checkout() == mine
    (mine / "cnnbench").mkdir()
    (mine / "cnnbench" / "worker.py").write_text("another cnnbench, which is not the one that runs")
    assert checkout() == repository


def test_a_copy_holds_what_is_there_now_and_new_modules_but_nothing_else(repository: Path) -> None:
    (repository / ".gitignore").write_text("*.log\nkept.py\n")
    commit(repository, "second")
    (repository / "cnnbench" / "worker.py").write_text("edited")
    for name in ("new.py", "new.bin", "old.log", "kept.py"):
        (repository / name).write_text(name)
    with present_state(repository) as copy:
        (repository / "cnnbench" / "worker.py").write_text("edited later")
        assert (copy.folder / "cnnbench" / "worker.py").read_text() == "edited"
        found = {path.name for path in copy.folder.rglob("*") if path.is_file()}
        assert found == {".gitignore", "worker.py", "new.py"}
    assert not copy.folder.exists()


def test_workers_import_from_the_copy_what_is_imported_from_the_checkout_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    (mine / "src").mkdir(parents=True)
    (mine / "src" / "model.py").write_text("")
    (mine / "venv").mkdir()
    git(mine, "init", "-q", "-b", "main")
    git(mine, "add", "-A")
    git(mine, "commit", "-q", "-m", "first")
    monkeypatch.chdir(mine / "src")
    elsewhere = str(tmp_path / "elsewhere")
    monkeypatch.setattr("sys.path", ["", str(mine / "venv"), elsewhere])
    with revision_state(find_revision(mine, "HEAD")) as copy:
        place = copy.place()
        assert place.folder == copy.folder / "src"
        assert place.variables["PYTHONPATH"].split(os.pathsep) == [
            str(copy.folder / "src"),
            str(mine / "venv"),
            elsewhere,
        ]
        other = copy.place(tmp_path / "python")
        assert other.python == tmp_path / "python"
        assert other.variables["PYTHONPATH"] == str(copy.folder / "src")
