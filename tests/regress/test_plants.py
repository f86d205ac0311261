"""The planted regressions fit the code that they are planted in, and are judged by what was expected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.plant_rows import append_row, judged, read_rows, table
from bench.planted_edits import (
    BF16,
    LAYOUT,
    LEAK,
    NORMALISATION,
    SUITES,
    TF32,
    WAITING,
    Edit,
    Plant,
    apply,
    convolving,
)
from cnnbench.regress.suite import load_suite

ROOT = Path(__file__).parent.parent.parent
PLANTS = (LEAK, LAYOUT, BF16, TF32, NORMALISATION, WAITING, convolving(48, 0.051))
KNOWN: dict[str, Any] = {"number": 1, "commit": "c", "device": "d", "seconds": 1.5}


def said(verdict: str, **by_measure: str) -> dict[str, Any]:
    findings = [{"measure": m.replace("_", " "), "verdict": v} for m, v in by_measure.items()]
    return {"verdict": verdict, "findings": findings, "delta": 0.02}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_each_plant_fits_the_present_code(plant: Plant, tmp_path: Path) -> None:
    for edit in plant.edits:
        copy = tmp_path / edit.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copy(ROOT / edit.path, copy)
        apply(edit, tmp_path)
        compile(copy.read_text(), copy, "exec")


def test_a_plant_that_no_longer_fits_is_no_plant(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    with pytest.raises(ValueError, match="holds 2 times"):
        apply(Edit(path="a.py", old="x = 1", new="x = 2"), tmp_path)


@pytest.mark.parametrize("device_type", SUITES)
def test_each_plant_has_a_test_that_could_show_it(device_type: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(SUITES[device_type])
    names = [subject.name for subject in load_suite(path)]
    for plant in PLANTS:
        assert any(plant.tests in name for name in names), plant.name


def test_a_plant_counts_as_found_by_the_right_verdict_only() -> None:
    right = judged(
        said("regressed", process_memory="regressed"), part="plants", plant=LEAK, **KNOWN
    )
    wrong = judged(said("regressed", throughput="regressed"), part="plants", plant=LEAK, **KNOWN)
    assert (right.as_expected, wrong.as_expected) == (True, False)
    assert wrong.expected == "allocated memory or process memory"


@pytest.mark.parametrize(
    ("part", "verdict", "is_right"),
    [
        ("unchanged", "same", True),
        ("unchanged", "improved", True),
        ("unchanged", "inconclusive", False),
        ("busy", "inconclusive", True),
        ("busy", "regressed", False),
    ],
)
def test_an_unchanged_tree_must_pass_and_beside_a_neighbour_not_regress(
    part: str, verdict: str, *, is_right: bool
) -> None:
    row = judged(said(verdict, throughput=verdict), part=part, plant=None, **KNOWN)
    assert row.as_expected is is_right


def test_rows_read_back_and_become_a_table(tmp_path: Path) -> None:
    path = tmp_path / "results" / "plants.csv"
    rows = [
        judged(said("regressed", process_memory="regressed"), part="plants", plant=LEAK, **KNOWN),
        *(
            judged(said("same"), part="unchanged", plant=None, **{**KNOWN, "number": number})
            for number in (1, 2)
        ),
    ]
    assert read_rows(path) == []
    for row in rows:
        append_row(row, path)
    assert read_rows(path) == rows
    shown = list(table(rows))
    leak = "| a leak of 32 MiB | allocated memory or process memory | process memory |"
    assert f"{leak} 1 | 2 | 2.0% |" in shown
    assert "| nothing | no regression | `same` 2 | 2 | 2 | 2.0% |" in shown
