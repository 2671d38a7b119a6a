"""A browser for the tests of pages, and pictures of these for the documentation.

The tests here have the marker `pictures`. They need the extra `docs`, which has Playwright, and
Chromium of the system. `make pictures` also writes the pictures into `docs/pictures/`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Route

PICTURES = "BROWSER_PICTURES"
"""The variable with the directory for pictures; without it they go to a temporary one."""

# Large enough for the graph to show more than the names of its assets.
_SIZE = {"width": 1400, "height": 860}
# Servers start and runs end while others use the machine.
_PATIENCE_MS = 60_000


class Picture(Protocol):
    """Take a picture of a page, or of the elements of a selector in it."""

    def __call__(self, page: Page, name: str, selector: str | None = None) -> None: ...


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "Install Chromium (apt-get install chromium)."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A page without a network: only servers on this machine are reached.

    Its last view is kept as `last.png` in the directory of the test.
    """
    with browser.new_context(viewport=_SIZE, locale="en-GB", timezone_id="UTC") as context:
        context.set_default_timeout(_PATIENCE_MS)
        context.route("**/*", _only_this_machine)
        page = context.new_page()
        yield page
        page.screenshot(path=tmp_path / "last.png")


def _only_this_machine(route: Route) -> None:
    if urlsplit(route.request.url).hostname in {"127.0.0.1", "localhost", None}:
        route.continue_()
    else:
        route.abort("internetdisconnected")


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    directory = Path(os.environ.get(PICTURES, tmp_path))

    def take(page: Page, name: str, selector: str | None = None) -> None:
        path = directory / f"{name}.png"
        if selector is None:
            page.screenshot(path=path, animations="disabled")
        else:
            page.locator(selector).screenshot(path=path, animations="disabled")

    return take
