"""What the tracking store says in words."""

from __future__ import annotations

from cnnbench import notes
from cnnbench.cell import CHECKPOINTINGS
from sample_records import sample_cell, sample_environment, sample_fit, sample_record


def test_a_runs_note_says_setting_speed_memory_and_accuracy() -> None:
    note = notes.run_note(sample_record())
    assert note == (
        "**bf16, batch 64, no checkpointing, nchw**: `resnet(width=16,depth=2)` on `digits`, "
        "on Intel Xeon.\n\n"
        "3,130 images/s (95 % interval 3,092 to 3,168; 10 windows), 20.5 ms a step, peak 61 MiB.\n\n"
        "Best validation accuracy 73.3 % in 3 epochs; test accuracy of that epoch 70.0 %."
        " The curves look healthy."
    )


def test_settings_that_are_not_the_plain_ones_are_named() -> None:
    cell = sample_cell(checkpointing=CHECKPOINTINGS[-1], compile="default", seed=7)
    setting = notes.run_note(sample_record(cell=cell)).splitlines()[0]
    for words in (f"{CHECKPOINTINGS[-1]} checkpointing", "compile default"):
        assert words in setting
    assert ", seed 7" in setting


def test_what_was_not_measured_is_not_spoken_of() -> None:
    record = sample_record(
        profile=None, memory=None, fit=None, status="out_of_memory", error="no room for `x`\nnow"
    )
    paragraphs = notes.run_note(record).split("\n\n")
    assert len(paragraphs) == 2
    assert paragraphs[1] == "Out of memory: `no room for 'x' now`"


def test_doubts_are_said_and_an_accuracy_without_meaning_is_not_told() -> None:
    fit = sample_fit(num_epochs=1)
    record = sample_record(
        validity="suspect",
        validity_reasons=("loader-bound: 8% of the time.",),
        fit=type(fit)(**{**vars(fit), "accuracy_note": "random frozen weights"}),
    )
    note = notes.run_note(record)
    assert "Not beyond doubt: loader-bound: 8% of the time." in note
    assert "The accuracy says nothing: random frozen weights." in note
    assert "validation accuracy" not in note


def test_text_of_others_is_shown_and_not_obeyed() -> None:
    note = notes.run_note(sample_record(device="<img src=x>", notes=("<b>bold</b>",)))
    assert "<" not in note
    assert "&lt;img src=x&gt;" in note


def test_a_long_note_ends_within_what_a_tag_holds() -> None:
    assert len(notes.run_note(sample_record(error="x" * 10_000))) == notes.MAX_CHARACTERS


def test_a_sweeps_note_counts_what_became_of_its_cells() -> None:
    records = [
        sample_record(),
        sample_record(validity="suspect"),
        sample_record(status="out_of_memory"),
    ]
    note = notes.sweep_note(records, sample_environment())
    assert note.startswith("**3 cells on Intel Xeon**: 2 completed, 1 out of memory. Doubtful")
    assert "torch 2.11.0" in note
    assert "report/index.html" in note


def test_an_experiments_note_explains_the_tags_and_colours() -> None:
    note = notes.experiment_note("quick")
    assert "(profile `quick`)" in note
    for words in ("kind = cell", "validity", "orange bf16", "images_per_second"):
        assert words in note
