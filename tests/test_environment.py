"""What decides whether a stored result still stands."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cnnbench.environment import Environment, GpuSettings, masked
from sample_records import sample_environment

CHANGES = {
    "device": "NVIDIA H200",
    "device_type": "cuda",
    "device_memory_bytes": 1,
    "driver": "575.51",
    "cuda": "13.2",
    "cudnn": "91000",
    "cpu": "another",
    "num_cpus": 64,
    "num_threads": 64,
    "torch": "2.15.0",
    "torchvision": "0.30.0",
    "cnnbench": "0.2.0",
    "code_digest": "b" * 16,
}
IRRELEVANT = {
    "device_index": 1,
    "device_uuid": "GPU-1",
    "memory_bytes": 1,
    "operating_system": "Linux 7",
    "python": "3.12.0",
    "numpy": "2.3.0",
    "git_commit": None,
    "git_dirty": True,
    "gpu": GpuSettings(is_persistent=True, max_sm_clock_mhz=1980),
    "processors": {"smt": "on"},
    "libraries": {"a": "1"},
    "flags": {"a": "b"},
    "allocator": {"malloc": "x"},
    "variables": {"OMP_NUM_THREADS": "3"},
}


def test_every_field_either_counts_or_does_not() -> None:
    assert {field.name for field in fields(Environment)} == CHANGES.keys() | IRRELEVANT.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_what_can_change_a_number_changes_the_hash(name: str) -> None:
    changed = sample_environment(**{name: CHANGES[name]})
    assert changed.hash_with("data") != sample_environment().hash_with("data")


def test_another_power_limit_is_another_environment() -> None:
    hashes = {
        sample_environment(gpu=GpuSettings(power_limit_watts=watts)).hash_with("data")
        for watts in (700.0, 500.0, None)
    }
    assert len(hashes) == 3


def test_what_changes_no_number_does_not_change_the_hash() -> None:
    assert sample_environment(**IRRELEVANT).hash_with("data") == sample_environment().hash_with(
        "data"
    )


def test_the_hash_covers_data_and_model_each_in_its_place() -> None:
    environment = sample_environment()
    hashes = {environment.hash_with(*parts) for parts in (("a", "b"), ("b", "a"), ("ab", ""), ())}
    assert len(hashes) == 4
    assert environment.hash_with("a", "b") == environment.hash_with("a", "b")


@pytest.mark.parametrize(
    ("device", "slug"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-64-core-processor"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-r-xeon-r-cpu-2-20ghz"),
        ("../../etc", "etc"),
    ],
)
def test_a_devices_name_becomes_a_folders_name(device: str, slug: str) -> None:
    assert sample_environment(device=device).slug == slug


def test_an_environment_survives_json() -> None:
    environment = sample_environment(device_index=0, flags={"a": "b"})
    text = json.dumps(asdict(environment))
    assert msgspec.json.decode(text, type=Environment) == environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pw@host", "http://***@host"),
        ("https://token@host:5000/path?a=b", "https://***@host:5000/path?a=b"),
        ("postgresql+psycopg2://me:p@ss:w/o?r#d@db/x", "postgresql+psycopg2://***@db/x"),
        ("HTTP://ME:PW@HOST", "HTTP://***@HOST"),
        ("http://:pw@host", "http://***@host"),
        ("http://me:p w\n@host", "http://***@host"),
        (
            "no answer of http://a:b@one/x, nor of https://c:d@two/y.",
            "no answer of http://***@one/x, nor of https://***@two/y.",
        ),
        ("http://host/path and file:///tmp/x", "http://host/path and file:///tmp/x"),
        ("ask me@home", "ask me@home"),
        ("", ""),
    ],
)
def test_only_the_user_part_of_a_uri_is_hidden(text: str, expected: str) -> None:
    assert masked(text) == expected


SCHEMES = st.sampled_from(["http", "HTTPS", "postgresql+psycopg2", "s3", "mysql"])
HOSTS = st.from_regex(r"[a-z0-9.-]{1,12}(:[0-9]{1,5})?(/[a-z0-9/?=&%]{0,12})?", fullmatch=True)
ANYTHING = st.text(max_size=30) | st.text("@:/?#%\\ \n'\"[]ab1", max_size=30)


@given(scheme=SCHEMES, user=ANYTHING, password=ANYTHING, host=HOSTS)
def test_no_password_survives_whatever_it_is_made_of(
    scheme: str, user: str, password: str, host: str
) -> None:
    # What looks like another URI after a space is taken for one.
    assume(not re.search(r"\s[a-z][a-z0-9+.-]*://", f"{user}:{password}", re.IGNORECASE))
    expected = f"{scheme}://***@{host}"
    assert masked(f"{scheme}://{user}:{password}@{host}") == expected
    said = f"cannot reach {scheme}://{user}:{password}@{host}: refused"
    assert masked(said) == f"cannot reach {expected}: refused"


@given(text=ANYTHING)
def test_what_is_masked_stays_and_what_holds_no_user_part_too(text: str) -> None:
    assert masked(masked(text)) == masked(text)
    assert masked(text.replace("@", "")) == text.replace("@", "")
    assert masked(text.replace("/", "")) == text.replace("/", "")
