"""Verdicts as tables, figures and pages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench.verdict_table import MARKERS, replace_between_markers, table
from cnnbench.errors import StoreError
from cnnbench.report.study_figures import effects_figure, overview_figure
from cnnbench.report.study_pages import write_overview, write_study
from cnnbench.report.study_tables import (
    effect_text,
    number_text,
    read_verdicts,
    verdict_lines,
    verdicts_csv,
)
from cnnbench.study import OUTCOMES, Verdict
from sample_study import sample_study

if TYPE_CHECKING:
    from pathlib import Path

CONFIRMED = Verdict(
    study="wider",
    claim="images per second up by at least 10 % against narrow",
    variant="wide",
    baseline="narrow",
    device="Intel Xeon",
    dataset="digits",
    outcome="confirmed",
    unit="x",
    threshold=1.1,
    num_seeds=3,
    effect=1.5,
    low=1.4,
    high=1.6,
    reason="Student's t at 98.75 %",
    seeds=(1.5, 1.51, 1.49),
    cells=(("a1", "b1"), ("a2", "b2"), ("a3", "b3")),
)
REFUTED = replace(
    CONFIRMED,
    claim="validation accuracy up by at least 1 point against narrow",
    outcome="refuted",
    unit="points",
    threshold=1.0,
    effect=-0.5,
    low=-0.9,
    high=0.1,
)
SAME = replace(
    REFUTED, claim="test accuracy the same | <within> 1 point", outcome="inconclusive",
    direction="same",
)  # fmt: skip
LOST = Verdict(
    study="wider",
    claim="peak memory down by at least 20 % against narrow",
    variant="wide",
    baseline="narrow",
    device="Intel Xeon",
    dataset="digits",
    outcome="not_measured",
    unit="x",
    threshold=0.8,
    direction="down",
    reason="wide failed:\nit <broke>",
)
VERDICTS = (CONFIRMED, REFUTED, SAME, LOST)


def test_the_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    path.write_text(verdicts_csv(one.row() for one in VERDICTS))
    rows = read_verdicts(path)
    assert [row["outcome"] for row in rows] == list(OUTCOMES)
    assert float(rows[0]["effect"]) == 1.5
    assert rows[3]["effect"] == ""
    assert rows[3]["reason"] == "wide failed: it <broke>"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(StoreError, match="no table of verdicts"):
        read_verdicts(path)


def test_numbers_keep_three_digits_and_no_exponent() -> None:
    assert [number_text(one) for one in (1.5, 0.95238, 12.345, 1234567, 0.004)] == [
        *("1.50", "0.952", "12.3", "1,234,567", "0.0040"),
    ]
    assert effect_text(CONFIRMED.row()) == "1.50 x [1.40, 1.60]"
    assert effect_text(LOST.row()) == ""


def test_a_study_has_a_page_in_markdown_and_in_html_and_a_figure(tmp_path: Path) -> None:
    study = sample_study(tmp_path)
    path = write_study(study, VERDICTS, tmp_path, command="cnnbench study wider")
    page, html = path.read_text(), path.with_suffix(".html").read_text()
    for text in (page, html):
        assert study.advice in text
        assert "1 confirmed, 1 refuted, 1 inconclusive, 1 not measured." in text
        assert "cnnbench study wider" in text
        assert "1.50 x [1.40, 1.60]" in text
        assert "b2" in text
        assert "<broke>" not in text
    assert "same \\| &lt;within>" in page
    assert "![Wider networks](wider.png)" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_study_without_measured_claims_has_no_figure(tmp_path: Path) -> None:
    study = sample_study(tmp_path)
    assert effects_figure(study, [LOST]) is None
    path = write_study(study, [LOST], tmp_path, command="cnnbench study wider")
    assert "wider.png" not in path.read_text()
    assert not path.with_suffix(".png").exists()


def test_the_figure_shows_effects_intervals_and_what_was_claimed(tmp_path: Path) -> None:
    figure = effects_figure(sample_study(tmp_path), VERDICTS)
    assert figure is not None
    svg = figure.svg()
    for text in ("wide: images per second up", "confirmed", "refuted", "no change", "in points"):
        assert text in svg


def test_the_overview_has_a_square_for_every_verdict() -> None:
    other = [replace(CONFIRMED, study="other")]
    svg = overview_figure([one.row() for one in (*VERDICTS, *other)]).svg()
    assert svg.count('aria-roledescription="square"') == 5
    assert all(outcome.replace("_", " ") in svg for outcome in OUTCOMES)


def test_an_overview_keeps_the_verdicts_of_other_studies(tmp_path: Path) -> None:
    other = replace(CONFIRMED, study="other")
    write_overview([other], tmp_path, command="cnnbench study other", order=["wider", "other"])
    rows = write_overview(
        VERDICTS, tmp_path, command="cnnbench study wider", order=["wider", "other"]
    )
    assert [row["study"] for row in rows] == ["wider"] * 4 + ["other"]
    assert "[other](other.md)" in (tmp_path / "README.md").read_text()
    again = write_overview([other], tmp_path, command="cnnbench study other", order=[])
    assert len(again) == 5


def test_the_readme_takes_the_table_between_its_markers(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "studies"
    folder.mkdir(parents=True)
    (folder / "verdicts.csv").write_text(verdicts_csv(one.row() for one in VERDICTS))
    readme = tmp_path / "README.md"
    begin, end = MARKERS
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    text = table(folder, linked_from=readme)
    replace_between_markers(readme, text)
    replace_between_markers(readme, text)
    written = readme.read_text()
    assert written.startswith(f"before\n{begin}\n")
    assert written.endswith(f"{end}\nafter\n")
    assert written.count("[wider](results/studies/wider.md)") == 1
    assert "old" not in written
    readme.write_text("no markers")
    with pytest.raises(StoreError, match="needs the lines"):
        replace_between_markers(readme, text)
    with pytest.raises(StoreError, match="there is no verdicts"):
        table(tmp_path)


def test_a_terminal_gets_each_verdict_with_its_effect() -> None:
    lines = verdict_lines(VERDICTS)
    assert lines[1] == "wider"
    assert "1.50 x [1.40, 1.60] over 3 seeds; Student's t at 98.75 %" in lines[3]
    assert lines[-1] == "1 confirmed, 1 refuted, 1 inconclusive, 1 not measured."
