"""The first day of a user in a browser: `txn demo`, then `txn dev` and its pages.

Each test works on hours of its own, so that the order of the tests does not matter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from txn_platform.local.processes import ManagedProcess, free_ports
from txn_platform_tests.conftest import eventually
from txn_platform_tests.test_command_servers import answers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

    from txn_platform_tests.browser.conftest import Picture

pytestmark = pytest.mark.pictures

TXN = Path(sys.executable).with_name("txn")
# A few rows are defective: published hours have some in quarantine. The sensor looks back on three
# hours, so that it has something to do at once.
SETTINGS = {
    "GENERATOR_TPS": "2",
    "GENERATOR_CUSTOMERS": "500",
    "GENERATOR_MERCHANTS": "100",
    "GENERATOR_DEFECTS": "all:0.02",
    "TXN_LOOKBACK_HOURS": "3",
}
REASON = re.compile(r"\b[a-z_]+\.(format|missing|range|unknown|check_digit|duplicate)\b")
PARTITION = re.compile(r"\d{4}-\d\d-\d\d-\d\d:00")
ASSETS = (
    "raw_transactions",
    "validated_transactions",
    "quarantined_transactions",
    "s3_parquet_transactions",
)
CHECKS = {"raw_transactions": 3, "validated_transactions": 2, "s3_parquet_transactions": 6}


@dataclass(frozen=True)
class Stack:
    """A running `txn dev`.

    Attributes:
        ui: the address of Dagster's UI.
        generator: the address of the generator.
        hour: the partition that `txn demo` published.
        directory: where both were started.
    """

    ui: str
    generator: str
    hour: str
    directory: Path

    def before(self, hours: int) -> str:
        """The partition so many hours before the one of the demo."""
        start = datetime.strptime(self.hour, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC)
        return (start - timedelta(hours=hours)).strftime("%Y-%m-%d-%H:%M")

    def partition(self, asset: str, key: str) -> str:
        """The address of a partition's page."""
        return f"{self.ui}/assets/{asset}?view=partitions&partition={key}"

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the UI."""
        return subprocess.run(
            [TXN, *arguments],
            check=False,
            env={**os.environ, **SETTINGS, **settings},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("day")
    environment = {**os.environ, **SETTINGS}
    demo = subprocess.run(
        [TXN, "demo"],
        check=True,
        env=environment,
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    hour = PARTITION.search(demo.stdout)
    assert hour, demo.stdout
    (port,) = free_ports(1)
    log = directory / "txn-dev.log"
    with ManagedProcess(
        "txn dev",
        [str(TXN), "dev", "--port", str(port)],
        log=log,
        environment=environment,
        directory=directory,
        grace=30,
    ) as process:
        address = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: "Ctrl-C" in log.read_text() and answers(address), timeout=180)
        generator = re.search(r"^generator +(http://\S+)", log.read_text(), re.MULTILINE)
        assert generator, log.read_text()
        yield Stack(address, generator[1], hour[0], directory)


def metadata(page: Page, name: str) -> Locator:
    """The row of a metadata table with that name."""
    return page.get_by_role("row").filter(has=page.get_by_text(name, exact=True)).last


def show_partition(page: Page, stack: Stack, asset: str, key: str) -> None:
    """Open the page of a partition when it is materialized."""

    def is_materialized() -> bool:
        page.goto(stack.partition(asset, key))
        page.get_by_text("Latest materialization").first.wait_for()
        page.wait_for_load_state("networkidle")
        return page.get_by_text("Materialized", exact=True).first.is_visible()

    assert eventually(is_materialized, within=150)


def test_the_hour_of_the_demo_is_materialized_with_its_figures_reasons_and_picture(
    stack: Stack, page: Page, picture: Picture
) -> None:
    page.goto(f"{stack.ui}/asset-groups")
    for asset, checks in CHECKS.items():
        page.get_by_text(asset, exact=True).last.wait_for()
        # `is_fresh` is evaluated by its own sensor.
        passed = checks - (asset == "s3_parquet_transactions")
        page.get_by_text(f"{passed} / {checks} Passed").first.wait_for()
    picture(page, "ui-graph")
    for asset in ASSETS:
        show_partition(page, stack, asset, stack.hour)
    rows = {
        name: int(metadata(page, name).inner_text().split()[1])
        for name in ("rows_sent", "rows_quarantined")
    }
    assert 0 < rows["rows_quarantined"] < rows["rows_sent"] / 20
    assert REASON.search(metadata(page, "reasons").inner_text())
    picture(page, "ui-hour")
    metadata(page, "picture").get_by_text("Show Markdown").click()
    drawing = page.get_by_role("dialog").locator("img")
    drawing.wait_for()
    width = drawing.evaluate("image => image.complete && image.naturalWidth")
    assert width > 100
    picture(page, "ui-picture")


def test_a_partition_is_materialized_from_the_graph(
    stack: Stack, page: Page, picture: Picture
) -> None:
    chosen = stack.before(6)
    page.goto(f"{stack.ui}/asset-groups")
    page.get_by_role("button", name=re.compile("Materialize all")).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").first.fill(chosen)
    dialog.get_by_role("textbox").first.press("Enter")
    picture(page, "ui-materialize")
    dialog.get_by_role("button", name="Launch 1 run").click()
    dialog.wait_for(state="hidden")
    for asset in ASSETS:
        show_partition(page, stack, asset, chosen)
    page.goto(f"{stack.ui}/assets/s3_parquet_transactions?view=checks")
    page.get_by_text("ids_are_unique").first.wait_for()
    page.get_by_text("Succeeded").nth(CHECKS["s3_parquet_transactions"] - 1).wait_for()
    assert page.get_by_text("Failed", exact=True).count() == 0
    picture(page, "ui-checks")


def test_a_bad_window_shows_its_reasons_on_the_failed_check(
    stack: Stack, page: Page, picture: Picture
) -> None:
    bad = stack.before(8)
    # From the terminal: the run is in the UI all the same.
    run = stack.run("run", "--partition", bad, TXN_MAX_QUARANTINE="0.001")
    assert run.returncode == 1, run.stderr
    page.goto(f"{stack.ui}/assets/validated_transactions?view=checks&checkDetail=quarantine_share")
    page.get_by_text(bad, exact=True).first.wait_for()
    assert page.get_by_text("Failed", exact=True).first.is_visible()
    message = page.get_by_text("To do:").first
    message.wait_for()
    assert re.match(r"Expected: .+ Found: .+ To do: ", message.inner_text(), re.DOTALL)
    assert REASON.search(metadata(page, "reasons").inner_text())
    picture(page, "ui-failed-check")
    page.goto(stack.partition("s3_parquet_transactions", bad))
    page.get_by_text("Latest materialization").first.wait_for()
    page.wait_for_load_state("networkidle")
    assert not page.get_by_text("Materialized", exact=True).first.is_visible()


def test_the_sensor_turned_on_brings_the_next_windows_by_itself(
    stack: Stack, page: Page, picture: Picture
) -> None:
    page.goto(f"{stack.ui}/automation")
    row = (
        page.locator("div")
        .filter(has=page.get_by_text("on_watermark", exact=True))
        .filter(has=page.locator("input[type=checkbox]"))
        .last
    )
    # The first box selects the row; the switch comes when its state is known.
    with page.expect_response(lambda response: "startSensor" in (response.request.post_data or "")):
        row.locator("label").nth(1).click()
    for hours in (1, 2):
        show_partition(page, stack, "s3_parquet_transactions", stack.before(hours))
    page.goto(f"{stack.ui}/automation")
    assert eventually(row.locator("input").nth(1).is_checked, within=30)
    picture(page, "ui-automation")
    page.goto(f"{stack.ui}/runs")
    page.get_by_text("on_watermark").first.wait_for()
    picture(page, "ui-runs")


def test_the_docs_of_the_generator_of_the_stack_try_an_example(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.generator}/docs")
    operation = page.locator(".opblock").first
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").click()
    status = operation.locator(".live-responses-table .response-col_status").last
    status.wait_for()
    assert status.inner_text().split() == ["200"]
