"""The end of `txn demo`. Whole demos are in `test_commands` and `test_chosen_lake`."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import dagster as dg

from txn_platform.demo import late_rows
from txn_platform.runs import Summary

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PARTITION = "2026-11-01-00:00"


def summary(sent: int) -> Summary:
    return Summary(
        partition=PARTITION,
        sent=sent,
        validated=sent,
        quarantined=0,
        reasons={},
        published=sent,
        amounts={"USD": Decimal(1)},
        seconds=1,
        uri="there",
    )


def test_rows_that_came_since_the_last_demo_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    def land(rows: int) -> None:
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            metadata = {"dagster/partition_row_count": rows}
            instance.report_runless_asset_event(
                dg.AssetMaterialization("raw_transactions", partition=PARTITION, metadata=metadata)
            )

    land(7_065)
    assert late_rows(summary(7_065)) is None
    land(7_065)
    assert late_rows(summary(7_065)) is None
    land(7_070)
    said = late_rows(summary(7_070))
    assert said is not None
    assert said.startswith(f"{PARTITION} had 7,065 rows at 20")
    assert "has 7,070 now: some rows reach the source up to 48 hours late" in said
