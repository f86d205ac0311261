"""What a sweep foresees of its cells' memory, and that a forecast costs no cell anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cnnbench import api, predict
from cnnbench.sweep.run import Observer
from command import TINY_PROFILE, as_a_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cnnbench.results import Records

MODELS = """
import time
from pathlib import Path
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def net(num_classes):
    with Path("builds").open("a") as file:
        file.write("x")
    return Net(num_classes)

class Hanging(Net):
    def forward(self, x):
        while type(x) is not torch.Tensor:
            time.sleep(0.01)
        return super().forward(x)

def hanging(num_classes):
    return Hanging(num_classes)
"""


class Noting(Observer):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    (tmp_path / "foreseen.py").write_text(MODELS)
    with as_a_process(tmp_path):
        yield tmp_path


def run(observer: Observer | None = None, **settings: Any) -> Records:
    usual = {"isolation": "inline", "tracking_uri": "none", "epochs": 0, "batch_size": 64}
    return api.run("tiny.toml", observer=observer, **{**usual, **settings})


def test_each_measured_cell_has_its_forecast_beside_it(place: Path) -> None:
    observer = Noting()
    records = run(observer, architecture="simple_cnn", batch_size=[32, 48, 64])
    assert len(records) == 3
    for record in records:
        row = record.row()
        assert row["forecast_mib"] == pytest.approx(row["peak_allocated_mib"], rel=0.15)
    assert records.to_frame()["forecast_mib"].notna().all()
    assert observer.warnings == []
    assert place in (records.folder or place).parents


def test_a_forecast_builds_no_model_once_more(place: Path) -> None:
    (record,) = run(architecture="foreseen:net")
    assert record.status == "completed"
    assert record.forecast_bytes is not None
    # The preflight's and the cell's own.
    assert (place / "builds").read_text() == "xx"


@pytest.mark.usefixtures("place")
def test_a_cell_that_may_not_fit_is_said_to_be_doubtful_and_runs() -> None:
    observer = Noting()
    (record,) = run(observer, memory_budget="1MiB")
    (warning,) = observer.warnings
    assert warning.startswith(f"{record.cell.name}: forecast ")
    assert warning.endswith(" MiB of 1 MiB: doubtful")
    assert record.status == "out_of_memory"
    assert record.memory is not None


@pytest.mark.usefixtures("place")
def test_a_model_that_hangs_in_its_forecast_is_measured_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predict, "LIMIT_SECONDS", 0.3)
    hanging, other = run(architecture=["foreseen:hanging", "simple_cnn(width=4)"])
    assert [hanging.status, other.status] == ["completed", "completed"]
    assert hanging.row()["forecast_mib"] is None
    assert other.forecast_bytes is not None
