"""Writes what came of studies: `verdicts.csv`, a page and a figure each, and an overview of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from cnnbench.analysis.replacing import replacing
from cnnbench.errors import StoreError
from cnnbench.report import study_tables as tables
from cnnbench.report.figures import png
from cnnbench.report.study_figures import effects_figure, overview_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cnnbench.study import Study, Verdict

VERDICTS = "verdicts.csv"
OVERVIEW = "README.md"


def write_study(study: Study, verdicts: Sequence[Verdict], folder: Path, *, command: str) -> Path:
    """Write the study's page as Markdown and as HTML, and its figure; return the Markdown's path.

    Raises:
        StoreError: the folder cannot be written to.
    """
    _make(folder)
    figure = effects_figure(study, verdicts)
    svg = figure.svg() if figure else ""
    if svg:
        with replacing(folder / f"{study.name}.png") as path:
            path.write_bytes(png(svg))
    else:
        (folder / f"{study.name}.png").unlink(missing_ok=True)
    page = _html(
        title=study.title,
        advice=study.advice,
        lead=[text for text in (tables.setting_text(study).replace("`", ""), study.notes) if text],
        summary=tables.summary([one.row() for one in verdicts]),
        svg=svg,
        columns=("variant", "claim", "verdict", "effect", "claimed", "seeds", "how"),
        rows=[_study_row(one) for one in verdicts],
        command=command,
        cells=[
            (one.variant, one.claim, tables.number_text(effect), *hashes)
            for one in verdicts
            for effect, hashes in zip(one.seeds, one.cells, strict=True)
        ],
    )
    _write(folder / f"{study.name}.html", page)
    text = tables.study_page(study, verdicts, command=command, has_figure=bool(svg))
    return _write(folder / f"{study.name}.md", text)


def write_overview(
    verdicts: Sequence[Verdict], folder: Path, *, command: str, order: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Write `verdicts.csv` and the overview; verdicts of other studies that lie there are kept.

    Args:
        verdicts: those of this call.
        folder: where the pages lie.
        command: what repeats it.
        order: the names of studies in the order in which they are shown; others follow.

    Raises:
        StoreError: the folder cannot be written to, or holds another `verdicts.csv`.
    """
    _make(folder)
    named = {one.study for one in verdicts}
    kept = [row for row in tables.read_verdicts(folder / VERDICTS) if row["study"] not in named]
    rows: list[Mapping[str, Any]] = [*kept, *(one.row() for one in verdicts)]
    known = list(order)
    rows.sort(key=lambda row: known.index(row["study"]) if row["study"] in known else len(known))
    _write(folder / VERDICTS, tables.verdicts_csv(rows))
    figure = overview_figure(rows)
    svg = figure.svg()
    with replacing(folder / "overview.png") as path:
        path.write_bytes(png(svg))
    _write(folder / OVERVIEW, tables.overview_page(rows, command=command))
    page = _html(
        title="The documented advice, measured",
        advice="",
        lead=[", ".join(dict.fromkeys(str(row["device"]) for row in rows))],
        summary=tables.summary(rows),
        svg=svg,
        columns=("study", "variant", "claim", "verdict", "effect", "seeds", "how"),
        rows=[_overview_row(row) for row in rows],
        command=command,
        cells=[],
    )
    _write(folder / "index.html", page)
    return rows


def _study_row(one: Verdict) -> dict[str, Any]:
    said = one.outcome.replace("_", " ")
    effect, claimed = tables.effect_text(one.row()), tables.claimed_text(one)
    texts = [one.variant, one.claim, said, effect, claimed, str(one.num_seeds or ""), one.reason]
    return {"texts": texts, "said": said, "outcome": one.outcome, "link": ""}


def _overview_row(row: Mapping[str, Any]) -> dict[str, Any]:
    said = str(row["outcome"]).replace("_", " ")
    names = [str(row[name]) for name in ("study", "variant", "claim")]
    seeds = "" if row["num_seeds"] in {0, "0"} else str(row["num_seeds"])
    texts = [*names, said, tables.effect_text(row), seeds, str(row["reason"])]
    return {
        "texts": texts,
        "said": said,
        "outcome": row["outcome"],
        "link": f"{row['study']}.html",
    }


def _html(**values: Any) -> str:
    """Return a page of its own, its texts escaped; it needs no other file and no network."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("cnnbench", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values["svg"] = Markup(values["svg"])  # noqa: S704 - our own SVG, its texts escaped by vl-convert
    return templates.get_template("studies.html").render(method=tables.method_text(), **values)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror}. Free it or choose another folder."
        raise StoreError(msg) from error


def _write(target: Path, text: str) -> Path:
    with replacing(target) as path:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return target
