"""Tests of CIFAR, on small files pickled as Python 2 pickled the published ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import re
import tarfile
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from cnnbench.data.cifar import (
    PUBLISHED_CIFAR10,
    PUBLISHED_CIFAR100,
    Published,
    cifar10,
    cifar100,
    prepare_published,
    read_pickle,
)
from cnnbench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cnnbench.data.prepared import Request

NUM_CLASSES = 5


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def tar_of(contents: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


class Tiny:
    """CIFAR's files with 20 images each, and the class that publishes their checksums."""

    def __init__(self, base: type[CIFAR10], pickled: Callable[[object], bytes]) -> None:
        """Write them as `base` lays them out."""
        pixels = np.random.RandomState(3)
        key = "labels" if base is CIFAR10 else "fine_labels"
        self.base = base
        self.pixels = {}
        self.contents = {}
        for name, _ in [*base.train_list, *base.test_list]:
            images = pixels.randint(0, 256, (20, 3072)).astype(np.uint8)
            labels = [index % NUM_CLASSES for index in range(20)]
            self.pixels[name] = images
            self.contents[name] = pickled({"data": images, key: labels, "filenames": ["a", "b"]})
        meta = {base.meta["key"]: [f"class {index}" for index in range(NUM_CLASSES)]}
        self.contents[base.meta["filename"]] = pickled(meta)

    @cached_property
    def archive(self) -> bytes:
        """The published archive; packed once, since gzip writes the time down."""
        return tar_of(
            {f"{self.base.base_folder}/{name}": data for name, data in self.contents.items()}
        )

    def published(self, archive: bytes = b"", address: str = "") -> Published:
        """Return torchvision's class with these files' checksums and another address."""
        base, sums = self.base, {name: md5(data) for name, data in self.contents.items()}
        changed = {
            "train_list": [[name, sums[name]] for name, _ in base.train_list],
            "test_list": [[name, sums[name]] for name, _ in base.test_list],
            "meta": {**base.meta, "md5": sums[base.meta["filename"]]},
            "tgz_md5": md5(archive),
            "url": f"{address}{base.filename}",
        }
        contents = {**self.contents, base.filename: archive}
        return Published(
            base=type("Published", (base,), changed),
            sha256s={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        )

    def unpack(self, data_dir: Path) -> Path:
        """Lay the files down as torchvision unpacks them."""
        folder: Path = data_dir / self.base.base_folder
        folder.mkdir(parents=True)
        for name, data in self.contents.items():
            (folder / name).write_bytes(data)
        return folder


@pytest.fixture
def tiny(python2_pickle: Callable[[object], bytes]) -> Tiny:
    return Tiny(CIFAR10, python2_pickle)


@pytest.fixture
def request_(make_request: Callable[..., Request]) -> Request:
    request = make_request("cifar10")
    request.data_dir.mkdir()
    return request


def test_the_unpacked_files_are_read(tiny: Tiny, request_: Request) -> None:
    tiny.unpack(request_.data_dir)
    decoded = prepare_published(tiny.published(), request_)
    assert decoded.shape == (120, 3, 32, 32)
    assert decoded.num_classes == NUM_CLASSES
    splits = decoded.splits
    assert (len(splits.train), len(splits.val), len(splits.test)) == (90, 10, 20)
    assert splits.test.tolist() == list(range(100, 120))
    images = next(iter(decoded.chunks()))
    expected = np.concatenate(list(tiny.pixels.values())).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(images, expected)
    assert decoded.labels.tolist() == [index % NUM_CLASSES for index in range(120)]


def test_cifar100_is_read_by_its_fine_labels(
    python2_pickle: Callable[[object], bytes], make_request: Callable[..., Request]
) -> None:
    tiny, request = Tiny(CIFAR100, python2_pickle), make_request("cifar100")
    tiny.unpack(request.data_dir)
    decoded = prepare_published(tiny.published(), request)
    assert decoded.shape == (40, 3, 32, 32)
    assert decoded.labels.max() == NUM_CLASSES - 1


def test_the_archive_alone_is_enough_and_nothing_is_unpacked(tiny: Tiny, request_: Request) -> None:
    (request_.data_dir / CIFAR10.filename).write_bytes(tiny.archive)
    decoded = prepare_published(tiny.published(tiny.archive), request_)
    assert decoded.shape == (120, 3, 32, 32)
    assert [path.name for path in request_.data_dir.iterdir()] == [CIFAR10.filename]


def test_the_archive_and_the_unpacked_files_are_the_same_data(
    tiny: Tiny, request_: Request
) -> None:
    (request_.data_dir / CIFAR10.filename).write_bytes(tiny.archive)
    packed = prepare_published(tiny.published(tiny.archive), request_)
    tiny.unpack(request_.data_dir)
    unpacked = prepare_published(tiny.published(tiny.archive), request_)
    assert packed.fingerprint == unpacked.fingerprint
    np.testing.assert_array_equal(next(iter(packed.chunks())), next(iter(unpacked.chunks())))


def test_a_download_brings_the_archive(
    tiny: Tiny, tmp_path: Path, make_request: Callable[..., Request], serve: Callable[[Path], str]
) -> None:
    archive = tiny.archive
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / CIFAR10.filename).write_bytes(archive)
    published = tiny.published(archive, serve(tmp_path / "server"))
    decoded = prepare_published(published, make_request("cifar10", download=True))
    assert decoded.shape == (120, 3, 32, 32)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [CIFAR10.filename]


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_flipped_byte_is_named(tiny: Tiny, request_: Request, name: str) -> None:
    path = tiny.unpack(request_.data_dir) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name} is corrupt.*SHA-256"):
        prepare_published(tiny.published(), request_)


def test_a_wrong_checksum_is_refused_before_the_pickle_is_read(
    tiny: Tiny, request_: Request
) -> None:
    published = tiny.published()
    folder = tiny.unpack(request_.data_dir)
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"data_batch_1 is corrupt.*SHA-256"):
        prepare_published(published, request_)


def test_a_pickle_that_names_a_forbidden_class_is_refused_and_not_run(
    tiny: Tiny, request_: Request, tmp_path: Path
) -> None:
    trace = tmp_path / "was_run"
    tiny.contents["data_batch_2"] = f"cos\nsystem\n(S'touch {trace}'\ntR.".encode()
    tiny.unpack(request_.data_dir)
    with pytest.raises(DataError, match=r"data_batch_2 is corrupt .*os\.system"):
        prepare_published(tiny.published(), request_)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["builtins eval", "numpy load", "numpy.core.multiarray scalar"])
def test_only_what_arrays_need_is_allowed(name: str) -> None:
    module, function = name.split()
    with pytest.raises(pickle.UnpicklingError, match="which no image needs"):
        read_pickle(f"c{module}\n{function}\n(tR.".encode())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_that_this_python_pickles_are_read_too(protocol: int) -> None:
    value = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [0, 1]}
    read = read_pickle(pickle.dumps(value, protocol=protocol))
    np.testing.assert_array_equal(read["data"], value["data"])
    assert read["labels"] == [0, 1]


@pytest.mark.parametrize(
    "batch",
    [
        {"labels": [0] * 20},
        {"data": np.zeros((20, 3072), np.int64), "labels": [0] * 20},
        {"data": np.zeros((20, 3071), np.uint8), "labels": [0] * 20},
        {"data": np.zeros((19, 3072), np.uint8), "labels": [0] * 20},
        {"data": np.zeros((20, 3072), np.uint8), "labels": [NUM_CLASSES] * 20},
        {"data": np.zeros((20, 3072), np.uint8), "labels": "labels"},
        ["no mapping"],
    ],
)
def test_a_pickle_without_images_and_labels_is_named(
    tiny: Tiny, request_: Request, python2_pickle: Callable[[object], bytes], batch: Any
) -> None:
    tiny.contents["data_batch_5"] = python2_pickle(batch)
    tiny.unpack(request_.data_dir)
    with pytest.raises(DataError, match="data_batch_5 is corrupt"):
        prepare_published(tiny.published(), request_)


@pytest.mark.parametrize("garbage", [b"", b"\x80\x02", b"(((", b"I1e99\n.", b"\x80\x02}q"])
def test_bytes_that_are_no_pickle_are_named(tiny: Tiny, request_: Request, garbage: bytes) -> None:
    tiny.contents["data_batch_4"] = garbage
    tiny.unpack(request_.data_dir)
    with pytest.raises(DataError, match="data_batch_4 is corrupt"):
        prepare_published(tiny.published(), request_)


def test_an_archive_with_another_checksum_is_refused(tiny: Tiny, request_: Request) -> None:
    (request_.data_dir / CIFAR10.filename).write_bytes(tiny.archive[:-10])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is corrupt.*SHA-256"):
        prepare_published(tiny.published(tiny.archive), request_)


@pytest.mark.parametrize(
    "garbage", [b"no archive", gzip.compress(b"no archive" * 100, mtime=0), b""]
)
def test_an_archive_that_cannot_be_opened_is_named(
    tiny: Tiny, request_: Request, garbage: bytes
) -> None:
    (request_.data_dir / CIFAR10.filename).write_bytes(garbage)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is corrupt"):
        prepare_published(tiny.published(garbage), request_)


def test_an_archive_reaches_no_other_folder(tiny: Tiny, request_: Request) -> None:
    members = {f"{CIFAR10.base_folder}/{name}": data for name, data in tiny.contents.items()}
    del members[f"{CIFAR10.base_folder}/test_batch"]
    outside = f"{CIFAR10.base_folder}/../../outside"
    archive = tar_of({**members, outside: b"escaped", "/tmp/test_batch": b"escaped"})  # noqa: S108  # a hostile name
    (request_.data_dir / CIFAR10.filename).write_bytes(archive)
    before = sorted(request_.data_dir.parent.rglob("*"))
    with pytest.raises(DataError, match="no plain file cifar-10-batches-py/test_batch"):
        prepare_published(tiny.published(archive), request_)
    assert sorted(request_.data_dir.parent.rglob("*")) == before


def test_a_link_in_an_archive_is_not_followed(
    tiny: Tiny, request_: Request, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(tiny.contents["test_batch"])
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in tiny.contents.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            if name == "test_batch":
                member.type, member.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
            member.size = 0 if name == "test_batch" else len(data)
            archive.addfile(member, io.BytesIO(data))
    (request_.data_dir / CIFAR10.filename).write_bytes(packed.getvalue())
    with pytest.raises(DataError, match="no plain file cifar-10-batches-py/test_batch"):
        prepare_published(tiny.published(packed.getvalue()), request_)


@pytest.mark.parametrize("find", [cifar10, cifar100])
def test_missing_files_are_said_with_the_remedies(
    make_request: Callable[..., Request], find: Callable[[Request], object]
) -> None:
    request = make_request(find.__name__)
    with pytest.raises(DataError) as refusal:
        find(request)
    said = str(refusal.value)
    assert said.startswith(f"{find.__name__} was not found")
    for part in ("--download", "--data-dir", str(request.data_dir), ".tar.gz"):
        assert part in said


def test_unpacked_files_of_unknown_sha256_are_left_alone(tiny: Tiny, request_: Request) -> None:
    tiny.unpack(request_.data_dir)
    known = tiny.published(tiny.archive)
    name = CIFAR10.filename
    only_archive = Published(base=known.base, sha256s={name: known.sha256s[name]})
    with pytest.raises(DataError, match=r"tar\.gz, the archive itself\."):
        prepare_published(only_archive, request_)
    (request_.data_dir / name).write_bytes(tiny.archive)
    assert prepare_published(only_archive, request_).shape == (120, 3, 32, 32)


@pytest.mark.parametrize("published", [PUBLISHED_CIFAR10, PUBLISHED_CIFAR100])
def test_archives_and_files_are_known_by_whole_sha256(published: Published) -> None:
    assert published.base.filename in published.sha256s
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in published.sha256s.values())
    files = {name for name, _ in [*published.base.train_list, *published.base.test_list]}
    assert set(published.sha256s) <= {
        *files,
        published.base.filename,
        published.base.meta["filename"],
    }


def test_an_incomplete_folder_says_what_it_lacks(tiny: Tiny, request_: Request) -> None:
    (tiny.unpack(request_.data_dir) / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"\(which lacks data_batch_4\)"):
        prepare_published(tiny.published(), request_)
