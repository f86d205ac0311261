"""The prepared pages of the MLflow UI, as data; what a browser makes of them is tested there."""

from __future__ import annotations

import json

import pytest

from cnnbench import views
from cnnbench.report.charts import PRECISION_COLOURS

RESNET = "resnet(width=16,depth=2)"
# What MLflow refuses to keep in an experiment's tag.
LONGEST_KEY, LONGEST_VALUE = 250, 20_000


def charts(view: views.View) -> list[tuple[str, str]]:
    """Return the section and the kind of each chart, in the order of the page."""
    names = {section["uuid"]: section["name"] for section in view.state["compareRunSections"]}
    return [
        (names[chart["metricSectionId"]], chart["type"]) for chart in view.state["compareRunCharts"]
    ]


def test_an_experiment_gets_a_view_of_all_one_of_the_best_and_one_an_architecture() -> None:
    names = [view.name for view in views.views([RESNET, "simple_cnn", RESNET])]
    assert names == [
        "cnnbench: all settings",
        "cnnbench: best per architecture and precision",
        f"cnnbench: {RESNET}",
        "cnnbench: simple_cnn",
    ]


def test_many_architectures_do_not_bury_the_users_own_views() -> None:
    prepared = views.views(f"resnet(width={width})" for width in range(100))
    assert len(prepared) == 2 + views.MAX_ARCHITECTURES


def test_every_view_has_another_key_and_fits_into_a_tag() -> None:
    prepared = views.views([RESNET, "simple_cnn", "x" * 500])
    assert len({view.key for view in prepared}) == len(prepared)
    for view in prepared:
        assert len(view.tag) <= LONGEST_KEY
        assert len(view.envelope(1_760_000_000_000)) <= LONGEST_VALUE


def test_the_comparison_has_every_kind_of_chart_and_folds_away_the_others() -> None:
    drawn = charts(views.all_settings())
    assert [kind for _, kind in drawn].count("SCATTER") == 3
    assert {kind for _, kind in drawn} == {"SCATTER", "BAR", "LINE", "PARALLEL"}
    folded = [
        s["name"] for s in views.all_settings().state["compareRunSections"] if not s["display"]
    ]
    assert folded == ["Model metrics", "System metrics", "train", "val"]


def test_charts_and_sections_have_keys_of_their_own() -> None:
    state = views.all_settings().state
    keys = [item["uuid"] for item in (*state["compareRunCharts"], *state["compareRunSections"])]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("architecture", "quoted"),
    [(RESNET, f"'{RESNET}'"), ("mine:net(kind='a')", "\"mine:net(kind='a')\"")],
)
def test_the_view_of_one_architecture_shows_its_cells_alone(architecture: str, quoted: str) -> None:
    view = views.one_architecture(architecture)
    assert view is not None
    condition = f"tags.kind = 'cell' and params.architecture = {quoted}"
    assert view.state["searchFilter"] == condition


def test_a_name_that_a_search_cannot_quote_has_no_view() -> None:
    assert views.one_architecture("""mine:net(a='x',b="y")""") is None


def test_the_best_are_the_highest_of_architecture_and_precision() -> None:
    grouped = views.best_of_groups().state["groupBy"]
    assert grouped["aggregateFunction"] == "max"
    assert [key["groupByData"] for key in grouped["groupByKeys"]] == ["architecture", "precision"]


def test_a_saved_view_is_known_again_whenever_it_was_saved() -> None:
    view = views.all_settings()
    assert view.is_saved_as(view.envelope(1))
    assert view.is_saved_as(view.envelope(2))
    assert json.loads(view.envelope(2))["createdAt"] == 2


@pytest.mark.parametrize("value", [None, "", "{", "[]", "null", '{"name": 1}', '{"state": "{}"}'])
def test_what_is_no_such_view_is_saved_anew(value: str | None) -> None:
    assert not views.all_settings().is_saved_as(value)


def test_only_versions_whose_page_was_tried_are_known() -> None:
    assert views.is_known("3.17.2")
    for version in ("3.1", "3.16.0", "3.170.0", "4.17.0", "", "<html>"):
        assert not views.is_known(version)


def test_the_colours_are_those_of_the_report() -> None:
    assert views.PRECISION_COLOURS == PRECISION_COLOURS
