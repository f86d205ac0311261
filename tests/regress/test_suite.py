"""The suite says what is measured, in a file that names its own mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cnnbench.architectures import ARCHITECTURES
from cnnbench.cell import PRECISIONS
from cnnbench.errors import ProfileError
from cnnbench.regress.suite import KINDS, load_suite, suite_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("device_type", "precisions"), [("cpu", ("fp32", "bf16")), ("cuda", PRECISIONS)]
)
def test_every_architecture_is_trained_in_every_precision_with_and_without_checkpointing(
    device_type: str, precisions: tuple[str, ...]
) -> None:
    cells = [s.cell for s in load_suite(suite_path(device_type)) if s.kind == "training"]
    seen = {(c.architecture.partition("(")[0], c.precision, c.checkpointing) for c in cells}
    # The second of the two that only differ in where their weights come from is left out.
    architectures = set(ARCHITECTURES) - {"transfer_efficientnet_lite0"}
    assert seen == {(a, p, c) for a in architectures for p in precisions for c in ("none", "block")}


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_each_kind_is_there_and_only_accuracy_is_trained_for(device_type: str) -> None:
    subjects = load_suite(suite_path(device_type))
    assert {subject.kind for subject in subjects} == set(KINDS)
    for subject in subjects:
        is_accuracy = subject.kind == "accuracy"
        assert bool(subject.cell.recipe.epochs) == is_accuracy
        assert (subject.cell.timing.max_windows == 0) == is_accuracy
        assert subject.workload == ("training" if is_accuracy else subject.kind)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no tests"),
        ("[[trainig]]", "Did you mean 'training'"),
        ("[[training]]\narchitecture = 'resnett'", "Did you mean 'resnet'"),
        ("[[training]]\narchitecture = 'resnet'\nprecision = 'fp8'", "unknown precision"),
        ("[[training]]\narchitecture = 'resnet'\nspeed = 3", "speed"),
        ("[[training]]\narchitecture = 'resnet'\ndataset = 'digitz'", "digitz"),
        ("[[training]]\nprecision = 'fp32'", "architecture"),
        ("[timing]\nwindows = 3\n[[training]]\narchitecture = 'resnet'", "windows"),
        (2 * "[[training]]\narchitecture = 'resnet'\n", "there twice"),
        ("training = 3", "training"),
        ("[[training", "Expected"),
    ],
)
def test_a_mistake_is_named_in_a_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(ProfileError) as refusal:
        load_suite(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
