"""The transfer model: what is frozen stays so, and its weights come from where they should."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
import torch
from torchvision.models import ResNet50_Weights, resnet50

from cnnbench.architectures import build, transfer
from cnnbench.architectures.transfer import IMAGENET_SHA256, TransferLearningModel
from cnnbench.errors import MissingWeightsError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a state_dict of torchvision's ResNet-50 with 1000 classes, as the published one is."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(resnet50().state_dict(), file)
    return file


def transfer_model(*, weights: Path | str = "none", **keywords: bool) -> nn.Module:
    brackets = ",".join(f"{name}={value}" for name, value in keywords.items())
    name = f"transfer_resnet50({brackets})"
    return build(name, num_classes=3, image_size=32, weights=str(weights))


def train_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    loss = torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4) % 3)
    torch.autograd.backward(loss)
    optimizer.step()


def changed(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    after = model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_training_step_changes_the_new_layer_and_nothing_else() -> None:
    model = transfer_model()
    before = copied(model)
    train_step(model)
    assert changed(before, model) == {"model.fc.weight", "model.fc.bias"}


def test_fine_tuning_changes_weights_and_statistics_everywhere() -> None:
    model = transfer_model(frozen=False)
    before = copied(model)
    train_step(model)
    assert changed(before, model) == set(before)


def test_frozen_statistics_stay_without_a_call_of_train() -> None:
    model = TransferLearningModel()
    before = copied(model)
    model(torch.randn(4, 3, 32, 32))
    assert changed(before, model) == set()


def test_the_new_layer_follows_the_mode_and_the_frozen_part_does_not() -> None:
    model = TransferLearningModel()
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is mode
        assert model.get_submodule("model.fc").training is mode
        assert not model.get_submodule("model.layer4").training


def test_a_frozen_model_keeps_no_activations_of_its_trunk() -> None:
    shapes = []

    def keep(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        transfer_model()(torch.randn(4, 3, 32, 32))
    assert shapes == [(4, 2048)]


def test_torchvisions_weights_load_without_their_last_layer(backbone: Path) -> None:
    model = transfer_model(weights=backbone)
    expected = torch.load(backbone, weights_only=True)
    state = model.state_dict()
    assert state["model.fc.weight"].shape == (3, 2048)
    for name, tensor in expected.items():
        if not name.startswith("fc."):
            assert torch.equal(state[f"model.{name}"], tensor), name


def test_a_last_layer_of_as_many_classes_is_loaded(tmp_path: Path) -> None:
    trained = resnet50(num_classes=3)
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    model = transfer_model(weights=tmp_path / "trained.pt").eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images), trained.eval()(images))


def test_a_last_layer_of_other_classes_is_refused(tmp_path: Path) -> None:
    torch.save(resnet50(num_classes=4).state_dict(), tmp_path / "trained.pt")
    with pytest.raises(WeightsError, match=r"model\.fc\.weight"):
        transfer_model(weights=tmp_path / "trained.pt")


def test_its_own_weights_load_whole(tmp_path: Path) -> None:
    saved = transfer_model()
    train_step(saved)
    torch.save(saved.state_dict(), tmp_path / "own.pt")
    assert changed(saved.state_dict(), transfer_model(weights=tmp_path / "own.pt")) == set()


def test_old_weights_without_batch_counts_load(backbone: Path, tmp_path: Path) -> None:
    state = torch.load(backbone, weights_only=True)
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    model = transfer_model(weights=tmp_path / "old.pth")
    assert torch.equal(model.state_dict()["model.conv1.weight"], state["conv1.weight"])


def test_the_checksum_belongs_to_torchvisions_first_weights() -> None:
    assert ResNet50_Weights.IMAGENET1K_V1.url.endswith(f"/resnet50-{IMAGENET_SHA256[:8]}.pth")
    assert len(IMAGENET_SHA256) == 64


def test_missing_imagenet_weights_say_where_they_were_sought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError) as caught:
        transfer_model(weights="default")
    assert str(tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth") in str(caught.value)
    assert ResNet50_Weights.IMAGENET1K_V1.url in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", ["default", "imagenet"])
def test_imagenet_weights_are_verified_at_every_load(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet50-0676ba61.pth").symlink_to(backbone)
    with pytest.raises(WeightsError, match=IMAGENET_SHA256):
        transfer_model(weights=weights)
    # The published file is not at hand: let ours pass for it.
    digest = hashlib.sha256(backbone.read_bytes()).hexdigest()
    monkeypatch.setattr(transfer, "IMAGENET_SHA256", digest)
    model = transfer_model(weights=weights)
    expected = torch.load(backbone, weights_only=True)
    assert torch.equal(model.state_dict()["model.conv1.weight"], expected["conv1.weight"])
    assert model.state_dict()["model.fc.weight"].shape == (3, 2048)
