"""The gate's outcome for people and for programs: lines, Markdown, JUnit XML and JSON."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from cnnbench.regress.judge import MEMORIES, MIB, SEVERITY
from cnnbench.regress.suite import ACCURACY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cnnbench.regress.history import Step
    from cnnbench.regress.judge import Finding
    from cnnbench.regress.results import Measured, Results
    from cnnbench.regress.run import Outcome

HEADER = ("test", "measure", "base", "candidate", "change", "verdict")
_MEMORIES = {what.removesuffix(" memory"): name for name, what in MEMORIES.items()}
# What XML 1.0 cannot hold, however it is written.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def lines(outcome: Outcome, steps: Sequence[Step] = (), *, everything: bool = False) -> list[str]:
    """Return what a terminal shows: all findings that are not `same`, then the counts.

    Args:
        outcome: of one call.
        steps: changes of level in the history.
        everything: show what is the same as well.
    """
    judgement = outcome.judgement
    if judgement is None:
        number = len(outcome.candidate.tests)
        return [
            f"{number} tests measured, nothing compared: `cnnbench accept` makes it the baseline"
        ]
    shown = [f for f in _sorted(judgement.findings) if everything or f.verdict != "same"]
    said = [*_table([_row(finding) for finding in shown])] if shown else []
    said += [f"note: {note}" for note in outcome.notes]
    said += [f"new, not compared: {name}" for name in judgement.new_tests]
    said += [step.text for step in steps]
    said.append(f"compared with {outcome.opponent}")
    return [*said, f"{judgement.verdict}: {_counts(judgement.findings)}"]


def markdown(outcome: Outcome, steps: Sequence[Step] = (), *, figure: str | None = None) -> str:
    """Return a comment for a pull request: the verdict first, what is the same folded away."""
    judgement = outcome.judgement
    if judgement is None:
        return "\n".join(lines(outcome)) + "\n"
    machine = outcome.candidate.machine
    parts = [
        f"## {_title(judgement.verdict)}",
        f"{_counts(judgement.findings)}.",
        f"Compared with {_code(outcome.opponent)} on {_code(machine.text)}.",
        f"Speeds that differ by less than {outcome.delta:.1%} count as the same.",
    ]
    ordered = _sorted(judgement.findings)
    loud = [finding for finding in ordered if finding.verdict != "same"]
    quiet = [finding for finding in ordered if finding.verdict == "same"]
    if loud:
        parts.append(_markdown_table(loud))
    if quiet:
        table = _markdown_table(quiet)
        summary = f"<summary>{len(quiet)} findings without a change</summary>"
        parts.append(f"<details>{summary}\n\n{table}\n\n</details>")
    remarks = [*outcome.notes, *(f"new, not compared: {name}" for name in judgement.new_tests)]
    remarks += [step.text for step in steps]
    if remarks:
        parts.append("\n".join(f"- {_code(remark)}" for remark in remarks))
    if figure:
        parts.append(f"![trend]({figure})")
    return "\n\n".join(parts) + "\n"


def junit(outcome: Outcome) -> str:
    """Return one test case a finding: a regression is a failure, what stays open is skipped."""
    found = outcome.judgement.findings if outcome.judgement else ()
    counts = Counter(finding.verdict for finding in found)
    skipped = counts["inconclusive"] + counts["invalid"]
    cases = "".join(_case(finding) for finding in found)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<testsuites><testsuite name="cnnbench regress" tests="{len(found)}"'
        f' failures="{counts["regressed"]}" errors="0" skipped="{skipped}">\n'
        f"{cases}</testsuite></testsuites>\n"
    )


def as_json(outcome: Outcome, steps: Sequence[Step] = ()) -> dict[str, Any]:
    """Return the outcome as plain values; raw windows lie in the results' own files."""
    judgement = outcome.judgement
    return {
        "verdict": judgement.verdict if judgement else None,
        "compared_with": outcome.opponent or None,
        "machine": asdict(outcome.candidate.machine),
        "base": _commit(outcome.base),
        "candidate": _commit(outcome.candidate),
        "delta": outcome.delta,
        "findings": [asdict(finding) for finding in judgement.findings] if judgement else [],
        "new_tests": list(judgement.new_tests) if judgement else [],
        "notes": list(outcome.notes),
        "steps": [asdict(step) for step in steps],
    }


def accepted_lines(results: Results, before: Results | None) -> list[str]:
    """Return what is about to become the baseline, beside what it takes the place of.

    A table of every measure that the gate judges and a test has, the tests that go, and a regression
    that was found.
    """
    known = before.tests if before else {}
    rows = [
        (name, *_measures(test, known.get(name)), str(len(test.runs)))
        for name, test in sorted(results.tests.items())
    ]
    header = ("test", "images/s", *(f"{what} MiB" for what in _MEMORIES), "accuracy", "processes")
    columns = zip(header, *rows, strict=True)
    shown = [column for column in columns if any(column[1:]) or not rows]
    said = _aligned(list(zip(*shown, strict=True)))
    said += [f"no longer in it: {name}" for name in sorted(set(known) - set(results.tests))]
    if results.verdict == "regressed":
        said.append("the comparison before it said: regressed")
    return said


def _measures(test: Measured, before: Measured | None) -> list[str]:
    """Return what the gate judges of a test, each beside what it was before."""
    old = _values(before) if before else itertools.repeat("")
    return [_was(now, then) for now, then in zip(_values(test), old, strict=False)]


def _values(test: Measured) -> list[str]:
    statuses = {run.status for run in test.runs} - {"completed"}
    return [
        ", ".join(sorted(statuses)) or _number(test.images_per_second),
        *(_number(_mib(test.median(name))) for name in _MEMORIES.values()),
        _percent(test.median("accuracy")),
    ]


def _was(now: str, then: str) -> str:
    return f"{now or 'none'} (was {then})" if then else now


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: SEVERITY.index(finding.verdict))


def _title(verdict: str) -> str:
    titles = {
        "regressed": "Regression",
        "inconclusive": "Inconclusive",
        "invalid": "Not comparable",
    }
    return titles.get(verdict, "No regression")


def _counts(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    num_tests = len({finding.test for finding in findings})
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in SEVERITY if counts[verdict])
    return f"{said or 'nothing found'} ({num_tests} tests)"


def _row(finding: Finding) -> tuple[str, ...]:
    reason = f" ({finding.reason})" if finding.reason else ""
    return (
        finding.test,
        finding.measure,
        _value(finding, finding.base),
        _value(finding, finding.candidate),
        _change(finding),
        f"{finding.verdict}{reason}",
    )


def _value(finding: Finding, value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if finding.measure in MEMORIES.values():
        return f"{_number(_mib(value))} MiB"
    return _percent(value) if finding.measure == ACCURACY else f"{_number(value)}/s"


def _change(finding: Finding) -> str:
    """Return the change with its interval, in percent, or of an accuracy in points."""
    if finding.ratio is None:
        return ""
    is_accuracy = finding.measure == ACCURACY
    unit, zero = (" pp", 0.0) if is_accuracy else ("%", 1.0)
    text = f"{100 * (finding.ratio - zero):+.1f}{unit}"
    if finding.low is None or finding.high is None:
        return text
    low, high = (100 * (bound - zero) for bound in (finding.low, finding.high))
    return f"{text} [{low:+.1f}, {high:+.1f}]"


def _mib(num_bytes: float | None) -> float | None:
    return None if num_bytes is None else num_bytes / MIB


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 (three digits)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield from _aligned([HEADER, *rows])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _markdown_table(findings: Sequence[Finding]) -> str:
    rows = [HEADER, ("---",) * len(HEADER), *(_row(finding) for finding in findings)]
    return "\n".join(f"| {' | '.join(_code(text) for text in row)} |" for row in rows)


def _code(text: str) -> str:
    """Return text that stays what it is in a table of Markdown."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))


def _case(finding: Finding) -> str:
    row = _row(finding)
    said = ", ".join(filter(None, row[2:]))
    inner = ""
    if finding.verdict == "regressed":
        inner = f'<failure message="{_xml(said)}"/>'
    elif finding.verdict in {"inconclusive", "invalid"}:
        inner = f'<skipped message="{_xml(said)}"/>'
    name, group = _xml(finding.measure), _xml(finding.test)
    return f'<testcase classname="{group}" name="{name}">{inner}</testcase>\n'


def _xml(text: str) -> str:
    return str(escape(_NO_XML.sub("�", text)))


def _commit(results: Results | None) -> dict[str, Any] | None:
    if results is None:
        return None
    return {
        "commit": results.commit,
        "is_dirty": results.is_dirty,
        "measured_at": results.measured_at,
    }
