"""Tests of Fashion-MNIST, real where Debian's package is installed, and of its file format."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from cnnbench.data import fashion_mnist
from cnnbench.data.datasets import prepare
from cnnbench.data.prepared import load
from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cnnbench.data.prepared import Prepared, Request
    from cnnbench.environment import DatasetInfo

    MakeTinyIdx = Callable[..., dict[str, str]]

DIGEST = "4dbec1f5e6333f66fb7d5bea83d178d6"

needs_debian = pytest.mark.skipif(
    not fashion_mnist.DEBIAN_FOLDER.is_dir(),
    reason="needs Debian's package dataset-fashion-mnist",
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("fashion")
    return prepare(
        "fashion_mnist", data_dir=folder, cache_dir=folder, download=False, image_size=None
    )


@pytest.fixture(scope="module")
def prepared(real: DatasetInfo, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return load(tmp_path_factory.getbasetemp() / real.path)


@needs_debian
def test_debians_files_are_the_published_ones(real: DatasetInfo) -> None:
    assert real.source == str(fashion_mnist.DEBIAN_FOLDER)
    assert real.digest == DIGEST
    assert (real.num_train, real.num_val, real.num_test) == (54_000, 6_000, 10_000)


@needs_debian
def test_the_statistics_are_those_of_the_padded_training_images(
    real: DatasetInfo, prepared: Prepared
) -> None:
    images = prepared.images[prepared.splits.train]
    padded = np.pad(images[:, 0], ((0, 0), (2, 2), (2, 2))).astype(np.float32) / 255
    assert real.mean == pytest.approx([padded.mean(dtype=np.float64)] * 3, abs=1e-5)
    assert real.std == pytest.approx([padded.std(dtype=np.float64)] * 3, abs=1e-5)


@needs_debian
def test_the_official_test_images_are_the_test_split(prepared: Prepared) -> None:
    splits = prepared.splits
    assert splits.test.tolist() == list(range(60_000, 70_000))
    assert set(np.bincount(prepared.labels[splits.val])) == {600}
    assert set(np.bincount(prepared.labels[splits.train])) == {5400}
    assert not np.intersect1d(splits.train, splits.val).size


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "fashion-mnist", "."])
def test_the_files_are_found_wherever_they_may_lie(
    tmp_path: Path,
    make_tiny_idx: MakeTinyIdx,
    *,
    place: str,
    gzipped: bool,
) -> None:
    checksums = make_tiny_idx(tmp_path / place, gzipped=gzipped)
    places = [tmp_path / "FashionMNIST" / "raw", tmp_path / "fashion-mnist", tmp_path]
    found = fashion_mnist.find(places)
    assert found is not None
    decoded = fashion_mnist.decode(found, checksums)
    assert decoded.shape == (80, 1, 28, 28)
    assert [len(decoded.splits.train), len(decoded.splits.val), len(decoded.splits.test)] == [
        54,
        6,
        20,
    ]
    images = next(decoded.chunks())
    np.testing.assert_array_equal(
        images[:60, 0], np.random.RandomState(1).randint(0, 256, (60, 28, 28))
    )


@pytest.mark.parametrize("name", list(fashion_mnist.SHA256))
def test_a_flipped_byte_is_named(tmp_path: Path, make_tiny_idx: MakeTinyIdx, name: str) -> None:
    checksums = make_tiny_idx(tmp_path, gzipped=False)
    data = bytearray((tmp_path / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / name).write_bytes(data)
    found = fashion_mnist.find([tmp_path])
    assert found is not None
    with pytest.raises(DataError, match=rf"{name} is corrupt.*SHA-256"):
        fashion_mnist.decode(found, checksums)


@pytest.mark.parametrize("damage", ["truncated", "no gzip", "garbled"])
def test_a_broken_gzip_file_is_named(
    tmp_path: Path, make_tiny_idx: MakeTinyIdx, damage: str
) -> None:
    checksums = make_tiny_idx(tmp_path, gzipped=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    data = path.read_bytes()
    garbled = data[:20] + bytes(100) + data[120:]
    path.write_bytes({"truncated": data[:-50], "no gzip": b"<html>", "garbled": garbled}[damage])
    found = fashion_mnist.find([tmp_path])
    assert found is not None
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is corrupt"):
        fashion_mnist.decode(found, checksums)


@pytest.mark.usefixtures("as_ordinary_user")
def test_an_unreadable_file_is_named(tmp_path: Path, make_tiny_idx: MakeTinyIdx) -> None:
    checksums = make_tiny_idx(tmp_path / "fashion-mnist", gzipped=False)
    (tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte").chmod(0)
    found = fashion_mnist.find([tmp_path / "fashion-mnist"])
    assert found is not None
    with pytest.raises(DataError, match=r"cannot read .*train-labels.*Permission denied"):
        fashion_mnist.decode(found, checksums)


@pytest.mark.usefixtures("as_ordinary_user")
def test_a_folder_that_may_not_be_looked_into_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DataError, match=r"locked/.*Permission denied"):
        fashion_mnist.find([tmp_path / "locked"])


def test_missing_files_are_said_with_every_remedy(
    tmp_path: Path,
    make_tiny_idx: MakeTinyIdx,
    make_request: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    request = make_request("fashion_mnist")
    make_tiny_idx(request.data_dir, gzipped=True)
    (request.data_dir / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as refusal:
        fashion_mnist.fashion_mnist(request)
    said = str(refusal.value)
    assert f"{request.data_dir} (which lacks t10k-labels-idx1-ubyte)" in said
    assert str(tmp_path / "debian") in said
    for remedy in ("--download", "dataset-fashion-mnist", "--data-dir"):
        assert remedy in said


def test_a_download_brings_the_four_files(
    tmp_path: Path, make_tiny_idx: MakeTinyIdx, serve: Callable[[Path], str]
) -> None:
    checksums = make_tiny_idx(tmp_path / "server", gzipped=True)
    address = serve(tmp_path / "server")

    class Local(FashionMNIST):  # type: ignore[misc]  # torchvision has no types
        mirrors = (address,)
        resources = tuple((f"{name}.gz", None) for name in checksums)

    folder = tmp_path / "data" / "FashionMNIST" / "raw"
    fashion_mnist.download(Local, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.gz" for name in checksums
    )
    found = fashion_mnist.find([folder])
    assert found is not None
    assert fashion_mnist.decode(found, checksums).shape == (80, 1, 28, 28)


def test_idx_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="no IDX file of unsigned bytes"):
        fashion_mnist.parse_idx(gzip.compress(b"something else"))
