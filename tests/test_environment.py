"""What decides whether a stored result still stands."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import msgspec
import pytest

from cnnbench.environment import Environment
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
    "flags": {"a": "b"},
    "variables": {"OMP_NUM_THREADS": "3"},
}


def test_every_field_either_counts_or_does_not() -> None:
    assert {field.name for field in fields(Environment)} == CHANGES.keys() | IRRELEVANT.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_what_can_change_a_number_changes_the_hash(name: str) -> None:
    changed = sample_environment(**{name: CHANGES[name]})
    assert changed.hash_with("data") != sample_environment().hash_with("data")


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
