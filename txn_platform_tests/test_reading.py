"""`txn_platform.read_transactions`: published rows for analysis."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import txn_platform
from txn_platform import read_transactions
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.lake.opening import open_lake
from txn_platform.local.seaweedfs import REGION
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.support.published_windows import publish_window

if TYPE_CHECKING:
    from txn_platform.reading import Filters
    from txn_platform_tests.conftest import S3Endpoint

_DAY = datetime(2026, 11, 1, tzinfo=UTC)
_ID = "transaction_id"
_PAGE: Final = Path(__file__).parents[1] / "docs" / "reading.md"


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """The rows of the hours 0, 1 and 3 of a day; the hour 2 is missing."""
    lake = open_lake(load_settings())
    return [
        row for hour in (0, 1, 3) for row in publish_window(lake, Window(_DAY.replace(hour=hour)))
    ]


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row[_ID] for row in rows]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (_DAY, _DAY + timedelta(hours=2)),
        (date(2026, 11, 1), _DAY + timedelta(hours=2)),
        ("2026-11-01", "2026-11-01T02:00:00Z"),
        ("2026-11-01-00:00", "2026-11-01-02:00"),
        (
            "2026-11-01T03:00+03:00",
            datetime(2026, 10, 31, 19, tzinfo=timezone(-timedelta(hours=7))),
        ),
    ],
)
def test_a_span_is_read_whole_and_in_order(
    rows: list[dict[str, Any]], start: Any, end: Any
) -> None:
    read = read_transactions(start, end).collect()
    assert read.columns == list(TRANSACTIONS.published_columns)
    assert read.to_dicts() == rows[:120]


def test_a_span_that_is_not_of_whole_hours_has_its_first_moment_and_not_its_last(
    rows: list[dict[str, Any]],
) -> None:
    read = read_transactions("2026-11-01T00:30:00Z", "2026-11-01T01:10:00Z").collect()
    assert read.to_dicts() == rows[30:70]
    one = read_transactions("2026-11-01T01:10:00Z", "2026-11-01T01:10:00.000001Z").collect()
    assert one.to_dicts() == [rows[70]]


def test_columns_are_those_that_were_named_in_their_order(rows: list[dict[str, Any]]) -> None:
    read = read_transactions("2026-11-01", "2026-11-01T01:00Z", columns=["amount", _ID]).collect()
    assert read.rows() == [(row["amount"], row[_ID]) for row in rows[:60]]
    assert read.schema["amount"] == pl.Decimal(18, 2)


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        (pl.col("is_fraud"), lambda row: row["is_fraud"]),
        ([("is_fraud", "=", True)], lambda row: row["is_fraud"]),
        ([("amount", ">", 12.1)], lambda row: row["amount"] > Decimal("12.10")),
        ([("amount", "==", "12.10")], lambda row: row["amount"] == Decimal("12.10")),
        ([("amount", ">=", Decimal("12.105"))], lambda row: row["amount"] > Decimal("12.10")),
        ([("amount", "in", [3.1, Decimal("4.10"), 5])], lambda row: int(row["amount"]) in {3, 4}),
        ([("amount", "<", np.int64(5))], lambda row: row["amount"] < 5),
        ([("latitude", ">", np.float64(48.85))], lambda row: False),
        ([("currency", "not in", ["EUR"])], lambda row: row["currency"] == "USD"),
        ([("currency", "in", [])], lambda row: False),
        (
            [("currency", "!=", "EUR"), ("amount", "<", 5)],
            lambda row: row["currency"] == "USD" and row["amount"] < 5,
        ),
        (
            [[("currency", "=", "EUR"), ("amount", "<=", 5.1)], [("latitude", ">", 90)]],
            lambda row: row["currency"] == "EUR" and row["amount"] <= Decimal("5.10"),
        ),
        (
            [("transaction_at", "<", "2026-11-01T00:05:00Z")],
            lambda row: row["transaction_at"] < _DAY + timedelta(minutes=5),
        ),
    ],
)
def test_filters_choose_rows(rows: list[dict[str, Any]], filters: Filters, holds: Any) -> None:
    read = read_transactions(
        "2026-11-01", "2026-11-01T02:00Z", columns=[_ID], filters=filters
    ).collect()
    assert read[_ID].to_list() == _ids([row for row in rows[:120] if holds(row)])


def test_a_reader_of_arrow_has_the_types_of_the_contract(rows: list[dict[str, Any]]) -> None:
    reader = read_transactions("2026-11-01", "2026-11-01T02:00Z", as_arrow=True)
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.schema == TRANSACTIONS.published_schema
    assert reader.read_all().to_pylist() == rows[:120]
    none = read_transactions(
        "2026-11-01", "2026-11-01T02:00Z", as_arrow=True, filters=[("amount", "<", 0)]
    )
    assert none.read_all().schema == TRANSACTIONS.published_schema


def test_a_window_that_is_missing_is_an_error_unless_it_is_allowed(
    rows: list[dict[str, Any]],
) -> None:
    with pytest.raises(UserError) as failure:
        read_transactions("2026-11-01", "2026-11-02")
    assert "lacks 21 of 24 windows: 2026-11-01-02:00, 2026-11-01-04:00" in str(failure.value)
    assert "the last 2026-11-01-23:00. Run them (txn run --from 2026-11-01-02:00 --to" in str(
        failure.value
    )
    assert "Note" not in str(failure.value)
    read = read_transactions("2026-11-01", "2026-11-02", allow_missing=True).collect()
    assert read.to_dicts() == rows
    empty = read_transactions("2026-12-01", "2026-12-02", allow_missing=True).collect()
    assert (empty.height, empty.schema) == (0, read.schema)


def test_a_lake_of_a_local_stack_that_was_not_looked_at_is_mentioned() -> None:
    memory = load_settings().home / "seaweedfs" / "ports.json"
    memory.parent.mkdir(parents=True)
    memory.write_text("{}")
    with pytest.raises(UserError, match=r"lacks 1 of 1 windows.*Note: .*has left data of the lake"):
        read_transactions("2026-11-01", "2026-11-01T01:00Z")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": datetime(2026, 11, 1)}, "start (2026-11-01 00:00:00) has no zone"),  # noqa: DTZ001
        ({"start": "2026-11-01T00:00"}, "start (2026-11-01T00:00) has no zone"),
        ({"end": "tomorrow"}, "end ('tomorrow') is not a moment"),
        ({"end": 1}, "end (1) is not a moment"),
        ({"end": "2026-11-01"}, "is not before end"),
        ({"columns": ["amount", "price"]}, "columns names 'price', which is no published column"),
        ({"columns": []}, "columns must name at least one column"),
        ({"columns": ["amount", "amount"]}, "each one once"),
        ({"filters": []}, "filters must be a polars expression or conditions"),
        ({"filters": "is_fraud"}, "filters must be a polars expression or conditions"),
        ({"filters": [("is_fraud", True)]}, "write each condition as (column, comparison, value)"),
        ({"filters": [("fraud", "=", True)]}, "filters names 'fraud'"),
        ({"filters": [("amount", "~", 1)]}, "filters compares amount by '~'"),
        ({"filters": [("currency", "in", "EUR")]}, "give it a list of values"),
        ({"filters": [("amount", ">", "a lot")]}, "filters compares amount, a decimal128(18, 2)"),
        ({"filters": [("is_fraud", "=", 1)]}, "filters compares is_fraud, a bool, with 1"),
        ({"filters": [("fraud_scenario", "=", None)]}, "give a value of its type"),
        ({"filters": [("transaction_at", ">", "noon")]}, "is not a moment"),
        ({"filters": pl.col("price") > 1}, "filters does not fit the published columns"),
        ({"filters": pl.col("amount")}, "filters does not fit the published columns"),
    ],
)
def test_an_argument_that_is_wrong_is_one_sentence(
    rows: list[dict[str, Any]], arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"start": "2026-11-01", "end": "2026-11-01T01:00Z"} | arguments
    with pytest.raises(UserError) as failure:
        read_transactions(given.pop("start"), given.pop("end"), **given)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


def _name_bucket(endpoint: S3Endpoint, prefix: str, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_BUCKET_NAME", endpoint.bucket)
    patch.setenv("AWS_ENDPOINT_URL", endpoint.url)
    patch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
    patch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
    patch.setenv("TXN_LAKE_PREFIX", prefix)


def test_a_bucket_is_read_with_the_settings(
    s3_endpoint: S3Endpoint, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _name_bucket(s3_endpoint, s3_prefix, monkeypatch)
    sent = publish_window(open_lake(load_settings()), Window(_DAY))
    assert read_transactions("2026-11-01", "2026-11-01T01:00Z").collect().to_dicts() == sent
    reader = read_transactions("2026-11-01", "2026-11-01T01:00Z", columns=[_ID], as_arrow=True)
    assert reader.read_all()[_ID].to_pylist() == _ids(sent)


@pytest.mark.parametrize("s3_endpoint", ["seaweedfs"], indirect=True)
def test_the_examples_for_a_bucket_read_it(
    s3_endpoint: S3Endpoint, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _name_bucket(s3_endpoint, s3_prefix, monkeypatch)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    lake = open_lake(load_settings())
    rows = sum(len(publish_window(lake, Window(_DAY.replace(hour=hour)))) for hour in (0, 1))
    _, _, section = _PAGE.read_text("utf-8").partition("\n## From a bucket\n")
    (script,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert "my-bucket/lake" in script
    script = script.replace("my-bucket/lake", f"{s3_endpoint.bucket}/{s3_prefix}")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(rf"\b{rows}\b", done.stdout)) == 3, done.stdout


def test_importing_the_package_imports_no_library() -> None:
    script = (
        "import sys, txn_platform; before = set(sys.modules);"
        "print('polars' in before, 'read_transactions' in txn_platform.__all__);"
        "txn_platform.read_transactions; print('polars' in sys.modules, 'dagster' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["False True", "True False"]
    with pytest.raises(AttributeError, match="no attribute 'read_transaction'"):
        _ = txn_platform.read_transaction
