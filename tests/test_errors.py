"""Refusals: one class per kind, and a miss that names what there is."""

from __future__ import annotations

import pytest

from cnnbench import errors
from cnnbench.errors import (
    CheckError,
    CnnbenchError,
    DiskError,
    UnknownNameError,
    UnsupportedError,
    WorkerError,
    lookup,
    miss,
)

CHOICES = {"simple_cnn": 1, "resnet": 2, "mbconv_net": 3}


def test_a_known_name_leads_to_its_thing() -> None:
    assert lookup("architecture", "resnet", CHOICES) == 2


def test_a_miss_names_the_nearest_choice_and_all_of_them() -> None:
    with pytest.raises(UnknownNameError) as refusal:
        lookup("architecture", "resnt", CHOICES)
    assert str(refusal.value) == (
        "unknown architecture 'resnt'. Did you mean 'resnet'?"
        " There are: simple_cnn, resnet, mbconv_net."
    )


def test_a_name_like_no_other_gets_the_list_alone() -> None:
    said = miss("architecture", "zzz", CHOICES)
    assert said == "unknown architecture 'zzz'. There are: simple_cnn, resnet, mbconv_net."


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31mred", "ü\u2028"])
def test_a_miss_is_one_line_whatever_the_name(name: str) -> None:
    assert len(miss("architecture", name, CHOICES).splitlines()) == 1


def test_every_users_error_ends_with_status_2_but_a_workers_with_1() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, CnnbenchError)
    ]
    in_the_midst = (WorkerError, DiskError)
    assert {kind.exit_code for kind in kinds if not issubclass(kind, in_the_midst)} == {2}
    assert (WorkerError.exit_code, DiskError.exit_code) == (1, 1)
    assert CheckError.exit_code == 2, "found before the first cell"
    assert all(kind.__doc__ for kind in kinds)


def test_what_a_device_cannot_do_is_no_users_error() -> None:
    assert not issubclass(UnsupportedError, CnnbenchError)
