"""A state of the code in a folder of its own, and how workers come to run it."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cnnbench.regress.revision import is_own, working_files
from cnnbench.sweep.workers import Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.regress.revision import Revision


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The files of one state of the checkout `root`, laid out in `folder`."""

    root: Path
    folder: Path

    def place(self, python: Path | None = None) -> Place:
        """Return where workers run that are to import from the copy what is imported from `root` here.

        What git ignores, such as a virtual environment in the checkout, stays where it is. An interpreter
        of another environment, `python`, finds all else there.
        """
        here = [Path(entry or Path.cwd()) for entry in sys.path]
        path = [
            found for entry in here if (found := self.counterpart(entry)) != entry or not python
        ]
        if is_own(self.root):
            path.insert(0, self.folder)
        return Place(
            variables={"PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys(path)))},
            folder=self.counterpart(Path.cwd()),
            python=python,
        )

    def counterpart(self, path: Path) -> Path:
        """Return what lies in the copy where `path` lies in the checkout, else `path` itself."""
        try:
            found = self.folder / path.resolve().relative_to(self.root.resolve())
        except ValueError:
            return path
        return found if found.exists() else path


@contextmanager
def present_state(root: Path) -> Iterator[Copy]:
    """Yield a copy of the checkout as it is now: whoever edits it meanwhile changes no measurement.

    It holds the tracked files, and of the others that git does not ignore the Python ones.
    """
    with TemporaryDirectory(prefix="cnnbench-candidate-") as name:
        folder = Path(name)
        for file in working_files(root):
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, target)
        yield Copy(root=root, folder=folder)


@contextmanager
def revision_state(revision: Revision) -> Iterator[Copy]:
    """Yield the files of a revision.

    Raises:
        InvalidValueError: there is no cnnbench in it that could be measured.
    """
    with revision.laid_out() as folder:
        yield Copy(root=revision.root, folder=folder)
