"""The loops of others train what their cells train, and their table says who is ahead."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.figures import Figure, write_figures
from bench.peers import loops
from bench.peers.opponents import GROUPS, Opponent, opponents
from bench.peers_table import MARKERS, table
from bench.verdict_table import replace_between_markers
from cnnbench.errors import StoreError

AHEAD = Figure(
    name="peer_item_fp32",
    workload="resnet-fp32-b128-none-channels_last: our images/s over a loop with two .item() a step",
    device="A device",
    value=1.2,
    low=1.1,
    high=1.3,
    unit="x",
    target=1.15,
    met=True,
)


@pytest.mark.parametrize("cuda", [False, True])
def test_every_opponent_has_a_name_and_a_loop_of_its_own(*, cuda: bool) -> None:
    found = opponents(cuda=cuda)
    assert len({one.name for one in found}) == len(found)
    assert {one.loop for one in found} == {"bare", *loops.LOOPS}
    assert {one.group for one in found} == set(GROUPS)
    assert all(one.cell.memory_format == "channels_last" for one in found)


def test_a_peer_that_is_not_installed_is_named() -> None:
    [first, *_] = opponents(cuda=False)
    assert first.missing() is None
    assert replace(first, needs="no_such_package").missing() == "no_such_package"


@pytest.mark.parametrize("name", loops.LOOPS)
def test_every_loop_takes_steps(name: str) -> None:
    if name == "fabric":
        pytest.importorskip("lightning_fabric", reason="the peers are not installed")
    setting = loops.Setting(
        architecture="simple_cnn(width=4,hidden=16)",
        precision="bf16",
        batch_size=1024,
        image_size=16,
    )
    assert loops.seconds_of(loops.LOOPS[name](setting), 3) > 0


def test_the_command_of_a_loop_is_what_it_reads(opponent: Opponent) -> None:
    command = opponent.launcher().command(opponent.cell)
    assert command[:4] == [sys.executable, "-m", "bench.peers.loops", opponent.loop]
    assert command[4:] == ["resnet(width=16,depth=1)", "fp32", "128", "32"]


@pytest.fixture
def opponent() -> Opponent:
    return next(one for one in opponents(cuda=False) if one.name == "peer_item_fp32")


def test_the_table_says_who_is_ahead_and_what_was_asked() -> None:
    behind = replace(AHEAD, value=0.8, low=0.7, high=0.9, target=None, met=None)
    missed = replace(AHEAD, value=1.0, low=0.9, high=1.1, met=False)
    far = replace(AHEAD, value=3.04, low=2.9, high=3.3)
    text = table([AHEAD, behind, missed, far])
    assert text.startswith("On A device; above 1 cnnbench is ahead.")
    first, second, third, fourth = text.strip().splitlines()[-4:]
    assert "| 1.200 | 1.100 to 1.300 | cnnbench, by 20.0% | ≥ 1.15, met |" in first
    assert "| the other, by 25.0% |  |" in second
    assert "| neither | ≥ 1.15, missed |" in third
    assert "cnnbench, 3.0 times" in fourth


def test_the_table_goes_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("\n".join(["before", *MARKERS, "after"]))
    replace_between_markers(page, table([AHEAD]), MARKERS)
    text = page.read_text()
    assert text.index("before") < text.index("1.200") < text.index("after")


def test_the_readme_has_a_place_for_the_table(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text((Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8"))
    replace_between_markers(page, table([AHEAD]), MARKERS)
    assert "cnnbench, by 20.0%" in page.read_text()


def test_without_rows_there_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="make bench-peers"):
        table([])
    file = tmp_path / "peers.csv"
    write_figures([replace(AHEAD, name="another")], file)
    done = subprocess.run(
        [sys.executable, "-m", "bench.peers_table", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("peers_table: no row of a peer")
