"""Two ranks that train one model: the same as one alone, timed to the last, and never left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnbench.cell import split_parallelism
from cnnbench.errors import InvalidValueError
from cnnbench.execute import PROFILED_ONLY, RANK_0, SHARED_CPU, execute
from cnnbench.measure.timing import Stopwatch
from cnnbench.precision import BF16
from cnnbench.training.parallel import TeamStopwatch, gather
from processes import wait_until_ended
from sample_jobs import job, tiny_cell

TESTS = Path(__file__).parent.parent

needs_two_processors = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)


@pytest.fixture(scope="module")
def cases() -> Any:
    """Run every case of `ranks.py`, each in a process that has not computed yet."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    ran = subprocess.run(
        [sys.executable, TESTS / "ranks.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=200,
    )
    return json.loads(ran.stdout)


@needs_two_processors
def test_two_ranks_learn_from_halves_of_a_batch_what_one_learns_from_the_whole(cases: Any) -> None:
    # Three steps of Adam move each weight by up to 3e-3, whatever the size of its gradient.
    assert cases["data"]["difference"] < 1e-5
    assert cases["data"]["kept"] == 1
    assert cases["sharded"]["difference"] < 1e-5
    assert 0.45 < cases["sharded"]["kept"] < 0.55


@needs_two_processors
@pytest.mark.parametrize("name", ["pipelined", "pipelined recomputed"])
def test_two_ranks_with_a_part_of_the_layers_each_learn_what_one_with_all_learns(
    cases: Any, name: str
) -> None:
    first, last = cases[name]["first"], cases[name]["last"]
    assert max(first["difference"], last["difference"]) < 1e-5
    assert first["names"] + last["names"] == cases[name]["whole"]
    assert min(len(first["names"]), len(last["names"])) > 0


@needs_two_processors
@pytest.mark.parametrize(
    "name", ["executed data", "executed sharded", "executed pipelined", "executed in stages"]
)
def test_a_cell_on_two_ranks_is_profiled(cases: Any, name: str) -> None:
    row = cases[name]
    assert (row["status"], row["error"]) == ("completed", None)
    assert row["images_per_second"] == pytest.approx(
        row["batch_size"] / (row["step_ms_median"] / 1e3)
    )
    assert row["peak_allocated_mib"] > 0
    assert row["num_parameters"] > 0
    assert row["mfu"] is None
    assert {RANK_0, SHARED_CPU} <= set(row["notes"])


@needs_two_processors
def test_a_pipelined_cell_counts_the_whole_model_and_says_how_it_was_cut(cases: Any) -> None:
    row = cases["executed pipelined"]
    assert row["num_parameters"] == cases["executed sharded"]["num_parameters"]
    assert row["notes"][0] == (
        "cut before stage3.0: the ranks have 58%, 42% of the forward pass's operations and 7%, 93% of the"
        " weights; a batch passes as 8 micro-batches of 8 images, and batch normalization sees one of them"
        " at a time"
    )


@needs_two_processors
@pytest.mark.skipif(bool(BF16().unsupported_reason(torch.device("cpu"))), reason="no bfloat16")
def test_each_rank_keeps_its_activations_in_the_cells_precision(cases: Any) -> None:
    half, full = cases["executed bf16"], cases["executed pipelined"]
    assert (half["status"], half["error"]) == ("completed", None)
    assert half["peak_allocated_mib"] < 0.75 * full["peak_allocated_mib"]


@needs_two_processors
def test_a_rank_without_the_loss_still_knows_whether_it_diverged(cases: Any) -> None:
    diverged = "the loss became infinite or not a number"
    assert diverged in cases["executed diverging"]["validity_reasons"]
    assert diverged not in (cases["executed pipelined"]["validity_reasons"] or "")


@needs_two_processors
def test_a_cell_on_two_ranks_is_not_trained_and_says_so(cases: Any) -> None:
    row = cases["executed data"]
    assert row["test_accuracy"] is None
    assert PROFILED_ONLY in row["notes"]
    assert PROFILED_ONLY not in cases["executed sharded"]["notes"]


@needs_two_processors
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("executed odd", "cannot share out a batch of 7 images evenly"),
        ("executed many", "parallelism=data-999 needs 999 processors, and this machine has"),
        ("executed compiled", "runs uncompiled only, not with compile=default"),
        ("executed untimed", "is profiled only, and this cell is not to be timed"),
        ("executed stages", "checkpointing=stage recomputes across parts"),
        ("executed sgd", "goes with adam and adamw"),
        ("executed scaled", "does not go with fp16"),
        ("executed uneven", "cannot cut a batch of 12 images into 8 equal micro-batches"),
        ("executed overflowing", "does not go with fp16"),
        ("executed frozen", "none passes a frozen trunk"),
        ("executed methods", "cannot cut SimpleCNN between methods"),
    ],
)
def test_what_cannot_be_shared_out_is_unsupported_with_the_reason(
    cases: Any, name: str, reason: str
) -> None:
    assert cases[name]["status"] == "unsupported"
    assert reason in cases[name]["error"]


@needs_two_processors
def test_another_ranks_error_is_told_in_its_own_words(cases: Any) -> None:
    assert cases["failing"]["error"] == "rank 1: RuntimeError: out of memory, for one"


@needs_two_processors
@pytest.mark.parametrize("name", ["abandoned", "abandoned in a pipeline"])
def test_no_rank_outlives_the_first(cases: Any, name: str) -> None:
    wait_until_ended([cases[name]["pid"]])


@needs_two_processors
def test_a_process_that_has_computed_is_not_forked(digits: Any) -> None:
    torch.randn(300, 300) @ torch.randn(300, 300)  # on as many threads as there are
    if len(list(Path("/proc/self/task").iterdir())) == 1:
        pytest.skip("torch has one thread here")
    record = execute(job(tiny_cell(parallelism="data-2"), digits), lambda _: None)
    assert record.status == "unsupported"
    assert "not with isolation=inline" in str(record.error)


def test_a_cell_on_one_device_has_no_team() -> None:
    with gather(tiny_cell(), torch.device("cpu"), lambda _: None) as team:
        assert team is None


def test_the_stopwatch_stops_after_the_last_rank_and_meets_it_once_a_window() -> None:
    seen: list[str] = []

    class Meeting:
        def barrier(self) -> None:
            seen.append("barrier")

    watch = TeamStopwatch(Stopwatch(), Meeting())  # type: ignore[arg-type]
    for _ in range(2):
        watch.run(lambda: seen.append("step"), 3)
    assert seen == ["step", "step", "step", "barrier"] * 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("none", ("none", 1)),
        ("data-2", ("data", 2)),
        ("sharded-16", ("sharded", 16)),
        ("pipelined-4", ("pipelined", 4)),
    ],
)
def test_a_parallelism_says_how_and_on_how_many(text: str, parts: tuple[str, int]) -> None:
    assert split_parallelism(text) == parts


@pytest.mark.parametrize("text", ["", "data", "data-1", "data-0", "data-02", "piped-2", "data-2x"])
def test_what_is_no_parallelism_is_answered_with_those_there_are(text: str) -> None:
    with pytest.raises(InvalidValueError, match="There are: none, data-N, sharded-N, pipelined-N"):
        tiny_cell(parallelism=text)
