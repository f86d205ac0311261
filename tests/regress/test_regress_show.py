"""What people and programs are shown: lines, Markdown, JUnit and JSON of the same findings."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from cnnbench.errors import StoreError
from cnnbench.regress.history import Step
from cnnbench.regress.judge import judge
from cnnbench.regress.page import write_page
from cnnbench.regress.run import Outcome, judged
from cnnbench.regress.show import accepted_lines, as_json, junit, lines, markdown
from sample_regress import (
    MIB,
    STEP_SECONDS,
    TRAINING,
    sample_results,
    sample_run,
    sample_test,
    sample_training,
)

if TYPE_CHECKING:
    from pathlib import Path

STEP = Step(
    test=TRAINING,
    measure="images_per_second",
    index=7,
    before=1000.0,
    after=950.0,
    measured_at="2026-01-08",
    commit="c" * 40,
)


def outcome() -> Outcome:
    """Return a slower step, a leak, a lower accuracy and a test whose name is a trap."""
    trap = replace(sample_test(), name="training/<a|b>&'\"\x07`x`")
    base = sample_results(sample_test(), trap, sample_training([0.9] * 5))
    worse = sample_test(1.1 * STEP_SECONDS, offset=50, peak_allocated_bytes=240 * MIB)
    lost = replace(trap, runs=tuple(replace(run, status="failed") for run in trap.runs))
    candidate = sample_results(worse, lost, sample_training([0.8] * 5))
    return judged(base, candidate, opponent="revision 0123456789 (--base main)")


def test_a_terminal_shows_what_changed_with_its_interval_and_the_counts_last() -> None:
    shown = lines(outcome())
    slower = next(line for line in shown if "throughput" in line)
    assert "-9." in slower
    assert "[" in slower
    assert slower.rstrip().endswith("regressed")
    leak = next(line for line in shown if "allocated memory" in line)
    assert "200 MiB" in leak
    assert "+40 MiB" in leak
    assert "-10.0 pp" in next(line for line in shown if " accuracy " in line)
    assert shown[-1].startswith("regressed: 4 regressed")
    assert not any("process memory" in line for line in shown)
    assert any("process memory" in line for line in lines(outcome(), everything=True))


def test_markdown_puts_the_verdict_first_and_folds_away_what_is_the_same() -> None:
    text = markdown(outcome(), [STEP], figure="trend.png")
    assert text.startswith("## Regression\n")
    loud, folded = text.split("<details>")
    assert "throughput" in loud
    assert "process memory" in folded
    assert "![trend](trend.png)" in text
    assert "-5.0%" in text
    rows = [line for line in text.splitlines() if line.startswith("| training/")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {7}
    assert "<a" not in text.replace("\\<a", "")


def test_junit_is_xml_with_a_failure_for_each_regression() -> None:
    suite = ET.fromstring(junit(outcome())).find("testsuite")  # noqa: S314 (our own)
    assert suite is not None
    cases = suite.findall("testcase")
    assert suite.get("tests") == str(len(cases))
    failed = [case for case in cases if case.find("failure") is not None]
    assert len(failed) == int(suite.get("failures", "")) == 4
    assert {case.get("name") for case in failed} == {
        *("throughput", "allocated memory", "status", "accuracy"),
    }
    assert "training/<a|b>&'\"�`x`" in {case.get("classname") for case in cases}


def test_junit_skips_what_stays_open() -> None:
    one = sample_results(sample_test(number=1))
    suite = ET.fromstring(junit(judged(one, one, opponent="x"))).find("testsuite")  # noqa: S314
    assert suite is not None
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")


def test_json_holds_every_finding_and_no_window() -> None:
    said = json.loads(json.dumps(as_json(outcome(), [STEP])))
    assert said["verdict"] == "regressed"
    assert said["compared_with"] == "revision 0123456789 (--base main)"
    assert {finding["measure"] for finding in said["findings"]} >= {"throughput", "accuracy"}
    assert said["steps"][0]["index"] == 7
    assert "windows" not in json.dumps(said)


def test_where_nothing_was_compared_the_next_step_is_named() -> None:
    alone = Outcome(candidate=sample_results())
    assert "cnnbench accept" in lines(alone)[0]
    assert "cnnbench accept" in markdown(alone)
    assert as_json(alone)["verdict"] is None


def test_a_report_that_cannot_be_written_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "regress").write_text("a file where the folder belongs")
    with pytest.raises(StoreError, match=r"cannot write .*regress: File exists\. Choose another"):
        write_page(outcome(), [], [], tmp_path)


def test_notes_and_new_tests_are_shown() -> None:
    base, more = sample_results(), replace(sample_test(), name="training/more")
    judgement = judge(base, sample_results(sample_test(), more))
    found = Outcome(candidate=base, base=base, judgement=judgement, notes=("a remark",))
    assert "new, not compared: training/more" in lines(found)
    assert "- a remark" in markdown(found)


def test_what_is_accepted_is_shown_in_every_measure_beside_what_it_was() -> None:
    leak = {"peak_allocated_bytes": 240 * MIB, "peak_reserved_bytes": 1000 * MIB}
    after = sample_results(
        sample_test(1.1 * STEP_SECONDS, number=1, process_bytes=350 * MIB, **leak),
        sample_training([0.8]),
    )
    before = sample_results(
        sample_test(number=1, peak_reserved_bytes=900 * MIB), sample_training([0.9])
    )
    said = [re.split(r"  +", line.strip()) for line in accepted_lines(after, before)]
    memory = ("allocated MiB", "reserved MiB", "process MiB")
    assert said[0] == ["test", "images/s", *memory, "accuracy", "processes"]
    assert said[1][1:] == ["80.0% (was 90.0%)", "1"]
    speeds = (f"{t.tests[TRAINING].images_per_second:,.0f}" for t in (after, before))
    assert said[2][1:] == [
        "{} (was {})".format(*speeds),
        *("240 (was 200)", "1,000 (was 900)", "350 (was 300)", "1"),
    ]


def test_a_measure_that_no_test_has_is_no_column_and_one_that_is_gone_says_so() -> None:
    bare = sample_results(sample_test(process_bytes=None))
    assert accepted_lines(bare, None)[0].split() == [
        *("test", "images/s", "allocated", "MiB", "processes")
    ]
    assert "none (was 301)" in accepted_lines(bare, sample_results())[1]
    assert accepted_lines(sample_results(tests={}), None)[0].startswith("test  images/s")


@pytest.mark.parametrize(
    ("verdict", "is_said"), [("regressed", True), ("same", False), ("", False)]
)
def test_what_is_accepted_in_spite_of_a_regression_says_so(verdict: str, is_said: bool) -> None:  # noqa: FBT001 (a parameter of pytest's)
    said = accepted_lines(sample_results(verdict=verdict), None)
    assert (said[-1] == "the comparison before it said: regressed") == is_said


@pytest.mark.parametrize("before", [None, sample_results()])
def test_what_is_accepted_is_a_table_of_all_tests(before: object) -> None:
    oom = replace(sample_test(), name="training/oom", runs=(sample_run(0, status="out_of_memory"),))
    table = accepted_lines(
        sample_results(oom, sample_test(), sample_training([0.875])),
        before if before is None else sample_results(),
    )
    assert len(table) == 4
    assert "out_of_memory" in next(line for line in table if line.startswith("training/oom"))
    assert "87.5%" in next(line for line in table if line.startswith("accuracy"))
