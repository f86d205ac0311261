"""Times and values as MLflow takes them."""

from __future__ import annotations

import msgspec


def milliseconds(seconds: float) -> int:
    """Return MLflow's time; never 0, which MLflow reads as the present."""
    return max(1, round(seconds * 1000))


def json_bytes(value: object) -> bytes:
    """Return `value` as the JSON of a file, to be read by people too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
