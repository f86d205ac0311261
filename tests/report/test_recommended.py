"""A recommendation in words says the setting, its gain, what is not known, and how to learn it."""

from __future__ import annotations

import json

from cnnbench.analysis.recommend import recommend
from cnnbench.analysis.settings import OBJECTIVES
from cnnbench.report.recommended import recommendation_json, recommendation_lines
from sample_sweep import sweep

RECORDS = sweep(batch_sizes=(32, 64, 128))
FOUND = recommend(RECORDS, "simple_cnn", OBJECTIVES["throughput"])


def test_the_text_names_setting_gain_and_confidence() -> None:
    text = "\n".join(recommendation_lines(FOUND))
    assert "bf16, batch 128" in text
    assert "x the memory" in text or "the memory" in text
    assert "confidence: " in text
    assert "cnnbench run --architecture simple_cnn" in text


def test_without_the_default_the_gain_is_said_to_be_unknown() -> None:
    alone = recommend(sweep(batch_sizes=(32,)), "simple_cnn", OBJECTIVES["throughput"])
    assert "not known, that was not measured" in "\n".join(recommendation_lines(alone))


def test_json_holds_the_setting_the_interval_and_the_program() -> None:
    plain = json.loads(json.dumps(recommendation_json(FOUND, "code")))
    assert plain["recommended"]["precision"] == "bf16"
    assert (
        plain["recommended"]["low"] < plain["recommended"]["value"] < plain["recommended"]["high"]
    )
    assert plain["gain"]["default"]["batch_size"] == 64
    assert plain["snippet"] == "code"
    assert all(one["command"].startswith("cnnbench run") for one in plain["worth_measuring"])
