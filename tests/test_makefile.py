"""The Makefile, the set-up that it calls, and the lock that the set-up installs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP_FILES = ("Makefile", "tools/setup.sh", "requirements.lock", "pyproject.toml")
SETUP_TOOLS = ("awk", "cat", "cksum", "dirname", "flock", "make", "mkdir", "rm", "sh")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "a clone"
    for name in SETUP_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(*arguments: str, cwd: Path, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("make") or "make", *arguments],
        cwd=cwd,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_plain_make_lists_every_target(clone: Path) -> None:
    targets = re.findall(r"(?m)^\.PHONY: (.+)$", (clone / "Makefile").read_text())
    listed = re.findall(r"(?m)^make (\S+) +\S", make(cwd=clone, path="/usr/bin:/bin").stdout)
    assert len(targets) > 10
    assert listed == targets


def test_setup_names_the_remedy_where_there_is_no_python(clone: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in SETUP_TOOLS:
        (tools / name).symlink_to(shutil.which(name) or pytest.skip(f"needs {name}"))
    result = make("setup", cwd=clone, path=str(tools))
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == (
        "set-up: there is no Python of version 3.11 or newer on the PATH: "
        "install one, or name it with PYTHON=..."
    )
    assert not (clone / ".venv").exists()


def test_setup_refuses_an_interpreter_that_is_none(clone: Path) -> None:
    result = make("setup", "PYTHON=false", cwd=clone, path="/usr/bin:/bin")
    assert result.returncode == 2
    assert (
        result.stderr.splitlines()[0]
        == "set-up: PYTHON=false is no Python of version 3.11 or newer."
    )


def test_lock_pins_every_dependency_by_version_and_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"]]
    for group in project["dependency-groups"].values():
        wanted += [line for line in group if isinstance(line, str)]
    blocks = re.split(r"^(?=[a-z])", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    pinned = {block.split("==")[0] for block in blocks[1:]}
    assert {re.split(r"[<>=[]", line)[0] for line in wanted} <= pinned
    assert all(re.match(r"\S+==\S+ .*\\\n +--hash=sha256:", block) for block in blocks[1:])


def test_lock_holds_no_address() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
