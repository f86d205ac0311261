"""A campaign from the call to the pages: real cells of a few milliseconds each."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from cnnbench import api, tracking
from cnnbench.display import PlainDisplay
from cnnbench.errors import CnnbenchError, InvalidValueError
from cnnbench.results import load
from cnnbench.study import VERDICT_COLUMNS
from command import as_a_process, listing, run_here
from sample_study import write_study

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.campaign.loop import Findings
    from cnnbench.cell import Cell
    from cnnbench.sweep.run import Observer

BROKEN = ("width = 8", "width = -1")
# Trains and times nothing: what the device can reach need not be measured for it.
TRAINED = ('"num_parameters"', '"val_accuracy"')


class Noting(PlainDisplay):
    """Writes down which cells ran, and shows what a pipe would get."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.cells: list[Cell] = []
        self.warnings: list[str] = []

    def on_cell(self, cell: Cell) -> None:
        super().on_cell(cell)
        self.cells.append(cell)

    def on_warning(self, text: str) -> None:
        super().on_warning(text)
        self.warnings.append(text)


def run(*names: str, observer: Observer | None = None, **settings: Any) -> Findings:
    usual = {"isolation": "inline", "tracking_uri": "none"}
    return api.study(*names, observer=observer, **{**usual, **settings})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stand in a folder with the small study, as a fresh process would."""
    folder = tmp_path_factory.mktemp("campaign")
    write_study(folder)
    with as_a_process(folder):
        yield folder


@pytest.fixture(scope="module")
def observer() -> Noting:
    return Noting()


@pytest.fixture(scope="module")
def found(place: Path, observer: Noting) -> Findings:
    """Return what one campaign of the small study found, logged to a store of its own."""
    del place
    return run("wider.toml", observer=observer, tracking_uri=None)


def test_every_claim_gets_a_verdict_with_its_evidence(found: Findings) -> None:
    parameters, accuracy = found.verdicts
    assert (parameters.outcome, parameters.num_seeds) == ("confirmed", 3)
    assert parameters.effect == parameters.low == parameters.high
    assert accuracy.outcome != "not_measured"
    assert accuracy.num_seeds >= 3
    assert len(accuracy.cells) == len(accuracy.seeds) == accuracy.num_seeds
    assert not found.has_failed_cell


def test_the_arms_of_a_seed_stand_next_to_each_other(found: Findings, observer: Noting) -> None:
    del found
    seeds = [cell.seed for cell in observer.cells]
    assert seeds == sorted(seeds)
    assert len({cell.hash for cell in observer.cells if cell.seed == 0}) == 4


def test_a_disturbed_cell_is_timed_once_more_and_no_more(found: Findings, observer: Noting) -> None:
    attempts = Counter(cell.hash for cell in observer.cells)
    for record in found.records:
        is_spoilt = record.validity == "suspect" and record.profile is not None
        assert attempts[record.cell_hash] == 2 if is_spoilt else attempts[record.cell_hash] <= 2


def test_the_table_has_the_contracts_columns(found: Findings) -> None:
    with (found.folder / "verdicts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == VERDICT_COLUMNS
    assert [row["study"] for row in rows] == ["wider", "wider"]
    assert rows[0]["effect"]


def test_the_pages_name_advice_verdict_figure_cells_and_command(found: Findings) -> None:
    page = (found.folder / "wider.md").read_text()
    for part in (
        "Take a wider network.",
        "**confirmed**",
        "wider.png",
        "cnnbench study wider.toml",
    ):
        assert part in page
    for hashes in found.verdicts[0].cells:
        assert all(one in page for one in hashes)
    assert (found.folder / "wider.png").read_bytes().startswith(b"\x89PNG")
    assert "wider.md" in (found.folder / "README.md").read_text()
    html = (found.folder / "wider.html").read_text()
    assert "<svg" in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_the_cells_lie_in_a_folder_like_any_sweeps(found: Findings) -> None:
    folder = found.folder.parent
    assert {record.cell_hash for record in load(folder)} == {r.cell_hash for r in found.records}
    assert (folder / "cells.csv").exists()
    surroundings = json.loads((folder / "environment.json").read_text())
    assert surroundings["command"] == "cnnbench study wider.toml"
    assert surroundings["datasets"]["digits"]["path"] == ""


def test_mlflow_holds_the_cells_with_their_study_and_a_run_of_the_study(
    found: Findings, place: Path
) -> None:
    store = tracking.open_store(None, place / "results" / "local", create=False)
    try:
        (experiment,) = store.client.search_experiments(filter_string="name = 'cnnbench/studies'")
        runs = store.client.search_runs([experiment.experiment_id], "tags.study = 'wider'")
        kinds = [run.data.tags["kind"] for run in runs]
        assert kinds.count("cell") == len(found.records)
        (study,) = (run for run in runs if run.data.tags["kind"] == "study")
        assert study.data.metrics["num_confirmed"] >= 1
        assert any(name.startswith("verdict.wide") for name in study.data.tags)
        names = {file.path for file in store.client.list_artifacts(study.info.run_id)}
        assert {"wider.md", "wider.png"} <= names
    finally:
        store.close()


def test_a_second_call_runs_nothing_and_says_the_same(found: Findings, place: Path) -> None:
    store = place / "results" / "local" / "mlflow.db"
    observer = Noting()
    again = run("wider.toml", observer=observer, tracking_uri=None)
    assert observer.cells == []
    assert again.verdicts == found.verdicts
    with sqlite3.connect(store) as connection:
        (number,) = connection.execute(
            "select count(*) from tags where key = 'kind' and value = 'study'"
        ).fetchone()
    assert number == 1


def test_a_study_that_shares_cells_runs_only_its_own(found: Findings, place: Path) -> None:
    write_study(place, ('name = "wide"', 'name = "wider still"'), name="shared.toml")
    observer = Noting()
    other = run("shared.toml", observer=observer)
    assert observer.cells == []
    assert other.folder == found.folder
    rows = (found.folder / "verdicts.csv").read_text()
    assert "wider," in rows
    assert "shared," in rows


def test_flipping_the_arms_flips_the_verdict(found: Findings, place: Path) -> None:
    write_study(
        place, ("simple_cnn(width=4)", "simple_cnn(width=8)"), ("width = 8\n", "width = 4\n"),
        name="flipped.toml",
    )  # fmt: skip
    flipped = run("flipped.toml").verdicts[0]
    assert found.verdicts[0].outcome == "confirmed"
    assert flipped.outcome == "refuted"
    assert flipped.effect == pytest.approx(1 / (found.verdicts[0].effect or 0.0))


def test_the_end_of_the_budget_keeps_what_was_run_and_the_next_call_goes_on(place: Path) -> None:
    write_study(place, ("simple_cnn(width=4)", "simple_cnn(width=5)"), TRAINED, name="short.toml")
    observer = Noting()
    begun = run("short.toml", observer=observer, budget_seconds=1e-3)
    assert observer.cells == []
    assert observer.warnings == ["the budget is used up: the same call goes on"]
    assert {one.outcome for one in begun.verdicts} == {"not_measured"}
    assert begun.verdicts[0].reason == "0 of at least 3 seeds were run"
    assert begun.is_undecided
    ended = run("short.toml")
    assert all(one.num_seeds >= 3 for one in ended.verdicts)


def test_an_arm_that_cannot_be_built_is_refused_before_anything_runs(place: Path) -> None:
    write_study(place, BROKEN, name="broken.toml")
    before = listing(place)
    with pytest.raises(InvalidValueError, match="width"):
        run("broken.toml")
    assert listing(place) == before


def test_of_several_studies_the_one_that_cannot_run_is_not_measured(place: Path) -> None:
    write_study(place, BROKEN, name="broken.toml")
    both = run("broken.toml", "wider.toml")
    outcomes = {(one.study, one.outcome) for one in both.verdicts}
    assert ("broken", "not_measured") in outcomes
    assert ("broken", "refuted") not in outcomes
    assert ("wider", "confirmed") in outcomes
    assert "width" in both.verdicts[0].reason


def test_a_study_that_loses_an_arm_goes_on_with_the_others_at_once(place: Path) -> None:
    write_study(
        place,
        ('factor = "width"', 'factor = "precision"'),
        ('name = "wide"\nwidth = 8', 'name = "tf32"\nprecision = "tf32"'),
        (
            '[[claim]]\nmetric = "num',
            '[[variant]]\nname = "bf16"\nprecision = "bf16"\n\n[[claim]]\nmetric = "num',
        ),
        TRAINED,
        name="precisions.toml",
    )
    observer = Noting()
    run(
        "precisions.toml", "wider.toml", observer=observer, results_dir=place / "lost", device="cpu"
    )
    names = [cell.name for cell in observer.cells]
    third_seed = names.index("simple_cnn(width=4)-bf16-b64-none-seed2")
    next_study = names.index("simple_cnn(width=8)-fp32-b64-none")
    # Not at all seeds: it is lost for sure once the baseline's cell of the same seed is there.
    assert 1 <= sum("-tf32-" in name for name in names) <= 2
    assert third_seed < next_study


FAILING = """
import torch


class Failing(torch.nn.Module):
    def __init__(self, num_classes, fails=False):
        super().__init__()
        self.layer = torch.nn.Linear(3, num_classes)
        self.fails = fails

    def forward(self, x):
        if self.fails and len(x) > 2:
            raise RuntimeError("it broke")
        return self.layer(x.mean(dim=(2, 3)))
"""


def test_an_arm_that_fails_is_not_measured_and_never_refuted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "failing.py").write_text(FAILING)
    write_study(
        place, ('"width"', '"fails"'), ("width = 8", "fails = true"),
        ("simple_cnn(width=4)", "failing:Failing"), TRAINED, name="failing.toml",
    )  # fmt: skip
    options = ("--tracking-uri", "none", "--isolation", "inline")
    assert run_here("study", "failing.toml", *options, folder=place) == 1
    said = capsys.readouterr().out
    assert "not measured" in said
    assert "it broke" in said
    assert "refuted" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name studies"),
        (("--all", "activation"), "name studies"),
        (("--all", "--budget", "soon"), "is no time"),
        (("activatoin",), "Did you mean 'activation'"),
        (("missing.toml",), "cannot read the study"),
        (("wider.toml", "--dataset", "digit"), "unknown dataset"),
        (("wider.toml", "--dataset", "synthetic(num_images=100)"), "train_subset"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    write_study(tmp_path)
    before = listing(tmp_path)
    assert run_here("study", *arguments, "--isolation", "inline", folder=tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert listing(tmp_path) == before


def test_axes_are_the_studys_own() -> None:
    with pytest.raises(CnnbenchError, match="a study has its own precision"):
        run("activation", precision="bf16")
