"""Every way that cnnbench refuses, one class per kind, and `lookup`, which names the choices on a miss."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")

# What a script reads from `$?`; README and docs list them.
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INCONCLUSIVE = 3


class CnnbenchError(Exception):
    """Something that a user can put right: shown as one line, without a traceback."""

    exit_code = EXIT_BAD_INPUT


class UnknownNameError(CnnbenchError):
    """A name that is not among the choices."""


class InvalidValueError(CnnbenchError):
    """A value that no cell can have, such as a batch size of zero."""


class ProfileError(CnnbenchError):
    """A profile that cannot be read, or that says something unknown."""


class StudyError(CnnbenchError):
    """A study that cannot be read, or that is no fair test of what it claims."""


class DataError(CnnbenchError):
    """A data set that is missing, incomplete or not what its checksum says."""


class ArchitectureError(CnnbenchError):
    """A model that cannot be built, or that is not an image classifier."""


class WeightsError(CnnbenchError):
    """Pretrained weights that are missing or not what their checksum says."""


class MissingWeightsError(WeightsError):
    """Pretrained weights that are neither here nor may be fetched."""


class StoreError(CnnbenchError):
    """A results folder, journal or tracking store that cannot be used."""


class WorkerError(CnnbenchError):
    """A worker process that could not do its work."""

    exit_code = EXIT_FAILED


class CheckError(WorkerError):
    """A check before the first cell whose worker died or took too long: a model that hangs, say.

    `doing` is what the worker last said that it did.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str, *, doing: str = "") -> None:
        """Keep what the user reads, and what the worker did."""
        super().__init__(message)
        self.doing = doing


class DiskError(StoreError):
    """A finished cell that the disk does not take, in the midst of a sweep."""

    exit_code = EXIT_FAILED


class UnsupportedError(Exception):
    """What this device or model cannot do: the cell's status becomes `unsupported` with this reason."""


def lookup(kind: str, name: str, choices: Mapping[str, T]) -> T:
    """Return `choices[name]`.

    Raises:
        UnknownNameError: naming the nearest choice and all of them.
    """
    if name in choices:
        return choices[name]
    raise UnknownNameError(miss(kind, name, choices))


def miss(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return the sentence that says which names there are, the nearest first."""
    known = list(choices)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} There are: {', '.join(known)}."
