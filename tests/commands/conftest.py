"""What the tests of several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from command import TINY_PROFILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Give this process as many threads as the others: their number is part of the environment."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file, and with profiles that are wrong."""
    (tmp_path / "a_file").write_text("")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\x89PNG\xff")
    (tmp_path / "no.toml").write_text("not toml")
    (tmp_path / "keys.toml").write_text("[recipe]\nepoch = 3\n[[grid]]\narchitecture = 'resnet'")
    types = "[recipe]\nepochs = 'three'\n[[grid]]\narchitecture = 'resnet'"
    (tmp_path / "types.toml").write_text(types)
    (tmp_path / "empty.toml").write_text("description = 'nothing'")
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    return tmp_path
