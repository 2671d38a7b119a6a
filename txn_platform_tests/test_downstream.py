"""The examples of docs/downstream.md: what they compute, and when Dagster materializes them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest

from txn_platform_tests.support.served_source import ServedSource, sent_row, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_PAGE = Path(__file__).parents[1] / "docs" / "downstream.md"
_PUBLISHED = "s3_parquet_transactions"
_LAKE = Path(".txn/lake")
_HOUR = "2026-11-01-{:02}:00"


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module that the page is."""
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    blocks = re.findall(r"```python\n(.*?)```", _PAGE.read_text("utf-8"), re.DOTALL)
    # Days before the first hour of the lake, as there are where TXN_FIRST_HOUR is later.
    module_text = "\n\n".join(blocks).replace('"2026-01-01"', '"2025-12-01"')
    path.write_text(module_text, "utf-8")
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        yield module


def _run(mine: ModuleType, partition: str | None, *names: str) -> dg.ExecuteInProcessResult:
    job = dg.define_asset_job("chosen", selection=list(names))
    defs = dg.Definitions.merge(mine.defs, dg.Definitions(jobs=[job]))
    return defs.resolve_job_def("chosen").execute_in_process(partition_key=partition)


def _stored(name: str, folder: str) -> pl.DataFrame:
    return pl.read_parquet(_LAKE / name / folder / "part-0.parquet", hive_partitioning=False)


def test_the_examples_compute_what_the_page_says(
    mine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [sent_row(number, merchant_id=f"M{number % 3}") for number in range(60)]
    rows += [sent_row(100, currency="JPY", amount="500"), sent_row(101, transaction_type="REFUND")]
    rows[7] |= {"is_fraud": "true", "fraud_scenario": "stolen_card"}
    with served(ServedSource(rows)) as source:
        monkeypatch.setenv("GENERATOR_URL", source.url)
        ours = ("raw_transactions", "validated_transactions", "quarantined_transactions")
        result = _run(mine, _HOUR.format(0), *ours, _PUBLISHED, "refunds")
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert found["most_rows_are_purchases"].passed
    hour = "event_date=2026-11-01/event_hour={:02}"
    published = _stored(_PUBLISHED, hour.format(0))
    assert _stored("refunds", hour.format(0)).equals(
        published.filter(pl.col("transaction_type") == "REFUND")
    )

    assert _run(mine, _HOUR.format(0), "payments_by_card").success
    (card,) = _stored("payments_by_card", hour.format(0))["payments"]
    assert card == 62

    # A day needs all of its hours.
    with pytest.raises(dg.Failure, match="lacks 23 of its 24 partitions"):
        _run(mine, "2026-11-01", "spend_by_merchant")
    for number in range(1, 24):
        shutil.copytree(
            _LAKE / _PUBLISHED / hour.format(0), _LAKE / _PUBLISHED / hour.format(number)
        )
    assert _run(mine, "2026-11-01", "spend_by_merchant", "fraud_by_channel").success
    spent = _stored("spend_by_merchant", "event_date=2026-11-01")
    yen = spent.filter(pl.col("currency") == "JPY")["amount"].sum()
    assert yen == 24 * 500
    assert _stored("fraud_by_channel", "event_date=2026-11-01").row(0) == ("CHIP", 24 * 62, 24)
    assert _run(mine, _HOUR.format(23), "payments_by_card").success
    assert _stored("payments_by_card", hour.format(23))["payments"].item() == 24 * 62
    assert _run(mine, None, "rows_by_hour").success
    assert _stored("rows_by_hour", "").sort("hour").rows()[0] == (_HOUR.format(0), 62)
    assert _stored("rows_by_hour", "").height == 24


class _Automation:
    """Evaluates the conditions of the page's assets as the daemon does, tick by tick."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self._defs = defs
        self._instance = instance
        self._cursor: Any = None

    def requested(self) -> dict[str, set[str]]:
        result = dg.evaluate_automation_conditions(
            self._defs,
            self._instance,
            evaluation_time=datetime(2026, 11, 3, 12, 5),  # noqa: DTZ001 - Dagster asks for it so
            cursor=self._cursor,
        )
        self._cursor = result.cursor
        return {
            name: set(result.get_requested_partitions(dg.AssetKey(name)))
            for name in ("spend_by_merchant", "fraud_by_channel")
        }

    def published(self, hour: int, data_version: str) -> None:
        self._instance.report_runless_asset_event(
            dg.AssetMaterialization(
                _PUBLISHED,
                partition=_HOUR.format(hour),
                tags={"dagster/data_version": data_version},
            )
        )


@pytest.mark.filterwarnings("ignore:Parameter `include_sources`:dagster.BetaWarning")
def test_a_day_waits_for_its_hours_and_follows_late_rows(mine: ModuleType) -> None:
    day, none = {"2026-11-01"}, set[str]()
    with dg.DagsterInstance.ephemeral() as instance:
        automation = _Automation(mine.defs, instance)
        assert automation.requested() == {"spend_by_merchant": none, "fraud_by_channel": none}
        for hour in range(23):
            automation.published(hour, f"bytes {hour}")
        assert automation.requested() == {"spend_by_merchant": none, "fraud_by_channel": none}
        automation.published(23, "bytes 23")
        assert automation.requested() == {"spend_by_merchant": day, "fraud_by_channel": day}
        for name in ("spend_by_merchant", "fraud_by_channel"):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(name, partition="2026-11-01")
            )
        assert automation.requested() == {"spend_by_merchant": none, "fraud_by_channel": none}
        automation.published(5, "bytes 5")
        assert automation.requested() == {"spend_by_merchant": day, "fraud_by_channel": none}
        automation.published(5, "other bytes")
        assert automation.requested()["fraud_by_channel"] == day
        assert automation.requested() == {"spend_by_merchant": none, "fraud_by_channel": none}
