"""The figures as a notebook gets them, and the example notebook, run as a reader would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cnnbench
from cnnbench.errors import InvalidValueError
from cnnbench.report.figures import figures
from sample_sweep import spoilt, sweep

if TYPE_CHECKING:
    from collections.abc import Callable

NOTEBOOK = Path(__file__).parent.parent / "docs" / "compare.ipynb"
PLOTS = {
    "throughput-memory": cnnbench.plot_throughput_memory,
    "throughput-batch": cnnbench.plot_throughput_batch,
    "accuracy-epoch": cnnbench.plot_accuracy_epoch,
    "one-change": cnnbench.plot_one_change,
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    """Return the report's own figures, as a page gets them."""
    return {figure.name: figure.chart.to_dict() for figure in figures(sweep())}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_the_figure_of_the_report(name: str, drawn: dict[str, Any]) -> None:
    assert PLOTS[name](sweep()).to_dict() == drawn[name]


def test_all_of_them_are_had_by_name(drawn: dict[str, Any]) -> None:
    plots = cnnbench.plot_all(sweep())
    assert {name: chart.to_dict() for name, chart in plots.items()} == drawn


@pytest.mark.parametrize("plot", PLOTS.values())
def test_without_data_a_plot_says_what_is_missing(plot: Callable[..., object]) -> None:
    empty = [replace(spoilt(record, "failed", ""), fit=None) for record in sweep()]
    with pytest.raises(
        InvalidValueError, match="there is nothing to draw: none of the records has"
    ):
        plot(empty)


def test_the_example_notebook_runs_and_shows_its_tables_and_figures() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": NOTEBOOK.parent}},
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = [kind for output in shown for kind in output.get("data", ())]
    assert kinds.count("text/html") >= 2
    assert kinds.count("image/png") == 2
    assert not [output for output in shown if output.output_type == "error"]


def test_the_example_notebook_is_kept_without_what_a_machine_left_in_it() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
