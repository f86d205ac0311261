"""The door to NVIDIA's management library (NVML), and the only import of pynvml.

Units and meanings are those of nvml.h (https://docs.nvidia.com/deploy/nvml-api/).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pynvml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

Error = pynvml.NVMLError
CLOCK_MEMORY = pynvml.NVML_CLOCK_MEM
CLOCK_SM = pynvml.NVML_CLOCK_SM
ERRORS_SINCE_LOADED = pynvml.NVML_VOLATILE_ECC
ERRORS_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
POLICY_POWER = pynvml.NVML_PERF_POLICY_POWER
POLICY_THERMAL = pynvml.NVML_PERF_POLICY_THERMAL
POWER_INSTANT = pynvml.NVML_FI_DEV_POWER_INSTANT
SENSOR_GPU = pynvml.NVML_TEMPERATURE_GPU

_VALUE_MEMBERS = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
}
# A counter of nanoseconds that fitted into less would wrap every four seconds: it is another field.
_COUNTER_TYPES = {
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG,
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG,
}

ABSENT = "absent from this driver"
WHOLE_GPU = "only the whole GPU tells, and this is a part of it (MIG)"
_WORDS = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this GPU",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: ABSENT,
    pynvml.NVML_ERROR_DEPRECATED: ABSENT,
    pynvml.NVML_ERROR_NO_PERMISSION: "refused: insufficient permissions",
    pynvml.NVML_ERROR_OPERATING_SYSTEM: "refused by the operating system",
}
_ABSENT = {pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_DEPRECATED}
# Another source may answer in their stead; after any other failure the same one may answer again.
_MISSING = _ABSENT | {pynvml.NVML_ERROR_NOT_SUPPORTED}


@contextmanager
def session() -> Iterator[str | None]:
    """Open NVML; yields why it could not be, or nothing."""
    refusal = start()
    if refusal is not None:
        yield refusal
        return
    try:
        yield None
    finally:
        stop()


def start() -> str | None:
    """Open NVML; return why it could not be, or nothing."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _refusal(error)
    return None


def stop() -> None:
    """Close NVML, even one whose driver has died."""
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return


def _refusal(error: Any) -> str:
    """Say why NVML did not open."""
    is_there = error.value not in {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    }
    return f"NVML {'does not start' if is_there else 'is not there'}: {error}"


def ask(unknowns: dict[str, str], what: str, names: str | tuple[str, ...], *arguments: Any) -> Any:
    """Return what the first function that the driver has answers; or `None`, and why in `unknowns`."""
    reason = ""
    for name in (names,) if isinstance(names, str) else names:
        try:
            return call(name, *arguments)
        except pynvml.NVMLError as error:
            reason = reason_of(error)
            if error.value not in _ABSENT:
                break
    unknowns.setdefault(what, reason)
    return None


def call(name: str, *arguments: Any) -> Any:
    """Return what NVML's function of that name answers.

    Raises:
        Error: it refuses, or is missing.
    """
    function = getattr(pynvml, name, None)
    if function is None:  # pynvml drops what NVML has deprecated, and older ones lack what is new
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    return function(*arguments)


def reason_of(error: Any) -> str:
    """Say why an `Error` stands in the place of an answer."""
    return _WORDS.get(error.value) or f"broken: {error}"


def field_values(handle: Any, numbers: Collection[int]) -> dict[int, Any]:
    """Return each field's value, or the `NVMLError` that stands in its place; one call for all."""
    if handle is None or not numbers:
        return {}
    try:
        values = call("nvmlDeviceGetFieldValues", handle, list(numbers))
    except pynvml.NVMLError as error:
        return dict.fromkeys(numbers, error)
    return {int(value.fieldId): _field_value(value) for value in values}


def _field_value(value: Any) -> Any:
    is_counter = value.fieldId != pynvml.NVML_FI_DEV_POWER_INSTANT
    if value.nvmlReturn == pynvml.NVML_SUCCESS:
        if value.valueType in (_COUNTER_TYPES if is_counter else _VALUE_MEMBERS):
            return getattr(value.value, _VALUE_MEMBERS[value.valueType])
    elif value.nvmlReturn != pynvml.NVML_ERROR_INVALID_ARGUMENT:
        return pynvml.NVMLError(value.nvmlReturn)
    # A driver calls the number of a field invalid that it does not know.
    return pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


def is_missing(answer: Any) -> bool:
    """Say whether there is no such answer here, and never will be."""
    return isinstance(answer, pynvml.NVMLError) and answer.value in _MISSING


def is_split(mode: Any) -> bool | None:
    """Say whether a GPU of that MIG mode, as NVML gives it, is split into instances."""
    return None if mode is None else bool(mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
