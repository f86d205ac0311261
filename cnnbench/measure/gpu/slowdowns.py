"""What holds a GPU's clocks down: for how long so far, and at this moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnnbench.measure.gpu.nvml import (
    ABSENT,
    POLICY_POWER,
    POLICY_THERMAL,
    Error,
    ask,
    reason_of,
)

THERMAL = "thermal slowdown"
POWER_BRAKE = "power brake"
POWER_CAP = "power cap"

# Field values that count nanoseconds, by the first driver that numbers them so. Their numbers moved in
# 580.82 (nvml.h of 575.51 to 580.76 against nvml.h of 580.82 and newer), and what once was a counter
# now is a setting of power smoothing. pynvml's constants are those of its own version, not of the
# driver's, so they would read the wrong field without an error.
_SLOWDOWN_FIELDS: tuple[tuple[tuple[int, int], dict[str, tuple[int, ...]]], ...] = (
    ((580, 82), {THERMAL: (269, 270), POWER_BRAKE: (271,), POWER_CAP: (74,)}),
    ((575, 0), {THERMAL: (251, 252), POWER_BRAKE: (253,), POWER_CAP: (74,)}),
)
# The older way, nanoseconds as well; it never told of the power brake.
POLICIES = {
    THERMAL: POLICY_THERMAL,
    POWER_CAP: POLICY_POWER,
}
_NANOSECONDS = 1e9

# The bits of nvmlClocksEventReasons.
_IDLE = 0x001
_THROTTLE_WORDS = {
    0x002: "clocks set by the user",
    0x004: "software power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost with another GPU",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "external power brake",
    0x100: "clocks set for the display",
    0x200: "board limit",
    0x400: "reliability limit",
}


@dataclass(frozen=True, kw_only=True)
class Counters:
    """For how many seconds the driver has lowered the clocks since it was loaded, by cause."""

    thermal_seconds: float | None = None
    power_brake_seconds: float | None = None
    power_cap_seconds: float | None = None


class Slowdowns:
    """The counters of one GPU: fields where its driver has them, else the older way."""

    def __init__(
        self,
        board: Any,
        unknowns: dict[str, str],
        fields: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Take the GPU, `None` for none, and which `fields` are asked of it, by cause.

        What cannot be answered goes into `unknowns`.
        """
        self._board = board
        self._unknowns = unknowns
        self._fields = fields or {}

    @property
    def numbers(self) -> list[int]:
        """The fields to be asked."""
        return [number for numbers in self._fields.values() for number in numbers]

    def counters(self, answers: dict[int, Any]) -> Counters:
        """Return the counters; `answers` holds those of the fields in `numbers`."""
        return Counters(
            thermal_seconds=self._seconds(THERMAL, answers),
            power_brake_seconds=self._seconds(POWER_BRAKE, answers),
            power_cap_seconds=self._seconds(POWER_CAP, answers),
        )

    def _seconds(self, cause: str, answers: dict[int, Any]) -> float | None:
        if self._board is None:
            return None
        numbers = self._fields.get(cause, ())
        if numbers:
            return self._sum(cause, [answers[number] for number in numbers])
        if cause not in POLICIES:
            self._unknowns.setdefault(cause, ABSENT)
            return None
        status = ask(
            self._unknowns, cause, "nvmlDeviceGetViolationStatus", self._board, POLICIES[cause]
        )
        return None if status is None else status.violationTime / _NANOSECONDS

    def _sum(self, cause: str, answers: list[Any]) -> float | None:
        for answer in answers:
            if isinstance(answer, Error):
                self._unknowns.setdefault(cause, reason_of(answer))
                return None
        return float(sum(answers) / _NANOSECONDS)

    def rise(self, cause: str, before: float | None, after: float | None) -> float | None:
        """Return how many seconds `cause` has added between two looks at its counter."""
        if before is None or after is None:
            return None
        if after < before:
            self._unknowns.setdefault(cause, "broken: the driver's counter went backwards")
            return None
        return after - before


def slowdown_fields(driver: str | None) -> dict[str, tuple[int, ...]]:
    """Return the fields that count, by cause, in the numbering of that version of the driver."""
    try:
        major, minor = (int(part) for part in str(driver).split(".")[:2])
    except ValueError:
        return {}
    for first, fields in _SLOWDOWN_FIELDS:
        if (major, minor) >= first:
            return fields
    return {}


def throttle_words(bits: int) -> tuple[str, ...]:
    """Return in words what NVML's `bits` say of the clocks; that an idle GPU lowers them is no reason."""
    bits &= ~_IDLE
    unknown = bits & ~sum(_THROTTLE_WORDS)
    words = [word for bit, word in _THROTTLE_WORDS.items() if bits & bit]
    return (*words, *([f"unknown reason {unknown:#x}"] if unknown else []))
