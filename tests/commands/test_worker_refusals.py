"""What only a worker finds wrong: it needs torch, the data, the models or the weights."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
import torch

from command import cnnbench, listing, refusal

if TYPE_CHECKING:
    from pathlib import Path


BAD_MODELS = """
from torch import nn

def raises(num_classes):
    raise KeyError("no such layer")

def exits(num_classes):
    raise SystemExit("leaving")

def nothing(num_classes):
    pass

def text(num_classes):
    return "a model"

def too_few(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes - 1))

number = 5
"""

FASHION_FILES = (
    *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
)

DYNAMIC_REFUSALS = [
    (["--architecture", "bad_models:raises"], "'bad_models:raises': KeyError: 'no such layer'"),
    (["--architecture", "bad_models:exits"], "'bad_models:exits': SystemExit: leaving"),
    (["--architecture", "bad_models:nothing"], "it returned None, not a torch.nn.Module."),
    (["--architecture", "bad_models:text"], "it returned a str, not a torch.nn.Module."),
    (["--architecture", "bad_models:number"], "it is a int, not a function or class."),
    (["--architecture", "bad_models:too_few"], "is no classifier of 10 classes"),
    (["--architecture", "bad_models:missing"], "has no attribute 'missing'"),
    (["--architecture", "no_such_module:net"], "No module named 'no_such_module'"),
    (["--architecture", "broken_models:net"], "cannot import 'broken_models:net': SyntaxError"),
    (["--architecture", "resnet(wdth=16)"], "Did you mean 'width'?"),
    (["--architecture", "resnet(width=0)"], "width"),
    (["--architecture", "torchvision:resnet51"], "torchvision has no classifier 'resnet51'."),
    (["--architecture", "transfer_resnet50", "--weights", "imagenet"], "pass --download to fetch"),
    (["--weights", "imagenet"], "are there for transfer_resnet50 and"),
    (["--weights", "missing.pt"], "there is no weights file 'missing.pt'"),
    (["--weights", "list.pt"], "hold no state_dict, but a list."),
    (["--weights", "noise.pt"], "noise.pt: damaged, or more than tensors"),
    (["--weights", "other.pt"], "other.pt do not fit"),
    (["--dataset", "fashion_mnist", "--data-dir", "fashion"], "ubyte.gz is corrupt ("),
    (["--dataset", "cifar10", "--data-dir", "fashion"], "cifar10 was not found"),
    (["--dataset", "folder:images"], "images"),
    (["--batch-size", "2048", "--train-subset", "1000"], "more than the 1000 training images"),
    (["--train-subset", "5000"], "train_subset = 5000, but digits has 1257 training images."),
    (["--num-classes", "11"], "num_classes = 11, but digits has 10."),
    (["--augmentation", "flip+crop"], "'flip+crop' does not suit digits. There are: none, crop."),
    (["--image-size", "1"], "image_size = 1 is impossible"),
    (["--device", "tpu"], "unknown device 'tpu'. There are: auto, cpu, cuda, cuda:N."),
    (["--device", "cuda:99"], "device cuda:99: "),
    (["--results-dir", "/proc/none"], "/proc/none"),
    (["--tracking-uri", "http://127.0.0.1:9"], "cannot use the MLflow store http://127.0.0.1:9"),
    (["--tracking-uri", "ftp://somewhere"], "cannot use the MLflow store ftp://somewhere"),
    (
        ["--tracking-uri", "sqlite:////proc/none/x.db"],
        "cannot use the MLflow store sqlite:////proc",
    ),
    (["--tracking-uri", "sqlite:///a_file/x.db"], "cannot use the MLflow store sqlite:///"),
]


@pytest.fixture
def bad_place(place: Path) -> Path:
    """A folder in which models, weights and data are wrong, too."""
    (place / "bad_models.py").write_text(BAD_MODELS)
    (place / "broken_models.py").write_text("def net(:\n")
    torch.save([1, 2], place / "list.pt")
    (place / "noise.pt").write_bytes(bytes(range(256)))
    torch.save({"conv1.weight": torch.zeros(1)}, place / "other.pt")
    raw = place / "fashion" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FASHION_FILES:
        (raw / name).write_bytes(gzip.compress(b"no images"))
    for name in ("cat", "dog"):
        (place / "images" / name).mkdir(parents=True)
        for number in range(4):
            (place / "images" / name / f"{number}.png").write_bytes(b"no image")
    return place


@pytest.mark.parametrize(("arguments", "message"), DYNAMIC_REFUSALS)
def test_what_a_worker_finds_wrong_is_refused_in_one_line_and_nothing_is_written(
    bad_place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    usual = ("run", "--profile", "tiny.toml", "--isolation", "inline")
    assert message in refusal(capfd, bad_place, *usual, *arguments)


def test_a_refusal_of_a_worker_process_reaches_the_user_as_one_line(bad_place: Path) -> None:
    before = listing(bad_place)
    arguments = ("--profile", "tiny.toml", "--architecture", "bad_models:raises")
    done = cnnbench("run", *arguments, cwd=bad_place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        "cnnbench: cannot build 'bad_models:raises': KeyError: 'no such layer'"
    )
    assert listing(bad_place) == before
