"""What a sweep looks like while it runs, in a log and in a terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from cnnbench.display import LiveDisplay, Pace, PlainDisplay, left_text, plan_line, record_line
from cnnbench.job import Progress
from cnnbench.sweep.plan import Plan
from processes import wait_for
from sample_records import STARTED_AT, sample_cell, sample_fit, sample_record

CELLS = [sample_cell(batch_size=size) for size in (64, 128, 256)]
PLAN = Plan(sweep_id="quick-0123456789ab", cells=tuple(CELLS), environment_hashes={})
NAME = "resnet(width=16,depth=2)-bf16-b64-none"


def drive(display: PlainDisplay) -> None:
    """Let `display` hear a sweep whose first cell had its result already."""
    display.on_phase("starting the workers")
    display.on_plan(PLAN, CELLS[1:])
    display.on_warning("the weights [bold] are not here")
    for cell in CELLS[1:]:
        display.on_cell(cell)
        display.on_progress(cell, Progress(phase="timing"))
        display.on_progress(cell, Progress(phase="training", epoch=2))
        display.on_record(sample_record(cell=cell))


def test_a_log_gets_one_plain_line_for_each_thing_that_happens() -> None:
    text = io.StringIO()
    drive(PlainDisplay(Console(file=text, width=40)))
    lines = text.getvalue().splitlines()
    assert lines[:3] == [
        "starting the workers ...",
        "quick-0123456789ab: 3 cells, 1 with a result already",
        "note: the weights [bold] are not here",
    ]
    assert [line.split("  ")[0] for line in lines[3:]] == [
        "[2/3] resnet(width=16,depth=2)-bf16-b128-none",
        "[3/3] resnet(width=16,depth=2)-bf16-b256-none",
    ]
    assert lines[3].endswith("(8.5 s)  about 00:08 left")
    assert lines[4].endswith("(8.5 s)")
    assert "\x1b" not in text.getvalue()


def test_a_terminal_sees_the_cell_under_way_and_how_many_are_done() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True, color_system=None)

    def see(*parts: str) -> None:
        wait_for(lambda: all(part in text.getvalue() for part in parts), said=str(parts))

    with LiveDisplay(console) as display:
        display.on_phase("starting the workers")
        see("starting the workers")
        display.on_plan(PLAN, CELLS[1:])
        display.on_cell(CELLS[1])
        display.on_progress(CELLS[1], Progress(phase="warming up"))
        see("resnet(width=16,depth=2)-bf16-b128-none: warming up", "1/3")
        display.on_progress(CELLS[1], Progress(phase="training", epoch=2))
        see("resnet(width=16,depth=2)-bf16-b128-none: epoch 2/3")
        display.on_record(sample_record(cell=CELLS[1]))
        see("[2/3] resnet(width=16,depth=2)-bf16-b128-none", "2/3", "about 00:08 left")
    bar_is_gone, cursor_is_back = "\x1b[2K", "\x1b[?25h"
    assert text.getvalue().endswith(bar_is_gone)
    assert cursor_is_back in text.getvalue()


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    text = io.StringIO()
    cell = sample_cell(architecture="m:net(sizes=[1])")
    console = Console(file=text, width=120, force_terminal=True, color_system=None)
    with LiveDisplay(console) as display:
        display.on_plan(replace(PLAN, cells=(cell,)), [cell])
        display.on_cell(cell)
        wait_for(lambda: "m:net(sizes=[1])-bf16-b64-none" in text.getvalue(), said="the cell")
        display.on_record(sample_record(cell=cell, status="failed", error="no [/bold] here"))
    assert "no [/bold] here" in text.getvalue()


def test_a_completed_cell_is_its_rate_its_memory_and_its_accuracy() -> None:
    line = record_line(sample_record(cell=CELLS[0]))
    assert line.startswith(f"{NAME}  3,1")
    assert "img/s  61 MiB  73.3% val  (8.5 s)" in line


def test_the_accuracy_shown_is_the_best_epochs_as_in_the_table() -> None:
    first, second, third = sample_fit().epochs
    fit = replace(sample_fit(), epochs=(first, replace(second, val_accuracy=0.9), third))
    assert "90.0% val" in record_line(sample_record(fit=fit))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"status": "out_of_memory", "profile": None, "memory": None, "fit": None, "error": "x"},
            "out of memory  x  (8.5 s)",
        ),
        ({"status": "failed", "error": "it broke"}, "  failed  "),
        ({"validity": "suspect", "validity_reasons": ("a", "b")}, "suspect: a; b"),
        ({"fit": replace(sample_fit(), accuracy_note="random weights")}, "val (not meaningful)"),
        ({"fit": None}, "img/s  61 MiB  (8.5 s)"),
    ],
)
def test_what_is_not_as_usual_is_said(changes: dict[str, object], expected: str) -> None:
    assert expected in record_line(sample_record(**changes))


def test_a_plan_says_how_much_of_it_is_done() -> None:
    assert plan_line(PLAN, CELLS) == "quick-0123456789ab: 3 cells"
    assert plan_line(PLAN, []) == "quick-0123456789ab: all of 3 cells have their results already"


def test_the_time_left_follows_each_architectures_own_pace() -> None:
    fast, slow = sample_cell(architecture="simple_cnn"), sample_cell()
    cells = [replace(cell, seed=seed) for seed in range(3) for cell in (fast, slow)]
    pace = Pace(cells)
    assert pace.seconds_left() is None
    pace.add(sample_record(cell=cells[0], finished_at=STARTED_AT + 2))
    assert pace.seconds_left() == 10  # five left, all as the only pace known
    pace.add(sample_record(cell=cells[1], finished_at=STARTED_AT + 20))
    assert pace.seconds_left() == 2 * 2 + 2 * 20
    for cell in cells[2:]:
        pace.add(sample_record(cell=cell))
    assert pace.seconds_left() == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, ""), (75, "  about 01:15 left"), (3601, "  about 01:00:01 left")],
)
def test_the_time_left_is_said_as_a_clock(seconds: float | None, text: str) -> None:
    assert left_text(seconds) == text
