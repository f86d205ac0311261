"""The history remembers every call of one machine, and tells lasting changes from noise."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cnnbench.regress.history import (
    MEASURES,
    NAME,
    Point,
    append_history,
    find_steps,
    key_of,
    read_history,
)
from cnnbench.report.trend import MEASURES as DRAWN
from cnnbench.report.trend import trend, trend_png
from sample_regress import TRAINING, sample_machine, sample_results

if TYPE_CHECKING:
    from pathlib import Path


def points(levels: list[float], *, noise: float = 0.004, seed: int = 0) -> list[Point]:
    factors = np.exp(np.random.default_rng(seed).normal(0, noise, size=len(levels)))
    return [
        Point(
            measured_at=f"2026-01-{number + 1:02}",
            commit=f"{number:040}",
            is_dirty=False,
            machine=key_of(sample_machine()),
            test=TRAINING,
            images_per_second=level * float(factor),
            peak_allocated_bytes=2.0e8,
        )
        for number, (level, factor) in enumerate(zip(levels, factors, strict=True))
    ]


def test_each_call_adds_its_tests_and_another_machine_does_not_see_them(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    for commit in ("a" * 40, "b" * 40):
        append_history(folder, sample_results(commit=commit))
    found = read_history(folder, sample_machine())
    assert [point.commit for point in found] == ["a" * 40, "b" * 40]
    assert found[0].images_per_second == pytest.approx(64 / 0.02, rel=0.01)
    assert found[0].peak_allocated_bytes == 200 * 2**20
    assert read_history(folder, replace(sample_machine(), torch="3.0")) == []


def test_every_measure_of_the_history_is_drawn_and_older_lines_have_fewer(tmp_path: Path) -> None:
    (test,) = sample_results().tests.values()
    on_gpu = [replace(run, peak_reserved_bytes=3 * 2**28) for run in test.runs]
    tests = {test.name: replace(test, runs=tuple(on_gpu))}
    append_history(tmp_path, replace(sample_results(), tests=tests))
    (path,) = tmp_path.iterdir()
    (new,) = read_history(tmp_path, sample_machine())
    assert new.peak_reserved_bytes == 3 * 2**28
    line = {name: value for name, value in asdict(new).items() if name != "peak_reserved_bytes"}
    path.write_text(json.dumps(line) + "\n")
    assert read_history(tmp_path, sample_machine()) == [replace(new, peak_reserved_bytes=None)]
    assert tuple(DRAWN) == MEASURES


def test_reserved_memory_that_grows_alone_is_told() -> None:
    reserved = [3.0e8] * 6 + [4.0e8] * 6
    grown = [
        replace(point, peak_reserved_bytes=value)
        for point, value in zip(points([1000.0] * 12), reserved, strict=True)
    ]
    (step,) = find_steps(grown)
    assert (step.measure, step.index) == ("peak_reserved_bytes", 6)
    assert "for the worse" in step.text


@pytest.mark.parametrize(("measures", "columns"), [(1, 1), (3, 3), (4, 2), (5, 3)])
def test_of_many_measures_the_trend_makes_two_rows(measures: int, columns: int) -> None:
    values: dict[str, Any] = dict.fromkeys(MEASURES[1:measures], 1.0)
    bare = [replace(point, peak_allocated_bytes=None) for point in points([1000.0] * 3)]
    chart = trend([replace(point, **values) for point in bare]).spec()
    assert (len(chart["concat"]), chart["columns"]) == (measures, columns)


def test_a_line_torn_by_a_crash_costs_no_other(tmp_path: Path) -> None:
    append_history(tmp_path, sample_results())
    with (tmp_path / NAME).open("a") as file:
        file.write('{"measured_at": "20')
    append_history(tmp_path, sample_results(commit="c" * 40))
    assert len(read_history(tmp_path, sample_machine())) == 2


def test_without_a_history_there_are_no_points(tmp_path: Path) -> None:
    assert read_history(tmp_path, sample_machine()) == []


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_makes_no_step(seed: int) -> None:
    assert find_steps(points([1000.0] * 30, seed=seed)) == []


def test_of_flat_series_at_most_one_in_fifty_shows_a_step() -> None:
    found = [
        find_steps(points([1000.0] * 40, noise=noise, seed=seed))
        for noise in (0.02, 0.05)
        for seed in range(50)
    ]
    assert sum(map(bool, found)) <= 2


@pytest.mark.parametrize("seed", range(5))
def test_a_lasting_loss_of_five_percent_is_found_where_it_began(seed: int) -> None:
    (step,) = find_steps(points([1000.0] * 12 + [950.0] * 8, seed=seed))
    assert (step.measure, step.index) == ("images_per_second", 12)
    assert step.after / step.before == pytest.approx(0.95, abs=0.01)
    assert "for the worse" in step.text
    assert "0000000000" in step.text


def test_more_memory_is_worse_and_a_single_outlier_is_no_level() -> None:
    grown = [replace(p, peak_allocated_bytes=3.0e8) for p in points([1000.0] * 6)]
    (step,) = find_steps([*points([1000.0] * 6), *grown])
    assert (step.measure, "for the worse" in step.text) == ("peak_allocated_bytes", True)
    assert find_steps(points([1000.0] * 9 + [700.0] + [1000.0] * 9)) == []


@pytest.mark.parametrize("noise", [0.0005, 0.002, 0.005])
@pytest.mark.parametrize("every", [1, 4])
def test_ten_changes_of_half_a_percent_are_told(noise: float, every: int) -> None:
    slow = [1000.0 * 0.995 ** (number // every + 1) for number in range(10 * every)]
    steps = find_steps(points([1000.0] * 10 + slow + [slow[-1]] * 10, noise=noise))
    assert steps
    assert all("for the worse" in step.text for step in steps)
    assert all(9 <= step.index < 20 + 10 * every for step in steps)


def test_what_came_little_by_little_is_told_from_its_first_change_to_where_it_adds_up() -> None:
    levels = [level for level in (1000.0, 990.0, 985.0, 975.0) for _ in range(8)]
    (step,) = find_steps(points(levels, noise=0.001))
    assert (step.index, step.since) == (24, "2026-01-09")
    assert "little by little from 2026-01-09 to 2026-01-25 (0000000000)" in step.text
    assert step.after / step.before == pytest.approx(0.975, abs=0.001)


def test_a_sudden_step_does_not_hide_what_came_little_by_little_before_and_after_it() -> None:
    levels = [level for level in (1000.0, 988.0, 900.0, 889.0) for _ in range(8)]
    sudden, gradual = find_steps(points(levels, noise=0.001))
    assert (sudden.index, sudden.since) == (16, None)
    assert sudden.after / sudden.before == pytest.approx(0.911, abs=0.001)
    assert (gradual.index, gradual.since) == (24, "2026-01-09")
    assert gradual.after / gradual.before == pytest.approx(0.976, abs=0.002)


def test_memory_that_never_varies_and_grows_by_small_steps_is_told() -> None:
    grown = [
        replace(point, peak_allocated_bytes=2.0e8 * 1.005 ** (number // 4))
        for number, point in enumerate(points([1000.0] * 28))
    ]
    (step,) = find_steps(grown)
    assert (step.measure, step.since is None) == ("peak_allocated_bytes", False)


def test_few_points_have_no_steps() -> None:
    assert find_steps(points([1000.0, 1000.0, 500.0, 500.0])) == []


def test_the_trend_is_drawn_with_its_steps() -> None:
    found = points([1000.0] * 6 + [900.0] * 6)
    marks = [(step.test, step.measure, step.index) for step in find_steps(found)]
    chart = trend(found, marks).chart.to_dict()
    rows = chart["datasets"]["rows"]
    assert [row["call"] for row in rows if row["step"]] == [7]
    assert {row["measure"] for row in rows} == {"images_per_second", "peak_allocated_bytes"}
    assert trend_png(found, marks).startswith(b"\x89PNG")
