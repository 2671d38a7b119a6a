"""The source's own pages in a browser without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from generator_service.app import create_app
from generator_service.keys import KeysFile, Scope
from generator_service.models import moment_text, parse_moment
from generator_service.settings import Settings
from txn_platform_tests.support.served_app import served_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from txn_platform_tests.browser.conftest import Picture

pytestmark = pytest.mark.pictures


class Clock:
    """A clock that a test sets, in microseconds since the epoch."""

    def __init__(self) -> None:
        self.now = parse_moment("2026-11-23T14:25:36.123456Z")

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(clock: Clock) -> Iterator[str]:
    with served_app(create_app(Settings.load(faults="header"), now=clock)) as address:
        yield address


def test_every_example_of_the_docs_is_executed_without_a_network(
    source: str, page: Page, picture: Picture
) -> None:
    failures: list[str] = []
    page.on("requestfailed", lambda request: failures.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(f"{source}/docs")
    operations = page.locator(".opblock")
    operations.first.wait_for()
    assert operations.count() == 12
    for number in range(operations.count()):
        operation = operations.nth(number)
        operation.locator(".opblock-summary-control").click()
        faults = operation.get_by_placeholder("X-Generator-Faults")
        assert faults.input_value() == ""
        operation.get_by_role("button", name="Execute").click()
        status = operation.locator(".live-responses-table .response-col_status").last
        status.wait_for()
        assert status.inner_text().split() == ["200"], operation.inner_text()
        if number == 0:
            operation.locator(".live-responses-table").scroll_into_view_if_needed()
            picture(page, "source-docs")
        operation.locator(".opblock-summary-control").click()
    assert failures == []


def test_a_key_is_given_to_the_docs_once(tmp_path: Path, page: Page) -> None:
    file = KeysFile(tmp_path / "keys.json")
    key = file.add("reader", tuple(Scope), 1_000)
    settings = Settings.load(customers=500, merchants=100, keys_file=file.path)
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on(
        "console",
        lambda message: failures.append(message.text) if "Policy" in message.text else None,
    )
    with served_app(create_app(settings)) as source:
        page.goto(source)
        page.get_by_text("The rows need a key").wait_for()
        page.get_by_text("Try the routes").click()
        page.get_by_role("button", name="Authorize").first.click()
        page.get_by_label("auth-bearer-value").fill(key)
        page.get_by_role("button", name="Apply credentials").click()
        page.locator(".modal-ux .close-modal").click()
        operation = page.locator(".opblock", has_text="/v1/watermark")
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Execute").click()
        status = operation.locator(".live-responses-table .response-col_status").last
        status.wait_for()
        assert status.inner_text().split() == ["200"]
    assert failures == []


def test_the_start_page_shows_new_transactions_by_itself(
    source: str, clock: Clock, page: Page, picture: Picture
) -> None:
    failures: list[str] = []
    page.on("requestfailed", lambda request: failures.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(source)
    newest = page.locator("#sample tbody tr td").first
    assert newest.inner_text().startswith("2026-11-23T14:25:3")
    clock.now += 3_600_000_000
    page.locator("#sample td", has_text=moment_text(clock.now)[:16]).first.wait_for()
    page.frame_locator("iframe").get_by_role("heading", name="Scorecard").wait_for()
    picture(page, "source-home")
    assert failures == []


def test_the_start_page_says_why_it_shows_nothing_new(source: str, page: Page) -> None:
    page.goto(source)
    page.route(f"{source}/", lambda route: route.fulfill(status=503))
    page.get_by_text("The sample cannot be updated: status 503.").wait_for()
    page.unroute(f"{source}/")
    # The policy of the page allows no script of a test.
    page.locator("#status:empty").wait_for(state="attached")
