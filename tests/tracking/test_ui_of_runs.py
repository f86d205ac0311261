"""What a person sees: the installed MLflow UI, opened in a real browser over a real store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from chromium import PATIENCE_MS, chromium, needs_chromium
from cnnbench.results import load
from cnnbench.tracking import open_store
from cnnbench.views import MEMORY, PRECISION_COLOURS, SPEED
from mlflow_server import free_port, mlflow_server
from sample_records import (
    STARTED_AT,
    sample_cell,
    sample_dataset,
    sample_environment,
    sample_fit,
    sample_profile,
    sample_record,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from cnnbench.measurement import Profile
    from cnnbench.record import Record
    from cnnbench.results import Records
    from cnnbench.tracking import Tracker, Ui

BAR_WIDTHS = """() => [...document.querySelectorAll('.js-plotly-plot .bars .point path')]
    .map(bar => Math.round(bar.getBBox().width))"""
# What each chart is of, what it holds, and the colours of the points of it that are drawn.
PLOTS = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => {
    const first = plot.data[0];
    const axis = name => plot.layout[name].title?.text ?? plot.layout[name].title;
    const found = first.metrics?.find(metric => metric);
    const metric = first.metricKey ?? found?.get?.('key') ?? found?.key;
    return {
        name: metric ?? `${axis('xaxis')} vs ${axis('yaxis')}`,
        kind: first.type,
        values: plot.data.filter(trace => trace.hoverinfo !== 'skip').map(
            trace => [...trace.x].map((x, place) => [Number(x), trace.y[place]])),
        points: [...plot.querySelectorAll('.points path, .point path')]
            .filter(point => point.getBBox().width > 0)
            .map(point => point.style.fill),
    };
})"""
AXES = """() => [...document.querySelectorAll('.parcoords')].map(
    plot => [...plot.querySelectorAll('.dimension .label')].map(label => label.textContent))"""
LINE_WIDTHS = """() => [...document.querySelectorAll('.js-plotly-plot path.js-line')]
    .map(line => Math.round(line.getBBox().width))"""

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "amd-epyc"
RESNET = "resnet(width=16,depth=1)"

pytestmark = needs_chromium


class Shown(NamedTuple):
    """A store with a UI server on it: a few records, and those of the reference sweep."""

    ui: Ui
    records: list[Record]
    prepared: Ui
    one_architecture: Ui
    reference: Records


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    results = tmp_path_factory.mktemp("ui")
    records = [
        sample_record(
            cell=sample_cell(precision=precision, batch_size=batch_size),
            profile=slowed(1 + number / 4),
            fit=sample_fit(num_epochs=3 + number),
            started_at=STARTED_AT + 10 * number,
            finished_at=STARTED_AT + 10 * number + 8,
        )
        for number, (precision, batch_size) in enumerate(
            (precision, batch_size) for precision in ("fp32", "bf16") for batch_size in (64, 256)
        )
    ]
    tracker = open_store(None, results)
    sweep = tracker.sweep(
        records[0].sweep_id,
        profile="quick",
        environment=sample_environment(),
        dataset=sample_dataset(),
    )
    for record in records:
        sweep.log(record)
    sweep.finish(records)
    reference = load(REFERENCE)
    replay(tracker, reference)
    port = free_port()
    ui = tracker.ui(port=port, profile="quick")
    prepared = tracker.ui(port=port, profile="reference")
    one_architecture = tracker.ui(port=port, profile="reference", architecture=RESNET)
    tracker.close()
    with mlflow_server(
        ui.command, environment=ui.environment, health=ui.health, log=results / "ui.log"
    ):
        yield Shown(ui, records, prepared, one_architecture, reference)


def replay(tracker: Tracker, records: Records) -> None:
    """Log a sweep that was run elsewhere."""
    sweep = tracker.sweep(
        records[0].sweep_id,
        profile="reference",
        environment=sample_environment(device=records[0].device),
        dataset=sample_dataset(),
    )
    for record in records:
        sweep.log(record)
    sweep.finish(records)


def slowed(factor: float) -> Profile:
    profile = sample_profile()
    windows = tuple(replace(w, seconds=w.seconds * factor) for w in profile.windows)
    return replace(profile, windows=windows)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1600, "height": 1000})
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


def test_the_page_opens_as_model_training_and_names_every_run(
    page: Page, shown: Shown, tmp_path: Path
) -> None:
    page.goto(shown.ui.plain_address)
    for record in shown.records:
        page.get_by_role("link", name=record.cell.name, exact=True).wait_for()
    page.get_by_role("link", name=shown.records[0].sweep_id, exact=True).wait_for()
    page.get_by_role("heading", name="Runs", exact=True).wait_for()
    assert page.get_by_role("link", name="Models", exact=True).is_visible()
    # What the page for language models has beside the runs.
    assert page.get_by_role("link", name="Judges", exact=True).count() == 0
    assert page.get_by_text(f"{len(shown.records) + 1} matching runs").is_visible()
    page.screenshot(path=tmp_path / "runs.png")


def test_the_charts_draw_a_bar_for_every_cell(page: Page, shown: Shown, tmp_path: Path) -> None:
    page.goto(f"{shown.ui.plain_address}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("images_per_second$")
    num_cells = len(shown.records)
    page.wait_for_function(f"new Set(({BAR_WIDTHS})().filter(w => w > 0)).size == {num_cells}")
    page.screenshot(path=tmp_path / "bars.png")
    assert len(page.evaluate(BAR_WIDTHS)) == num_cells


def test_the_charts_draw_a_curve_for_every_cell(page: Page, shown: Shown, tmp_path: Path) -> None:
    page.goto(f"{shown.ui.plain_address}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("val/accuracy")
    # Each cell trained for another number of epochs, so each curve has another width.
    num_cells = len(shown.records)
    page.wait_for_function(f"new Set(({LINE_WIDTHS})().filter(w => w > 0)).size == {num_cells}")
    page.screenshot(path=tmp_path / "curves.png")


def test_the_browser_is_sent_nowhere_but_to_this_machine(page: Page, shown: Shown) -> None:
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(shown.ui.plain_address)
    page.get_by_role("link", name=shown.records[0].cell.name, exact=True).wait_for()
    assert hosts == {"127.0.0.1"}


def test_a_run_shows_its_artifacts(page: Page, shown: Shown, tmp_path: Path) -> None:
    page.goto(shown.ui.plain_address)
    page.get_by_role("link", name=shown.records[0].cell.name, exact=True).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("windows.csv").first.click()
    page.get_by_text("foreign_fraction").first.wait_for()
    page.screenshot(path=tmp_path / "artifacts.png")


@pytest.fixture
def tall_page(browser: Browser) -> Iterator[Page]:
    # Only charts in sight are drawn: here all are.
    opened = browser.new_page(viewport={"width": 1600, "height": 3400})
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


def plots(page: Page, *, number: int) -> list[dict[str, Any]]:
    """Return the page's charts, once there are so many and each has drawn a point."""
    page.wait_for_function(
        f"(({PLOTS})().length >= {number}) && ({PLOTS})().every(plot => plot.points.length > 0)"
    )
    found: list[dict[str, Any]] = page.evaluate(PLOTS)
    return found


def chart(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return the one chart of that kind and name."""
    (only,) = [plot for plot in found if (plot["kind"], plot["name"]) == (kind, name)]
    return only


def rgb(colour: str) -> str:
    """Return `#0072B2` as a browser says it."""
    return f"rgb({', '.join(str(int(colour[n : n + 2], 16)) for n in (1, 3, 5))})"


def test_the_prepared_page_draws_the_comparison_without_a_click(
    tall_page: Page, shown: Shown, tmp_path: Path
) -> None:
    tall_page.goto(shown.prepared.address)
    found = plots(tall_page, number=6)
    tall_page.screenshot(path=tmp_path / "prepared.png")
    rows = [record.row() for record in shown.reference]
    memory = chart(found, "scatter", f"{MEMORY} vs {SPEED}")
    assert sorted(memory["values"][0]) == sorted([row[MEMORY], row[SPEED]] for row in rows)
    assert len(memory["points"]) == len(rows)
    assert set(memory["points"]) == {rgb(PRECISION_COLOURS[name]) for name in ("fp32", "bf16")}
    batch = chart(found, "scatter", f"batch_size vs {SPEED}")
    assert sorted(batch["values"][0]) == sorted([row["batch_size"], row[SPEED]] for row in rows)
    bars = chart(found, "bar", SPEED)
    # From the lowest bar up: the fastest is uppermost, as in the list.
    assert [x for x, _ in bars["values"][0]] == sorted(row[SPEED] for row in rows)
    settings = ["architecture", "precision", "batch_size", "checkpointing"]
    assert tall_page.evaluate(AXES) == [
        [*settings, "images...second", "peak_a...ed_mib"],
        [*settings, "images...second", "best_v...curacy"],
    ]


def test_accuracy_is_drawn_against_the_seconds_of_training(tall_page: Page, shown: Shown) -> None:
    tall_page.goto(shown.prepared.address)
    curves = chart(plots(tall_page, number=6), "scatter", "val/accuracy")
    drawn = sorted(map(sorted, curves["values"]))
    assert drawn == sorted(
        sorted(
            [sum(e.train_seconds for e in epochs[:number]), epoch.val_accuracy]
            for number, epoch in enumerate(epochs, start=1)
        )
        for record in shown.reference
        if record.fit is not None and (epochs := record.fit.epochs)
    )


def test_one_architecture_is_compared_by_itself(
    tall_page: Page, shown: Shown, tmp_path: Path
) -> None:
    tall_page.goto(shown.one_architecture.address)
    found = plots(tall_page, number=6)
    tall_page.screenshot(path=tmp_path / "one-architecture.png")
    rows = [r.row() for r in shown.reference if r.cell.architecture == RESNET]
    memory = chart(found, "scatter", f"{MEMORY} vs {SPEED}")
    assert sorted(memory["values"][0]) == sorted([row[MEMORY], row[SPEED]] for row in rows)


def test_the_best_of_each_architecture_and_precision_are_bars(
    tall_page: Page, shown: Shown, tmp_path: Path
) -> None:
    tall_page.goto(shown.prepared.address.replace("Key=cnnbench", "Key=cnnbench-best"))
    found = plots(tall_page, number=2)
    tall_page.screenshot(path=tmp_path / "best.png")
    best: dict[tuple[str, str], float] = {}
    for record in shown.reference:
        key = (record.cell.architecture, record.cell.precision)
        best[key] = max(best.get(key, 0.0), record.row()[SPEED])
    bars = chart(found, "bar", SPEED)
    assert sorted(x for x, _ in bars["values"][0]) == sorted(best.values())


def test_experiment_and_runs_say_in_words_what_they_are(page: Page, shown: Shown) -> None:
    page.goto(shown.prepared.plain_address)
    page.get_by_role("link", name=shown.reference[0].cell.name, exact=True).click()
    page.get_by_text("Best validation accuracy 92.2 % in 3 epochs").wait_for()
