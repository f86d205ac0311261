"""Amounts of memory, read and written."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.amounts import GIB, MIB, bytes_text, parse_bytes
from cnnbench.errors import InvalidValueError


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("16GiB", 16 * GIB),
        (" 1.5 gib ", 3 * GIB // 2),
        ("800 MB", 800_000_000),
        ("1TiB", 2**40),
        ("64B", 64),
    ],
)
def test_an_amount_is_a_number_and_a_unit(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text",
    ["12 bananas", "-3GiB", "0GiB", "", "GiB", "16", "1e9GiB", "nan GiB", "٣GiB", "1.2.3GiB"],
)
def test_what_is_no_amount_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(
        InvalidValueError, match="write a number and a unit, such as 16GiB"
    ) as error:
        parse_bytes(text)
    assert "\n" not in str(error.value)


@given(st.text())
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with suppress(InvalidValueError):
        assert parse_bytes(text) > 0


@given(st.integers(min_value=1, max_value=2**45))
def test_an_amount_reads_back_as_what_it_was_to_the_digits_shown(num_bytes: int) -> None:
    read = parse_bytes(bytes_text(num_bytes).replace(",", ""))
    assert read == pytest.approx(num_bytes, rel=0.05)


def test_amounts_are_written_in_the_unit_that_reads_well() -> None:
    assert bytes_text(18 * GIB + 200 * MIB) == "18.2 GiB"
    assert bytes_text(16 * GIB) == "16 GiB"
    assert bytes_text(1000 * MIB) == "1,000 MiB"
