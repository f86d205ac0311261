"""Amounts of memory as people write them, `16GiB`, and the other way round."""

from __future__ import annotations

import re

from cnnbench.errors import InvalidValueError

KIB, MIB, GIB, TIB = (2**power for power in (10, 20, 30, 40))
UNITS = {
    "B": 1,
    "KIB": KIB,
    "MIB": MIB,
    "GIB": GIB,
    "TIB": TIB,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]+)", re.ASCII)


def parse_bytes(text: str) -> int:
    """Return how many bytes `text` is.

    >>> parse_bytes("1.5 GiB"), parse_bytes("800MB")
    (1610612736, 800000000)

    Raises:
        InvalidValueError: it is no positive amount with a unit.
    """
    match = _AMOUNT.fullmatch(text.strip())
    unit = UNITS.get(match[2].upper()) if match else None
    num_bytes = round(float(match[1]) * unit) if match and unit else 0
    if num_bytes < 1:
        msg = f"cannot read {text!r} as an amount of memory: write a number and a unit, such as 16GiB."
        raise InvalidValueError(msg)
    return num_bytes


def bytes_text(num_bytes: int) -> str:
    """Return `num_bytes` in the unit in which it reads well.

    >>> bytes_text(3 * 2**29), bytes_text(2**30), bytes_text(300 * 2**20), bytes_text(12)
    ('1.5 GiB', '1 GiB', '300 MiB', '12 B')
    """
    for name, unit in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if num_bytes >= unit:
            decimals = 1 if num_bytes % unit else 0
            return f"{num_bytes / unit:,.{decimals}f} {name}"
    return f"{num_bytes} B"
