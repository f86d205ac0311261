"""Checks of what a model is built with: each names the parameter, the value and the range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cnnbench.errors import InvalidValueError, miss

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_whole(*, low: int = 1, **values: object) -> None:
    """Refuse every value that is not a whole number of at least `low`.

    Raises:
        InvalidValueError: Naming the parameter and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise _impossible(name, value, f"a whole number of at least {low}")


def require_positive(**values: object) -> None:
    """Refuse every value that is not a finite number above 0.

    Raises:
        InvalidValueError: Naming the parameter and its value.
    """
    for name, value in values.items():
        if not isinstance(value, int | float) or value is True or not 0 < value < math.inf:
            raise _impossible(name, value, "a number above 0")


def require_flag(**values: object) -> None:
    """Refuse every value that is not True or False.

    Raises:
        InvalidValueError: Naming the parameter and its value.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise _impossible(name, value, "True or False")


def require_odd(**values: object) -> None:
    """Refuse every value that is not an odd whole number above 0.

    Raises:
        InvalidValueError: Naming the parameter and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % 2 == 0:
            raise _impossible(name, value, "an odd whole number of at least 1")


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is none of `choices`.

    Raises:
        InvalidValueError: Naming the value, the nearest choice and all of them.
    """
    if value not in tuple(choices):
        raise InvalidValueError(miss(name, str(value), tuple(choices)))


def _impossible(name: str, value: object, expected: str) -> InvalidValueError:
    return InvalidValueError(f"{name} = {value!r} is impossible: it must be {expected}.")
