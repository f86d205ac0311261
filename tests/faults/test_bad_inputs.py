"""Thousands of bad inputs: a line and status 2 for each, never a traceback, never a file."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnbench.errors import CnnbenchError, StoreError
from cnnbench.results import read_surroundings
from cnnbench.sweep.journal import NAME, Journal, read_journal
from cnnbench.sweep.profiles import Profile, load_profile
from command import TINY_PROFILE, listing, run_here
from sample_records import sample_cell, sample_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MANY = settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SOME = settings(MANY, max_examples=300)
FLAGS = (
    *("--architecture", "--precision", "--batch-size", "--checkpointing", "--memory-format"),
    *("--compile", "--loader", "--seed", "--epochs", "--image-size", "--num-classes"),
    *("--optimizer", "--learning-rate", "--schedule", "--augmentation", "--weight-decay"),
    *("--dropout", "--label-smoothing", "--patience", "--train-subset", "--weights"),
    *("--target-accuracy", "--dataset", "--data-dir", "--device", "--tracking-uri"),
    *("--results-dir", "--launcher", "--isolation", "--cell-timeout", "--fresh", "--strict"),
    *("--retry-failed", "--trace", "--json", "--debug=", "--profile", "--", "-", "--no-such"),
)
VALUES = (
    *("resnet(width=16)", "simple_cnn", "resnet(width", "a:b((", ":", "mod:", ":f", "torchvision:"),
    *(
        "fp32,bf16",
        "bf16,,",
        ",",
        "",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "9" * 400,
        "0x10",
        "\u0661",
    ),
    *("none", "block", "folder:", "synthetic(image_size=-1)", "synthetic(", "../..", "/", "~x/y"),
    *("quick", "gpu", "tiny.toml", "a_file", "a_file/x", ".toml", "\udcff", "\n", "x" * 5000),
    *("sqlite:///x?", "http://[", "//", "://@", "file:x", "none", "inline", "spawn", "local"),
)
# An argument of a process holds no NUL.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
WORDS = st.lists(st.one_of(st.sampled_from(FLAGS), st.sampled_from(VALUES), TEXT), max_size=9)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "a_file").write_text("")
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    return tmp_path


def expect_a_line(place: Path, *arguments: str) -> None:
    """Run the command line here; it may show what it would do, or refuse in one line."""
    before = listing(place)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_here(*arguments, folder=place)
    assert status in {0, 2}
    assert "Traceback" not in err.getvalue() + out.getvalue()
    if status == 2:
        assert out.getvalue() == ""
        assert err.getvalue().splitlines()
    assert listing(place) == before


@SOME
@given(words=WORDS)
def test_no_words_make_a_run_fail_in_another_way_than_by_a_line(
    place: Path, words: list[str]
) -> None:
    # Without --dry-run, and with the profile that asks a worker, each could take seconds.
    words = [word for word in words if word != "auto"]
    expect_a_line(place, "run", "--profile", "tiny.toml", "--dry-run", *words)


@SOME
@given(
    command=st.sampled_from([["report"], ["sync"], ["sync", "--results-dir"], ["list"], []]),
    words=st.lists(st.one_of(st.sampled_from(VALUES), TEXT), min_size=1, max_size=3),
)
def test_no_words_make_another_command_fail_in_another_way(
    place: Path, command: list[str], words: list[str]
) -> None:
    expect_a_line(place, *command, *(word for word in words if word not in {"ui", "doctor"}))


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """Return `original` with a piece cut out, doubled, or replaced by anything."""
    size = len(original)
    pieces = st.one_of(
        st.binary(max_size=12), st.sampled_from([b"", b"null", b"1e999", b"[", b'"'])
    )

    def mutate(start: int, length: int, piece: bytes) -> bytes:
        return original[:start] + piece + original[start + length :]

    return st.builds(mutate, st.integers(0, size), st.integers(0, 60), pieces)


@MANY
@given(data=st.one_of(mutated(TINY_PROFILE.encode()), st.binary(max_size=200)))
def test_any_file_is_a_profile_or_refused_in_one_line(place: Path, data: bytes) -> None:
    (place / "tiny.toml").write_bytes(data)
    only_refuses(lambda: load_profile(str(place / "tiny.toml")), Profile)


RECORDS = [sample_record(cell=sample_cell(batch_size=size)) for size in (64, 128)]


@pytest.fixture(scope="module")
def journal_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("journal") / NAME
    with Journal(path) as journal:
        for record in RECORDS:
            journal.append(record)
    return path.read_bytes()


@MANY
@given(data=st.data())
def test_any_journal_is_read_or_refused_in_one_line(
    place: Path, journal_bytes: bytes, data: st.DataObject
) -> None:
    (place / NAME).write_bytes(data.draw(st.one_of(mutated(journal_bytes), st.binary())))
    only_refuses(lambda: read_journal(place / NAME), list)


@SOME
@given(data=st.one_of(st.binary(), st.text().map(str.encode), mutated(b'{"dataset": {}, "x": 1}')))
def test_any_surroundings_are_refused_in_one_line(place: Path, data: bytes) -> None:
    (place / "environment.json").write_bytes(data)
    with pytest.raises(StoreError, match="cannot read"):
        read_surroundings(place)


def only_refuses(call: Callable[[], object], kind: type) -> None:
    try:
        assert isinstance(call(), kind)
    except CnnbenchError as error:
        assert (error.exit_code, bool(str(error))) == (2, True)  # noqa: PT017 (only some raise)
