"""Figures show what was measured, and nothing is drawn without data."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from cnnbench.analysis.effects import one_factor_effects
from cnnbench.report.figures import (
    FIGURE_NAMES,
    accuracy_by_epoch,
    effects_of_one_change,
    figures,
    png,
    round_ticks,
    throughput_against_memory,
    throughput_over_batch_size,
)
from sample_sweep import spoilt, sweep, troubled, with_cell

if TYPE_CHECKING:
    from cnnbench.record import Record
    from cnnbench.report.figures import Figure

RECORDS = troubled(sweep())


def rows_of(figure: Figure | None) -> list[dict[str, Any]]:
    """Return the data behind a figure."""
    assert figure is not None
    rows: list[dict[str, Any]] = figure.chart.to_dict()["datasets"]["rows"]
    return rows


def test_a_full_sweep_has_every_figure() -> None:
    assert tuple(figure.name for figure in figures(RECORDS)) == FIGURE_NAMES


def test_without_data_there_is_no_figure() -> None:
    assert figures([]) == []
    assert figures([spoilt(record, "failed", "") for record in RECORDS]) == []


@pytest.mark.parametrize(
    ("missing", "records"),
    [
        ("throughput-memory", [replace(r, memory=None) for r in sweep()]),
        ("throughput-batch", sweep(batch_sizes=(64,))),
        ("accuracy-epoch", sweep(epochs=0)),
        ("one-change", sweep(precisions=("bf16",), checkpointings=("block",))),
    ],
)
def test_a_figure_whose_data_is_missing_is_left_out(missing: str, records: list[Record]) -> None:
    assert [f.name for f in figures(records)] == [n for n in FIGURE_NAMES if n != missing]


def test_invalid_cells_are_not_drawn() -> None:
    figure = throughput_against_memory(RECORDS)
    valid = [r for r in RECORDS if r.status == "completed" and r.validity != "invalid"]
    rates = [row["rate"] for row in rows_of(figure)]
    assert rates == [r.metrics()["images_per_second"] for r in valid]


def test_accuracy_that_says_nothing_is_not_drawn() -> None:
    panels = {row["panel"] for row in rows_of(accuracy_by_epoch(RECORDS))}
    assert "simple_cnn" in panels
    assert "transfer_resnet50" not in panels


def test_diverged_cells_claim_no_accuracy() -> None:
    assert accuracy_by_epoch([replace(r, status="diverged") for r in RECORDS]) is None


def test_each_effect_is_a_dot() -> None:
    effects = one_factor_effects(RECORDS)
    rows = rows_of(effects_of_one_change(RECORDS))
    speeds = [row["ratio"] for row in rows if row["measure"] == "images per second, ratio"]
    assert speeds == [effect.throughput_ratio for effect in effects]


def test_lines_join_only_cells_of_one_layout() -> None:
    records = [*RECORDS, with_cell(RECORDS[0], memory_format="channels_last")]
    panels = {row["panel"] for row in rows_of(throughput_over_batch_size(records))}
    assert {"simple_cnn", "simple_cnn, channels_last"} <= panels


def test_a_single_cell_has_its_point() -> None:
    figure = throughput_against_memory(RECORDS[:1])
    assert figure is not None
    assert 'aria-roledescription="point"' in figure.svg()


@pytest.mark.parametrize("name", FIGURE_NAMES)
def test_a_figure_is_drawn_with_title_device_and_names(name: str) -> None:
    [figure] = [figure for figure in figures(RECORDS) if figure.name == name]
    svg = figure.svg()
    texts = {"".join(element.itertext()) for element in ET.fromstring(svg).iter()}  # noqa: S314 (our own)
    assert {figure.title, RECORDS[0].device, "simple_cnn"} <= texts
    image = png(svg)
    assert image.startswith(b"\x89PNG")
    assert struct.unpack(">II", image[16:24])[0] > 1000


def test_a_name_cannot_add_elements_to_the_drawing() -> None:
    evil = "a:<script>alert</script>&amp;"
    for figure in figures([with_cell(record, architecture=evil) for record in sweep()[:8]]):
        root = ET.fromstring(figure.svg())  # noqa: S314 (our own)
        assert not [element for element in root.iter() if element.tag.endswith("script")]
        assert evil in {element.text for element in root.iter()}


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.65, 1.55, [0.7, 0.8, 0.9, 1, 1.2, 1.5]),
        (15, 1200, [20, 50, 100, 200, 500, 1000]),
        (0.001, 1e9, None),
        (99, 101, None),
    ],
)
def test_ticks_are_few_round_and_inside(low: float, high: float, ticks: list[float] | None) -> None:
    made = round_ticks(low, high)
    assert all(low <= tick <= high for tick in made)
    assert made
    if ticks is not None:
        assert made == ticks
