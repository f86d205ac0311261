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
    each_at_its_best,
    effects_of_one_change,
    figures,
    memory_by_part,
    png,
    roofline_plot,
    round_ticks,
    throughput_against_memory,
    throughput_over_batch_size,
)
from sample_sweep import metered, spoilt, sweep, troubled, with_cell

if TYPE_CHECKING:
    from cnnbench.record import Record
    from cnnbench.report.figures import Figure

FULL = metered(sweep())
RECORDS = troubled(FULL)


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
        ({"throughput-memory", "memory-parts"}, [replace(r, memory=None) for r in FULL]),
        ({"throughput-batch"}, [r for r in FULL if r.cell.batch_size == 32]),
        ({"accuracy-epoch", "accuracy-time"}, [replace(r, fit=None) for r in FULL]),
        ({"roofline"}, [replace(r, roofline=None) for r in FULL]),
        ({"throughput-energy", "roofline"}, sweep()),
        (
            {"one-change", "each-best"},
            metered(sweep(precisions=("bf16",), checkpointings=("block",))),
        ),
    ],
)
def test_a_figure_whose_data_is_missing_is_left_out(
    missing: set[str], records: list[Record]
) -> None:
    assert [f.name for f in figures(records)] == [n for n in FIGURE_NAMES if n not in missing]


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


def test_the_frontier_joins_what_nothing_beats() -> None:
    figure = throughput_against_memory(RECORDS)
    assert figure is not None
    for name in {row["panel"] for row in figure.datasets["rows"]}:
        rows = [row for row in figure.datasets["rows"] if row["panel"] == name]
        line = [row for row in figure.datasets["frontier"] if row["panel"] == name]
        unbeaten = [
            row
            for row in rows
            if not any(o["rate"] > row["rate"] and o["peak"] <= row["peak"] for o in rows)
        ]
        assert {(row["peak"], row["rate"]) for row in line} <= {
            (row["peak"], row["rate"]) for row in unbeaten
        }
        assert max(row["rate"] for row in line) == max(row["rate"] for row in rows)


def test_a_batch_that_ran_out_of_memory_is_marked() -> None:
    figure = throughput_over_batch_size(RECORDS)
    assert figure is not None
    [full] = figure.datasets["full"]
    [record] = [r for r in RECORDS if r.status == "out_of_memory"]
    assert (full["cell"], full["batch"]) == (record.cell_hash, record.cell.batch_size)
    assert "out of memory" in figure.caption
    assert "✕" in figure.svg()


def test_seeds_are_a_band_around_their_median() -> None:
    seeds = [with_cell(r, seed=seed) for r in sweep(batch_sizes=(32,)) for seed in range(3)]
    shifted = [
        replace(r, fit=replace(r.fit, epochs=tuple(_shifted(e, r.cell.seed) for e in r.fit.epochs)))
        for r in seeds
        if r.fit
    ]
    figure = accuracy_by_epoch(shifted)
    for row in rows_of(figure):
        assert row["low"] < row["accuracy"] < row["high"]
        assert len(row["cells"]) == 3
    assert figure is not None
    assert "bands" in figure.caption


def _shifted(epoch: Any, seed: int) -> Any:
    return replace(epoch, val_accuracy=epoch.val_accuracy - 0.01 * seed)


def test_the_parts_of_the_memory_add_up_to_the_peak() -> None:
    figure = memory_by_part(RECORDS)
    assert figure is not None
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for row in figure.datasets["rows"]:
        by_cell.setdefault(row["cell"], []).append(row)
    peaks = {r.cell_hash: r.metrics().get("peak_allocated_mib") for r in RECORDS}
    for cell, parts in by_cell.items():
        assert sum(part["end"] - part["start"] for part in parts) == pytest.approx(peaks[cell])
        assert [part["start"] for part in parts[1:]] == [part["end"] for part in parts[:-1]]


def test_no_cell_lies_above_the_roof_that_it_was_measured_against() -> None:
    figure = roofline_plot(RECORDS)
    for row in rows_of(figure):
        assert row["speed"] <= min(row["peak_speed"], row["bandwidth"] * row["intensity"]) * 1.001


def test_each_way_at_its_best_is_over_the_best_plain_one() -> None:
    rows = rows_of(each_at_its_best(RECORDS))
    rates = {r.cell_hash: r.metrics().get("images_per_second") for r in RECORDS}
    for row in rows:
        assert row["ratio"] == rates[row["cell"]] / rates[row["baseline"]]  # type: ignore[operator]
    ours = [r for r in FULL if r.cell.architecture == "simple_cnn" and r.cell.precision == "bf16"]
    best = max(rates[r.cell_hash] or 0 for r in ours)
    [row] = [r for r in rows if (r["architecture"], r["value"]) == ("simple_cnn", "bf16")]
    assert row["rate"] == best


def test_thousands_of_cells_are_thinned_and_the_caption_says_so() -> None:
    many = [with_cell(r, batch_size=8 + n) for r in FULL[:8] for n in range(400)]
    for figure in figures(many):
        assert len(figure.datasets["rows"]) <= 2600
        assert len(figure.svg()) < 3_000_000
    thinned = throughput_against_memory(many)
    assert thinned is not None
    assert "of 3,200 cells are drawn" in thinned.caption


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
