"""A real browser: headless chromium by selenium, with its console, its requests, axe-core and screenshots."""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
AXE = "MMFEAT_AXE"  # names the file axe.min.js
WIDTHS = {"phone": 390, "tablet": 820, "desktop": 1280}
_HEIGHTS = {390: 844, 820: 1180, 1280: 800}
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--lang=en-US",
)
_LOCAL = ("file:", "data:", "blob:", "about:", "chrome:", "http://127.0.0.1:", "http://localhost:")


class Browser:
    """A browser window. `driver` is selenium's own object for everything that has no method here."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str | Path) -> None:
        """Open a URL, or a file. The console and the list of requests begin with it."""
        self.console_errors()
        self.requests()
        self.driver.get(address.resolve().as_uri() if isinstance(address, Path) else address)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a script returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """The first element that a CSS selector names."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        """All elements that a CSS selector names."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """The text of the first element that a CSS selector names, as it is in the page, whether visible or not."""
        return self.find(selector).get_property("textContent")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is. Names of keys: `selenium.webdriver.Keys`."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def until(self, condition: str, *arguments: Any, seconds: float = 10) -> Any:
        """Wait until a JavaScript expression is true; its value."""
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(self.driver, seconds, poll_frequency=0.02)
        return waiting.until(lambda _: self.run(f"return {condition}", *arguments), f"never true: {condition}")

    def size(self, width: int, height: int | None = None) -> None:
        """Set the width of the page in CSS pixels; a phone's width too, which windows cannot have."""
        metrics = {"width": width, "height": height or _HEIGHTS.get(width, 800), "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**metrics, "mobile": width < 500})

    def media(self, **features: str) -> None:
        """Set features of the medium, such as `prefers_color_scheme="dark"`; `media_type="print"` prints."""
        medium = features.pop("media_type", "")
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": listed})

    def screenshot(self, file: Path, width: int, *, height: int | None = None, whole: bool = False) -> Path:
        """Write a PNG of the page at a width; `whole`: with what is below the window."""
        self.size(width, height)
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        file.write_bytes(b64decode(taken["data"]))
        return file

    def console_errors(self) -> list[str]:
        """Errors and warnings of the console since the last call; also what the page's security policy refused."""
        return [one["message"] for one in self.driver.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """The URLs that were requested since the last call."""
        messages = [json.loads(one["message"])["message"] for one in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def foreign_requests(self) -> list[str]:
        """The requested URLs that are not of this machine."""
        return [url for url in self.requests() if not url.startswith(_LOCAL)]

    def axe(self, *impacts: str) -> list[str]:
        """What axe-core finds in the page, one line per element. Skips the test where axe-core is absent."""
        if not (file := os.environ.get(AXE)):
            pytest.skip(f"{AXE} does not name axe.min.js of npm's axe-core")
        self.run(_source(file) + "; window.axe = axe")
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations), e => done(String(e)))"
        )
        assert isinstance(found, list), found
        wanted = impacts or ("serious", "critical")
        return [
            f"{one['impact']}: {one['id']}: {one['help']}: {node['target']}: {node['failureSummary']}"
            for one in found
            if one["impact"] in wanted
            for node in one["nodes"]
        ]


@contextmanager
def browsing(width: int = WIDTHS["desktop"]) -> Iterator[Browser]:
    """A browser of its own, closed at the end. Skips the test where chromium or selenium is absent."""
    selenium = pytest.importorskip("selenium.webdriver")
    found, driver_file = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if not found or not driver_file:
        pytest.skip("chromium or chromedriver is not installed")
    options = selenium.ChromeOptions()
    options.binary_location = found
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(executable_path=driver_file)
    driver = selenium.Chrome(options=options, service=service)
    try:
        browser = Browser(driver)
        browser.size(width)
        yield browser
    finally:
        driver.quit()


@cache
def _source(file: str) -> str:
    return Path(file).read_text(encoding="utf-8")
