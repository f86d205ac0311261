"""What can be asked for, and that nothing else can."""

from __future__ import annotations

import string
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.cell import AXES, Cell, Recipe, Timing, grid, parse_call, plain_text, union
from cnnbench.errors import InvalidValueError
from cnnbench.record import PARAM_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable

RESNET = Cell(architecture="resnet(width=16)")

NAMES = st.text(string.ascii_letters + "_.:", min_size=1)
PARAMETERS = st.dictionaries(
    st.from_regex(r"[a-z][a-z_0-9]{0,9}_", fullmatch=True),  # never a keyword of Python
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False)
    | st.text(),
)
# Whatever a user may type, brackets and Python's own signs more often than others.
TYPED = st.text() | st.text("()[]{}=,*#'\"\\\n\0 a1:-.+lambdaifor", max_size=30)


def written(name: str, parameters: dict[str, Any]) -> str:
    return f"{name}({','.join(f'{key}={value!r}' for key, value in parameters.items())})"


@given(name=NAMES, parameters=PARAMETERS)
def test_a_call_is_read_back_as_it_was_written(name: str, parameters: dict[str, Any]) -> None:
    text = written(name, parameters).replace("inf", "1e999")
    assert parse_call(text) == (name, parameters)


@given(name=NAMES)
def test_a_bare_name_has_no_parameters(name: str) -> None:
    assert parse_call(name) == (name, {}) == parse_call(f"{name}()")


@given(text=TYPED | TYPED.map(lambda text: f"resnet({text})"))
def test_whatever_is_typed_is_read_or_refused_in_one_way(text: str) -> None:
    try:
        name, parameters = parse_call(text)
    except InvalidValueError:
        return
    assert text.startswith(name)
    assert all(isinstance(key, str) for key in parameters)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " resnet",
        "(width=16)",
        "resnet(width=16",
        "resnet(width=16))",
        "resnet(width=16)x",
        "resnet(width=16)(depth=2)",
        "resnet(16)",
        "resnet(width)",
        "resnet(width=16,width=32)",
        "resnet(width=)",
        "resnet(width=depth.x)",
        "resnet(width=[depth])",
        "resnet(width=open('/etc/passwd'))",
        "resnet(width={[]: 1})",
        "resnet(width={[1]})",
        "resnet(**{'width': 16})",
        "resnet(*[16])",
        "resnet(width=16)#)",
        "resnet(\nwidth=16)",
        "resnet(width=16) + f()",
        "resnet(width=\0)",
        "resnet(width=" + "(" * 500 + ")" * 501,
        "resnet(width=" + "9" * 5000 + ")",
        7,
        None,
    ],
)
def test_what_is_no_call_is_refused_with_the_way_to_write_one(text: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"write NAME or NAME\(parameter=value,...\)"):
        parse_call(text)


def test_one_word_is_text_without_quotes_and_a_flag_may_be_in_lower_case() -> None:
    assert parse_call("resnet(activation=silu,residual=false)") == (
        "resnet",
        {"activation": "silu", "residual": False},
    )
    assert parse_call("a(b=true,c=True,d=None)")[1] == {"b": True, "c": True, "d": None}


def test_nothing_that_is_typed_is_run() -> None:
    with pytest.raises(InvalidValueError):
        parse_call("resnet(width=__import__('os').abort())")


def test_a_hash_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert RESNET.hash == "282747a9187d8045"


OTHERS: dict[str, Any] = {
    "architecture": "resnet(width=32)",
    "precision": "bf16",
    "batch_size": 32,
    "checkpointing": "block",
    "memory_format": "channels_last",
    "compile": "default",
    "loader": "workers",
    "parallelism": "data-2",
    "dataset": "cifar10",
    "seed": 1,
    "recipe": Recipe(epochs=1),
    "timing": Timing(max_windows=10),
    "memory_budget_bytes": 2**30,
}


def test_features_change_the_hash_only_where_they_are_computed_once() -> None:
    once = replace(RESNET, recipe=replace(RESNET.recipe, features="once"))
    assert once.hash != RESNET.hash
    assert replace(once, recipe=replace(once.recipe, features="every_step")).hash == RESNET.hash


@pytest.mark.parametrize("name", OTHERS)
def test_every_field_of_a_cell_changes_its_hash(name: str) -> None:
    changed = replace(RESNET, **{name: OTHERS[name]})
    assert changed.hash != RESNET.hash
    assert replace(changed, **{name: getattr(RESNET, name)}).hash == RESNET.hash


@pytest.mark.parametrize("name", OTHERS)
def test_every_field_but_seed_and_timing_changes_the_setting(name: str) -> None:
    changed = replace(RESNET, **{name: OTHERS[name]})
    assert (changed.setting == RESNET.setting) == (name in {"seed", "timing"})


def test_a_setting_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert RESNET.setting == "8a910cecce8255aa"


def test_every_field_has_another_value() -> None:
    assert {f.name for f in fields(Cell)} == set(OTHERS)


@pytest.mark.parametrize(
    "cell",
    [
        RESNET,
        replace(RESNET, recipe=Recipe(learning_rate=1, weight_decay=0, target_accuracy=1)),
        replace(RESNET, timing=Timing(window_seconds=1, limit_seconds=10)),
    ],
)
def test_a_worker_reads_a_cell_with_the_same_hash(cell: Cell) -> None:
    again = msgspec.json.decode(msgspec.json.encode(cell), type=Cell)
    assert again == cell
    assert again.hash == cell.hash


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "resnet(width=16)-fp32-b64-none"),
        ({"precision": "bf16", "batch_size": 256}, "resnet(width=16)-bf16-b256-none"),
        ({"memory_format": "channels_last"}, "resnet(width=16)-fp32-b64-none-channels_last"),
        ({"parallelism": "data-2"}, "resnet(width=16)-fp32-b64-none-data-2"),
        ({"compile": "graph", "seed": 3}, "resnet(width=16)-fp32-b64-none-compile-graph-seed3"),
    ],
)
def test_a_name_says_the_axes_and_what_differs(changes: dict[str, Any], name: str) -> None:
    assert replace(RESNET, **changes).name == name


def test_params_are_the_tables_columns_in_their_order() -> None:
    assert tuple(RESNET.params()) == PARAM_COLUMNS


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cell(architecture="resnet", precision="fp8"), "unknown precision 'fp8'"),
        (lambda: Cell(architecture="resnet", checkpointing="blocks"), "Did you mean 'block'"),
        (lambda: Cell(architecture="resnet", memory_format="nhwc"), "nchw, channels_last"),
        (lambda: Cell(architecture="resnet", compile="on"), "unknown compile 'on'"),
        (lambda: Cell(architecture="resnet", loader="gpu"), "unknown loader 'gpu'"),
        (lambda: Cell(architecture="resnet", batch_size=0), "batch_size = 0 is impossible"),
        (lambda: Cell(architecture="resnet", batch_size=1.5), "batch_size = 1.5 is impossible"),  # type: ignore[arg-type]
        (lambda: Cell(architecture="resnet", batch_size=True), "batch_size = True"),
        (lambda: Cell(architecture="resnet", batch_size=10**400), "batch_size = 1000"),
        (lambda: Cell(architecture="resnet", seed=-1), "seed = -1 is impossible"),
        (lambda: Cell(architecture="resnet", seed=2**32), "seed = 4294967296 is impossible"),
        (lambda: Recipe(epochs=-1), "epochs = -1 is impossible"),
        (lambda: Recipe(learning_rate=0), "learning_rate = 0 is impossible"),
        (lambda: Recipe(learning_rate=float("nan")), "learning_rate = nan is impossible"),
        (lambda: Recipe(learning_rate=float("inf")), "learning_rate = inf is impossible"),
        (lambda: Recipe(learning_rate="fast"), "learning_rate = 'fast' is impossible"),  # type: ignore[arg-type]
        (lambda: Recipe(weight_decay=-0.1), "weight_decay = -0.1 is impossible"),
        (lambda: Recipe(dropout=1.0), "dropout = 1.0 is impossible"),
        (lambda: Recipe(label_smoothing=1.0), "label_smoothing = 1.0 is impossible"),
        (lambda: Recipe(target_accuracy=0.0), "target_accuracy = 0.0 is impossible"),
        (lambda: Recipe(target_accuracy=1.01), "target_accuracy = 1.01 is impossible"),
        (lambda: Recipe(patience=0), "patience = 0 is impossible"),
        (lambda: Recipe(train_subset=0), "train_subset = 0 is impossible"),
        (lambda: Recipe(image_size=0), "image_size = 0 is impossible"),
        (lambda: Recipe(optimizer="adamax"), "Did you mean 'adam'"),
        (lambda: Recipe(schedule="step"), "unknown schedule 'step'"),
        (lambda: Recipe(augmentation="flip"), "unknown augmentation 'flip'"),
        (lambda: Timing(window_seconds=0), "window_seconds = 0 is impossible"),
        (lambda: Timing(min_windows=1), "min_windows = 1 is impossible"),
        (lambda: Timing(half_width=1), "half_width = 1 is impossible"),
        (lambda: Timing(limit_seconds=0), "limit_seconds = 0 is impossible"),
        (lambda: Timing(warmup_steps=0), "warmup_steps = 0 is impossible"),
    ],
)
def test_an_impossible_value_is_refused_by_name(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        make()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(value=st.integers() | st.floats() | st.text() | st.none() | st.booleans())
def test_any_batch_size_is_taken_or_refused_in_one_way(value: Any) -> None:
    try:
        cell = Cell(architecture="resnet", batch_size=value)
    except InvalidValueError:
        return
    assert type(value) is int
    assert cell.batch_size >= 1


def test_a_cell_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="neither train nor be timed"):
        Cell(architecture="resnet", timing=Timing(max_windows=0))


def test_a_grid_is_every_combination_in_order_and_none_twice() -> None:
    axes = {"precision": ("fp32", "bf16"), "batch_size": (64, 128, 64)}
    cells = grid(axes, base={"architecture": "resnet", "seed": 5})
    assert [(c.precision, c.batch_size) for c in cells] == [
        ("fp32", 64),
        ("fp32", 128),
        ("bf16", 64),
        ("bf16", 128),
    ]
    assert {(c.architecture, c.seed) for c in cells} == {("resnet", 5)}


def test_every_axis_can_span_a_grid() -> None:
    axes = {name: [getattr(RESNET, name)] for name in AXES}
    assert grid(axes, base={}) == [RESNET]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"precision": []}, "the axis 'precision' has no values: the grid is empty"),
        ({"precisions": ["fp32"]}, "Did you mean 'precision'"),
        ({"precision": ["fp32", "fp8"]}, "unknown precision 'fp8'"),
        ({"batch_size": [64, 0]}, "batch_size = 0 is impossible"),
    ],
)
def test_an_impossible_grid_is_refused(axes: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        grid(axes, base={"architecture": "resnet"})


def with_epochs(epochs: int, **changes: Any) -> Cell:
    return replace(RESNET, recipe=Recipe(epochs=epochs), **changes)


def test_a_union_keeps_the_longer_training_in_the_first_ones_place() -> None:
    cells = [with_epochs(0), with_epochs(0, seed=1), with_epochs(5), with_epochs(2), with_epochs(0)]
    assert union(cells) == [with_epochs(5), with_epochs(0, seed=1)]


def test_a_union_keeps_cells_that_differ_in_anything_else() -> None:
    cells = [
        RESNET,
        replace(RESNET, recipe=Recipe(learning_rate=0.1)),
        replace(RESNET, timing=Timing(half_width=0.03)),
    ]
    assert union(cells) == cells


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-05, "0.00001"),
        (0.1, "0.1"),
        (64, "64"),
        (64.0, "64"),
        (0.0, "0"),
        (100.0, "100"),
        (1e22, "10000000000000000000000"),
        (True, "True"),
        ("resnet", "resnet"),
        (None, ""),
    ],
)
def test_numbers_are_written_in_plain_decimals(value: object, text: str) -> None:
    assert plain_text(value) == text


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_plain_number_loses_no_digit(value: float) -> None:
    text = plain_text(value)
    assert float(text) == value
    assert "e" not in text.lower()


def test_weights_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="weights = 5 is impossible"):
        Recipe(weights=5)  # type: ignore[arg-type]  # as a profile may have it
