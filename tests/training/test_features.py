"""A frozen trunk's features, computed once, train the last layer as images do each time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cnnbench.architectures.trunk import Transfer
from cnnbench.data.device_data import open_prepared
from cnnbench.data.device_loader import DeviceLoader
from cnnbench.errors import UnsupportedError
from cnnbench.execute import execute
from cnnbench.precision import precision
from cnnbench.setup import add_dropout, set_up
from cnnbench.training import features
from cnnbench.training.features import FeatureLoader
from cnnbench.training.fit import fit
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.step import TrainingStep
from sample_jobs import UNTIMED, job, tiny_cell, tiny_recipe
from sample_models import assert_equal_tensors

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo
    from cnnbench.record import Fit

CPU = torch.device("cpu")
ONCE = tiny_recipe(epochs=3, learning_rate=0.01, augmentation="none", features="once")


class Net(nn.Module):
    """A trunk that counts its images, and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 49, 1000)
        self.num_images = 0

    def forward(self, x: torch.Tensor) -> Any:
        self.num_images += len(x)
        return self.fc(functional.relu(self.norm(self.conv(x))).flatten(1))


def train(
    digits: DatasetInfo, *, once: bool, mode: str = "fp32", dropout: float = 0.0
) -> tuple[Fit, Transfer]:
    data = open_prepared(digits, device=CPU, image_size=16, train_subset=256)
    loaders = [DeviceLoader(s, batch_size=32) for s in (data.train, data.val, data.test)]
    torch.manual_seed(0)
    model = Transfer(Net(), num_classes=10, frozen=True)
    if dropout:
        add_dropout(model, dropout)
    chosen = precision(mode)
    if once:
        loaders = [FeatureLoader(loader, model, chosen) for loader in loaders]
    optimizer = make_optimizer(model, ONCE, CPU)
    step = TrainingStep(model, optimizer, precision=chosen, device=CPU)
    train, val, test = loaders
    cell = tiny_cell("transfer_resnet50", recipe=ONCE, precision=mode)
    return fit(step, cell, (train, val, test), precision=chosen, on_epoch=lambda *_: None), model


@pytest.mark.parametrize(("mode", "dropout"), [("fp32", 0.0), ("bf16", 0.0), ("fp32", 0.3)])
def test_the_curves_are_those_of_images_each_time(
    digits: DatasetInfo, mode: str, dropout: float
) -> None:
    plain, plain_model = train(digits, once=False, mode=mode, dropout=dropout)
    ours, model = train(digits, once=True, mode=mode, dropout=dropout)
    for one, other in zip(ours.epochs, plain.epochs, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert one.val_loss == pytest.approx(other.val_loss, rel=1e-3)
        assert one.val_accuracy == pytest.approx(other.val_accuracy, abs=0.005)
    assert ours.test_accuracy == pytest.approx(plain.test_accuracy, abs=0.005)
    assert ours.epochs[-1].val_accuracy > 0.5
    state = model.state_dict()
    frozen = {n: v for n, v in plain_model.state_dict().items() if "fc" not in n}
    assert_equal_tensors({name: state[name] for name in frozen}, frozen)


def test_each_image_goes_through_the_trunk_once(digits: DatasetInfo) -> None:
    _, model = train(digits, once=True)
    assert model.model.num_images == 256 + digits.num_val + digits.num_test


def test_the_features_are_what_the_last_layer_gets() -> None:
    model = Transfer(Net(), num_classes=10, frozen=True).eval()
    images = torch.randn(4, 3, 16, 16)
    made = model.features(images)
    assert made.shape == (4, 16 * 49)
    assert torch.equal(model(made), model(images))
    assert isinstance(model.model.fc, nn.Linear)


def test_a_cell_that_asks_for_it_trains_so_and_says_so(digits: DatasetInfo) -> None:
    recipe = replace(ONCE, epochs=1, train_subset=64)
    cell = tiny_cell("transfer_efficientnet_lite0", recipe=recipe, timing=UNTIMED)
    record = execute(job(cell, digits), lambda _: None)
    assert record.status == "completed", record.error
    assert features.NOTE in record.notes
    assert record.fit is not None
    assert len(record.fit.epochs) == 1


@pytest.mark.parametrize(
    ("architecture", "augmentation", "reason"),
    [
        ("resnet(width=4,depth=1)", "none", "needs a frozen trunk"),
        ("transfer_resnet50(frozen=False)", "none", "needs a frozen trunk"),
        ("transfer_resnet50", "crop", "crop changes the images in each epoch"),
    ],
)
def test_where_features_change_it_is_unsupported(
    digits: DatasetInfo, architecture: str, augmentation: str, reason: str
) -> None:
    cell = tiny_cell(architecture, recipe=replace(ONCE, augmentation=augmentation))
    with pytest.raises(UnsupportedError, match=reason):
        set_up(cell, digits, CPU)
