"""A comparison of two sweeps in words: for a terminal, as Markdown for a pull request, as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from cnnbench.report.rows import one_line
from cnnbench.stats import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.analysis.compare import CellEffect, GroupEffect, SweepComparison
    from cnnbench.cell import Cell

    Table = Sequence[tuple[str, ...]]

MAX_CELLS_SHOWN = 60
MAX_NAMED = 20
DRIFT = (
    "The two were measured one after the other, not by turns: drift of the machine between them is not"
    " excluded, and no interval knows of it."
)
FEW = "With fewer than four processes a side, a difference is claimed only beyond twice delta."
CELL_HEADINGS = ("cell", "images/s", "95 % interval", "memory", "accuracy", "verdict")
GROUP_HEADINGS = ("axis", "value", "cells", "images/s", "95 % interval", "memory", "verdict")


def comparison_lines(
    found: SweepComparison, *, base: tuple[str, str], candidate: tuple[str, str], delta: str
) -> list[str]:
    """Return the comparison as lines of text; environments first, what matters most at the top.

    Args:
        found: the comparison.
        base: what the base is called, and when it was measured.
        candidate: likewise.
        delta: where the difference that does not matter is from.
    """
    lines = [f"base       {base[0]}, {base[1]}", f"candidate  {candidate[0]}, {candidate[1]}", ""]
    lines += _environment_lines(found)
    lines += ["", summary(found), "", *_aligned(GROUP_HEADINGS, _group_rows(found))]
    lines += ["", *_aligned(CELL_HEADINGS, _cell_rows(found.cells)), *_hidden(found.cells)]
    lines += [f"  {text}" for text in _reasons(found.cells)]
    lines += _one_sided(found)
    return [*lines, "", f"delta {found.delta:.1%} ({delta}). {FEW}", DRIFT]


def comparison_markdown(
    found: SweepComparison, *, base: tuple[str, str], candidate: tuple[str, str], delta: str
) -> str:
    """Return the comparison in GitHub's Markdown; the arguments are `comparison_lines`'."""
    parts = ["### cnnbench compare"]
    parts += [
        f"Base `{_code(base[0])}` ({base[1]}), candidate `{_code(candidate[0])}` ({candidate[1]})."
    ]
    if found.environment:
        rows = [(d.name, d.base, d.candidate) for d in found.environment]
        parts += ["**The environments differ:**"]
        parts += [_markdown(("what", "base", "candidate"), rows)]
    else:
        parts += ["The environments are the same, as far as they are known."]
    parts += [f"**{_text(summary(found))}**", _markdown(GROUP_HEADINGS, _group_rows(found))]
    cells = _markdown(CELL_HEADINGS, _cell_rows(found.cells))
    rest = "\n".join([*_hidden(found.cells), *(f"- {_text(t)}" for t in _reasons(found.cells))])
    parts += [
        f"<details><summary>{len(found.cells)} cells</summary>\n\n{cells}\n\n{rest}\n</details>"
    ]
    parts += ["\n".join(f"- {_text(line)}" for line in _one_sided(found) if line)]
    parts += [f"delta {found.delta:.1%} ({delta}). {FEW} {DRIFT}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def comparison_json(found: SweepComparison, **named: str) -> dict[str, Any]:
    """Return the comparison as plain data, with what is `named` before it."""
    return {
        **named,
        "delta": found.delta,
        "exit_code": found.exit_code,
        "summary": summary(found),
        "environment": [asdict(one) for one in found.environment],
        "overall": asdict(found.overall),
        "axes": [asdict(one) for one in found.axes],
        "cells": [_cell_json(one) for one in found.cells],
        "only_base": [cell.name for cell in found.only_base],
        "only_candidate": [cell.name for cell in found.only_candidate],
        "drift_excluded": False,
    }


def summary(found: SweepComparison) -> str:
    """Return the outcome in one line."""
    counts = Counter(cell.verdict for cell in found.cells)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    more = sum(cell.memory_verdict == "regressed" for cell in found.cells)
    parts += [f"{more} with more memory"] if more else []
    cells = f"{len(found.cells)} cells on both sides: {', '.join(parts) or 'nothing to compare'}"
    overall = found.overall
    if overall.ratio is None or overall.low is None or overall.high is None:
        return f"{overall.verdict}. {cells}"
    words = f"images/s {overall.ratio:.3f} x [{overall.low:.3f}, {overall.high:.3f}]"
    return f"{overall.verdict}, {words}. {cells}"


def _environment_lines(found: SweepComparison) -> list[str]:
    if not found.environment:
        return ["The environments are the same, as far as they are known."]
    rows = [(d.name, one_line(d.base), one_line(d.candidate)) for d in found.environment]
    return ["The environments differ:", *_aligned(("", "base", "candidate"), rows)]


def _group_rows(found: SweepComparison) -> Table:
    return [
        (
            group.axis,
            one_line(group.value),
            str(group.num_cells),
            *_effect_texts(group),
            _times(group.memory_ratio),
            group.verdict,
        )
        for group in (found.overall, *found.axes)
    ]


def _cell_rows(cells: Sequence[CellEffect]) -> Table:
    return [
        (
            one_line(cell.cell.name),
            *_effect_texts(cell),
            _times(cell.memory_ratio),
            "-" if cell.accuracy_change is None else f"{100 * cell.accuracy_change:+.1f} pp",
            _verdict(cell),
        )
        for cell in _gravest_first(cells)[:MAX_CELLS_SHOWN]
    ]


def _verdict(cell: CellEffect) -> str:
    if cell.memory_verdict == "regressed" and cell.verdict != "regressed":
        return f"{cell.verdict}, memory regressed"
    return cell.verdict


def _gravest_first(cells: Sequence[CellEffect]) -> list[CellEffect]:
    order = ("regressed", "invalid", "improved", "inconclusive", "same")

    def rank(cell: CellEffect) -> tuple[int, float]:
        is_worse = "regressed" in {cell.verdict, cell.memory_verdict}
        return (0 if is_worse else 1 + order.index(cell.verdict)), cell.ratio or 0.0

    return sorted(cells, key=rank)


def _hidden(cells: Sequence[CellEffect]) -> list[str]:
    number = len(cells) - MAX_CELLS_SHOWN
    return [f"and {number:,} cells more, in --json"] if number > 0 else []


def _reasons(cells: Sequence[CellEffect]) -> list[str]:
    """Return why cells are judged as they are, each reason once, with the cells."""
    named: dict[str, list[str]] = {}
    for cell in cells:
        if cell.reason:
            named.setdefault(cell.reason, []).append(cell.cell.name)
    return [
        f"{one_line(reason)}: {_few(names)}" for reason, names in list(named.items())[:MAX_NAMED]
    ]


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names)) if len(names) <= 3 else f"{len(names)} cells"  # noqa: PLR2004


def _one_sided(found: SweepComparison) -> list[str]:
    sides = (("base", found.only_base), ("candidate", found.only_candidate))
    return [line for name, cells in sides if cells for line in ("", _only(name, cells))]


def _only(side: str, cells: Sequence[Cell]) -> str:
    names = [one_line(cell.name) for cell in cells]
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"In the {side} only: {', '.join(names[:MAX_NAMED])}{more}"


def _effect_texts(effect: CellEffect | GroupEffect) -> tuple[str, str]:
    if effect.ratio is None or effect.low is None or effect.high is None:
        return "-", "-"
    return f"{effect.ratio:.3f} x", f"{effect.low:.3f} to {effect.high:.3f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f} x"


def _cell_json(cell: CellEffect) -> dict[str, Any]:
    known = asdict(cell)
    return {
        "name": cell.cell.name,
        **cell.cell.params(),
        **{k: v for k, v in known.items() if k != "cell"},
    }


def _aligned(headings: tuple[str, ...], rows: Table) -> list[str]:
    widths = [max(cell_len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    return [
        "  ".join(
            f"{text}{' ' * (width - cell_len(text))}"
            for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (headings, *rows)
    ]


def _markdown(headings: tuple[str, ...], rows: Table) -> str:
    lines = [headings, tuple(":--" for _ in headings), *(tuple(map(_text, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>|~#&" else c for c in one_line(text))


def _code(text: str) -> str:
    return one_line(text).replace("`", "'")
