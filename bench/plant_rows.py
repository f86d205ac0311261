"""What each call of the gate said of a planted or unchanged tree, kept as rows, and their table."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.planted_edits import Plant


@dataclass(frozen=True, kw_only=True)
class Row:
    """One call of the gate, and what was expected of it."""

    part: str
    plant: str
    number: int
    commit: str
    device: str
    delta: float
    expected: str
    verdict: str
    regressed: str
    inconclusive: str
    seconds: float
    as_expected: bool


def judged(said: dict[str, Any], *, plant: Plant | None, **known: Any) -> Row:
    """Return the row of what the gate has said: a plant must be found, an unchanged tree must pass."""
    by_verdict = {
        verdict: sorted({f["measure"] for f in said["findings"] if f["verdict"] == verdict})
        for verdict in ("regressed", "inconclusive")
    }
    if plant is not None:
        expected = " or ".join(plant.measures)
        right = bool(set(by_verdict["regressed"]) & set(plant.measures))
    elif known["part"] == "busy":
        expected, right = "no regression", said["verdict"] != "regressed"
    else:
        expected, right = "no regression", said["verdict"] in {"same", "improved"}
    return Row(
        delta=said["delta"],
        plant=plant.name if plant else "",
        expected=expected,
        verdict=said["verdict"],
        regressed=", ".join(by_verdict["regressed"]),
        inconclusive=", ".join(by_verdict["inconclusive"]),
        as_expected=right,
        **known,
    )


def read_rows(path: Path) -> list[Row]:
    """Return the calls that earlier runs have made."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [_row(values) for values in csv.DictReader(file)]


def _row(values: dict[str, str]) -> Row:
    kinds: dict[str, Callable[[str], Any]] = {
        "number": int,
        "delta": float,
        "seconds": float,
        "as_expected": lambda text: text == "True",
    }
    return Row(**{name: kinds.get(name, str)(value) for name, value in values.items()})


def append_row(row: Row, path: Path) -> None:
    """Add a call to the file at once: what was measured is not lost with what follows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


def table(rows: list[Row]) -> Iterator[str]:
    """Yield the rows as a table of Markdown: a line a plant, and the counts of the unchanged tree."""
    yield "| what | expected | found | calls | seconds a call | δ |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        if row.part == "plants":
            found = row.regressed or row.verdict
            yield f"| {row.plant} | {row.expected} | {found} | {_costs([row])} |"
    for part, what in (("unchanged", "nothing"), ("busy", "nothing, beside a noisy neighbour")):
        own = [row for row in rows if row.part == part]
        if own:
            counts = Counter(row.verdict for row in own)
            found = ", ".join(f"`{verdict}` {number}" for verdict, number in counts.most_common())
            yield f"| {what} | {own[0].expected} | {found} | {_costs(own)} |"


def _costs(rows: list[Row]) -> str:
    seconds = statistics.median(row.seconds for row in rows)
    return f"{len(rows)} | {seconds:.0f} | {max(row.delta for row in rows):.1%}"
