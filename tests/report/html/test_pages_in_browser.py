"""Reports in a real browser: controls by mouse and keyboard, accessibility, widths, both colour schemes, print."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.browser import WIDTHS

from mmfeat.project.project import Project
from mmfeat.report.html.blocks import Card, Gallery, Member, Page, PageTable, Section
from mmfeat.report.html.pages import page_html
from mmfeat.report.table_layout import Cell, table
from mmfeat.workflows.report import report

pytest.importorskip("selenium")
from selenium.webdriver import Keys
from selenium.webdriver.support.ui import Select

pytestmark = pytest.mark.slow
SHOWN = "return [...document.querySelectorAll('tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"


@pytest.fixture(scope="module")
def pages(module_folder) -> list[Path]:
    """The reports of a run and of the project."""
    return [
        report(Project(module_folder), "crossattn-1").file,
        report(Project(module_folder), of_project=True).file,
    ]


def test_no_serious_fault_at_any_width_in_light_and_dark(pages, browser):
    for page in pages:
        for scheme in ("light", "dark"):
            browser.media(prefers_color_scheme=scheme)
            for width in WIDTHS.values():
                browser.size(width)
                browser.open(page)
                assert browser.axe() == []
                assert browser.run("return document.documentElement.scrollWidth") <= width
                assert browser.console_errors() == []
                assert browser.foreign_requests() == []


def test_a_click_and_a_key_sort_a_table(pages, browser):
    browser.size(WIDTHS["desktop"])
    browser.media(prefers_reduced_motion="reduce")  # nothing moves while it is clicked
    browser.open(pages[0])
    column = "return [...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[2].dataset.value)"
    header = browser.find("#classes th:nth-child(3) button")
    header.click()
    numbers = [float(n) for n in browser.run(column)]
    assert numbers == sorted(numbers, reverse=True)
    header.send_keys(Keys.ENTER)
    assert [float(n) for n in browser.run(column)] == sorted(numbers)
    assert browser.find("#classes th:nth-child(3)").get_attribute("aria-sort") == "ascending"


def test_one_class_of_errors_at_a_time(pages, browser):
    browser.open(pages[0])
    choice = browser.find("select")
    visible = "return [...document.querySelectorAll('[data-group]')].filter(g => !g.hidden).map(g => g.dataset.name)"
    names = browser.run("return [...document.querySelectorAll('[data-group]')].map(g => g.dataset.name)")
    assert browser.run(visible) == names[:1]
    Select(choice).select_by_visible_text(names[1])
    assert browser.run(visible) == names[1:2]
    choice.send_keys(Keys.END)
    assert browser.run(visible) == names


@pytest.fixture
def long_page(tmp_path) -> Path:
    rows = [
        [Cell(f"class {k}", f"class {k}"), k, Cell("", None) if k % 7 == 0 else Cell(f"{k}", k / 3)]
        for k in range(1, 351)
    ]
    shown = PageTable(name="t", table=table(["class", "n", "F1"], rows), sortable=True)
    file = tmp_path / "long.html"
    file.write_text(
        page_html(Page(title="long", sections=(Section(id="a", title="A", blocks=(shown,)),))), encoding="utf-8"
    )
    return file


def test_long_tables_are_paged_and_searched(long_page, browser):
    browser.open(long_page)
    assert len(browser.run(SHOWN)) == 100
    assert browser.text(".status") == "350 shown, page 1 of 4"
    assert browser.find(".back").get_attribute("disabled")
    browser.find(".on").click()
    assert browser.run(SHOWN)[0] == "class 101"
    browser.find(".search").send_keys("class 35")
    assert browser.run(SHOWN) == ["class 35", "class 350"]
    assert browser.text(".status") == "2 of 350 shown"
    browser.find(".search").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    browser.find("th:nth-child(3) button").click()
    assert browser.run(SHOWN)[0] == "class 349"
    browser.find("th:nth-child(3) button").click()
    assert browser.run(SHOWN)[0] == "class 1"  # blanks come last both ways
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert len(browser.run(SHOWN)) == 350
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert len(browser.run(SHOWN)) == 100
    assert browser.console_errors() == []


def test_print_has_no_controls_and_hostile_text_runs_nothing(tmp_path, browser):
    bad = '"><img src=x onerror="document.title=1"><script>document.title=2</script>' + "W" * 3000
    card = Card(members=(Member(id=bad, caption=bad, missing=bad),), reason=bad)
    shown = PageTable(name="t", table=table([bad, "n"], [[Cell(bad, bad), 1]] * 120), sortable=True)
    blocks = (shown, Gallery(cards=(card, card)))
    file = tmp_path / "hostile.html"
    file.write_text(
        page_html(Page(title="safe", sections=(Section(id="a", title="A", blocks=blocks),))), encoding="utf-8"
    )
    for width in WIDTHS.values():
        browser.size(width)
        browser.open(file)
        assert browser.driver.title == "safe · mmfeat"
        assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.media(media_type="print")
    assert not browser.find(".controls").is_displayed()
    browser.media()
    assert browser.console_errors() == []
    assert np.all([url.startswith(("file:", "data:")) for url in browser.requests()])
