"""The document's own classes, as they stand in it, against ours: same names, same outputs."""

# The document's classes have neither type hints nor docstrings.
# ruff: noqa: ANN001, ANN201, ANN204, D101, RET504
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (as the document has it)
from torch import nn
from torchvision import models

from cnnbench.architectures import blocks, simple_cnn, transfer


class SimpleCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels=3, out_channels=16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(in_channels=16, out_channels=32, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(32 * 8 * 8, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(x, 2)
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = x.view(-1, 32 * 8 * 8)
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        return x


class ResidualBlock(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)

        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class MBConv(nn.Module):
    def __init__(self, in_channels, out_channels, expansion, kernel_size, stride):
        super().__init__()
        expanded = in_channels * expansion

        self.block = nn.Sequential(
            nn.Conv2d(in_channels, expanded, kernel_size=1, bias=False),
            nn.BatchNorm2d(expanded),
            nn.SiLU(),
            nn.Conv2d(
                expanded,
                expanded,
                kernel_size,
                stride,
                padding=kernel_size // 2,
                groups=expanded,
                bias=False,
            ),
            nn.BatchNorm2d(expanded),
            nn.SiLU(),
            nn.Conv2d(expanded, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

        self.use_residual = stride == 1 and in_channels == out_channels

    def forward(self, x):
        if self.use_residual:
            return x + self.block(x)
        return self.block(x)


class TransferLearningModel(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        # The document: models.resnet50(pretrained=True), which fetches the weights.
        self.model = models.resnet50(weights=None)

        # Freeze all layers
        for param in self.model.parameters():
            param.requires_grad = False

        # Replace final layer
        num_features = self.model.fc.in_features
        self.model.fc = nn.Linear(num_features, num_classes)

    def forward(self, x):
        return self.model(x)


Pair = tuple[nn.Module, nn.Module, torch.Tensor]

PAIRS: dict[str, tuple[Any, tuple[int, ...], Any, dict[str, int], tuple[int, ...]]] = {
    "simple_cnn": (SimpleCNN, (), simple_cnn.SimpleCNN, {}, (4, 3, 32, 32)),
    "residual_block": (ResidualBlock, (8, 8), blocks.ResidualBlock, {}, (4, 8, 9, 9)),
    "residual_block_wider": (ResidualBlock, (8, 12), blocks.ResidualBlock, {}, (4, 8, 9, 9)),
    "residual_block_strided": (ResidualBlock, (8, 16, 2), blocks.ResidualBlock, {}, (4, 8, 9, 9)),
    "mbconv": (MBConv, (8, 8, 6, 3, 1), blocks.MBConv, {}, (4, 8, 9, 9)),
    "mbconv_strided": (MBConv, (8, 8, 6, 5, 2), blocks.MBConv, {}, (4, 8, 9, 9)),
    "mbconv_wider": (MBConv, (8, 12, 1, 3, 1), blocks.MBConv, {}, (4, 8, 9, 9)),
    "transfer": (
        TransferLearningModel,
        (7,),
        transfer.TransferLearningModel,
        {"frozen": False, "num_classes": 7},
        (2, 3, 32, 32),
    ),
}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Return the document's module, ours with its weights and statistics, and images."""
    theirs_class, arguments, ours_class, keywords, shape = PAIRS[request.param]
    torch.manual_seed(0)
    theirs = theirs_class(*arguments)
    ours = ours_class(**keywords) if keywords else ours_class(*arguments)
    theirs.train()(torch.randn(shape))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, torch.randn(shape)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_documents_checkpoint_gives_the_documents_outputs(pair: Pair, mode: str) -> None:
    theirs, ours, images = pair
    assert torch.equal(getattr(ours, mode)()(images), getattr(theirs, mode)()(images))


def test_names_shapes_and_statistics_stay_the_documents(pair: Pair) -> None:
    theirs, ours, images = pair
    for model in (theirs, ours):
        model.train()(images)
    theirs_state, ours_state = theirs.state_dict(), ours.state_dict()
    assert list(ours_state) == list(theirs_state)
    assert all(torch.equal(ours_state[name], tensor) for name, tensor in theirs_state.items())


def test_a_training_step_gives_the_documents_gradients(pair: Pair) -> None:
    theirs, ours, images = pair
    for model in (theirs, ours):
        model.requires_grad_(requires_grad=True).train()(images).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    torch.testing.assert_close(gradients, expected, rtol=0, atol=0)


def test_the_frozen_model_evaluates_as_the_documents() -> None:
    theirs = TransferLearningModel(5)
    ours = transfer.TransferLearningModel(num_classes=5)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))
    assert [n for n, p in ours.named_parameters() if p.requires_grad] == [
        n for n, p in theirs.named_parameters() if p.requires_grad
    ]


def test_the_documents_view_fails_in_channels_last_and_ours_does_not() -> None:
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view"):
        SimpleCNN().to(memory_format=torch.channels_last)(images)
    model = simple_cnn.SimpleCNN().to(memory_format=torch.channels_last)
    assert model(images).shape == (2, 10)


def test_the_documents_view_folds_larger_images_into_the_batch_and_ours_never_does() -> None:
    images = torch.randn(2, 3, 64, 64)
    assert SimpleCNN()(images).shape == (8, 10)
    assert simple_cnn.SimpleCNN(image_size=64)(images).shape == (2, 10)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        simple_cnn.SimpleCNN()(images)


def test_the_documents_frozen_statistics_drift_and_ours_do_not() -> None:
    images = torch.randn(4, 3, 32, 32)
    theirs, ours = TransferLearningModel(3), transfer.TransferLearningModel(num_classes=3)
    for model, stays in ((theirs, False), (ours, True)):
        before = model.get_buffer("model.bn1.running_mean").clone()
        model.train()(images).sum().backward()
        assert torch.equal(model.get_buffer("model.bn1.running_mean"), before) is stays
