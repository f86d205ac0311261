"""`cnnbench forecast`: tables and JSON of cells that nobody runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cnnbench import api
from command import TINY_PROFILE, as_a_process, listing, run_here

if TYPE_CHECKING:
    from pathlib import Path

FORECAST = ("forecast", "--profile", "tiny.toml", "--isolation", "inline")
SMALL = "simple_cnn(width=4,hidden=16)"

MODELS = """
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Choosing(3, num_classes))

class Choosing(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else -super().forward(x)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY_PROFILE)
    return tmp_path


@pytest.mark.parametrize("budget", [(), ("--memory-budget", "64MiB")])
def test_the_table_shows_parts_total_and_the_largest_batch(
    place: Path, capsys: pytest.CaptureFixture[str], budget: tuple[str, ...]
) -> None:
    before = listing(place)
    arguments = (*FORECAST, "--precision", "fp32,bf16", *budget)
    assert run_here(*arguments, folder=place) == 0
    assert listing(place) == before  # nothing is written
    lines = capsys.readouterr().out.splitlines()
    titles = ("activations", "workspace", "total MiB", "largest batch")
    assert all(title in lines[0] for title in titles)
    assert [line.split()[:5] for line in lines[1:5]] == [
        ["simple_cnn(width=4)", precision, "none", "nchw", batch_size]
        for precision in ("fp32", "bf16")
        for batch_size in ("32", "64")
    ]
    assert lines[-1].startswith("largest batch: for the memory of ")
    assert ("64 MiB, the budget" in lines[-1]) == bool(budget)


def test_rows_as_json_add_up_and_the_budget_bounds_the_largest(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        *(*FORECAST, "--architecture", SMALL, "--batch-size", "16"),
        *("--dataset", "cifar100", "--image-size", "64", "--memory-budget", "64MiB", "--json"),
    )
    assert run_here(*arguments, folder=place) == 0
    (row,) = json.loads(capsys.readouterr().out)
    parts = ("parameters", "gradients", "optimizer", "activations", "workspace")
    assert row["forecast_mib"] == pytest.approx(sum(row[f"{name}_mib"] for name in parts))
    assert (row["batch_size"], row["image_size"]) == (16, 64)
    with as_a_process(place):
        found = api.forecast(
            "tiny.toml",
            architecture=SMALL,
            batch_size=[row["largest_batch"], row["largest_batch"] + 1],
            dataset="cifar100",
            image_size=64,
            isolation="inline",
        )
    at, above = (one["forecast_mib"] for one in found.rows())
    assert at <= 64 < above


def test_a_model_that_cannot_be_forecast_is_not_known_and_the_others_are(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "choosing.py").write_text(MODELS)
    arguments = (*FORECAST, "--architecture", f"choosing:net,{SMALL}")
    assert run_here(*arguments, folder=place) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["choosing:net", "fp32", "none", "nchw", "not", "known"]
    assert lines[2].startswith(SMALL)
    assert lines[-1].startswith("not known: choosing:net: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory-budget", "12 bananas"), "write a number and a unit, such as 16GiB"),
        (("--memory-budget", "-1GiB"), "write a number and a unit, such as 16GiB"),
        (("--architecture", "resnet(depht=1)"), "depht"),
        (("--architecture", "nowhere:net"), "nowhere"),
        (("--dataset", "folder:gone"), "gone"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    before = listing(place)
    assert run_here(*FORECAST, *arguments, folder=place) == 2
    written = capsys.readouterr()
    assert written.out == ""
    (line,) = written.err.splitlines()
    assert said in line
    assert listing(place) == before
