"""Weights in files: found or fetched, verified, read without running code, and loaded strictly."""

from __future__ import annotations

import hashlib
import sys
import textwrap
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from cnnbench.errors import MissingWeightsError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file with a `state_dict`; `sha256` is what it must have, `None` for a user's own file."""

    path: Path
    sha256: str | None = None


def find_file(path: str) -> WeightsFile:
    """Return the user's weights file at `path`.

    Raises:
        WeightsError: There is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        msg = f"there is no weights file {path!r}: weights are 'imagenet', 'none' or a file."
        raise WeightsError(msg)
    return WeightsFile(path=file)


def find_published(url: str, sha256: str, *, download: bool) -> WeightsFile:
    """Return the weights published at `url`, from the folder where torch.hub keeps downloads.

    Args:
        url: Where they are published; its last part is the file's name.
        sha256: The whole SHA-256 of the file, in hexadecimal digits.
        download: Whether to fetch them if they are not there yet. The file appears only when
            complete and verified.

    Raises:
        MissingWeightsError: They are not there, and may not or cannot be fetched.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return WeightsFile(path=path, sha256=sha256)
    otherwise = "or pass --weights FILE or --weights none."
    if not download:
        msg = f"the weights {path} are not there: pass --download to fetch {url}, {otherwise}"
        raise MissingWeightsError(msg)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(path), hash_prefix=sha256, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError, HTTPException) as error:
        msg = f"cannot fetch {url} ({error}): put that file at {path}, {otherwise}"
        raise MissingWeightsError(msg) from error
    return WeightsFile(path=path, sha256=sha256)


def sha256_of(file: WeightsFile) -> str:
    """Return the SHA-256 that `file` has now.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        with file.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        msg = f"cannot read the weights {file.path}: {error.strerror}."
        raise WeightsError(msg) from error


def expect_unchanged(path: str, sha256: str) -> None:
    """Refuse the user's weights file at `path` unless it still has the SHA-256 that it had.

    Raises:
        WeightsError: It is another file by now, or gone.
    """
    found = sha256_of(find_file(path))
    if found != sha256:
        msg = (
            f"the weights {path} have changed since they were checked: their SHA-256 is {found}, "
            f"not {sha256}. Run again to measure with them."
        )
        raise WeightsError(msg)


def read(file: WeightsFile) -> dict[str, Tensor]:
    """Return the tensors of `file` by name, on the CPU. No code that the file may hold is run.

    Raises:
        WeightsError: The file cannot be read, has another checksum, or holds no `state_dict`.
    """
    try:
        with file.path.open("rb") as stream:
            if file.sha256:
                _verify(file.path, hashlib.file_digest(stream, "sha256").hexdigest(), file.sha256)
                stream.seek(0)
            state_dict = _load_tensors(file.path, stream)
    except OSError as error:
        msg = f"cannot read the weights {file.path}: {error.strerror}."
        raise WeightsError(msg) from error
    if not _is_state_dict(state_dict):
        msg = (
            f"the weights {file.path} hold no state_dict, but a {type(state_dict).__name__}. "
            "Write them by torch.save(model.state_dict(), FILE)."
        )
        raise WeightsError(msg)
    return dict(state_dict)


def load(model: nn.Module, file: WeightsFile) -> None:
    """Load the weights of `file` into `model`: every name and every shape must fit.

    Raises:
        WeightsError: The file cannot be read, or belongs to another model.
    """
    state_dict = read(file)
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        lines = str(error).splitlines()[1:]
        text = "; ".join(textwrap.shorten(line, 160, placeholder=" ...") for line in lines[:3])
        msg = (
            f"the weights {file.path} do not fit: they must come from the same architecture, "
            f"parameters, number of classes and image size. {text}"
        )
        raise WeightsError(msg) from error


def _verify(path: Path, found: str, expected: str) -> None:
    if found != expected:
        msg = (
            f"the weights {path} are damaged or not the published ones: their SHA-256 is {found}, "
            f"not {expected}. Delete the file and fetch it anew with --download."
        )
        raise WeightsError(msg)


def _load_tensors(path: Path, stream: BinaryIO) -> Any:
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message advises to switch this protection off.
        msg = (
            f"cannot read the weights {path}: damaged, or more than tensors, which is refused "
            "because it could run code. Write them by torch.save(model.state_dict(), FILE)."
        )
        raise WeightsError(msg) from error


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )
