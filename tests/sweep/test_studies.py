"""Studies are read from TOML, and refused when they are no fair test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cnnbench.cell import parse_call
from cnnbench.errors import CnnbenchError, StudyError, UnknownNameError
from cnnbench.study import METRICS
from cnnbench.sweep.arms import Arm, make_cell
from cnnbench.sweep.studies import STUDIES, load_study
from sample_study import sample_study, write_study

ADVICE = (
    *("mixed-precision", "batch-size", "gradient-checkpointing", "depthwise-separable"),
    *("batch-normalization", "normalization-placement", "activation", "kernel-size"),
    *("start-small", "residual-connections", "data-augmentation", "lr-schedule"),
    *("early-stopping", "transfer-learning", "model-parallelism", "too-many-layers"),
    *("regularization", "too-simple", "training-time", "learning-rate", "deep-memory"),
)


def test_every_documented_advice_has_its_study() -> None:
    assert set(STUDIES) == set(ADVICE)


@pytest.mark.parametrize("name", ADVICE)
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_a_study_changes_one_factor_and_what_it_declares(name: str, device_type: str) -> None:
    study = load_study(name, device_type=device_type)
    assert study.title
    assert study.advice
    assert study.seeds >= 3
    kinds = {METRICS[claim.metric].kind for claim in study.claims}
    for kind in kinds:
        base = settings(study.baseline, name, device_type, kind)
        for variant in study.variants:
            changed = settings(variant.name, name, device_type, kind)
            differing = {key for key in {**base, **changed} if base.get(key) != changed.get(key)}
            assert differing <= {variant.factor, *variant.tied}


def settings(arm: str, name: str, device_type: str, kind: str) -> dict[str, object]:
    """Return everything that a cell of the arm is asked for, the architecture's parameters too."""
    study = load_study(name, device_type=device_type)
    params = make_cell(study, Arm(name=arm, kind=kind), seed=0).params()
    family, parameters = parse_call(params.pop("architecture"))
    return {**params, "family": family, **parameters}


def test_no_study_knows_its_outcome() -> None:
    for path in STUDIES.values():
        assert not re.search(r"confirmed|refuted|inconclusive|verdict", path.read_text())


def test_both_arms_share_seed_and_data_and_a_claim_costs_only_its_own_kind(tmp_path: Path) -> None:
    study = sample_study(tmp_path)
    narrow, wide = (make_cell(study, Arm(name=n, kind="fit"), seed=7) for n in study.arms)
    assert (narrow.seed, narrow.recipe) == (wide.seed, wide.recipe)
    assert wide.architecture == "simple_cnn(width=8)"
    assert (narrow.recipe.epochs, narrow.timing.max_windows) == (2, 0)
    timed = make_cell(study, Arm(name="narrow", kind="profile"), seed=7)
    assert (timed.recipe.epochs, timed.timing.max_windows) == (0, 3)


def test_looks_add_half_as_many_seeds_each(tmp_path: Path) -> None:
    assert sample_study(tmp_path).looks == (3, 5)
    assert sample_study(tmp_path, ("max_seeds = 5", "max_seeds = 12")).looks == (3, 5, 8, 12)


def test_a_tied_setting_follows_the_factor(tmp_path: Path) -> None:
    changes = (
        ('factor = "width"', 'factor = "batch_size"'),
        ("width = 8", 'batch_size = 256\ntied = { learning_rate = "proportional" }'),
        ("epochs = 2", "epochs = 2\nlearning_rate = 0.002"),
    )
    wide = make_cell(sample_study(tmp_path, *changes), Arm(name="wide", kind="fit"), seed=0)
    assert wide.batch_size == 256
    assert wide.recipe.learning_rate == pytest.approx(0.008)


def test_a_gpu_gets_a_size_of_its_own(tmp_path: Path) -> None:
    path = str(write_study(tmp_path, ("[recipe]", "[gpu.cell]\nbatch_size = 512\n\n[recipe]")))
    arm = Arm(name="narrow", kind="fit")
    assert make_cell(load_study(path), arm, seed=0).batch_size == 64
    assert make_cell(load_study(path, device_type="cuda"), arm, seed=0).batch_size == 512


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("width = 8", "width = 8\nbatch_size = 32", "changes 'batch_size' beside the factor"),
        ("width = 8", "batch_size = 32", "does not change the factor width"),
        ("width = 8", 'width = 8\ntied = { batch_size = "twice" }', "unknown rule"),
        ("width = 8", 'width = 8\ntied = { batch_size = "given" }', "does not give it"),
        ('"num_parameters"', '"num_params"', "unknown claim metric 'num_params'. Did you mean"),
        ('direction = "up"', 'direction = "higher"', "unknown direction"),
        ("size = 0.2", "size = 0", "state the least that matters"),
        ("size = 0.2", 'size = "big"', "state the least that matters"),
        ('direction = "up"\nsize = 0.2', 'direction = "down"\nsize = 1.5', "and below 1"),
        ("size = 0.2", 'size = 0.2\nvariants = ["wider"]', "unknown arm"),
        ("size = 0.2", 'size = 0.2\nbaseline = "wide"\nvariants = ["wide"]', "with itself"),
        ("size = 0.2", 'size = 0.2\nat = "best_batch"', "needs batch_sizes to choose from"),
        ("size = 0.2", 'size = 0.2\nat = "noon"', "unknown 'at'"),
        ("seeds = 3\n", "", "seeds = None"),
        ("seeds = 3\n", "seeds = 2\n", "needs at least 3"),
        ("max_seeds = 5", "max_seeds = 2", "max_seeds = 2 is impossible"),
        ('name = "wide"\n', "", "every [[variant]] needs a name"),
        ('name = "wide"', 'name = "narrow"', "a name of its own"),
        ('advice = "Take a wider network."\n', "", "needs advice = a text"),
        ('factor = "width"\n', "", "name the one thing"),
        ("epochs = 2\n", "", "needs epochs"),
        ("epochs = 2", "epoch = 2", "unknown key in [recipe] 'epoch'. Did you mean 'epochs'"),
        ("batch_size = 64", "batch_size = 0", "batch_size = 0 is impossible"),
        ("batch_size = 64", "seed = 64", "unknown key in [cell] 'seed'"),
        ('architecture = "simple_cnn(width=4)"\n', "", "the baseline needs an architecture"),
        ("[recipe]", "[gpu]\nfactor = 3\n[recipe]", "unknown key in [gpu] 'factor'"),
        ("[recipe]", "[gpu.cell]\nbatch_size = 0\n[recipe]", "batch_size = 0 is impossible"),
        ("[[claim]]", "[claim]", "TOML"),
        ("[[variant]]", "[variant]", "write each variant as [[variant]]"),
    ],
)
def test_a_study_that_is_no_fair_test_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = write_study(tmp_path, (old, new))
    with pytest.raises(StudyError) as refusal:
        load_study(str(path))
    assert said in str(refusal.value)
    assert str(refusal.value).startswith("wider.toml")
    assert "\n" not in str(refusal.value)


def test_two_parameters_of_an_architecture_at_once_are_refused(tmp_path: Path) -> None:
    path = write_study(
        tmp_path,
        ('factor = "width"', 'factor = "architecture"'),
        ("width = 8", 'architecture = "simple_cnn(width=8,hidden=64)"'),
    )
    with pytest.raises(StudyError, match="changes hidden and width at once"):
        load_study(str(path))


def test_each_variant_may_change_another_of_several_factors(tmp_path: Path) -> None:
    study = sample_study(
        tmp_path,
        ('factor = "width"', 'factor = ["width", "dropout"]'),
        ("width = 8", 'width = 8\n\n[[variant]]\nname = "dropped"\ndropout = 0.2'),
    )
    assert [variant.factor for variant in study.variants] == ["width", "dropout"]
    both = write_study(
        tmp_path,
        ('factor = "width"', 'factor = ["width", "dropout"]'),
        ("width = 8", "width = 8\ndropout = 0.2"),
    )
    with pytest.raises(StudyError, match="beside the factor 'width'"):
        load_study(str(both))


def test_the_documented_example_is_a_study(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "dropout.toml"
    path.write_text(example)
    study = load_study(str(path))
    assert study.num_tests == 2
    for metric in METRICS:
        assert f"`{metric}`" in text


def test_a_name_that_is_none_tells_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'batch-size'"):
        load_study("batchsize")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"seeds = [", b"x = " + b"[" * 5000])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(CnnbenchError, match="broken"):
        load_study(str(path))
    with pytest.raises(StudyError, match="cannot read the study"):
        load_study(str(tmp_path / "missing.toml"))
