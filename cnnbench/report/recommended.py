"""A recommendation in words, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from cnnbench.report.rows import number_text, one_line, setting_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.analysis.recommend import Gain, Recommendation
    from cnnbench.analysis.settings import Setting
    from cnnbench.analysis.suggest import Suggestion

MEMORY_NAMES = {
    "process_mib": "memory of the process",
    "peak_reserved_mib": "memory reserved",
    "peak_allocated_mib": "peak memory of a step",
}
MAX_SUGGESTIONS = 5


def recommendation_lines(found: Recommendation) -> list[str]:
    """Return the recommendation as lines of text."""
    best = found.best
    unit = found.objective.unit
    lines = [
        one_line(f"{found.architecture}, {best.cell.dataset}, on {best.records[0].device}"),
        "",
        f"  {setting_text(best.records[0])}",
        f"  {number_text(best.value)} {unit}{_interval(found.low, found.high)}{_needs(best)}",
        f"  {_gain_text(found.gain, found)}",
        f"  confidence: {_confidence(found)}",
        *(f"    {one_line(reason)}" for reason in found.reasons),
        "",
        _counts(found),
    ]
    if found.equals:
        lines += ["", "As good within 2 %, for less memory:"]
        lines += _table(found.equals, found)
    if len(found.frontier) > 1:
        lines += ["", "Nothing measured is better for the same memory or less:"]
        lines += _table(found.frontier, found)
    if found.suggestions:
        lines += ["", "Not known, and worth measuring:"]
        for one in found.suggestions[:MAX_SUGGESTIONS]:
            lines += [f"  {one.cell.name}: {one_line(one.why)}", f"    {one.command}"]
    return lines


def recommendation_json(found: Recommendation, code: str) -> dict[str, Any]:
    """Return the recommendation as plain data; unknown is `None`. `code` is its snippet."""
    return {
        "architecture": found.architecture,
        "objective": found.objective.name,
        "column": found.objective.column,
        "memory_budget_mib": found.budget_mib,
        "recommended": {**_setting(found.best), "low": found.low, "high": found.high},
        "gain": None if found.gain is None else _gain_json(found.gain),
        "confidence": found.confidence,
        "confidence_level": found.level,
        "reasons": list(found.reasons),
        "num_considered": found.num_considered,
        "num_over_budget": found.num_over_budget,
        "num_doubtful": found.num_doubtful,
        "as_good_for_less_memory": [_setting(one) for one in found.equals],
        "frontier": [_setting(one) for one in found.frontier],
        "worth_measuring": [_suggestion(one) for one in found.suggestions],
        "snippet": code,
    }


def _interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f" [{number_text(low)} to {number_text(high)}]"


def _needs(setting: Setting) -> str:
    if setting.memory_mib is None:
        return ", memory not known"
    name = MEMORY_NAMES[setting.memory_kind or "peak_allocated_mib"]
    return f", {name} {number_text(setting.memory_mib)} MiB"


def _gain_text(gain: Gain | None, found: Recommendation) -> str:
    if gain is None:
        return "gain over the document's default (fp32, batch 64, none): not known, that was not measured"
    default = setting_text(gain.default.records[0])
    if gain.default is found.best:
        return f"this is the document's default ({default})"
    bounds = (
        "" if gain.low is None or gain.high is None else f" [{gain.low:.2f} to {gain.high:.2f}]"
    )
    memory = "" if gain.memory_ratio is None else f", {gain.memory_ratio:.2f} x the memory"
    return f"{gain.ratio:.2f} x{bounds} the document's default ({default}){memory}"


def _confidence(found: Recommendation) -> str:
    if found.confidence is None:
        return found.level
    return (
        f"{found.level}; it stays first in {found.confidence:.0%} of the resamples of all windows"
    )


def _counts(found: Recommendation) -> str:
    parts = [f"{found.num_considered} settings were considered"]
    if found.num_over_budget and found.budget_mib is not None:
        budget = f"{number_text(found.budget_mib)} MiB"
        parts.append(f"{found.num_over_budget} left out as not known to fit into {budget}")
    if found.num_doubtful:
        parts.append(f"{found.num_doubtful} left out as suspect")
    return "; ".join(parts) + "."


def _table(settings: Sequence[Setting], found: Recommendation) -> list[str]:
    rows = [
        (
            number_text(one.value),
            "-" if one.memory_mib is None else f"{number_text(one.memory_mib)} MiB",
            setting_text(one.records[0]) + ("  <- recommended" if one is found.best else ""),
        )
        for one in settings
    ]
    first, second = (max(cell_len(row[column]) for row in rows) for column in (0, 1))
    unit = found.objective.unit
    return [f"  {a:>{first}} {unit}  {b:>{second}}  {c}" for a, b, c in rows]


def _setting(one: Setting) -> dict[str, Any]:
    return {
        **one.cell.params(),
        "value": one.value,
        "memory_mib": one.memory_mib,
        "memory_column": one.memory_kind,
        "validity": "valid" if one.is_valid else "suspect",
        "num_processes": len(one.records),
        "cell_hashes": [record.cell_hash for record in one.records],
    }


def _gain_json(gain: Gain) -> dict[str, Any]:
    return {
        "ratio": gain.ratio,
        "low": gain.low,
        "high": gain.high,
        "memory_ratio": gain.memory_ratio,
        "default": _setting(gain.default),
    }


def _suggestion(one: Suggestion) -> dict[str, str]:
    return {"cell": one.cell.name, "why": one.why, "command": one.command}
