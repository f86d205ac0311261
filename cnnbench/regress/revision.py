"""The revision that a change is compared with: which one, and its files laid out beside."""

from __future__ import annotations

import subprocess
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import cnnbench
from cnnbench.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(cnnbench.__file__).resolve().parent
MAIN_BRANCHES = ("main", "origin/main", "master", "origin/master")
# What a revision must hold to be measured at all,
WORKER = "cnnbench/worker.py"
# and for its inference and its data path to be asked for.
WORKLOADS = "cnnbench/training/workloads.py"


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A commit of the repository `root`, and in words why it was chosen."""

    root: Path
    commit: str
    reason: str

    @property
    def text(self) -> str:
        """Return the commit in short, and why it is the one."""
        whose = "" if is_own(self.root) else f" of {self.root.name}"
        return f"{self.commit[:10]}{whose} ({self.reason})"

    @property
    def knows_workloads(self) -> bool:
        """Say whether inference and the data path can be asked of it."""
        return not is_own(self.root) or self.has(WORKLOADS)

    def has(self, path: str) -> bool:
        """Say whether the revision holds the file `path`."""
        return _git(self.root, "cat-file", "-e", f"{self.commit}:{path}") is not None

    @contextmanager
    def laid_out(self) -> Iterator[Path]:
        """Yield a folder with the revision's files, which goes afterwards; git hears nothing of it."""
        if is_own(self.root) and not self.has(WORKER):
            msg = f"the revision {self.commit[:10]} holds no cnnbench that could be measured."
            raise InvalidValueError(msg)
        with TemporaryDirectory(prefix="cnnbench-base-") as folder:
            command = ["git", "-C", str(self.root), "archive", "--format=tar", self.commit]
            with (
                subprocess.Popen(command, stdout=subprocess.PIPE) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as archive,
            ):
                archive.extractall(folder, filter=_plain)  # noqa: S202 (the user's own commit)
            yield Path(folder)


def checkout() -> Path | None:
    """Return the root of the git checkout that is measured, `None` where there is none.

    It is the one around the working folder: cnnbench's own, or that of a user's models. From elsewhere, or
    from a checkout of another cnnbench than the one that runs, it is the one that this very package lies in.
    """
    around = _git(Path.cwd(), "rev-parse", "--show-toplevel")
    if around is not None and (is_own(Path(around)) or not (Path(around) / WORKER).exists()):
        return Path(around)
    found = _git(PACKAGE, "rev-parse", "--show-toplevel")
    return Path(found) if found is not None and is_own(Path(found)) else None


def is_own(root: Path) -> bool:
    """Say whether the checkout `root` is the one of this very package."""
    return root.resolve() / "cnnbench" == PACKAGE


def state(root: Path | None) -> tuple[str | None, bool]:
    """Return the present commit, and whether tracked files were changed since."""
    if root is None:
        return None, False
    what = "cnnbench" if is_own(root) else "."
    return _git(root, "rev-parse", "HEAD"), bool(
        _git(root, "status", "--porcelain", "--untracked-files=no", "--", what)
    )


def working_files(root: Path) -> list[Path]:
    """Return the files of a checkout as they lie there, from its root on: tracked ones, and new Python."""
    tracked = _git(root, "ls-files", "-z") or ""
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py") or ""
    found = dict.fromkeys(map(Path, filter(None, f"{tracked}\0{new}".split("\0"))))
    return [path for path in found if (root / path).is_file() and not (root / path).is_symlink()]


def find_revision(root: Path | None, name: str) -> Revision:
    """Return the commit that `name` means.

    Raises:
        InvalidValueError: there is no such revision, or no git checkout.
    """
    if root is None:
        msg = "--base needs a git checkout: this folder lies in none, and cnnbench itself neither."
        raise InvalidValueError(msg)
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if commit is None or name.startswith("-"):
        msg = f"there is no revision {name!r} in this repository."
        raise InvalidValueError(msg)
    return Revision(root=root, commit=commit, reason=f"--base {name}")


def default_revision(root: Path | None) -> Revision | None:
    """Return what a change is compared with where nobody says: where it left the main branch.

    On the main branch itself that is the commit before, or with changed files the present one.
    """
    head, is_dirty = state(root)
    if root is None or head is None:
        return None
    forks = ((branch, _git(root, "merge-base", "HEAD", branch)) for branch in MAIN_BRANCHES)
    branch, fork = next((found for found in forks if found[1]), ("", None))
    if fork and fork != head:
        return Revision(root=root, commit=fork, reason=f"where this branch left {branch}")
    if is_dirty:
        return Revision(root=root, commit=head, reason="the last commit; files were changed since")
    before = _git(root, "rev-parse", "--verify", "--quiet", "HEAD~1")
    if before is None:
        return None
    return Revision(root=root, commit=before, reason="the commit before the present one")


def _plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Let files and folders through, and no link: nothing of cnnbench is one."""
    return tarfile.data_filter(member, folder) if member.isfile() or member.isdir() else None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, `None` where it refuses or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607 (the user's own git)
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
