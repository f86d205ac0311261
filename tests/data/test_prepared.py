"""Tests of the prepared file."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cnnbench.data.prepared import Decoded, digest_of, load, store
from cnnbench.data.splits import split
from cnnbench.errors import DataError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

LABELS = np.arange(30, dtype=np.int64) % 3
IMAGES = np.random.RandomState(0).randint(0, 256, (30, 1, 5, 5)).astype(np.uint8)

DECODED = Decoded(
    source="a test",
    fingerprint="one",
    labels=LABELS,
    splits=split(LABELS, val=0.2, test=0.2),
    shape=(30, 1, 5, 5),
    chunks=lambda: iter([IMAGES[:7], IMAGES[7:]]),
    num_classes=3,
    image_size=5,
    augmentation="none",
    augmentations=("none",),
)


def no_pixels() -> Iterator[NDArray[np.uint8]]:
    msg = "the pixels were read again"
    raise AssertionError(msg)


def test_what_is_stored_is_loaded_again(tmp_path: Path) -> None:
    prepared = load(store(DECODED, kind="tiny", cache_dir=tmp_path))
    np.testing.assert_array_equal(prepared.images, IMAGES)
    np.testing.assert_array_equal(prepared.labels, LABELS)
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(prepared.splits, name), getattr(DECODED.splits, name))


def test_the_file_is_named_by_its_own_sha256(tmp_path: Path) -> None:
    path = store(DECODED, kind="tiny", cache_dir=tmp_path)
    assert digest_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert path.is_absolute()


def test_the_digest_covers_images_labels_and_splits(tmp_path: Path) -> None:
    brighter = IMAGES.copy()
    brighter[0, 0, 0, 0] ^= 1
    others = [
        replace(DECODED, fingerprint="two", chunks=lambda: iter([brighter])),
        replace(DECODED, labels=(LABELS + 1) % 3),
        replace(DECODED, splits=split(LABELS, val=0.2, test=0.3)),
    ]
    paths = [store(decoded, kind="tiny", cache_dir=tmp_path) for decoded in (DECODED, *others)]
    assert len({digest_of(path) for path in paths}) == 4


def test_a_sound_file_is_used_again_and_its_pixels_not_read(tmp_path: Path) -> None:
    path = store(DECODED, kind="tiny", cache_dir=tmp_path)
    again = store(replace(DECODED, chunks=no_pixels), kind="tiny", cache_dir=tmp_path)
    assert again == path


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_file_is_written_anew(tmp_path: Path, damage: str) -> None:
    path = store(DECODED, kind="tiny", cache_dir=tmp_path)
    sound = path.read_bytes()
    flipped = sound[:-1] + bytes([sound[-1] ^ 1])
    path.write_bytes({"flip": flipped, "truncate": sound[:-9], "empty": b""}[damage])
    assert store(DECODED, kind="tiny", cache_dir=tmp_path) == path
    assert path.read_bytes() == sound


def test_a_file_in_use_stays_as_it_was(tmp_path: Path) -> None:
    prepared = load(store(DECODED, kind="tiny", cache_dir=tmp_path))
    prepared.images[0] = 0
    np.testing.assert_array_equal(load(next(tmp_path.glob("*.bin"))).images, IMAGES)


@pytest.mark.parametrize("length", [0, 10, 200, 1000])
def test_a_truncated_file_is_named(tmp_path: Path, length: int) -> None:
    path = store(DECODED, kind="tiny", cache_dir=tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=path.name):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.bin.*run again"):
        load(tmp_path / "gone.bin")


def test_a_failure_while_reading_pixels_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[NDArray[np.uint8]]:
        yield IMAGES[:7]
        msg = "the eighth image is corrupt"
        raise DataError(msg)

    with pytest.raises(DataError, match="eighth"):
        store(replace(DECODED, chunks=broken), kind="tiny", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_writing_leaves_no_final_file(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
import numpy as np
from cnnbench.data.prepared import Decoded, store
from cnnbench.data.splits import split

def slow():
    yield np.zeros((2 * 2**20, 1, 1, 1), np.uint8)
    print("half", flush=True)
    time.sleep(600)

labels = np.zeros(4 * 2**20, np.int64)
store(Decoded(source="", fingerprint="one", labels=labels, splits=split(labels, val=0.1, test=0.1),
    shape=(len(labels), 1, 1, 1), chunks=slow, num_classes=1, image_size=1, augmentation="none",
    augmentations=()), kind="tiny", cache_dir=Path({str(tmp_path)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
    left = list(tmp_path.iterdir())
    assert [path.suffix for path in left] == [".part"]
    assert left[0].stat().st_size > 2**20
    assert load(store(DECODED, kind="tiny", cache_dir=tmp_path)).images.shape == (30, 1, 5, 5)


def test_a_cache_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("")
    with pytest.raises(StoreError, match=str(blocked)):
        store(DECODED, kind="tiny", cache_dir=blocked)


@pytest.mark.usefixtures("as_ordinary_user")
def test_an_unwritable_cache_folder_is_refused(tmp_path: Path) -> None:
    locked = tmp_path / "cache"
    locked.mkdir(mode=0o555)
    with pytest.raises(StoreError, match="Permission denied"):
        store(DECODED, kind="tiny", cache_dir=locked)


def test_a_full_disk_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    program = f"""
import resource, signal, sys
from pathlib import Path
import numpy as np
from cnnbench.data.prepared import Decoded, store
from cnnbench.data.splits import split
from cnnbench.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
labels = np.zeros(1000, np.int64)
try:
    store(Decoded(source="", fingerprint="one", labels=labels,
        splits=split(labels, val=0.1, test=0.1), shape=(1000, 1, 1, 1),
        chunks=lambda: iter([np.zeros((1000, 1, 1, 1), np.uint8)]), num_classes=1, image_size=1,
        augmentation="none", augmentations=()), kind="tiny", cache_dir=Path({str(tmp_path)!r}))
except StoreError as error:
    sys.exit(str(error))
"""
    child = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert child.stderr.startswith("cannot keep the prepared data in")
    assert list(tmp_path.iterdir()) == []
