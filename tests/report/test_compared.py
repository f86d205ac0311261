"""A comparison in words: environments first, the gravest cells on top, and Markdown that nobody breaks."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from cnnbench.analysis.compare import SweepComparison, compare_sweeps
from cnnbench.report.compared import comparison_json, comparison_lines, comparison_markdown
from sample_sweep import ENVIRONMENT, spoilt, sweep, with_cell

RECORDS = sweep()
SIDES: dict[str, Any] = {
    "base": ("before", "yesterday"),
    "candidate": ("after", "today"),
    "delta": "2 %",
}


def compared(evil: str = "simple_cnn") -> SweepComparison:
    base = [with_cell(r, architecture=evil) if n == 0 else r for n, r in enumerate(RECORDS)]
    candidate = [*base[:-1], spoilt(base[-1], "out_of_memory", "full")]
    environments = ([asdict(ENVIRONMENT)], [asdict(replace(ENVIRONMENT, torch="2.16.0"))])
    return compare_sweeps(base, candidate[1:], environments=environments)


def test_environment_differences_come_before_any_number() -> None:
    text = "\n".join(comparison_lines(compared(), **SIDES))
    assert text.index("2.16.0") < text.index("images/s")
    assert "drift of the machine" in text


def test_what_regressed_is_the_first_cell_and_its_reason_is_said() -> None:
    lines = comparison_lines(compared(), **SIDES)
    start = next(n for n, line in enumerate(lines) if line.startswith("cell "))
    assert lines[start + 1].startswith(RECORDS[-1].cell.name)
    assert lines[start + 1].endswith("regressed")
    assert any("completed before, out of memory now" in line for line in lines)


def test_cells_on_one_side_are_named() -> None:
    lines = comparison_lines(compared(), **SIDES)
    assert f"In the base only: {RECORDS[0].cell.name}" in lines


def test_markdown_tables_have_equal_columns_and_escape_what_is_not_ours() -> None:
    evil = "x:<b>|`y`"
    text = comparison_markdown(compared(evil), **SIDES)
    assert "<b>" not in text
    bars = [line.replace("\\|", "").count("|") for line in text.splitlines() if line[:1] == "|"]
    assert set(bars) <= {4, 7, 8}


def test_json_holds_every_cell_with_its_settings() -> None:
    found = compared()
    plain = json.loads(json.dumps(comparison_json(found, base="a")))
    assert plain["base"] == "a"
    assert len(plain["cells"]) == len(RECORDS) - 1
    assert {"name", "precision", "verdict", "ratio", "low", "high"} <= plain["cells"][0].keys()
    assert plain["exit_code"] == 1
