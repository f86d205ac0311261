"""Profiles: those that come along, a user's own, and every way to get one wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnbench.architectures import check_name
from cnnbench.cell import AXES, Recipe, Timing
from cnnbench.errors import CnnbenchError, InvalidValueError, ProfileError, UnknownNameError
from cnnbench.sweep.profiles import PROFILES, load_profile

if TYPE_CHECKING:
    from pathlib import Path

GRID = '\n[[grid]]\narchitecture = "simple_cnn"\n'


def profile_file(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_that_comes_along_is_sound_and_described(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    cells = profile.cells()
    assert len({cell.hash for cell in cells}) == len(cells)
    for cell in cells:
        check_name(cell.architecture)


def test_the_quick_profile_spans_what_the_document_speaks_of() -> None:
    cells = load_profile("quick").cells()
    families = {cell.architecture.partition("(")[0] for cell in cells}
    assert families == {"simple_cnn", "resnet", "mbconv_net", "transfer_resnet50"}
    assert {cell.precision for cell in cells} == {"fp32", "bf16"}
    assert {cell.checkpointing for cell in cells} == {"none", "block"}
    assert len(cells) >= 32
    assert {cell.dataset for cell in cells} == {"digits"}


def test_the_gpu_profile_trains_each_architecture_and_precision_once() -> None:
    cells = load_profile("gpu").cells()
    assert {cell.precision for cell in cells} == {"fp32", "tf32", "bf16", "fp16"}
    assert {cell.checkpointing for cell in cells} == {"none", "stage", "block"}
    assert {64, 2048} <= {cell.batch_size for cell in cells}
    trained = [(c.architecture, c.precision) for c in cells if c.recipe.epochs]
    assert len(trained) == len(set(trained)) == 16


def test_a_file_says_grids_recipe_and_timing(tmp_path: Path) -> None:
    text = """
description = "Two grids"
dataset = "synthetic"
download = true
[recipe]
epochs = 2
learning_rate = 0.01
[timing]
limit_seconds = 1
[[grid]]
architecture = ["simple_cnn", "resnet(width=16)"]
batch_size = [8, 16]
[[grid]]
architecture = "simple_cnn"
batch_size = 16
seed = [0, 1]
recipe = { epochs = 5 }
"""
    profile = load_profile(profile_file(tmp_path, text))
    assert (profile.name, profile.description, profile.download) == ("mine", "Two grids", True)
    cells = profile.cells()
    assert {cell.dataset for cell in cells} == {"synthetic"}
    assert {cell.timing for cell in cells} == {Timing(limit_seconds=1)}
    assert {cell.recipe.learning_rate for cell in cells} == {0.01}
    shown = [(c.architecture, c.batch_size, c.seed, c.recipe.epochs) for c in cells]
    assert shown == [
        ("simple_cnn", 8, 0, 2),
        ("simple_cnn", 16, 0, 5),  # both grids name it: the longer training runs, once
        ("resnet(width=16)", 8, 0, 2),
        ("resnet(width=16)", 16, 0, 2),
        ("simple_cnn", 16, 1, 5),
    ]


def test_axes_and_recipe_replace_what_the_profile_says(tmp_path: Path) -> None:
    text = '[recipe]\nepochs = 2\n[[grid]]\narchitecture = "resnet"\nrecipe = { epochs = 5 }\n'
    profile = load_profile(profile_file(tmp_path, text))
    (cell,) = profile.cells(axes={"architecture": ["simple_cnn"]}, recipe={"epochs": 0})
    assert (cell.architecture, cell.recipe) == ("simple_cnn", Recipe(epochs=0))
    with pytest.raises(InvalidValueError, match="the axis 'precision' has no values"):
        profile.cells(axes={"precision": []})


def test_a_file_name_becomes_a_name_that_fits_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "my große profile.toml"
    path.write_text(GRID)
    assert load_profile(str(path)).name == "my-gro-e-profile"


def test_an_unknown_name_tells_the_nearest_and_all() -> None:
    with pytest.raises(UnknownNameError) as refusal:
        load_profile("quik")
    assert str(refusal.value) == (
        "unknown profile 'quik'. Did you mean 'quick'? There are: full, gpu, quick, speedrun."
        " Or pass a .toml file."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"descripton = 'x'{GRID}", "line 1: unknown key in a profile 'descripton'. Did you mean"),
        (f"{GRID}batch = 64", "line 4: unknown key in [[grid]] 'batch'. Did you mean 'batch_size'"),
        (f"[recipe]\n\nepoch = 3{GRID}", "line 3: unknown key in [recipe] 'epoch'. Did you mean"),
        (f"[timing]\nwindows = 3{GRID}", "line 2: unknown key in [timing] 'windows'."),
        (f"\n[timings]\nmax_windows = 3{GRID}", "line 2: unknown key in a profile 'timings'."),
        (f"recipe = {{ epochs = 1, lr = 3 }}{GRID}", "line 1: unknown key in [recipe] 'lr'."),
        (f"recipe.lr = 3{GRID}", "line 1: unknown key in [recipe] 'lr'."),
        (f"{GRID}recipe = {{ lr = 3 }}", "line 4: unknown key in [grid.recipe] 'lr'."),
        (f"{GRID}[grid.recipe]\n\nlr = 3", "line 6: unknown key in [grid.recipe] 'lr'."),
        # The same word is right in another table further up.
        (f"[recipe]\nepochs = 1{GRID}epochs = 2", "line 5: unknown key in [[grid]] 'epochs'."),
        (f"{GRID}\n[other.thing]\na = 1", "line 5: unknown key in a profile 'other'."),
        (f'"odd key" = 1{GRID}', "line 1: unknown key in a profile 'odd key'."),
        ("[grid]\narchitecture = 'simple_cnn'", "line 1: write each grid as [[grid]]."),
        ("grid = [1, 2]", "line 1: write each grid as [[grid]]."),
        (f"recipe = 3{GRID}", "line 1: 'recipe' in a profile must be a table."),
        (f"{GRID}recipe = 3", "line 4: 'recipe' in [[grid]] must be a table."),
        (f"dataset = 3{GRID}", "dataset = 3 must be a str."),
        (f"download = 'no'{GRID}", "download = 'no' must be a bool."),
        ("", "has no [[grid]]: there is nothing to run."),
        (f"{GRID}precision = []", "the axis 'precision' has no values: the grid is empty."),
        (f"{GRID}batch_size = 0", "batch_size = 0 is impossible"),
        (f"{GRID}batch_size = '64'", "batch_size = '64' is impossible"),
        (f"{GRID}batch_size = true", "batch_size = True is impossible"),
        (f"{GRID}batch_size = [[1]]", "batch_size = [[1]] must be one value"),
        (f"{GRID}batch_size = 1{'0' * 400}", "is impossible"),
        (f"{GRID}seed = -1", "seed = -1 is impossible"),
        (f"{GRID}precision = 'fp23'", "unknown precision 'fp23'. Did you mean 'fp32'?"),
        ("[[grid]]\narchitecture = 5", "cannot read 5"),
        ("[[grid]]\nbatch_size = 64", "every [[grid]] needs an architecture"),
        (f"[recipe]\nlearning_rate = nan{GRID}", "learning_rate = nan is impossible"),
        (f"[recipe]\nlearning_rate = inf{GRID}", "learning_rate = inf is impossible"),
        (f"[recipe]\nepochs = 1.5{GRID}", "epochs = 1.5 is impossible"),
        (f"[timing]\nmin_windows = 1{GRID}", "min_windows = 1 is impossible"),
        ("not toml", "is no TOML"),
        ("a = 1\na = 2", "is no TOML"),
        (f"a = {'[' * 20000}", "is no TOML"),
        (f"a = {'1' * 5000}", "is no TOML"),
        ("\x00", "is no TOML"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line_that_names_file_and_fault(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ProfileError) as refusal:
        load_profile(profile_file(tmp_path, text))
    said = str(refusal.value)
    assert message in said
    assert "mine.toml" in said
    assert "\n" not in said


def test_a_profile_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\x89PNG\xff\xfe")
    for name, reason in (
        ("missing.toml", "No such file or directory"),
        ("folder.toml", "Is a directory"),
        ("binary.toml", "it is not UTF-8 text"),
        (f"{'x' * 300}.toml", "File name too long"),
        ("\x00.toml", ""),
    ):
        with pytest.raises(ProfileError, match="cannot read the profile") as refusal:
            load_profile(str(tmp_path / name))
        assert str(refusal.value).endswith(reason)


TOML_VALUES = st.recursive(
    st.one_of(
        st.integers(-(10**20), 10**20).map(str),
        st.floats().map(repr),
        st.sampled_from(["true", "1979-05-27", '"simple_cnn"', '"fp32"', '"none"', "07:32:00"]),
        st.text(st.characters(codec="utf-8", categories=["L", "N", "P"])).map(
            lambda text: f'"{text}"'
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]"),
        st.tuples(st.sampled_from([*AXES, "epochs", "x"]), inner).map(
            lambda kv: f"{{{kv[0]}={kv[1]}}}"
        ),
    ),
    max_leaves=4,
)
TOML_LINES = st.one_of(
    st.sampled_from(["[recipe]", "[timing]", "[[grid]]", "[grid.recipe]", "[grid]", "[x]"]),
    st.tuples(
        st.sampled_from(
            [
                *(*AXES, *Recipe.__dataclass_fields__, *Timing.__dataclass_fields__),
                *("dataset", "download", "description", "recipe", "timing", "grid", "recipe.x"),
            ]
        ),
        TOML_VALUES,
    ).map(lambda kv: f"{kv[0]} = {kv[1]}"),
    st.text(max_size=20),
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=st.lists(TOML_LINES, max_size=8), prefix=st.sampled_from(["", GRID]))
def test_no_file_whatever_raises_anything_but_a_users_error(
    tmp_path: Path, lines: list[str], prefix: str
) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes("\n".join([prefix, *lines]).encode("utf-8", "surrogatepass"))
    try:
        cells = load_profile(str(path)).cells()
    except CnnbenchError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  # most inputs raise, some do not
    else:
        assert cells
