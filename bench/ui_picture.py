"""Takes the README's picture of the MLflow UI: real records, in the real UI, in the real browser.

    python -m bench.ui_picture results/reference/DEVICE --architecture "resnet(width=16,depth=1)"

replays the journal of that folder into a store of its own, opens the comparison that `cnnbench ui`
opens, and writes `ui.png` beside the journal. It needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cnnbench.environment import DatasetInfo, Environment
from cnnbench.results import ENVIRONMENT, load
from cnnbench.tracking import open_store
from cnnbench.ui import running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnbench.record import Record
    from cnnbench.tracking import Tracker, Ui

PORT = 5077
NAME = "ui.png"
WIDTH, HEIGHT = 1680, 1060
PATIENCE_MS = 60_000
ASSISTANT = "mlflow.assistant.panelOpen_v1"
ASSISTANT_WAS_OPENED = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1"
NUM_CHARTS = 4  # in sight at that size
DRAWN = f"""() => {{
    const charts = [...document.querySelectorAll('.js-plotly-plot')];
    return charts.length >= {NUM_CHARTS} && charts.every(chart => chart.querySelector('.point'));
}}"""


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds journal.jsonl and environment.json")
    parser.add_argument("--architecture", help="compare its cells alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as folder:
        tracker = open_store(None, Path(folder))
        replay(tracker, arguments.folder)
        shown = tracker.ui(port=PORT, architecture=arguments.architecture)
        tracker.close()
        with running(shown):
            take(shown, arguments.folder / NAME)


def replay(tracker: Tracker, folder: Path) -> None:
    """Log the sweep whose journal lies in `folder`."""
    records: Sequence[Record] = load(folder)
    table = msgspec.json.decode((folder / ENVIRONMENT).read_bytes(), type=dict[str, Any])
    log = tracker.sweep(
        records[0].sweep_id,
        profile=table["profile"],
        environment=msgspec.convert(table, Environment),
        dataset=msgspec.convert(table["dataset"], DatasetInfo),
    )
    log.reconcile(records)
    log.finish(records)


def take(shown: Ui, path: Path) -> None:
    """Open the page, wait until its charts are drawn, and write the picture."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # of the test group

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PATIENCE_MS)
        # The assistant opens itself on a browser's first visit, and covers a quarter of the page.
        page.add_init_script(f"localStorage.setItem('{ASSISTANT}', 'false')")
        page.add_init_script(f"localStorage.setItem('{ASSISTANT_WAS_OPENED}', 'true')")
        page.goto(shown.address)
        page.wait_for_function(DRAWN)
        page.wait_for_timeout(1000)  # the legends follow
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main()
