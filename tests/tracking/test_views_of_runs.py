"""What the store holds for the UI: prepared views, notes in words, colours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from mlflow.exceptions import MlflowException

from cnnbench import notes, views
from cnnbench.errors import StoreError
from cnnbench.tracking import SweepLog, Tracker, open_store
from sample_records import sample_cell, sample_dataset, sample_environment, sample_record

if TYPE_CHECKING:
    from collections.abc import Iterator

ARCHITECTURES = ("resnet(width=16,depth=2)", "simple_cnn")
RECORDS = [sample_record(cell=sample_cell(architecture=name)) for name in ARCHITECTURES]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    opened = open_store(None, tmp_path_factory.mktemp("views"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def sweep(tracker: Tracker) -> SweepLog:
    log = tracker.sweep(
        "quick-1", profile="quick", environment=sample_environment(), dataset=sample_dataset()
    )
    for record in RECORDS:
        log.log(record)
    log.finish(RECORDS)
    return log


def saved(sweep: SweepLog) -> dict[str, str]:
    """Return the views that the experiment holds, by their keys."""
    tags = sweep.tracker.client.get_experiment(sweep.experiment_id).tags
    return {
        name.removeprefix(views.TAG_PREFIX): value
        for name, value in tags.items()
        if name.startswith(views.TAG_PREFIX)
    }


def test_a_sweep_that_ends_leaves_its_views_to_be_chosen_from(sweep: SweepLog) -> None:
    expected = {view.key: view.name for view in views.views(ARCHITECTURES)}
    assert {key: json.loads(value)["name"] for key, value in saved(sweep).items()} == expected


def test_a_view_that_is_there_is_not_written_again(sweep: SweepLog) -> None:
    before = saved(sweep)
    sweep.finish(RECORDS)
    assert saved(sweep) == before


def test_a_view_that_somebody_changed_is_mended_and_the_users_own_are_left(
    sweep: SweepLog,
) -> None:
    client, before = sweep.tracker.client, saved(sweep)
    own = f"{views.TAG_PREFIX}their-own"
    client.set_experiment_tag(sweep.experiment_id, own, "theirs")
    client.set_experiment_tag(sweep.experiment_id, views.all_settings().tag, "{}")
    sweep.finish(RECORDS)
    after = saved(sweep)
    assert after.pop("their-own") == "theirs"
    assert views.all_settings().is_saved_as(after["cnnbench"])
    assert set(after) == set(before)
    client.delete_experiment_tag(sweep.experiment_id, own)


def test_the_address_opens_the_comparison(sweep: SweepLog) -> None:
    ui = sweep.tracker.ui(port=5000)
    assert ui.address == f"{ui.plain_address}&compareRunsMode=CHART&viewStateShareKey=cnnbench"
    assert "workflowType=machine_learning" in ui.plain_address


def test_the_address_of_one_architecture_opens_its_comparison(sweep: SweepLog) -> None:
    view = views.one_architecture("simple_cnn")
    assert view is not None
    address = sweep.tracker.ui(port=5000, architecture="simple_cnn").address
    assert address.endswith(f"viewStateShareKey={view.key}")


@pytest.mark.parametrize("architecture", ["resnet", """x(a='b',c="d")"""])
def test_an_architecture_without_a_cell_is_refused(sweep: SweepLog, architecture: str) -> None:
    before = saved(sweep)
    with pytest.raises(StoreError, match="has no cell of the architecture"):
        sweep.tracker.ui(port=5000, architecture=architecture)
    assert saved(sweep) == before


def test_where_the_ui_is_not_known_the_plain_list_is_shown(
    sweep: SweepLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "KNOWN_VERSIONS", ("2.0",))
    ui = sweep.tracker.ui(port=5000)
    assert ui.address == ui.plain_address


def test_views_that_the_store_refuses_cost_neither_the_sweep_nor_the_list(
    sweep: SweepLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        msg = "no right to"
        raise MlflowException(msg)

    monkeypatch.setattr(type(sweep.tracker.client), "set_experiment_tag", refuse)
    monkeypatch.setattr(views, "SPEED", "another")  # so that there is something to write
    run = sweep.tracker.client.get_run(sweep.finish(RECORDS))
    assert run.info.status == "FINISHED"
    ui = sweep.tracker.ui(port=5000)
    assert ui.address == ui.plain_address


def test_runs_sweep_and_experiment_have_notes_and_runs_the_colour_of_their_precision(
    sweep: SweepLog,
) -> None:
    client = sweep.tracker.client
    runs = client.search_runs([sweep.experiment_id])
    by_kind = {kind: [r for r in runs if r.data.tags["kind"] == kind] for kind in ("cell", "sweep")}
    assert len(by_kind["cell"]) == len(RECORDS)
    for run in by_kind["cell"]:
        assert run.data.tags[views.COLOUR_TAG] == views.PRECISION_COLOURS["bf16"]
    assert {run.data.tags[notes.NOTE_TAG] for run in by_kind["cell"]} == set(
        map(notes.run_note, RECORDS)
    )
    (whole,) = by_kind["sweep"]
    assert whole.data.tags[notes.NOTE_TAG] == notes.sweep_note(RECORDS, sample_environment())
    experiment = client.get_experiment(sweep.experiment_id)
    assert experiment.tags[notes.NOTE_TAG] == notes.experiment_note("quick")
