"""A lake of an earlier version is read, run again and expired by this one.

`data/lake-5f7d6f2.tar.xz` has the directory `.txn` and the Delta table that commit 5f7d6f2 made:
two hours of the generator, with `GENERATOR_TPS=0.02`, `GENERATOR_DEFECTS=all:0.06` and
`TXN_MAX_QUARANTINE=0.9`. The file is never made again: later versions cannot make it.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from txn_platform import read_transactions
from txn_platform.cli import main
from txn_platform.contract.descriptors import CONTRACT_NAME, PACKAGE_NAME
from txn_platform.contract.schema import PUBLISHED, QUARANTINED, RAW, TRANSACTIONS, VALIDATED
from txn_platform.definitions import build_defs
from txn_platform.defs.automation import LAND_TRANSACTIONS
from txn_platform.lake.layout import object_key
from txn_platform.runs import Summary, dagster_instance, materialize
from txn_platform.windows import Window
from txn_platform_tests.support.served_source import ServedSource, served

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARCHIVE: Final = Path(__file__).parent / "data" / "lake-5f7d6f2.tar.xz"
_LAKE: Final = Path(".txn/lake")
_FIRST, _SECOND = (Window.of_partition(f"2026-11-01-0{hour}:00") for hour in (0, 1))
_SPAN: Final = ("2026-11-01T00:00:00Z", "2026-11-01T02:00:00Z")
# Its reasons, as that version printed them for both hours.
_REASONS: Final = {
    "amount.format": 2,
    "card_number.check_digit": 1,
    "card_number.format": 3,
    "currency.unknown": 1,
    "customer_id.missing": 2,
    "merchant_category_code.unknown": 1,
    "merchant_name.format": 1,
    "transaction_at.outside_window": 1,
    "transaction_type.missing": 1,
}


@pytest.fixture(autouse=True)
def old_lake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old lake and table, in the test's directory."""
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(filter="data")
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(Path("delta").absolute()))
    monkeypatch.setenv("TXN_MAX_QUARANTINE", "0.9")


@pytest.fixture
def source() -> Iterator[ServedSource]:
    """A source that still has the rows which the first hour was made of."""
    landed = pq.ParquetFile(_LAKE / object_key(RAW, _FIRST)).read(columns=list(TRANSACTIONS.names))
    with served(ServedSource(landed.to_pylist())) as source:
        yield source


def _rows(table: str, window: Window) -> list[dict[str, Any]]:
    return pq.ParquetFile(_LAKE / object_key(table, window)).read().to_pylist()


def _run(source: ServedSource) -> Summary:
    with dagster_instance() as instance:
        return materialize(
            _FIRST, instance=instance, source_url=source.url, on_progress=lambda _: None
        )


def _txn(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_it_is_read() -> None:
    published = _rows(PUBLISHED, _FIRST) + _rows(PUBLISHED, _SECOND)
    assert len(published) == 139 + 81
    assert read_transactions(*_SPAN).collect().to_dicts() == published
    reader = read_transactions(*_SPAN, as_arrow=True)
    assert reader.schema == TRANSACTIONS.published_schema
    assert reader.read_all().to_pylist() == published
    shown = _txn("quarantine")
    counted = re.findall(r"([a-z_]+\.[a-z_]+)[\s│]+(\d+)[\s│]", shown)
    assert {reason: int(count) for reason, count in counted} == _REASONS


def test_it_is_run_again_with_the_same_rows(source: ServedSource) -> None:
    before = {table: _rows(table, _FIRST) for table in (PUBLISHED, VALIDATED)}
    other = {table: _rows(table, _SECOND) for table in (PUBLISHED, QUARANTINED, RAW)}
    summary = _run(source)
    assert (summary.published, summary.quarantined) == (139, 8)
    # The tokens are made under the key that the old version has left.
    assert {table: _rows(table, _FIRST) for table in before} == before
    assert {table: _rows(table, _SECOND) for table in other} == other
    assert read_transactions(*_SPAN).collect().height == 139 + 81
    assert {path.name for path in _LAKE.iterdir() if path.is_file()} == {
        CONTRACT_NAME,
        PACKAGE_NAME,
    }


def test_its_windows_are_outdated_until_they_are_run_again(
    source: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERATOR_URL", source.url)
    span = ("--from", _FIRST.partition_key, "--to", _FIRST.partition_key)
    (old,) = map(
        json.loads, CliRunner().invoke(main, ["status", *span, "--json"]).stdout.splitlines()
    )
    assert (old["state"], old["rows"]) == ("outdated", 139)
    _txn("run", *span)
    (new,) = map(
        json.loads, CliRunner().invoke(main, ["status", *span, "--json"]).stdout.splitlines()
    )
    assert (new["state"], new["rows"], new["quarantined"]) == ("published", 139, 8)


def test_what_it_landed_is_validated_and_published_again_without_a_source() -> None:
    before = {table: _rows(table, _FIRST) for table in (PUBLISHED, VALIDATED)}
    job = build_defs().resolve_job_def(LAND_TRANSACTIONS.name)
    with dagster_instance() as instance:
        result = job.execute_in_process(
            instance=instance,
            partition_key=_FIRST.partition_key,
            asset_selection=[dg.AssetKey(name) for name in (VALIDATED, QUARANTINED, PUBLISHED)],
        )
    assert result.success
    assert {table: _rows(table, _FIRST) for table in before} == before


def test_its_delta_table_takes_the_window_once_more(source: ServedSource) -> None:
    _run(source)
    columns = list(TRANSACTIONS.published_schema.names)
    table = DeltaTable("delta").to_pyarrow_table(columns=columns)
    published = _rows(PUBLISHED, _FIRST) + _rows(PUBLISHED, _SECOND)
    assert sorted(table.to_pylist(), key=lambda row: row["transaction_id"]) == published


def test_it_is_expired() -> None:
    published = {
        table: (_rows(table, _FIRST), _rows(table, _SECOND)) for table in (PUBLISHED, VALIDATED)
    }
    removed = _txn("expire", "--older-than", "1d", "--yes")
    assert "4 objects removed of 4 objects" in removed
    assert not [*_LAKE.glob(f"{RAW}/**/*.parquet"), *_LAKE.glob(f"{QUARANTINED}/**/*.parquet")]
    for table, rows in published.items():
        assert (_rows(table, _FIRST), _rows(table, _SECOND)) == rows
    assert read_transactions(*_SPAN).collect().height == 139 + 81
