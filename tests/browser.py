"""A page in the system's Chromium, for tests."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Shown:
    """An open page, and what the browser has told of it: addresses that it asked for, and errors."""

    page: "Page"
    requested: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(script)


@contextmanager
def browser(file: Path, **context: Any) -> Iterator[Shown]:
    """The file, opened in a new context of Playwright (such as `color_scheme="dark"`). Skips where there is no
    browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=QUIET)
        shown = Shown(chromium.new_context(**context).new_page())
        shown.page.on("request", lambda request: shown.requested.append(request.url))
        shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.page.on("console", lambda told: shown.errors.append(told.text) if told.type == "error" else None)
        shown.page.goto(file.as_uri())
        try:
            yield shown
        finally:
            chromium.close()
