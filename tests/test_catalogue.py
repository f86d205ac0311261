"""What `cnnbench list` tells is what there is."""

from __future__ import annotations

from cnnbench import architectures, data
from cnnbench.architectures import ARCHITECTURES
from cnnbench.catalogue import catalogue
from cnnbench.cell import PRECISIONS
from cnnbench.data import DATASETS
from cnnbench.sweep.profiles import PROFILES


def test_everything_there_is_is_listed_with_a_description() -> None:
    listed = catalogue()
    assert list(listed) == ["architectures", "precisions", "profiles", "datasets", "studies"]
    assert list(listed["architectures"])[: len(ARCHITECTURES)] == list(ARCHITECTURES)
    assert tuple(listed["precisions"]) == PRECISIONS
    assert list(listed["profiles"]) == list(PROFILES)
    assert list(listed["datasets"]) == list(DATASETS)
    for entries in listed.values():
        assert all(text and "\n" not in text for text in entries.values())


def test_what_is_listed_can_be_asked_for() -> None:
    listed = catalogue()
    for name in listed["architectures"]:
        architectures.check_name(name)
    for name in listed["datasets"]:
        data.check_name(name.replace("(...)", ""))


def test_the_parameters_that_descriptions_name_are_the_defaults() -> None:
    listed = catalogue()["architectures"]
    for name in ARCHITECTURES:
        described = listed[name].rpartition("(")[2].removesuffix(")")
        assert num_parameters(f"{name}({described})") == num_parameters(name)


def num_parameters(architecture: str) -> int:
    model = architectures.build(architecture, num_classes=10, image_size=32, weights="none")
    return sum(parameter.numel() for parameter in model.parameters())
