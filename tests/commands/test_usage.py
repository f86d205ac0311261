"""Help, lists, the doctor and the parsing of options."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.commands.options import CommaSeparated
from command import listing, run_here

if TYPE_CHECKING:
    from pathlib import Path


HEAVY = {"torch", "mlflow", "pandas", "numpy", "sqlalchemy", "altair", "scipy"}


def test_import_and_help_and_refusals_import_nothing_heavy(tmp_path: Path) -> None:
    for arguments, status in (
        (["-c", "import cnnbench; cnnbench.__version__"], 0),
        (["-m", "cnnbench", "--help"], 0),
        (["-m", "cnnbench", "run", "--help"], 0),
        (["-m", "cnnbench", "list"], 0),
        (["-m", "cnnbench", "run", "--architecture", "resnt"], 2),
        (["-m", "cnnbench", "run", "--profile", "quick", "--dry-run"], 0),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == status
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "cnnbench" in imported
        assert not {name.partition(".")[0] for name in imported} & HEAVY, arguments


def test_the_doctor_tells_what_it_found_as_text_and_as_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here("doctor", "--json", folder=tmp_path) == 0
    found = json.loads(capfd.readouterr().out)
    assert {"device", "load", "data", "tracking", "noise"} <= {one["subject"] for one in found}
    assert listing(tmp_path) == {}, "the doctor looks and writes nothing"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert run_here("doctor", folder=tmp_path) == 1
    lines = capfd.readouterr().out.splitlines()
    (problem,) = [n for n, line in enumerate(lines) if line.startswith("PROBLEM")]
    assert "NVIDIA_TF32_OVERRIDE=1" in lines[problem]
    assert lines[problem + 1].split() == [
        "->",
        *["unset", "NVIDIA_TF32_OVERRIDE", "and", "run", "again"],
    ]


@pytest.mark.parametrize("kind", ["architectures", "precisions", "profiles", "datasets", "studies"])
def test_list_prints_names_and_descriptions_as_text_and_as_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    assert run_here("list", kind, "--json", folder=tmp_path) == 0
    ((shown, entries),) = json.loads(capfd.readouterr().out).items()
    assert shown == kind
    assert run_here("list", kind, folder=tmp_path) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == kind
    assert [tuple(line.split(maxsplit=1)) for line in lines[1:]] == list(entries.items())


def test_every_command_and_option_has_a_help_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for command in ([], ["run"], ["report"], ["doctor"], ["list"], ["study"], ["ui"]):
        assert run_here(*command, "--help", folder=tmp_path) == 0
        assert capfd.readouterr().out.startswith("Usage: ")
    assert run_here("--version", folder=tmp_path) == 0
    assert "0.1.0" in capfd.readouterr().out


def test_commas_in_brackets_separate_nothing() -> None:
    values = CommaSeparated().convert(
        "resnet(width=16,depth=2), simple_cnn,,a:b((1,2),3)", None, None
    )
    assert values == ["resnet(width=16,depth=2)", "simple_cnn", "a:b((1,2),3)"]
    assert CommaSeparated(int).convert("64, 128,", None, None) == [64, 128]
    assert CommaSeparated().convert("", None, None) == []


@given(text=st.text())
def test_no_text_makes_a_list_of_values_raise_anything_but_a_usage_error(text: str) -> None:
    values = CommaSeparated().convert(text, None, None)
    assert all(value == value.strip() and value for value in values)
    if "(" not in text:
        assert values == [part.strip() for part in text.split(",") if part.strip()]
    try:
        numbers = CommaSeparated(int).convert(text, None, None)
    except click.ClickException as error:
        assert error.exit_code == 2  # noqa: PT017  # most texts raise, some do not
    else:
        assert len(numbers) == len(values)


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m cnnbench list | true"
    done = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
