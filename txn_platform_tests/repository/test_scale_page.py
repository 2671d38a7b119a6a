"""`docs/scale.md`: its computed tables follow from the measured figures beside it."""

import json
import shutil
from pathlib import Path

from txn_platform_tests.support.scale_page import PAGE, Cost, Figures, Period, with_tables


def test_the_tables_are_current() -> None:
    page = PAGE.read_text("utf-8")
    assert with_tables(page) == page


def test_costs_follow_the_measured_figures(tmp_path: Path) -> None:
    folder = tmp_path / "scale"
    shutil.copytree(PAGE.with_suffix(""), folder)
    period = Period("a day", 24, 1_000_000)
    before = Cost.of(period, Figures(folder))
    measured = json.loads((folder / "windows.json").read_text())
    for size in measured["sizes"]:
        size["cpu"] *= 2
        size["requests"] = {name: 3 * count for name, count in size["requests"].items()}
    (folder / "windows.json").write_text(json.dumps(measured))
    after = Cost.of(period, Figures(folder))
    assert round(after.workers_dollars / before.workers_dollars, 6) == 2
    assert round(after.requests_dollars / before.requests_dollars, 6) == 3
    assert after.all_storage_dollars == before.all_storage_dollars


def test_storage_has_the_prices_of_its_tiers() -> None:
    cost = Cost.of(Period("a month", 730, 0), Figures(PAGE.with_suffix("")))
    assert round(cost.storage_dollars(50e12)) == 1_150
    assert round(cost.storage_dollars(600e12)) == 1_150 + 9_900 + 2_100
