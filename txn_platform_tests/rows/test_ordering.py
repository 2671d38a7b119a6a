"""Ordering: the same rows, by time, whatever order they came in and however few fit in memory."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from txn_platform.rows import ordering
from txn_platform.windows import Window

_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.integers(0, 3_599_999_999), max_size=60), st.integers(1, 9), st.integers(1, 20))
def test_rows_come_out_in_order_whatever_the_layout(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moments: list[int],
    group_rows: int,
    at_once: int,
) -> None:
    monkeypatch.setattr(ordering, "_ROWS_AT_ONCE", at_once)
    frame = pl.DataFrame(
        {
            "transaction_at": [
                _WINDOW.start + timedelta(microseconds=moment) for moment in moments
            ],
            "transaction_id": [f"{index:04}" for index in reversed(range(len(moments)))],
        },
        schema={"transaction_at": pl.Datetime("us", "UTC"), "transaction_id": pl.String},
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(frame.to_arrow(), path, row_group_size=group_rows)
    with pq.ParquetFile(path) as file:
        parts = list(ordering.in_order(file, _WINDOW))
    assert pl.concat([frame.clear(), *parts]).equals(frame.sort("transaction_at", "transaction_id"))


_ROWS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc")), max_size=12)


@given(_ROWS, st.integers(1, 5))
def test_an_order_is_seen_across_batches(rows: list[tuple[int, str]], size: int) -> None:
    batch = pa.record_batch(
        {
            "transaction_at": pa.array([at for at, _ in rows], pa.timestamp("us", tz="UTC")),
            "transaction_id": pa.array([text for _, text in rows], pa.string()),
        }
    )
    order = ordering.Order()
    for start in range(0, len(rows), size):
        order.add(batch.slice(start, size))
    assert order.holds == (rows == sorted(rows))
