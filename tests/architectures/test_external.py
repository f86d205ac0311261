"""Models from elsewhere: what is built, what is passed, and how each fault is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import nn

from cnnbench.architectures import build, check
from cnnbench.architectures.factory import library_version
from cnnbench.errors import ArchitectureError, InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[str], str]

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, image_size=32, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.fc = nn.Linear(width * image_size ** 2, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))

def plain():
    return Net(10)

def keywords(**kwargs):
    return Net(**kwargs)

def positional(width, /):
    return Net(10, width=width)

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

def raises(num_classes):
    raise KeyError("no\\nsuch layer")

def leaves():
    raise SystemExit(3)

def returns_a_list(num_classes):
    return [Net(num_classes)]

def returns_nothing():
    pass

text = "Net"
"""


@pytest.fixture
def mine(working_folder: Path) -> Path:
    """Write a module of a user's into the working folder."""
    file = working_folder / "my_models.py"
    file.write_text(MODULE)
    return file


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("factory", ["Net", "Net(width=2)", "keywords", "keywords(width=2)"])
def test_a_users_factory_is_built_and_gets_what_it_takes(factory: str) -> None:
    model = build(f"my_models:{factory}", num_classes=7, image_size=16)
    check(model, num_classes=7, image_size=16)
    assert model.conv.out_channels == (2 if "width" in factory else 4)  # type: ignore[union-attr]


@pytest.mark.usefixtures("mine")
def test_a_users_factory_that_takes_nothing_gets_nothing() -> None:
    check(build("my_models:plain", num_classes=10, image_size=32), num_classes=10, image_size=32)


def test_a_users_factory_may_lie_in_a_package(working_folder: Path) -> None:
    package = working_folder / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(MODULE)
    build("my_package.nets:Net", num_classes=10, image_size=32)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("my_modules:Net", "ModuleNotFoundError: No module named 'my_modules'"),
        ("my_models:net", "AttributeError: module 'my_models' has no attribute 'net'"),
        ("my_models:text", "it is a str, not a function or class"),
        ("my_models:raises", r"KeyError: 'no\\nsuch layer'"),
        ("my_models:leaves", "SystemExit: 3"),
        ("my_models:positional", "TypeError: .* missing 1 required positional argument"),
        ("my_models:Net(width='a')", "TypeError"),
        ("my_models:keywords(depth=2)", "unexpected keyword argument 'depth'"),
        ("my_models:returns_a_list", "returned a list, not a torch.nn.Module"),
        ("my_models:returns_nothing", "returned None, not a torch.nn.Module"),
        ("my_models:lazy", "lazy layers"),
    ],
)
def test_a_users_fault_is_told_in_one_line(architecture: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message) as caught:
        build(architecture, num_classes=10, image_size=32)
    assert architecture.partition("(")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["import no_such_library", "x = = 1", "raise ValueError('x\\ny')"])
def test_a_module_that_cannot_be_imported_is_told_in_one_line(mine: Path, text: str) -> None:
    mine.write_text(text)
    with pytest.raises(ArchitectureError, match="cannot import 'my_models:Net'") as caught:
        build("my_models:Net", num_classes=10, image_size=32)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("mine")
def test_an_unknown_parameter_of_a_users_factory_is_answered_with_all() -> None:
    with pytest.raises(InvalidValueError, match=r"Did you mean 'width'\? There are: width\."):
        build("my_models:Net(widht=1)", num_classes=10, image_size=32)
    with pytest.raises(InvalidValueError, match="takes no parameters"):
        build("my_models:plain(width=1)", num_classes=10, image_size=32)


@pytest.mark.parametrize(
    ("architecture", "image_size"),
    [
        ("torchvision:mobilenet_v3_small", 32),
        ("torchvision:squeezenet1_1(dropout=0.0)", 32),
        ("torchvision:googlenet", 32),
        ("torchvision:inception_v3", 80),
        ("torchvision:vit_b_32", 64),
        ("timm:test_resnet", 32),
        ("timm:test_vit", 64),
        ("timm:test_vit.r160_in1k", 32),
    ],
)
def test_a_librarys_classifier_is_built_for_the_images(architecture: str, image_size: int) -> None:
    if architecture.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is optional")
    model = build(architecture, num_classes=5, image_size=image_size)
    check(model, num_classes=5, image_size=image_size)


def test_a_librarys_unknown_classifier_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"nearest of its .*: resnet18"):
        build("torchvision:resnet19", num_classes=10, image_size=32)


@pytest.mark.parametrize(
    "name", ["deeplabv3_resnet50", "raft_large", "quantized_resnet50", "r3d_18"]
)
def test_what_is_no_classifier_is_not_built(name: str) -> None:
    with pytest.raises(UnknownNameError):
        build(f"torchvision:{name}", num_classes=10, image_size=32)


def test_timm_is_never_sent_to_a_hub() -> None:
    pytest.importorskip("timm", reason="timm is optional")
    with pytest.raises(UnknownNameError):
        build("timm:hf-hub:timm/resnet18", num_classes=10, image_size=32)


@pytest.mark.parametrize(
    "architecture",
    [
        "torchvision:resnet18(weights='DEFAULT')",
        "torchvision:resnet18(pretrained=True)",
        "timm:test_resnet(pretrained=True)",
        "timm:test_resnet(checkpoint_path='x.pt')",
    ],
)
def test_a_library_never_loads_weights_by_itself(architecture: str) -> None:
    if architecture.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is optional")
    with pytest.raises(InvalidValueError, match="--weights"):
        build(architecture, num_classes=10, image_size=32)


def test_a_librarys_unknown_parameter_is_named() -> None:
    with pytest.raises(ArchitectureError, match="unexpected keyword argument 'deepness'"):
        build("torchvision:resnet18(deepness=1)", num_classes=10, image_size=32)


def test_a_library_that_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(ArchitectureError, match="pip install no-such-library"):
        library_version("no-such-library")


class Returning(nn.Module):
    """A module that returns what `make` makes of its images."""

    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        """Keep `make`."""
        super().__init__()
        self.make = make

    def forward(self, x: torch.Tensor) -> Any:
        """Return what it makes."""
        return self.make(x)


class Outputs(NamedTuple):
    """As inception_v3 returns in train mode."""

    logits: torch.Tensor
    aux: torch.Tensor


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "returned None"),
        (lambda x: [x, x], "returned a list"),
        (lambda x: (x,), "returned a tuple"),
        (lambda x: Outputs(x, x), "returned a Outputs"),
        (lambda x: {"logits": x}, "returned a dict"),
        (lambda x: x.flatten(1)[:, :3], r"returned a float32 tensor of shape \(2, 3\)"),
        (lambda x: x[0].flatten()[:10], r"returned a float32 tensor of shape \(10,\)"),
        (lambda x: x.flatten(1)[:, :10].argmax(1), r"returned a int64 tensor of shape \(2,\)"),
        (lambda x: x.flatten(1)[:, :10].long(), r"returned a int64 tensor of shape \(2, 10\)"),
        (lambda x: x.view(3, -1, 7), "cannot take 3x8x8 images .*: RuntimeError: shape"),
    ],
)
def test_an_output_that_is_no_logits_is_told_in_one_line(
    make: Callable[[torch.Tensor], Any], message: str
) -> None:
    with pytest.raises(ArchitectureError, match=message) as caught:
        check(Returning(make), num_classes=10, image_size=8)
    assert "Returning" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_a_tuple_in_train_mode_alone_is_refused() -> None:
    model = build("torchvision:googlenet(aux_logits=True)", num_classes=5, image_size=64)
    with pytest.raises(ArchitectureError, match="in train mode it returned a GoogLeNetOutputs"):
        check(model, num_classes=5, image_size=64)


def test_a_check_leaves_modes_statistics_and_random_state_as_they_were() -> None:
    model = build("resnet(width=8)", num_classes=10, image_size=32)
    model.stem.eval()  # type: ignore[union-attr]
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.random.get_rng_state()
    check(model, num_classes=10, image_size=32)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(torch.random.get_rng_state(), random_state)
