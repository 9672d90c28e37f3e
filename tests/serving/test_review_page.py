"""The review page in a real browser: every control, keys alone, hostile texts, two pages, a killed server, speed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import WIDTHS, Browser
from helpers.command_line import COMMAND
from helpers.review_page import Page, items_of, reviewing

from mmfeat.data.review_files import read_review
from mmfeat.data.review_items import Reason
from mmfeat.project.project import Project

pytestmark = pytest.mark.slow

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>",
    "\"quotes\" 'and' &amp; `ticks` ${window.hacked = 1}",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd and back",
    "\x1b[31mred\x1b[0m \x07 \x00",
    "many letters " * 800,
    "javascript:window.hacked=1",
    "   ",
)


@pytest.fixture
def at_desk(request, browser):
    """Opens a page of given rows in the browser: a function that gives the page and the browser."""
    opened = []

    def open_page(items=None, *, project=None, width=WIDTHS["desktop"], **desk) -> Page:
        project = project or request.getfixturevalue("project")
        serving = reviewing(project, items_of(project, 24) if items is None else items, **desk)
        page = serving.__enter__()
        opened.append(serving)
        browser.size(width)
        browser.open(page.url)
        browser.until("document.body.dataset.shown !== undefined || !document.getElementById('alarm').hidden")
        return page

    yield open_page
    browser.driver.get("about:blank")
    for serving in opened:
        serving.__exit__(None, None, None)


@pytest.fixture
def few(project) -> Project:
    """The project with five classes: each has a key."""
    return renamed(project, project.manifest.classes[:5])


def renamed(project: Project, classes: tuple[str, ...]) -> Project:
    """The project with other classes, and the labels of the first ones."""
    manifest = project.manifest
    labels = np.zeros((manifest.n_samples, len(classes)), np.int8)
    n = min(len(classes), manifest.labels.shape[1])
    labels[:, :n] = manifest.labels[:, :n]
    return project.derived(manifest=dataclasses.replace(manifest, classes=classes, labels=labels))


def shown_row(browser: Browser) -> int:
    return int(browser.run("return document.body.dataset.row"))


def pressed(browser: Browser) -> list[str]:
    """The labels that are on."""
    return sorted({one.get_property("textContent") for one in browser.all(".toggle[aria-pressed=true] .name")})


def saved(browser: Browser, page: Page) -> dict[str, list[str]]:
    """The answers in the file, once the page says that all are saved."""
    browser.until("document.getElementById('state').textContent === 'All saved'")
    project = page.desk._project
    return read_review(page.file, project.manifest, separator=project.config.data.separator).given


def click(browser: Browser, selector: str) -> None:
    browser.find(selector).click()


def nothing_wrong(browser: Browser) -> None:
    assert browser.console_errors() == []
    assert browser.foreign_requests() == []


# -- controls


def test_every_control_by_mouse(at_desk, browser, project):
    page, classes = at_desk(notes=["The audit is out of date"]), project.manifest.classes
    first, second, third = project.manifest.ids[:3]
    assert pressed(browser) == [classes[0]]
    assert browser.text("#notes").startswith("The audit is out of date")
    click(browser, "#notes button")
    assert not browser.all("#notes .note")
    click(browser, ".toggle[data-class='1']")
    click(browser, ".toggle[data-class='0']")
    assert pressed(browser) == [classes[1]]
    click(browser, "#accept")
    assert shown_row(browser) == 1
    assert saved(browser, page) == {first: [classes[1]]}
    assert browser.text("#progress-text") == "1 of 24 rows"
    click(browser, "#set-none")
    click(browser, "#accept")
    assert saved(browser, page) == {first: [classes[1]], second: []}
    click(browser, "#set-given")
    assert pressed(browser) == sorted(items_of(project, 3)[2].given or ())
    click(browser, "#set-proposed")
    assert pressed(browser) == [classes[2]]
    click(browser, "#undo")
    assert (shown_row(browser), saved(browser, page)) == (1, {first: [classes[1]]})
    click(browser, "#previous")
    assert browser.text("#answered") == f"Saved: {classes[1]}"
    click(browser, "#take-back")
    assert saved(browser, page) == {}
    click(browser, "#next")
    click(browser, ".entry[data-row='2']")
    assert (shown_row(browser), browser.text("#sample-id")) == (2, third)
    click(browser, "#picture")
    browser.until("document.querySelector('#zoom img')")
    click(browser, "#zoom [data-close]")
    click(browser, "#help")
    assert browser.find("#help-dialog").is_displayed()
    click(browser, "#help-dialog [data-close]")
    nothing_wrong(browser)


def test_filters_by_reason_class_and_answer(at_desk, browser, project):
    from selenium.webdriver.support.ui import Select as select

    page = at_desk()
    select(browser.find("#kind")).select_by_visible_text("label errors (12)")
    assert browser.text("#count") == "12 rows of 24"
    assert shown_row(browser) == 1
    browser.run("document.activeElement.blur()")
    browser.press(" ")
    assert shown_row(browser) == 3  # the next one of the filter
    select(browser.find("#status")).select_by_visible_text("answered")
    assert (browser.text("#count"), shown_row(browser)) == ("1 row of 24", 1)
    select(browser.find("#status")).select_by_visible_text("not answered")
    assert browser.text("#count") == "11 rows of 24"
    select(browser.find("#kind")).select_by_visible_text("uncertain (12)")
    select(browser.find("#status")).select_by_visible_text("answered")
    assert browser.text("#nothing-text") == "No row fits the filter."
    click(browser, "#clear")
    assert browser.text("#count") == "24 rows"
    select(browser.find("#class")).select_by_index(1)
    assert re.fullmatch(r"\d+ rows of 24", browser.text("#count"))
    assert len(saved(browser, page)) == 1
    nothing_wrong(browser)


def test_answers_are_applied_from_the_page(at_desk, browser, project):
    page = at_desk()
    browser.press(" ", " ")
    saved(browser, page)
    assert browser.text("#apply") == "Apply 2"
    click(browser, "#apply")
    assert browser.text("#apply-text").startswith("2 answers are added to corrections.csv")
    click(browser, "#apply-now")
    browser.until("document.getElementById('apply-text').textContent.startsWith('Applied')", seconds=60)
    assert "mmfeat review --undo" in browser.text("#apply-text")
    click(browser, "#apply-dialog [data-close]")
    assert browser.find("#apply").get_property("disabled")
    assert len((project.root / "corrections.csv").read_text().splitlines()) == 3
    browser.press(" ")
    (project.root / "mmfeat.toml").rename(project.root / "gone")
    saved(browser, page)
    click(browser, "#apply")
    click(browser, "#apply-now")
    browser.until("document.getElementById('apply-text').textContent.startsWith('Nothing is applied: ')", seconds=60)
    assert [one for one in browser.console_errors() if "422" not in one] == []


def test_keys_alone_do_everything(at_desk, browser, few):
    from selenium.webdriver import Keys

    page, classes, ids = at_desk(items_of(few, 24), project=few), few.manifest.classes, few.manifest.ids
    browser.press("2", "1")
    assert pressed(browser) == [classes[1]]
    browser.press(" ")
    browser.until("document.body.dataset.shown === '1'")
    browser.press("0", Keys.ENTER)
    browser.until("document.body.dataset.shown === '2'")
    assert saved(browser, page) == {ids[0]: [classes[1]], ids[1]: []}
    browser.press(Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert shown_row(browser) == 3
    browser.press("u")
    browser.until("document.body.dataset.shown === '1'")
    assert saved(browser, page) == {ids[0]: [classes[1]]}
    browser.press(Keys.ARROW_LEFT)
    browser.until("document.body.dataset.shown === '0'")
    browser.press("t")
    assert saved(browser, page) == {}
    browser.press("g", "p", "?")
    assert browser.find("#help-dialog").is_displayed()
    browser.press(" ", Keys.ESCAPE, "f")
    browser.until("document.querySelector('#zoom[open] img')")
    browser.press(Keys.ESCAPE, "n")
    assert shown_row(browser) == 1
    # Tab reaches the labels, and space on one of them is its own
    click(browser, "#caption")
    browser.run("document.getElementById('labels').focus()")
    for _ in range(40):
        browser.press(Keys.TAB)
        if browser.run("return document.activeElement.matches('.toggle')"):
            break
    before = pressed(browser)
    browser.press(" ")
    assert (shown_row(browser), pressed(browser) == before) == (1, False)
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    nothing_wrong(browser)


def test_of_5_000_classes_one_is_found_by_its_name(at_desk, browser, project):
    from selenium.webdriver import Keys

    many = renamed(project, tuple(f"class {k:04}" for k in range(5000)))
    page = at_desk(items_of(many, 5), project=many)
    assert len(browser.all("#others .toggle")) == 60
    assert browser.text("#others-more").endswith("more: type a part of the name")
    browser.press("/", *"s 4321", Keys.ENTER, Keys.ESCAPE)
    assert pressed(browser) == ["class 0000", "class 4321"]
    browser.press(" ")
    assert list(saved(browser, page).values()) == [["class 0000", "class 4321"]]
    browser.press("/", *"no such class")
    assert browser.text("#others-more") == "no other class has this in its name"
    nothing_wrong(browser)


# -- what data say


def test_hostile_texts_stay_text(at_desk, browser, project):
    named = renamed(project, tuple(dict.fromkeys(one.strip() or "blank" for one in HOSTILE)))
    reason = Reason(kind=HOSTILE[0], text=HOSTILE[0], class_name=HOSTILE[0], related=tuple(named.manifest.ids[:2]))
    items = [
        dataclasses.replace(item, id=f"{text[:300]} {at}", caption=text, reasons=(reason,))
        for at, (item, text) in enumerate(zip(items_of(named, len(HOSTILE)), HOSTILE, strict=True))
    ]
    page = at_desk(items, project=named, notes=HOSTILE[:2], run=HOSTILE[0])
    for at, text in enumerate(HOSTILE):
        browser.until(f"document.body.dataset.shown === '{at}'")
        words = browser.text("#caption")
        if at in (0, 1, 5):
            assert words == text
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", browser.run("return document.body.textContent"))
        browser.size(WIDTHS["phone"])
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), text[:20]
        browser.size(WIDTHS["desktop"])
        browser.press(" ")
    browser.until("!document.getElementById('nothing').hidden")
    assert browser.run("return window.hacked") is None
    assert browser.run("return document.scripts.length") == 1
    assert not browser.all("main img[onerror]")
    browser.until("document.getElementById('state').textContent === 'All saved'")
    assert page.file.read_text().count("\n") == len(HOSTILE) + 1
    nothing_wrong(browser)


def test_similar_rows_are_shown_below_the_caption(at_desk, browser, own):
    at_desk(items_of(own, 3), project=own)
    browser.press("s")
    browser.until("document.querySelectorAll('#related .twin').length === 12")
    browser.until("document.querySelectorAll('#related .twin img').length === 12")
    browser.press(" ")
    browser.until("document.body.dataset.shown === '1'")
    assert not browser.all("#related .twin")
    click(browser, "#similar")
    browser.until("document.querySelector('#related .twin')")
    nothing_wrong(browser)


def test_rows_without_a_readable_picture_say_so(at_desk, browser, project):
    items = items_of(project, 3)
    at_desk([dataclasses.replace(items[0], image=""), items[1]])
    assert browser.text("#frame") == "This row has no picture"
    browser.press(" ")
    browser.until("document.querySelector('#picture img')")
    assert browser.find("#picture img").get_property("naturalWidth") > 0


# -- accessibility and widths


STATES = {
    "rows": "",
    "help": "document.getElementById('help').click()",
    "picture": "document.getElementById('picture').click()",
    "apply": "document.getElementById('apply-dialog').showModal()",
    "conflict": "document.getElementById('conflict').showModal()",
    "alarm": "const one = document.getElementById('alarm'); one.textContent = 'no answer'; one.hidden = false",
    "nothing": "const s = document.getElementById('status'); s.value = 'done'; s.dispatchEvent(new Event('change'))",
}


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(at_desk, browser, project, width, scheme):
    items = items_of(project, 24)
    twins = dataclasses.replace(
        items[0], reasons=(Reason(kind="near-duplicates", text="a twin", related=(items[1].id,)),)
    )
    at_desk([dataclasses.replace(twins, caption="words " * 100), *items[1:]], width=width, notes=["a note"])
    browser.media(prefers_color_scheme=scheme)
    try:
        for name, script in STATES.items():
            browser.run(script)
            if name == "picture":
                browser.until("document.querySelector('#zoom[open] img')")
            assert browser.axe() == [], name
            browser.run("for (const one of document.querySelectorAll('dialog[open]')) one.close()")
    finally:
        browser.media()
    nothing_wrong(browser)


@pytest.mark.parametrize("width", [320, *WIDTHS.values(), 1600])
def test_nothing_is_cut_at_any_width(at_desk, browser, width, tmp_path):
    at_desk(width=width)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    accept = browser.run(
        "const b = document.getElementById('accept').getBoundingClientRect(); return [b.top >= 0, b.bottom <= innerHeight]"
    )
    assert accept == [True, True]
    if width <= 1080:
        click(browser, "#rows")
        assert browser.find("#list").is_displayed()
        click(browser, ".entry[data-row='1']")
        assert (shown_row(browser), browser.find("#list").is_displayed()) == (1, False)
    assert browser.screenshot(tmp_path / "page.png", width).stat().st_size > 5000


# -- many rows, speed


MEASURE = """
const done = arguments[arguments.length - 1];
const [presses, key] = arguments;
const times = [];
let began = 0;
document.addEventListener("keydown", (event) => { began = event.timeStamp; }, { capture: true });
new MutationObserver(() => requestAnimationFrame(() => {
  times.push(performance.now() - began);
  if (times.length === presses) done(times);
  else setTimeout(press, 250);
})).observe(document.body, { attributeFilter: ["data-shown"] });
const press = () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
press();
"""


def test_20_000_rows_are_shown_and_the_next_picture_comes_within_100_ms(at_desk, browser, project, capsys):
    from selenium.webdriver import Keys

    began = time.monotonic()
    page = at_desk(items_of(project, 20_000))
    opened = time.monotonic() - began
    assert browser.text("#count") == "20,000 rows"
    assert len(browser.all(".entry")) < 60
    browser.driver.set_script_timeout(120)
    times = browser.driver.execute_async_script(MEASURE, 40, " ")
    median = statistics.median(times)
    with capsys.disabled():
        print(
            f"\nreview page: 20,000 rows open in {opened:.1f} s; key press to next picture {median:.0f} ms (median of 40)"
        )
    assert median < 100
    assert len(saved(browser, page)) == 40
    browser.run("document.getElementById('list').scrollTop = 1e9")
    browser.until("document.querySelector('.entry[data-row=\"19999\"]')")
    click(browser, ".entry[data-row='19999']")
    browser.until("document.body.dataset.shown === '19999'")
    browser.press(Keys.ARROW_DOWN)
    assert shown_row(browser) == 19_999
    nothing_wrong(browser)


# -- two pages, no server


def test_two_pages_lose_nothing(at_desk, browser, few):
    page, classes, ids = at_desk(items_of(few, 24), project=few), few.manifest.classes, few.manifest.ids
    page.answer(ids[0], [classes[1]], 0)  # this page has not heard of it
    browser.press("1", "3", " ")
    browser.until("document.querySelector('#conflict[open]')")
    assert browser.text("#conflict-id") == ids[0]
    assert browser.text("#conflict-theirs") == classes[1]
    assert browser.text("#conflict-mine") == classes[2]
    click(browser, "#keep-mine")
    assert saved(browser, page) == {ids[0]: [classes[2]]}
    page.answer(ids[1], [classes[3]], 0)
    browser.press("0", " ")
    browser.until("document.querySelector('#conflict[open]')")
    click(browser, "#keep-theirs")
    assert saved(browser, page) == {ids[0]: [classes[2]], ids[1]: [classes[3]]}
    labels = [json.loads(line)["labels"] for line in page.file.read_text().splitlines()[1:]]
    assert labels == [[classes[1]], [classes[2]], [classes[3]]]
    assert [one for one in browser.console_errors() if "409" not in one] == []


def test_a_second_tab_shows_what_the_first_has_saved(at_desk, browser, few):
    page = at_desk(items_of(few, 24), project=few)
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    try:
        browser.size(WIDTHS["desktop"])
        browser.open(page.url)
        browser.until("document.body.dataset.shown === '0'")
        browser.press(" ", " ")
        saved(browser, page)
        browser.driver.close()
    finally:
        browser.driver.switch_to.window(first)
    browser.until("document.getElementById('progress-text').textContent === '2 of 24 rows'")
    assert browser.text("#answered") == f"Saved: {few.manifest.classes[0]}"
    browser.press(" ")
    assert (shown_row(browser), len(saved(browser, page))) == (2, 2)
    nothing_wrong(browser)


def test_answers_wait_for_a_server_that_does_not_answer(at_desk, browser, project):
    page = at_desk()
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **offline})
    try:
        browser.press(" ")
        browser.until("!document.getElementById('alarm').hidden")
        assert browser.text("#alarm") == "The server does not answer. 1 answer will be sent again."
        assert browser.text("#state") == "Saving 1 answer"
        assert 'revision": 1' not in page.file.read_text()
    finally:
        browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **offline})
    assert list(saved(browser, page)) == [project.manifest.ids[0]]
    assert not browser.find("#alarm").is_displayed()


def test_a_wrong_token_is_said(at_desk, browser):
    page = at_desk()
    page.entrance.token = "another"
    browser.press(" ")
    browser.until("document.getElementById('alarm').textContent.startsWith('The server was started again.')")


def served(folder: Path) -> tuple[subprocess.Popen, str]:
    """`mmfeat review --serve` in a process of its own, and its address."""
    command = [COMMAND, "review", "--serve", "--no-browser", "--split", "train", "--n", "20"]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line):
            return process, found[0]
    raise AssertionError(f"no address: {process.wait()}")


def test_kill_9_loses_no_answer_that_was_shown_as_saved(trained, tmp_path, browser):
    folder = shutil.copytree(trained, tmp_path / "project")
    process, url = served(folder)
    try:
        browser.open(url)
        browser.until("document.body.dataset.shown !== undefined", seconds=60)
        for _ in range(3):
            browser.press(" ")
            browser.until("document.body.dataset.shown === document.body.dataset.row")
        browser.until("document.getElementById('state').textContent === 'All saved'")
        shown = browser.text("#progress-text")
        browser.press(" ")
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        browser.driver.get("about:blank")
        process, url = served(folder)
        browser.open(url)
        browser.until("document.body.dataset.shown !== undefined", seconds=60)
        n, before = (int(text.split()[0]) for text in (browser.text("#progress-text"), shown))
        assert n in (before, before + 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        browser.driver.get("about:blank")
    answered = json.loads((folder / "review.jsonl").read_text().splitlines()[-1])["revision"]
    assert answered == n
