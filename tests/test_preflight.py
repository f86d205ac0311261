"""What is looked at before the first cell: device, data, models and weights."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cnnbench import architectures
from cnnbench.errors import (
    ArchitectureError,
    DataError,
    InvalidValueError,
    MissingWeightsError,
    WeightsError,
)
from cnnbench.job import Preflight
from cnnbench.preflight import find_device, preflight

if TYPE_CHECKING:
    from pathlib import Path

    from cnnbench.job import Progress

SMALL = "simple_cnn(width=4,hidden=8)"


@pytest.fixture(autouse=True)
def _no_weights_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def a_preflight(folder: Path, *models: tuple[str, str], **changes: Any) -> Preflight:
    usual: dict[str, Any] = {
        "device": "cpu",
        "dataset": "digits",
        "data_dir": str(folder),
        "cache_dir": str(folder / "prepared"),
        "download": False,
        "image_size": None,
        "models": models or ((SMALL, "default"),),
    }
    return Preflight(**{**usual, **changes})


def test_what_was_found_is_told_and_the_data_prepared(tmp_path: Path) -> None:
    ready = preflight(a_preflight(tmp_path, (SMALL, "default"), ("resnet(width=4)", "none")))
    assert ready.environment.device_type == "cpu"
    assert (ready.dataset.name, ready.dataset.num_classes) == ("digits", 10)
    assert ready.dataset.path.startswith(str(tmp_path / "prepared"))
    assert ready.model_digests == {SMALL: "", "resnet(width=4)": ""}
    assert ready.notes == ()


def test_models_are_tried_at_the_size_that_cells_train_at(tmp_path: Path) -> None:
    assert set(preflight(a_preflight(tmp_path, image_size=64)).model_digests) == {SMALL}
    with pytest.raises(InvalidValueError, match="image_size = 3 is impossible"):
        preflight(a_preflight(tmp_path, image_size=3))


def test_imagenet_weights_that_are_not_here_cost_only_the_accuracy(tmp_path: Path) -> None:
    ready = preflight(a_preflight(tmp_path, ("transfer_resnet50", "default")))
    (note,) = ready.notes
    assert note.startswith("transfer_resnet50: no accuracy will be claimed. ")
    assert "--download" in note
    with pytest.raises(MissingWeightsError, match="pass --download to fetch"):
        preflight(a_preflight(tmp_path, ("transfer_resnet50", "imagenet")))


def test_published_weights_that_are_damaged_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet50-0676ba61.pth").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="damaged or not the published ones"):
        preflight(a_preflight(tmp_path, ("transfer_resnet50", "default")))


def test_other_weights_in_the_same_file_are_another_model(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    digests = []
    for seed in (0, 1, 1):
        torch.manual_seed(seed)
        model = architectures.build(SMALL, num_classes=10, image_size=32)
        torch.save(model.state_dict(), file)
        digests.append(preflight(a_preflight(tmp_path, (SMALL, str(file)))).model_digests[SMALL])
    assert digests[0] != digests[1] == digests[2] != ""


def test_a_missing_data_set_or_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar10 was not found"):
        preflight(a_preflight(tmp_path, dataset="cifar10"))
    with pytest.raises(ArchitectureError, match="no_such_module"):
        preflight(a_preflight(tmp_path, ("no_such_module:net", "default")))


@pytest.mark.parametrize("name", ["tpu", "", "cuda:", "cuda:-1", "cuda:one", "CPU", "cpu:0"])
def test_an_unknown_device_is_refused(name: str) -> None:
    if name == "cuda:" and torch.cuda.is_available():
        pytest.skip("reads as cuda, which is here")
    with pytest.raises(InvalidValueError, match="device"):
        find_device(name)


def test_a_device_is_found_by_its_name() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="device cuda:99: "):
        find_device("cuda:99")


@pytest.mark.gpu
def test_auto_takes_the_gpu(tmp_path: Path) -> None:
    assert find_device("auto") == find_device("cuda") == torch.device("cuda", 0)
    ready = preflight(a_preflight(tmp_path, device="cuda:0"))
    assert ready.environment.device == torch.cuda.get_device_name(0)


def test_the_users_own_weights_are_known_by_their_sha256(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    model = architectures.build(SMALL, num_classes=10, image_size=32, weights="none")
    torch.save(model.state_dict(), path)
    ready = preflight(a_preflight(tmp_path, (SMALL, str(path))))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert ready.weights_sha256s == {str(path): sha256}
    assert ready.model_digests[SMALL].endswith(sha256)


def test_what_is_looked_at_is_told_while_it_is(tmp_path: Path) -> None:
    heard: list[Progress] = []
    preflight(a_preflight(tmp_path), heard.append)
    assert [progress.phase for progress in heard] == ["preparing digits", f"trying {SMALL}"]
