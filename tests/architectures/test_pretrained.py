"""Weights in files: verified, read without running code, loaded strictly."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
from typing import TYPE_CHECKING

import pytest
import torch

from cnnbench.architectures import build
from cnnbench.architectures.pretrained import WeightsFile, find_published, load, read
from cnnbench.architectures.simple_cnn import SimpleCNN
from cnnbench.errors import MissingWeightsError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Save the weights of a small network."""
    file = tmp_path / "weights.pt"
    torch.save(SimpleCNN(width=2, hidden=4).state_dict(), file)
    return file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torch.hub an empty folder, and return where it keeps checkpoints in it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def build_small(weights: Path | str, num_classes: int = 10) -> torch.nn.Module:
    return build(
        "simple_cnn(width=2,hidden=4)",
        num_classes=num_classes,
        image_size=32,
        weights=str(weights),
    )


@pytest.mark.parametrize(
    "architecture",
    ["resnet(width=8,depth=1)", "mbconv_net(width=0.25,depth=0.25)", "torchvision:squeezenet1_1"],
)
def test_every_architecture_loads_its_own_weights(tmp_path: Path, architecture: str) -> None:
    saved = build(architecture, num_classes=3, image_size=32).state_dict()
    torch.save(saved, tmp_path / "mine.pt")
    loaded = build(
        architecture, num_classes=3, image_size=32, weights=str(tmp_path / "mine.pt")
    ).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_weights_of_the_old_file_format_are_loaded(weights: Path) -> None:
    state_dict = read(WeightsFile(path=weights))
    torch.save(state_dict, weights, _use_new_zipfile_serialization=False)
    assert read(WeightsFile(path=weights)).keys() == state_dict.keys()


def test_weights_of_another_shape_are_refused_by_name(weights: Path) -> None:
    with pytest.raises(WeightsError, match=r"do not fit.* fc2\.weight") as caught:
        build_small(weights, num_classes=7)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused_by_name(weights: Path) -> None:
    with pytest.raises(WeightsError, match="Missing key") as caught:
        build("resnet(width=8)", num_classes=10, image_size=32, weights=str(weights))
    assert str(weights) in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_single_missing_or_superfluous_tensor_is_refused(weights: Path) -> None:
    state_dict = read(WeightsFile(path=weights))
    for changed in (
        {name: tensor for name, tensor in state_dict.items() if name != "fc2.bias"},
        {**state_dict, "extra": torch.zeros(1)},
    ):
        torch.save(changed, weights)
        with pytest.raises(WeightsError, match=r"fc2\.bias|extra"):
            build_small(weights)


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        """Keep the folder's path."""
        self.target = str(target)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Tell pickle what to call."""
        return os.mkdir, (self.target,)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    target, file = tmp_path / "made", tmp_path / "bomb.pt"
    pickle.loads(pickle.dumps(Bomb(target)))  # noqa: S301 (shows that it would go off)
    target.rmdir()
    contents = io.BytesIO()
    torch.save({"conv1.weight": Bomb(target)}, contents)
    for data in (contents.getvalue(), pickle.dumps(Bomb(target), protocol=2)):
        file.write_bytes(data)
        with pytest.raises(WeightsError, match="could run code") as caught:
            build_small(file)
        assert "weights_only" not in str(caught.value)
        assert not target.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, -1, -100])
def test_a_truncated_file_is_refused(weights: Path, kept: int) -> None:
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="damaged"):
        build_small(weights)


def test_whatever_is_damaged_is_told_in_one_line_or_harmless(weights: Path) -> None:
    data, generator = weights.read_bytes(), random.Random(0)  # noqa: S311 (no secret)
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 20)):
            damaged[generator.randrange(len(data))] = generator.randrange(256)
        weights.write_bytes(damaged)
        try:
            build_small(weights)
        except WeightsError as error:
            assert "\n" not in str(error)  # noqa: PT017 (what does not raise is fine too)


@pytest.mark.parametrize("value", [[torch.zeros(1)], {"epoch": 3}, {1: torch.zeros(1)}, None])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no state_dict"):
        build_small(tmp_path / "other.pt")


@pytest.mark.parametrize("name", ["absent.pt", "."])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="there is no weights file") as caught:
        build_small(tmp_path / name)
    assert not isinstance(caught.value, MissingWeightsError)


def test_published_weights_with_another_checksum_are_refused(weights: Path) -> None:
    good = WeightsFile(path=weights, sha256=sha256(weights))
    assert read(good)
    with weights.open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(WeightsError, match="their SHA-256 is") as caught:
        load(SimpleCNN(width=2, hidden=4), good)
    assert str(weights) in str(caught.value)


def test_published_weights_are_fetched_only_when_allowed(weights: Path, cache: Path) -> None:
    url, digest = weights.as_uri(), sha256(weights)
    with pytest.raises(MissingWeightsError, match="--download") as caught:
        find_published(url, digest, download=False)
    for told in (str(cache / "weights.pt"), url, "--weights none"):
        assert told in str(caught.value)
    assert not cache.exists()
    file = find_published(url, digest, download=True)
    assert file.path == cache / "weights.pt"
    assert sha256(file.path) == digest
    assert [entry.name for entry in cache.iterdir()] == ["weights.pt"]
    weights.unlink()
    assert find_published(url, digest, download=True) == file


def test_a_wrong_download_leaves_nothing_behind(weights: Path, cache: Path) -> None:
    with pytest.raises(MissingWeightsError, match="invalid hash"):
        find_published(weights.as_uri(), "0" * 64, download=True)
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("url", ["http://127.0.0.1:1/weights.pt", "file:///nowhere/weights.pt"])
def test_a_failed_download_says_what_to_do(url: str) -> None:
    with pytest.raises(
        MissingWeightsError, match=r"put that file at .* or --weights none"
    ) as caught:
        find_published(url, "0" * 64, download=True)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made_is_named(weights: Path, cache: Path) -> None:
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("a file in the way")
    with pytest.raises(MissingWeightsError, match="cannot fetch"):
        find_published(weights.as_uri(), sha256(weights), download=True)
