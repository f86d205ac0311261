"""What a person sees: the installed MLflow UI, opened in a real browser over a real store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from cnnbench.tracking import open_store
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
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from cnnbench.measurement import Profile
    from cnnbench.record import Record
    from cnnbench.tracking import Ui

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
PATIENCE_MS = 60_000
BAR_WIDTHS = """() => [...document.querySelectorAll('.js-plotly-plot .bars .point path')]
    .map(bar => Math.round(bar.getBBox().width))"""
LINE_WIDTHS = """() => [...document.querySelectorAll('.js-plotly-plot path.js-line')]
    .map(line => Math.round(line.getBBox().width))"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


class Shown(NamedTuple):
    """A store with a UI server on it."""

    ui: Ui
    records: list[Record]


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
    ui = tracker.ui(port=free_port())
    tracker.close()
    with mlflow_server(
        ui.command, environment=ui.environment, health=ui.health, log=results / "ui.log"
    ):
        yield Shown(ui, records)


def slowed(factor: float) -> Profile:
    profile = sample_profile()
    windows = tuple(replace(w, seconds=w.seconds * factor) for w in profile.windows)
    return replace(profile, windows=windows)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync", "--no-first-run"),
            ],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1600, "height": 1000})
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


def test_the_page_opens_as_model_training_and_names_every_run(
    page: Page, shown: Shown, tmp_path: Path
) -> None:
    page.goto(shown.ui.address)
    for record in shown.records:
        page.get_by_role("link", name=record.cell.name, exact=True).wait_for()
    page.get_by_role("link", name=shown.records[0].sweep_id, exact=True).wait_for()
    page.get_by_role("heading", name="Runs").wait_for()
    assert page.get_by_role("link", name="Models", exact=True).is_visible()
    # What the page for language models has beside the runs.
    assert page.get_by_role("link", name="Judges", exact=True).count() == 0
    assert page.get_by_text(f"{len(shown.records) + 1} matching runs").is_visible()
    page.screenshot(path=tmp_path / "runs.png")


def test_the_charts_draw_a_bar_for_every_cell(page: Page, shown: Shown, tmp_path: Path) -> None:
    page.goto(f"{shown.ui.address}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("images_per_second$")
    num_cells = len(shown.records)
    page.wait_for_function(f"new Set(({BAR_WIDTHS})().filter(w => w > 0)).size == {num_cells}")
    page.screenshot(path=tmp_path / "bars.png")
    assert len(page.evaluate(BAR_WIDTHS)) == num_cells


def test_the_charts_draw_a_curve_for_every_cell(page: Page, shown: Shown, tmp_path: Path) -> None:
    page.goto(f"{shown.ui.address}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("val/accuracy")
    # Each cell trained for another number of epochs, so each curve has another width.
    num_cells = len(shown.records)
    page.wait_for_function(f"new Set(({LINE_WIDTHS})().filter(w => w > 0)).size == {num_cells}")
    page.screenshot(path=tmp_path / "curves.png")


def test_the_browser_is_sent_nowhere_but_to_this_machine(page: Page, shown: Shown) -> None:
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(shown.ui.address)
    page.get_by_role("link", name=shown.records[0].cell.name, exact=True).wait_for()
    assert hosts == {"127.0.0.1"}


def test_a_run_shows_its_artifacts(page: Page, shown: Shown, tmp_path: Path) -> None:
    page.goto(shown.ui.address)
    page.get_by_role("link", name=shown.records[0].cell.name, exact=True).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("windows.csv").first.click()
    page.get_by_text("foreign_fraction").first.wait_for()
    page.screenshot(path=tmp_path / "artifacts.png")
