"""The page is whole, says what the table says, runs nobody's script and asks no network."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright

from cnnbench.analysis.frame import to_frame
from cnnbench.errors import StoreError
from cnnbench.report.figures import FIGURE_NAMES
from cnnbench.report.page import write_report
from cnnbench.report.rows import comparison, with_details
from sample_sweep import DIGITS, ENVIRONMENT, spoilt, sweep, troubled, with_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import Page

    from cnnbench.record import Record

RECORDS = troubled(sweep())
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


def test_injected_markup_runs_nothing_in_a_browser(tmp_path: Path, tab: Page) -> None:
    evil = "x:<script>alert</script><svg/onload=alert>"
    records = [with_cell(replace(r, notes=(evil,)), architecture=evil) for r in RECORDS]
    tab.goto(write(tmp_path, records, command=evil).as_uri())
    assert tab.locator("h3").first.inner_text().replace("\u200b", "") == evil


def brightness(colour: str) -> float:
    """Return the mean of the red, green and blue of `rgb(r, g, b)`."""
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3
