"""How processors are shared out: by whole cores, evenly, one core left over where there are enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cnnbench.sweep.cores import share_out

if TYPE_CHECKING:
    from pathlib import Path


def machine(folder: Path, *cores: str) -> Path:
    """Write who shares a core as Linux does, each core as a list such as `0,4` or `0-1`."""
    for core in cores:
        separator = "-" if "-" in core else ","
        for number in core.split(separator):
            topology = folder / f"cpu{number}" / "topology"
            topology.mkdir(parents=True)
            (topology / "thread_siblings_list").write_text(f"{core}\n")
    return folder


@pytest.mark.parametrize(
    ("num_processors", "num_lanes", "expected"),
    [
        (2, 1, [{1}]),
        (1, 1, [{0}]),
        (2, 2, [{0}, {1}]),
        (8, 2, [{2, 3, 4}, {5, 6, 7}]),
        (9, 4, [{1, 2}, {3, 4}, {5, 6}, {7, 8}]),
        (2, 3, [{0, 1}] * 3),
        (4, 0, []),
    ],
)
def test_each_lane_gets_as_many_processors_of_its_own(
    tmp_path: Path, num_processors: int, num_lanes: int, expected: list[set[int]]
) -> None:
    assert share_out(range(num_processors), num_lanes, system=tmp_path) == expected


@pytest.mark.parametrize("cores", [("0,4", "1,5", "2,6", "3,7"), ("0-1", "2-3", "4-5", "6-7")])
def test_the_two_threads_of_a_core_are_never_parted(tmp_path: Path, cores: tuple[str, ...]) -> None:
    first, second = share_out(range(8), 2, system=machine(tmp_path, *cores))
    for share in (first, second):
        assert len(share) == 2
        assert any(share == set(map(int, core.replace("-", ",").split(","))) for core in cores)
    assert not first & second


def test_only_processors_that_may_be_used_are_shared_out(tmp_path: Path) -> None:
    system = machine(tmp_path, "0,4", "1,5", "2,6", "3,7")
    assert share_out({1, 5, 6}, 2, system=system) == [{1, 5}, {6}]


def test_a_machine_that_tells_nothing_of_its_cores_has_one_a_processor(tmp_path: Path) -> None:
    topology = tmp_path / "cpu0" / "topology"
    topology.mkdir(parents=True)
    (topology / "thread_siblings_list").write_text("nonsense")
    assert share_out({0, 1}, 2, system=tmp_path) == [{0}, {1}]
