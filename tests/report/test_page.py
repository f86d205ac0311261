"""The page is whole, says what the table says, runs nobody's script and asks no network."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright

from cnnbench.analysis.frame import to_frame, write_tables
from cnnbench.errors import StoreError
from cnnbench.report.figures import FIGURE_NAMES
from cnnbench.report.page import write_report
from cnnbench.report.rows import comparison, with_details
from sample_sweep import DIGITS, ENVIRONMENT, metered, spoilt, sweep, troubled, with_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import Page

    from cnnbench.record import Record

RECORDS = troubled(metered(sweep()))
COMMAND = "cnnbench run --profile quick --dataset digits"
EVIL = "x:<img/src=x/onerror=alert>\"'&amp;"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}


class Reader(HTMLParser):
    """Reads the table of cells, and fails on a page whose tags do not match."""

    def __init__(self) -> None:
        """Start with nothing read."""
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.columns: list[str] = []
        self.rows: dict[str, list[tuple[str, str]]] = {}
        self.text = ""
        self.tags: set[str] = set()
        self._row: list[tuple[str, str]] = []
        self._value: str | None = None
        self._shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element, and a column or a cell that begins."""
        known = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in known.items()]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "th":
            self.columns.append(known["data-column"])
        if tag == "tr" and "data-cell" in known:
            self._row = self.rows.setdefault(known["data-cell"], [])
        if tag == "td":
            self._value, self._shown = known["data-value"], ""

    def handle_endtag(self, tag: str) -> None:
        """Check that the element that began last ends."""
        assert self.open.pop() == tag
        if tag == "td" and self._value is not None:
            self._row.append((self._value, self._shown))
            self._value = None

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.text += data
        self._shown += data


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


def write(folder: Path, records: Sequence[Record] = RECORDS, **changes: Any) -> Path:
    settings = {"environment": ENVIRONMENT, "dataset_info": DIGITS, "command": COMMAND, **changes}
    return write_report(records, folder=folder, **settings)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sweep"), profile="quick")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs chromium: install it to see the page in a browser")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Page]:
    """Return a tab that fails the test on any error, and on any request but for the page itself."""
    troubles: list[str] = []
    opened = browser.new_page()
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("dialog", lambda dialog: troubles.append(dialog.message))
    requests: list[str] = []
    opened.on("request", lambda request: requests.append(request.url))
    yield opened
    opened.close()
    assert troubles == []
    assert [url.rpartition("/")[2] for url in requests] == ["index.html"]


def test_the_page_and_one_picture_per_figure_are_written(page: Path) -> None:
    assert page.name == "index.html"
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"index.html", *(f"{name}.png" for name in FIGURE_NAMES)}
    assert page.stat().st_size < 6 * 2**20


def test_the_tables_numbers_are_those_of_the_frame(page: Path) -> None:
    reader, frame = read(page), to_frame(RECORDS).set_index("cell_hash")
    assert set(reader.rows) == set(frame.index)
    known = [name for name in reader.columns if name in frame.columns]
    assert {"images_per_second", "peak_allocated_mib", "test_accuracy", "batch_size"} <= set(known)
    hidden = {"best_val_accuracy", "test_accuracy"}
    for cell_hash, cells in reader.rows.items():
        for name, (value, _) in zip(reader.columns, cells, strict=True):
            if name not in known:
                continue
            expected: Any = frame.loc[cell_hash, name]
            transfer = frame.loc[cell_hash, "architecture"] == "transfer_resnet50"
            if pd.isna(expected) or (transfer and name in hidden):
                assert value == ""
            elif isinstance(expected, str):
                assert value == expected
            else:
                assert float(value) == expected


def figures_of(page: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the data behind each figure, as the page holds it."""
    pattern = r'<script type="application/json" data-figure="([a-z-]+)">(.*?)</script>'
    return {
        name: json.loads(text)
        for name, text in re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL)
    }


COLUMNS_OF_FIGURES = {
    "rate": "images_per_second",
    "low": "images_per_second_low",
    "high": "images_per_second_high",
    "peak": "peak_allocated_mib",
    "joules": "joules_per_image",
    "batch": "batch_size",
    "precision": "precision",
    "checkpointing": "checkpointing",
    "seed": "seed",
}


def test_every_figure_shows_what_cells_csv_says(page: Path, tmp_path: Path) -> None:
    write_tables(RECORDS, tmp_path)
    with (tmp_path / "cells.csv").open(encoding="utf-8", newline="") as file:
        table = {row["cell_hash"]: row for row in csv.DictReader(file)}
    found = figures_of(page)
    assert set(found) == set(FIGURE_NAMES)
    num_compared = 0
    for name, datasets in found.items():
        for row in (row for rows in datasets.values() for row in rows):
            cells = row.get("cells") or [row["cell"]] if {"cells", "cell"} & row.keys() else []
            if len(cells) != 1:
                continue
            expected = table[cells[0]]
            known = COLUMNS_OF_FIGURES if name != "accuracy-epoch" else {"batch": "batch_size"}
            for field, column in known.items():
                if field in row:
                    assert row[field] == type(row[field])(expected[column]), (name, field)
                    num_compared += 1
            if "ratio" in row:
                measure = row.get("measure", "images per second")
                column = "peak_allocated_mib" if "memory" in measure else "images_per_second"
                ours, theirs = float(expected[column]), float(table[row["baseline"]][column])
                assert row["ratio"] == pytest.approx(ours / theirs)
                num_compared += 1
            if name == "accuracy-time" or (name == "accuracy-epoch" and row["best"]):
                assert row["accuracy"] == float(expected["best_val_accuracy"])
                num_compared += 1
            if name == "roofline" and row["checkpointing"] == "none":
                flops = float(expected["model_gflops_per_image"])
                assert row["speed"] == pytest.approx(flops * float(expected["images_per_second"]))
                num_compared += 1
    assert num_compared > 500


def test_the_shown_texts_are_those_of_the_comparison(page: Path) -> None:
    reader, shown = read(page), comparison(RECORDS)
    columns = with_details(shown)
    assert reader.columns == ["architecture", *(column.name for column in columns)]
    for row in shown.rows:
        texts = [text for _, text in reader.rows[row.record.cell_hash]]
        assert texts[1:] == [row.texts[column.name] for column in columns]
        assert texts[0].startswith("★") == row.is_best


def test_what_was_run_and_how_to_repeat_it_are_said(page: Path) -> None:
    text = read(page).text
    for said in (
        COMMAND,
        RECORDS[0].sweep_id,
        ENVIRONMENT.device,
        ENVIRONMENT.torch,
        DIGITS.digest,
        "quick",
        "matmul.fp32_precision",
        "noise of 14 % above 10 %",
        "tried to allocate 2.4 GiB, 1.1 GiB were free",
    ):
        assert said in text


def test_every_text_is_escaped(tmp_path: Path) -> None:
    records = [
        with_cell(replace(r, device=EVIL, error=EVIL, notes=(EVIL,)), architecture=EVIL)
        for r in RECORDS
    ]
    settings = {
        "environment": replace(ENVIRONMENT, device=EVIL, variables={EVIL: EVIL}),
        "dataset_info": replace(DIGITS, name=EVIL, source=EVIL),
        "command": EVIL,
        "profile": EVIL,
    }
    page = write(tmp_path, records, **settings)
    reader = read(page)
    assert "img" not in reader.tags
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert EVIL in reader.text


def test_the_page_refers_to_nothing_outside_itself(page: Path) -> None:
    reader, text = read(page), page.read_text(encoding="utf-8")
    links = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
    assert {v for _, name, v in reader.attributes if name in links} == {"data:,"}
    assert not re.search(r"@import|url\(", text)
    assert not {"iframe", "object", "embed", "base", "form"} & reader.tags


def test_ids_are_unique(page: Path) -> None:
    ids = [value for _, name, value in read(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("records", [[], [spoilt(r, "failed", "boom") for r in RECORDS[:2]]])
def test_a_sweep_without_numbers_still_has_a_page(tmp_path: Path, records: list[Record]) -> None:
    page = write(tmp_path, records)
    assert COMMAND in read(page).text
    assert "svg" not in read(page).tags
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]


def test_a_figure_that_has_no_data_any_more_is_removed(tmp_path: Path) -> None:
    write(tmp_path)
    page = write(tmp_path, sweep(epochs=0))
    assert not (page.parent / "accuracy-epoch.png").exists()
    assert (page.parent / "one-change.png").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write .*report"):
        write(tmp_path, [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_the_page_without_errors(page: Path, tab: Page, scheme: Any) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.goto(page.as_uri())
    assert tab.locator("figure svg").count() == len(FIGURE_NAMES)
    marks = tab.locator("figure svg path[aria-roledescription=point]").count()
    assert marks > len(RECORDS)
    body, title = (
        tab.locator(name).first.evaluate(f"e => getComputedStyle(e).{style}")
        for name, style in (("body", "backgroundColor"), ("figure svg text", "fill"))
    )
    assert brightness(body) > 200 if scheme == "light" else brightness(body) < 50
    assert abs(brightness(body) - brightness(title)) > 100
    ground = tab.locator("figure svg > rect").first.evaluate("e => getComputedStyle(e).fill")
    assert ground == "rgba(0, 0, 0, 0)"


def test_a_click_on_a_heading_sorts_by_the_exact_numbers(page: Path, tab: Page) -> None:
    tab.goto(page.as_uri())
    column = read(page).columns.index("images_per_second")
    button = tab.locator("th[data-column=images_per_second] button")

    def values() -> list[str]:
        found: list[str] = tab.locator("tbody tr").evaluate_all(
            f"rows => rows.map(row => row.cells[{column}].dataset.value)"
        )
        return found

    for sign in (-1, 1):
        button.click()
        known = [sign * float(value) for value in values() if value]
        assert known == sorted(known)
        assert values()[len(known) :] == [""] * (len(RECORDS) - len(known))
    assert len(values()) == len(RECORDS)


def test_words_and_choices_filter_the_table(page: Path, tab: Page) -> None:
    tab.goto(page.as_uri())
    rows = tab.locator("tbody tr")
    tab.get_by_label("Show only rows that hold these words").fill("BF16 block simple")
    wanted = [
        r
        for r in RECORDS
        if (r.cell.architecture, r.cell.precision, r.cell.checkpointing)
        == ("simple_cnn", "bf16", "block")
    ]
    assert rows.count() == len(wanted) == 2
    assert tab.get_by_role("status").inner_text() == f"2 cells (of {len(RECORDS)})"
    tab.get_by_label("batch", exact=True).select_option("128")
    assert rows.count() == 1
    tab.get_by_label("Show only rows that hold these words").fill("")
    tab.get_by_label("batch", exact=True).select_option("any batch")
    assert rows.count() == len(RECORDS)


def test_a_long_table_is_shown_page_by_page(tmp_path: Path, tab: Page) -> None:
    many = [with_cell(RECORDS[0], batch_size=size) for size in range(1, 451)]
    tab.goto(write(tmp_path, many).as_uri())
    rows, status = tab.locator("tbody tr"), tab.get_by_role("status")
    assert rows.count() == 200
    assert status.inner_text() == "1 to 200 of 450 cells"
    for said in ("201 to 400 of 450 cells", "401 to 450 of 450 cells"):
        tab.get_by_role("button", name="on →").click()
        assert status.inner_text() == said
    assert rows.count() == 50
    assert tab.get_by_role("button", name="on →").is_disabled()
    tab.locator("th[data-column=batch_size] button").click()
    assert rows.first.evaluate("row => row.dataset.cell") == many[-1].cell_hash


def test_on_a_phone_nothing_but_tables_and_figures_is_wider_than_the_screen(
    page: Path, tab: Page
) -> None:
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    heights = tab.locator("figure svg").evaluate_all("all => all.map(e => e.clientWidth)")
    assert min(heights) >= 700


def test_injected_markup_runs_nothing_in_a_browser(tmp_path: Path, tab: Page) -> None:
    evil = "x:<script>alert</script><svg/onload=alert>"
    records = [with_cell(replace(r, notes=(evil,)), architecture=evil) for r in RECORDS]
    tab.goto(write(tmp_path, records, command=evil).as_uri())
    assert tab.locator("h3").first.inner_text().replace("\u200b", "") == evil


def brightness(colour: str) -> float:
    """Return the mean of the red, green and blue of `rgb(r, g, b)`."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
