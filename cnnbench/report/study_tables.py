"""Verdicts as `verdicts.csv` and as Markdown: the overview, and a page a study."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from cnnbench.cell import plain_text
from cnnbench.errors import StoreError
from cnnbench.study import OUTCOMES, VERDICT_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from cnnbench.study import Study, Verdict

DIGITS = 3


def verdicts_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as `verdicts.csv`; unknown is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(VERDICT_COLUMNS)
    for row in rows:
        table.writerow([plain_text(row[name]).replace("\n", " ") for name in VERDICT_COLUMNS])
    return text.getvalue()


def read_verdicts(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `verdicts.csv` as texts; none where there is no such file.

    Raises:
        StoreError: it is not one.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        msg = f"cannot read {path}: {error}. Move it away."
        raise StoreError(msg) from error
    for row in rows:
        if set(row) != set(VERDICT_COLUMNS) or row["outcome"] not in OUTCOMES:
            msg = f"{path} is no table of verdicts of this version. Move it away."
            raise StoreError(msg)
    return rows


def overview_table(rows: Sequence[Mapping[str, Any]], *, linked: bool = True) -> str:
    """Return a Markdown table of all verdicts, one line each.

    Args:
        rows: the columns of `verdicts.csv`.
        linked: whether each study links to its page beside it.
    """
    lines = [
        "| study | variant | claim | verdict | effect | seeds |",
        "|---|---|---|---|---|---|",
    ]
    before = ""
    for row in rows:
        name = str(row["study"])
        shown = f"[{name}]({name}.md)" if linked else name
        study, before = ("" if name == before else shown), name
        outcome = str(row["outcome"]).replace("_", " ")
        if row["outcome"] == "not_measured":
            outcome += f": {row['reason']}"
        lines.append(
            f"| {study} | {_cell(row['variant'])} | {_cell(row['claim'])} | {_cell(outcome)} |"
            f" {effect_text(row)} | {row['num_seeds'] or ''} |"
        )
    return "\n".join(lines) + "\n"


def compact_table(rows: Sequence[Mapping[str, Any]], *, prefix: str = "") -> str:
    """Return a Markdown table with a line a study: what was decided in a few words, and how much is open.

    Args:
        rows: the columns of `verdicts.csv`.
        prefix: the folder of the studies' pages, as seen from where the table stands.
    """
    lines = ["| advice | confirmed | refuted | open | not measured |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(str(row["study"]) for row in rows):
        own = [row for row in rows if row["study"] == name]
        page = f"{prefix}/{name}.md" if prefix else f"{name}.md"
        columns = [
            "<br>".join(_brief(row) for row in own if row["outcome"] == outcome)
            for outcome in ("confirmed", "refuted")
        ]
        counts = Counter(row["outcome"] for row in own)
        columns += [str(counts[outcome] or "") for outcome in ("inconclusive", "not_measured")]
        lines.append(f"| [{name}]({page}) | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _brief(row: Mapping[str, Any]) -> str:
    """Return one verdict in a few words: what was claimed, without its size, and the effect there was."""
    claim = _cell(row["claim"])
    claimed = re.split(r" by at least | within ", claim)[0]
    where = re.search("(, each at its fastest batch|, at equal memory)$", claim)
    effect = f"{number_text(float(row['effect']))} {row['unit']}"
    return f"{_cell(row['variant'])}: {claimed}{where[0] if where else ''} ({effect})"


def overview_page(rows: Sequence[Mapping[str, Any]], *, command: str) -> str:
    """Return the overview of all studies as Markdown."""
    devices = ", ".join(dict.fromkeys(str(row["device"]) for row in rows))
    return "\n".join(
        [
            "# The documented advice, measured",
            "",
            f"{summary(rows)} On {devices}.",
            "",
            "![All verdicts](overview.png)",
            "",
            overview_table(rows),
            method_text(),
            "",
            f"Repeat it: `{command}`. Raw: [verdicts.csv](verdicts.csv).",
            "",
        ]
    )


def study_page(study: Study, verdicts: Sequence[Verdict], *, command: str, has_figure: bool) -> str:
    """Return one study's page as Markdown: advice, verdicts, figure, table, the cells behind it."""
    lines = [
        f"# {study.title}",
        "",
        f"> {study.advice}",
        "",
        f"Section {study.section} of the document. {setting_text(study)}",
        *(["", study.notes] if study.notes else []),
        "",
        f"**{summary([one.row() for one in verdicts])}**",
        "",
        *([f"![{study.title}]({study.name}.png)", ""] if has_figure else []),
        "| variant | claim | verdict | effect | claimed | seeds | how |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in verdicts:
        row = one.row()
        lines.append(
            f"| {_cell(one.variant)} | {_cell(one.claim)} |"
            f" **{one.outcome.replace('_', ' ')}** | {effect_text(row)} | {claimed_text(one)} |"
            f" {one.num_seeds or ''} | {_cell(one.reason)} |"
        )
    lines += ["", method_text(), "", "## Repeat it", "", f"    {command}", ""]
    lines += _cells_behind(verdicts)
    return "\n".join(lines)


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the verdicts as lines for a terminal, study by study."""
    lines = []
    before = ""
    for one in verdicts:
        if one.study != before:
            lines += ["", one.study]
            before = one.study
        said = one.outcome.replace("_", " ")
        lines.append(f"  {said:12}  {one.variant}: {one.claim}")
        effect = effect_text(one.row())
        seeds = f" over {one.num_seeds} seeds" if one.num_seeds else ""
        lines.append(f"  {'':12}  {'; '.join(filter(None, (f'{effect}{seeds}', one.reason)))}")
    return [*lines, "", summary([one.row() for one in verdicts])]


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how many verdicts there are of each outcome, in words."""
    counts = Counter(str(row["outcome"]) for row in rows)
    parts = [f"{counts[name]} {name.replace('_', ' ')}" for name in OUTCOMES if counts[name]]
    return f"{', '.join(parts)}."


def setting_text(study: Study) -> str:
    """Return the baseline and what is changed, in a sentence."""
    settings = {**study.cell, **study.recipe}
    shown = ", ".join(f"{name} {plain_text(value)}" for name, value in settings.items())
    names = ", ".join(variant.name for variant in study.variants)
    factors = "`, `".join(study.factors)
    return (
        f"Baseline `{study.baseline}` on {study.dataset}: {shown}. Changed: `{factors}` ({names})."
    )


def effect_text(row: Mapping[str, Any]) -> str:
    """Return an effect with its interval, such as `1.42 x [1.35, 1.50]`; empty where unknown."""
    if row["effect"] in {None, ""}:
        return ""
    effect, low, high = (number_text(float(row[name])) for name in ("effect", "low", "high"))
    return f"{effect} {row['unit']} [{low}, {high}]"


def claimed_text(one: Verdict) -> str:
    """Return what effect was claimed, with its sign of comparison."""
    sign = {"up": "at least", "down": "at most", "same": "within ±"}[one.direction]
    size = one.threshold
    if one.direction == "same" and one.unit == "x":
        return f"within {number_text(1 / size)} to {number_text(size)} x"
    gap = "" if one.direction == "same" else " "
    return f"{sign}{gap}{number_text(size)} {one.unit}"


def number_text(value: float) -> str:
    """Return a number with three digits and no exponent.

    >>> number_text(0.95238), number_text(1234.5), number_text(0.0037), number_text(-0.00004)
    ('0.952', '1,234', '0.0037', '-0.00')
    """
    if abs(value) >= 10**DIGITS:
        return f"{value:,.0f}"
    if abs(value) < 0.1:  # noqa: PLR2004 (two digits after the point tell no more, unless they are 0)
        return f"{value:.2f}" if round(value, 2) or not round(value, 4) else f"{value:.4f}"
    return f"{value:#.{DIGITS}g}".rstrip(".")


def method_text() -> str:
    """Return in sentences how verdicts are reached."""
    return (
        "Both arms run at the same seeds, with the same order of the data, and are compared seed by"
        " seed. A claim is confirmed where the whole interval of the effect lies beyond what was"
        " claimed, refuted where it lies short of it, and open otherwise; seeds are added until it is"
        " decided. A study's error of 5 % is shared among its verdicts and its looks, so the intervals"
        " are wider than 95 % ones: Student's t up to nine seeds, bootstrap from ten. Speed counts"
        " from valid cells only."
    )


def _cells_behind(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the seeds' effects and the hashes of their cells, which `cells.csv` holds."""
    lines = ["## The cells behind it", "", "Hashes as in `cells.csv`, baseline then variant.", ""]
    lines += ["| variant | claim | effect | baseline | variant |", "|---|---|---|---|---|"]
    for one in verdicts:
        for effect, (base, changed) in zip(one.seeds, one.cells, strict=True):
            lines.append(
                f"| {_cell(one.variant)} | {_cell(one.claim)} | {number_text(effect)} |"
                f" `{base}` | `{changed}` |"
            )
    return [*lines, ""]


def _cell(text: object) -> str:
    """Return `text` so that it stays in its cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
