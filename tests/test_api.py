"""The whole job as functions: what a notebook or a script meets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import cnnbench
from cnnbench import api, tracking
from cnnbench.cell import AXES, Recipe
from cnnbench.commands.run import run as run_command
from cnnbench.errors import (
    CnnbenchError,
    InvalidValueError,
    StoreError,
    UnknownNameError,
)
from cnnbench.options import Options, command_line
from cnnbench.record import COLUMNS
from cnnbench.results import Records, latest_sweep, write_report
from cnnbench.sweep.journal import NAME, Journal
from cnnbench.sweep.run import Observer
from command import TINY_PROFILE, as_a_process, environment, listing
from sample_records import sample_cell, sample_record

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = """
import cnnbench
records = cnnbench.run("tiny.toml", precision=["fp32", "bf16"], batch_size=32, epochs=0)
frame = records.to_frame()
print(len(records), list(frame.columns) == COLUMNS, set(frame["status"]), records[0].cell.precision)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Stand in a folder with a tiny profile, as a fresh process would."""
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    with as_a_process(tmp_path):
        yield tmp_path


def run_inline(**settings: Any) -> Records:
    usual = {"isolation": "inline", "tracking_uri": "none", "epochs": 0, "batch_size": 32}
    return api.run("tiny.toml", **{**usual, **settings})


class Noting(Observer):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.warnings: list[str] = []
        self.phases: list[str] = []

    def on_phase(self, text: str) -> None:
        self.phases.append(text)

    def on_cell(self, cell: Any) -> None:
        self.cells.append(cell.name)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


def test_a_script_of_five_lines_needs_no_main_guard(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    (tmp_path / "script.py").write_text(SCRIPT.replace("COLUMNS", repr(list(COLUMNS))))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 True {'completed'} fp32\n"
    assert done.stderr == ""
    (sweep,) = (tmp_path / "results" / "local").glob("tiny-*")
    assert len(api.load(sweep)) == 2
    assert (tmp_path / "results" / "local" / "mlflow.db").exists()


def test_a_run_is_resumed_by_the_same_call(place: Path) -> None:
    first = run_inline()
    observer = Noting()
    again = run_inline(observer=observer)
    assert list(again) == list(first)
    assert observer.cells == []
    assert observer.warnings == []
    assert "writing the report" not in observer.phases
    assert first.folder is not None
    assert first.folder.parent == place / "results" / "local"


def test_a_lost_record_is_measured_again_and_the_others_stand(place: Path) -> None:
    first = run_inline(seed=range(3))
    assert first.folder is not None
    journal = first.folder / NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[2][: len(lines[2]) // 2])
    observer = Noting()
    again = run_inline(seed=range(3), observer=observer)
    assert observer.cells == [first[1].cell.name, first[2].cell.name]
    assert again[0] == first[0]
    assert len(again) == len(api.load(place / "results" / "local")) == 3
    assert (first.folder / "cells.csv").read_text().count("\n") == 4


def test_a_table_or_report_that_is_gone_is_written_again(place: Path) -> None:
    first = run_inline()
    assert first.folder is not None
    for name in ("cells.csv", "cells.parquet", "report/index.html"):
        (first.folder / name).unlink()
    run_inline()
    for name in ("cells.csv", "cells.parquet", "report/index.html"):
        assert (first.folder / name).exists()
    assert place in first.folder.parents


@pytest.mark.usefixtures("place")
def test_a_sweep_that_another_process_runs_is_refused() -> None:
    first = run_inline()
    assert first.folder is not None
    with Journal(first.folder / NAME), pytest.raises(StoreError, match="another cnnbench is"):
        run_inline()


@pytest.mark.usefixtures("place")
def test_a_damaged_journal_is_refused_and_left_as_it_is() -> None:
    first = run_inline(seed=[0, 1])
    assert first.folder is not None
    journal = first.folder / NAME
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    before = journal.read_bytes()
    with pytest.raises(StoreError, match="line 1, is no record of this version"):
        run_inline(seed=[0, 1])
    assert journal.read_bytes() == before


def test_a_refused_call_leaves_the_prepared_data_of_others_alone(place: Path) -> None:
    run_inline()
    before = listing(place)
    with pytest.raises(InvalidValueError, match="more than the 256 training images"):
        run_inline(batch_size=512, epochs=1)
    with pytest.raises(CnnbenchError):
        run_inline(dataset="synthetic(num_images=64)", num_classes=7)
    assert listing(place) == before


def test_a_store_that_refuses_costs_no_cell_and_is_caught_up_with_later(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        msg = "the server is gone"
        raise StoreError(msg)

    observer = Noting()
    with monkeypatch.context() as patch:
        patch.setattr(tracking.SweepLog, "log", refuse)
        patch.setattr(tracking.SweepLog, "finish", refuse)
        records = run_inline(tracking_uri=None, observer=observer)
    assert [record.status for record in records] == ["completed"]
    outage, end = observer.warnings
    assert outage == "MLflow does not take records (the server is gone); they wait in the journal"
    results = place / "results" / "local"
    command = f"cnnbench sync --results-dir {results} {records[0].sweep_id}"
    assert end == (
        f"not all of {records.folder} is in MLflow (the server is gone). Later: {command}"
    )
    assert records.num_unlogged == 2  # the cell's run and the sweep's own
    caught_up = Noting()
    assert list(run_inline(tracking_uri=None, observer=caught_up)) == list(records)
    assert caught_up.cells == []
    assert caught_up.warnings == ["logged 1 cells that MLflow had not got"]
    store = tracking.open_store(None, place / "results" / "local", create=False)
    ids = [experiment.experiment_id for experiment in store.client.search_experiments()]
    assert len(store.client.search_runs(ids, "tags.kind = 'cell'")) == 1
    store.close()


def test_the_store_and_the_results_go_where_they_are_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/stores/mine.db")
    records = run_inline(tracking_uri=None, results_dir="deep/er")
    assert records.folder is not None
    assert records.folder.parent == place / "deep" / "er"
    assert (place / "stores" / "mine.db").exists()
    assert not (place / "deep" / "er" / "mlflow.db").exists()
    assert not (place / "results").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    run_inline(tracking_uri=None, results_dir="other")
    assert not list((place / "other").rglob("*.db"))


def test_a_store_is_looked_at_before_data_and_models(place: Path) -> None:
    store = place / "results" / "local" / "mlflow.db"
    store.parent.mkdir(parents=True)
    store.write_bytes(bytes(range(256)) * 64)
    observer = Noting()
    with pytest.raises(StoreError, match="cannot use the MLflow store"):
        run_inline(tracking_uri=None, dataset="cifar10", observer=observer)
    assert observer.phases == ["starting the workers"]


@pytest.mark.usefixtures("place")
def test_a_weights_file_may_be_a_path() -> None:
    torch.manual_seed(0)
    model = cnnbench.build("simple_cnn(width=4)")
    torch.save(model.state_dict(), "mine.pt")
    (record,) = run_inline(weights=Path("mine.pt"))
    assert record.status == "completed"
    assert record.cell.recipe.weights == "mine.pt"


def test_the_profile_auto_is_gpu_on_cuda_and_else_quick() -> None:
    expected = "gpu" if torch.cuda.is_available() else "quick"
    assert api.plan("auto", isolation="inline") == api.plan(expected)


def test_axes_and_recipe_names_replace_what_the_profile_says() -> None:
    cells = api.plan("quick", architecture="resnet", seed=(0, 1), epochs=0, precision="bf16")
    assert {cell.architecture for cell in cells} == {"resnet"}
    assert {cell.precision for cell in cells} == {"bf16"}
    assert {cell.recipe.epochs for cell in cells} == {0}
    assert {cell.seed for cell in cells} == {0, 1}
    plain = api.plan("quick")
    assert api.plan("quick", precision=None, epochs=None) == plain


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batchsize": 64}, InvalidValueError, "unknown setting 'batchsize'. Did you mean 'batch_"),
        ({"lr": 0.1}, InvalidValueError, "unknown setting 'lr'."),
        ({"batch_size": []}, InvalidValueError, "the axis 'batch_size' has no values"),
        ({"batch_size": "64"}, InvalidValueError, "batch_size = '64' is impossible"),
        ({"batch_size": 64.0}, InvalidValueError, "batch_size = 64.0 is impossible"),
        ({"precision": "fp32,bf16"}, InvalidValueError, "unknown precision 'fp32,bf16'."),
        ({"architecture": torch.nn.Linear}, InvalidValueError, "cannot read"),
        ({"isolation": "docker"}, UnknownNameError, "unknown isolation 'docker'."),
        ({"dataset": "imagenet"}, UnknownNameError, "unknown dataset 'imagenet'."),
        ({"profile": "none"}, UnknownNameError, "unknown profile 'none'."),
    ],
)
def test_a_wrong_setting_is_refused_by_name(
    place: Path, settings: dict[str, Any], error: type[CnnbenchError], message: str
) -> None:
    before = listing(place)
    with pytest.raises(error) as refusal:
        api.run(**{"profile": "tiny.toml", **settings})
    assert message in str(refusal.value)
    assert listing(place) == before


def test_every_setting_is_an_option_of_the_command_line_and_the_other_way_round() -> None:
    options = {option.name for option in run_command.params}
    settings = {f.name for kind in (Options, Recipe) for f in fields(kind)} | set(AXES)
    assert settings <= options
    apart = {"profile", "find_max_batch", "launcher", "dry_run", "as_json", "strict", "debug"}
    assert options - settings == apart


@pytest.mark.parametrize(
    ("profile", "settings", "command"),
    [
        ("auto", {}, "cnnbench run"),
        ("my own.toml", {}, "cnnbench run --profile 'my own.toml'"),
        (
            "quick",
            {"precision": ["fp32", "bf16"], "epochs": 0, "dataset": None},
            "cnnbench run --profile quick --precision fp32,bf16 --epochs 0",
        ),
        (
            "quick",
            {"architecture": "resnet(width=16,depth=2)", "seed": range(3)},
            "cnnbench run --profile quick --architecture 'resnet(width=16,depth=2)' --seed 0,1,2",
        ),
        (
            "quick",
            {"download": True, "device": "auto", "isolation": "forkserver", "data_dir": "d"},
            "cnnbench run --profile quick --download",
        ),
        (
            "quick",
            {"download": False, "results_dir": "r", "tracking_uri": "http://a:b@c", "fresh": True},
            "cnnbench run --profile quick --no-download",
        ),
    ],
)
def test_the_command_that_repeats_a_sweep_is_one_that_can_be_typed(
    profile: str, settings: dict[str, Any], command: str
) -> None:
    assert command_line(profile, settings) == command


def test_records_are_a_sequence_with_a_table() -> None:
    held = [sample_record(cell=sample_cell(seed=seed)) for seed in range(3)]
    records = Records(held, Path("somewhere"))
    assert (len(records), records[0], list(records[1:])) == (3, held[0], held[1:])
    assert held[2] in records
    assert list(reversed(records)) == held[::-1]
    assert repr(records) == "<3 records in somewhere>"
    frame = records.to_frame()
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["seed"]) == [0, 1, 2]
    assert tuple(Records([]).to_frame().columns) == COLUMNS


def write_sweep(folder: Path, *seeds: int) -> None:
    with Journal(folder / NAME) as journal:
        for seed in seeds:
            journal.append(sample_record(cell=sample_cell(seed=seed), sweep_id=folder.name))


def test_records_are_loaded_of_one_sweep_or_of_all(tmp_path: Path) -> None:
    write_sweep(tmp_path / "a", 0, 1)
    write_sweep(tmp_path / "b", 2)
    os.utime(tmp_path / "b" / NAME, (1, 1))
    assert [record.cell.seed for record in cnnbench.load(tmp_path / "a")] == [0, 1]
    assert [record.cell.seed for record in cnnbench.load(str(tmp_path))] == [0, 1, 2]
    assert latest_sweep(tmp_path) == tmp_path / "a"


def test_a_place_without_a_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(StoreError, match="there is no sweep in"):
            cnnbench.load(place)
        with pytest.raises(StoreError, match="there is no sweep in"):
            latest_sweep(place)
        with pytest.raises(StoreError, match=r"there are no records in|cannot read the journal"):
            write_report(place)


@pytest.mark.parametrize("text", [None, "not json", "[]", '{"device": 5}', '{"dataset": {}}'])
def test_a_report_needs_a_sound_environment_file(tmp_path: Path, text: str | None) -> None:
    write_sweep(tmp_path, 0)
    if text is not None:
        (tmp_path / "environment.json").write_text(text)
    with pytest.raises(StoreError, match=r"cannot read .*environment.json") as refusal:
        write_report(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for place in (closed, closed / "below"):
        with pytest.raises(StoreError, match=r"cannot write .*closed.*--results-dir"):
            api.plan("quick", results_dir=place)


def test_a_model_is_built_as_cells_train_it() -> None:
    model = cnnbench.build("resnet(width=4,depth=1)", num_classes=7, image_size=16)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet'"):
        cnnbench.build("resnt")


def test_what_the_package_promises_is_there() -> None:
    for name in cnnbench.__all__:
        assert getattr(cnnbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnnbench.nothing  # noqa: B018  # the access is the test


@pytest.mark.usefixtures("place")
def test_the_environment_file_tells_data_models_and_command_but_no_place(place: Path) -> None:
    records = run_inline(results_dir="here")
    assert records.folder is not None
    text = (records.folder / "environment.json").read_text()
    told = json.loads(text)
    assert told["profile"] == "tiny"
    assert told["model_digests"] == {"simple_cnn(width=4)": ""}
    assert told["command"] == (
        "cnnbench run --profile tiny.toml --isolation inline --epochs 0 --batch-size 32"
    )
    assert str(place) not in text
    assert replace(records[0], sweep_id="").environment_hash == records[0].environment_hash
