"""Names, what weights they mean, and what identifies their code; all without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cnnbench.architectures import (
    ARCHITECTURES,
    IMAGENET_WEIGHTS,
    build,
    check_name,
    code_digest,
    find_weights,
    is_frozen,
    resolved_weights,
)
from cnnbench.architectures.factory import load
from cnnbench.errors import ArchitectureError, InvalidValueError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_TORCH = """
import sys
from cnnbench import architectures
architectures.check_name("resnet(width=16)")
architectures.resolved_weights("transfer_resnet50")
architectures.find_weights("resnet")
architectures.is_frozen("transfer_resnet50")
for name in ("resnet", "torchvision:resnet18", "mine:model"):
    architectures.code_digest(name)
assert "mine" not in sys.modules, "mine was imported"
assert "torch" not in sys.modules, "torch was imported"
"""


def test_names_are_looked_after_without_torch(working_folder: Path) -> None:
    (working_folder / "mine.py").write_text("import torch")
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, cwd=working_folder)


@pytest.mark.parametrize("spec", [*ARCHITECTURES.values(), *IMAGENET_WEIGHTS.values()])
def test_every_factory_is_where_its_line_says(spec: str) -> None:
    assert callable(load(spec))


@pytest.mark.parametrize(
    "name", [*ARCHITECTURES, "resnet(width=1)", "torchvision:x", "timm:x", "a.b:c", "a:b(c=1)"]
)
def test_a_possible_name_passes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["resnt", "resnt(width=1)", ":x", "x:", "timm:", "Resnet"])
def test_an_unknown_name_is_answered_with_all_that_there_are(name: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        build(name, num_classes=10, image_size=32)
    for known in (*ARCHITECTURES, "torchvision:NAME", "timm:NAME", "module.path:factory"):
        assert known in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mbconv_net'"):
        check_name("mbconvnet")


@pytest.mark.parametrize("name", ["resnet(", "resnet(3)", "resnet(width=f())", ""])
def test_brackets_that_cannot_be_read_are_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="cannot read"):
        check_name(name)


def test_an_unknown_parameter_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(InvalidValueError, match=r"'widht'. Did you mean 'width'\?") as caught:
        build("resnet(widht=8)", num_classes=10, image_size=32)
    assert "There are: width, depth, residual, kernel_size," in str(caught.value)


@pytest.mark.parametrize("name", ["simple_cnn(image_size=8)", "resnet(num_classes=3)"])
def test_what_the_data_set_decides_does_not_go_in_brackets(name: str) -> None:
    with pytest.raises(InvalidValueError, match="from the data set"):
        build(name, num_classes=10, image_size=32)


def test_only_the_transfer_models_have_imagenet_weights_by_default() -> None:
    found = {name: resolved_weights(name) for name in (*ARCHITECTURES, "torchvision:x", "a:b")}
    assert [name for name, weights in found.items() if weights == "imagenet"] == [
        "transfer_resnet50",
        "transfer_efficientnet_lite0",
    ]
    assert {weights for weights in found.values() if weights != "imagenet"} == {"none"}
    assert resolved_weights("transfer_resnet50(frozen=False)") == "imagenet"
    assert resolved_weights("transfer_resnet50", "none") == "none"
    assert resolved_weights("resnet", "a.pt") == "a.pt"


@pytest.mark.parametrize("name", ["resnet(width=8)", "torchvision:resnet50", "timm:resnet50"])
def test_imagenet_weights_of_anything_else_are_refused(name: str) -> None:
    with pytest.raises(
        InvalidValueError, match=r"'imagenet' are there for transfer_resnet50 and .* alone"
    ):
        build(name, num_classes=10, image_size=32, weights="imagenet")


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(WeightsError, match="no weights file 'imagenett'"):
        find_weights("resnet", "imagenett")
    assert find_weights("resnet") is None


def test_only_the_transfer_models_are_frozen() -> None:
    assert is_frozen("transfer_resnet50")
    assert not is_frozen("transfer_resnet50(frozen=False)")
    assert is_frozen("transfer_efficientnet_lite0")
    assert is_frozen("transfer_efficientnet_lite0(trainable=head)")
    assert not is_frozen("transfer_efficientnet_lite0(trainable='all')")
    assert not is_frozen("resnet")
    assert not is_frozen("torchvision:resnet50(frozen=True)")


def test_our_own_code_has_no_digest_and_a_library_has_its_version() -> None:
    import torchvision  # noqa: PLC0415 (seconds that the other tests need not wait)

    assert {code_digest(name) for name in ARCHITECTURES} == {""}
    version = torchvision.__version__.partition("+")[0]
    assert code_digest("torchvision:resnet18").partition("+")[0] == version


def test_the_digest_of_a_module_changes_with_its_file_alone(working_folder: Path) -> None:
    file = working_folder / "digested_model.py"
    file.write_text("x = 1")
    before = code_digest("digested_model:make")
    assert len(before) == 16
    (working_folder / "unrelated.py").write_text("x = 1")
    assert code_digest("digested_model:other(width=1)") == before
    file.write_text("x = 2")
    assert code_digest("digested_model:make") != before


def test_the_digest_of_a_package_covers_every_python_file_of_it(working_folder: Path) -> None:
    package = working_folder / "digested_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "model.py", "inner/layers.py"):
        (package / name).write_text("")
    before = code_digest("digested_package.model:make")
    (package / "notes.txt").write_text("no code")
    (package / ".venv").mkdir()
    (package / ".venv" / "hidden.py").write_text("x = 1")
    assert code_digest("digested_package.model:make") == before
    (package / "inner" / "layers.py").write_text("x = 1")
    edited = code_digest("digested_package.model:make")
    assert edited != before
    (package / "inner" / "layers.py").rename(package / "inner" / "renamed.py")
    assert code_digest("digested_package.model:make") not in {before, edited}


def test_the_digest_of_a_folder_without_init_covers_it_too(working_folder: Path) -> None:
    (working_folder / "loose").mkdir()
    file = working_folder / "loose" / "model.py"
    file.write_text("x = 1")
    before = code_digest("loose.model:make")
    file.write_text("x = 2")
    assert code_digest("loose.model:make") != before


def test_code_that_cannot_be_found_is_named(working_folder: Path) -> None:  # noqa: ARG001 (empty)
    with pytest.raises(ArchitectureError, match="no module 'nowhere'"):
        code_digest("nowhere.models:make")
