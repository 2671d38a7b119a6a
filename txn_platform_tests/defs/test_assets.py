"""The assets under Dagster: what is published, what is kept back, and what the checks say."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from dagster._core.loader import LoadingContextForTest

from txn_platform.cli import main
from txn_platform.contract.card_forms import CARD_MASKS, CardMask
from txn_platform.contract.descriptors import CONTRACT_NAME, PACKAGE_NAME
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.defs import checks
from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
from txn_platform.defs.partitions import HOURS
from txn_platform.defs.resources import GeneratorResource
from txn_platform.defs.window_metadata import reasons_of
from txn_platform.lake.base import StoredObject
from txn_platform.lake.directory import DirectoryLake
from txn_platform.lake.parquet import open_parquet, read_batches
from txn_platform.rows.proof import prove_published
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.support.other_api import use_api
from txn_platform_tests.support.run_resources import lake_resources, run_resources
from txn_platform_tests.support.served_source import ServedSource, sent_frame, sent_row, served

_PARTITION = "2026-11-01-00:00"
_ASSETS = [raw_transactions, validation, s3_parquet_transactions]
_PUBLISHED = Path(
    ".txn/lake/s3_parquet_transactions/event_date=2026-11-01/event_hour=00/part-0.parquet"
)
_RAW = Path(".txn/lake/raw_transactions/event_date=2026-11-01/event_hour=00/part-0.parquet")
_QUARANTINED = Path(
    ".txn/lake/quarantined_transactions/event_date=2026-11-01/event_hour=00/part-0.parquet"
)
# An asset that is in the lake already, as another project's definitions would name it.
_STORED = dg.AssetSpec(
    "s3_parquet_transactions",
    partitions_def=HOURS,
    metadata={"dagster/io_manager_key": "lake"},
)


@pytest.fixture
def there() -> Iterator[ServedSource]:
    """A source with 200 good rows in the window."""
    with served(ServedSource([sent_row(number) for number in range(200)])) as source:
        yield source


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def _materialize(
    source: ServedSource,
    *names: str,
    selection: dg.AssetSelection | None = None,
    instance: dg.DagsterInstance | None = None,
    **ops: Any,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        _ASSETS,
        selection=selection or list(names) or None,
        instance=instance,
        partition_key=_PARTITION,
        resources=run_resources(GeneratorResource(url=source.url)),
        run_config={"ops": ops} if ops else None,
        raise_on_error=False,
    )


def _check(result: dg.ExecuteInProcessResult, spec: dg.AssetCheckSpec) -> dg.AssetCheckEvaluation:
    (evaluation,) = [
        found for found in result.get_asset_check_evaluations() if found.asset_check_key == spec.key
    ]
    return evaluation


def _messages(result: dg.ExecuteInProcessResult) -> list[str]:
    return [
        event.step_failure_data.user_failure_data.description or ""
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    ]


def test_a_window_is_published_whole(there: ServedSource) -> None:
    result = _materialize(there)
    assert result.success
    assert pq.read_schema(_PUBLISHED).equals(TRANSACTIONS.published_schema)
    rows = pq.read_table(_PUBLISHED)
    assert rows.num_rows == 200
    assert rows["transaction_at"].to_pylist() == sorted(rows["transaction_at"].to_pylist())
    assert sum(rows["amount"].to_pylist()) == sum(Decimal(row["amount"] or 0) for row in there.rows)
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == 10
    assert all(found.passed for found in evaluations)
    assert {found.partition for found in evaluations} == {_PARTITION}


def test_published_columns_have_encodings_that_every_reader_knows(there: ServedSource) -> None:
    assert _materialize(there).success
    footer = pq.read_metadata(_PUBLISHED)
    columns = [footer.row_group(0).column(number) for number in range(footer.num_columns)]
    with_dictionary = {each.path_in_schema for each in columns if each.has_dictionary_page}
    assert with_dictionary.isdisjoint({"transaction_id", "transaction_at"})
    texts = set(TRANSACTIONS.dictionary_encoded) & set(TRANSACTIONS.published_schema.names) - {
        "is_fraud"
    }
    assert with_dictionary >= texts
    # Texts that repeat all over the window help no reader to skip.
    with_statistics = {each.path_in_schema for each in columns if each.is_stats_set}
    assert with_statistics >= {"transaction_at", "transaction_id", "amount"}
    assert with_statistics.isdisjoint({"currency", "country", "merchant_name", "card_token"})
    used = {encoding for each in columns for encoding in each.encodings}
    assert used <= {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}
    assert {each.compression for each in columns} == {"ZSTD"}
    names = [
        footer.schema.column(each.column_index).name for each in footer.row_group(0).sorting_columns
    ]
    assert names == ["transaction_at", "transaction_id"]
    # The landed file is for the platform's own steps: its ids and times are delta-encoded.
    landed = pq.read_metadata(_RAW).row_group(0)
    deltas = {
        landed.column(number).path_in_schema
        for number in range(landed.num_columns)
        if any("DELTA" in encoding for encoding in landed.column(number).encodings)
    }
    assert deltas == {"position", "transaction_id", "transaction_at"}


def test_rows_in_any_order_are_published_in_order_of_time(there: ServedSource) -> None:
    assert _materialize(there).success
    published = _PUBLISHED.read_bytes()
    there.rows.reverse()
    assert _materialize(there).success
    assert _PUBLISHED.read_bytes() == published


def test_the_same_window_again_is_the_same_bytes(there: ServedSource) -> None:
    assert _materialize(there).success
    first = _PUBLISHED.read_bytes()
    assert _materialize(there).success
    assert _PUBLISHED.read_bytes() == first


_TOTALS_OF_THREE_ROWS = {
    "rows": 3,
    "amount_by_type": {"PURCHASE": "7.50"},
    "ids_digest": ControlTotals.of(sent_frame([sent_row(number) for number in range(3)])).digest,
}


def _published_metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = [
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(checks.PUBLISHED)
    ]
    return {name: value.value for name, value in event.metadata.items()}


def _no_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the source spoken to as one that states no control totals."""
    use_api(monkeypatch)


def test_a_publication_records_what_the_source_stated_of_it(there: ServedSource) -> None:
    there.rows = [sent_row(0), sent_row(1), sent_row(2)]
    before = datetime.now(UTC)
    metadata = _published_metadata(_materialize(there))
    assert metadata["source_totals"] == _TOTALS_OF_THREE_ROWS
    assert before.timestamp() <= metadata["as_of"] <= datetime.now(UTC).timestamp()
    assert metadata["source_watermark"] == there.watermark.timestamp()


def test_a_quarantined_row_is_in_the_source_totals_of_the_publication(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_MAX_QUARANTINE", "1")
    there.rows = [sent_row(0), sent_row(1, country="XX"), sent_row(2)]
    metadata = _published_metadata(_materialize(there))
    assert metadata["source_totals"] == _TOTALS_OF_THREE_ROWS
    assert metadata["rows"] == 2


def test_a_publication_from_a_landed_window_has_the_totals_of_its_landing(
    there: ServedSource,
) -> None:
    """In another instance: all that is known is in the raw object."""
    there.rows = [sent_row(0), sent_row(1), sent_row(2)]
    assert _materialize(there).success
    metadata = _published_metadata(_materialize(there, checks.PUBLISHED))
    assert metadata["source_totals"] == _TOTALS_OF_THREE_ROWS
    assert "as_of" not in metadata


def test_a_source_without_totals_has_none_recorded(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_totals(monkeypatch)
    before = datetime.now(UTC)
    metadata = _published_metadata(_materialize(there))
    assert metadata["source_totals"] is None
    assert metadata["as_of"] >= before.timestamp()


def test_the_same_rows_of_a_source_without_totals_write_nothing(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _no_totals(monkeypatch)
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(tmp_path / "table"))
    objects = Path(".txn/lake")

    def state() -> dict[Path, tuple[int, int]]:
        found = [*objects.glob("*/event*/**/*.parquet"), *(tmp_path / "table").rglob("*.*")]
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}

    there.rows.append(sent_row(900, country="XX"))
    assert _materialize(there).success
    first = state()
    assert len(first) > 5
    again = _materialize(there)
    assert again.success
    assert state() == first
    assert _published_metadata(again)["unchanged"] is True
    there.rows.append(sent_row(901))
    assert "unchanged" not in _published_metadata(_materialize(there))
    assert state() != first


def test_bad_rows_are_quarantined_as_sent_and_the_rest_is_published(there: ServedSource) -> None:
    bad = [
        sent_row(900, amount="1.005") | {"loyalty": "gold"},
        sent_row(901, card_number="4111111111111112", currency="XXX"),
        sent_row(5),
    ]
    there.rows += bad
    result = _materialize(there)
    assert result.success
    assert pq.read_schema(_QUARANTINED).equals(TRANSACTIONS.quarantine_schema)
    kept = pl.read_parquet(_QUARANTINED).to_dicts()
    assert sorted(sorted(row["reasons"]) for row in kept) == [
        ["amount.format"],
        ["card_number.check_digit", "currency.unknown"],
        ["transaction_id.duplicate"],
    ]
    by_amount = {row["amount"]: row for row in kept}
    assert by_amount["1.005"]["extra_fields"] == '{"loyalty":"gold"}'
    assert pq.read_metadata(_PUBLISHED).num_rows == 200
    materialized = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    reasons = reasons_of(materialized["quarantined_transactions"])
    assert reasons == {
        "amount.format": 1,
        "card_number.check_digit": 1,
        "currency.unknown": 1,
        "transaction_id.duplicate": 1,
    }
    published = materialized["s3_parquet_transactions"]
    assert published["dagster/partition_row_count"].value == 200
    assert published["sha256"].value == hashlib.sha256(_PUBLISHED.read_bytes()).hexdigest()


def test_too_many_bad_rows_fail_the_window_and_nothing_is_written(there: ServedSource) -> None:
    assert _materialize(there).success
    before = {path: path.read_bytes() for path in Path(".txn/lake").rglob("*.parquet")}
    for number in range(20):
        there.rows[number] = sent_row(number, amount="free")
    result = _materialize(there, "validated_transactions", "quarantined_transactions")
    assert result.success, "what was landed before has not changed"
    result = _materialize(there)
    assert not result.success
    evaluation = _check(result, checks.QUARANTINE_SHARE)
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.ERROR
    (message,) = _messages(result)
    assert "20 of 200 rows are quarantined, 10.00%, and 5.00% is allowed" in message
    changed = {
        path.parts[2]
        for path in Path(".txn/lake").rglob("*.parquet")
        if before[path] != path.read_bytes()
    }
    assert changed == {"raw_transactions"}


def _statuses(instance: dg.DagsterInstance, *specs: dg.AssetCheckSpec) -> list[str]:
    """How Dagster's UI shows the checks: what became of the last time they were planned."""

    async def resolved(spec: dg.AssetCheckSpec) -> str:
        (record,) = instance.event_log_storage.get_asset_check_execution_history(spec.key, limit=1)
        context = LoadingContextForTest(instance)
        return (await record.resolve_status(context)).value

    return [asyncio.run(resolved(spec)) for spec in specs]


def test_every_evaluated_check_has_its_own_result_before_the_step_fails(
    there: ServedSource,
) -> None:
    for number in range(20):
        there.rows[number] = sent_row(number, amount="free")
    with _instance() as instance:
        result = _materialize(there, instance=instance)
        assert not result.success
        assert not _check(result, checks.QUARANTINE_SHARE).passed
        assert _check(result, checks.EVERY_ROW_KEPT).passed
        assert _statuses(instance, checks.QUARANTINE_SHARE, checks.EVERY_ROW_KEPT) == [
            "FAILED",
            "SUCCEEDED",
        ]
    there.totals = replace(ControlTotals.of(sent_frame(there.rows)), rows=201)
    result = _materialize(there)
    assert not _check(result, checks.LANDED_TOTALS).passed
    assert _check(result, checks.DRIFT).passed
    assert _check(result, checks.TOTALS_STATED).passed


def test_a_check_that_was_not_evaluated_is_not_shown_as_passed(there: ServedSource) -> None:
    row = {"type": "object", "properties": {"amount": {"type": "integer"}}}
    answer = {"schema": {"properties": {"data": {"items": row}}}}
    get = {"responses": {"200": {"content": {"application/json": answer}}}}
    with _instance() as instance:
        assert _materialize(there, instance=instance).success
        there.openapi = {"paths": {"/v1/transactions": {"get": get}}}
        assert not _materialize(there, instance=instance).success
        assert _statuses(instance, checks.DRIFT, checks.LANDED_TOTALS) == [
            "FAILED",
            "EXECUTION_FAILED",
        ]


def test_a_share_that_is_too_large_says_what_the_rows_are_quarantined_for(
    there: ServedSource,
) -> None:
    for number in range(12):
        there.rows[number] = sent_row(number, amount=f"{number}.50 EUR", currency="XXX")
    there.rows[20] = sent_row(20, merchant_name="Zoë 4111-1111-1111-1111")
    there.rows[21] = sent_row(21, customer_id=None)
    result = _materialize(there)
    evaluation = _check(result, checks.QUARANTINE_SHARE)
    said = (
        "the commonest reasons are amount.format (12 rows, of a form like '9.99 AAA'),"
        " currency.unknown (12 rows, of a form like 'AAA'), merchant_name.card_number (1 row, of"
        " a form like 'Aaa 9999-9999-9999-9999')"
    )
    assert said in (evaluation.description or "")
    assert "customer_id.missing" not in (evaluation.description or "")
    assert said in _messages(result)[0]
    table: Any = evaluation.metadata["reasons"].value
    assert [(record.data["reason"], record.data["rows"]) for record in table.records] == [
        ("amount.format", 12),
        ("currency.unknown", 12),
        ("merchant_name.card_number", 1),
        ("customer_id.missing", 1),
    ]
    events = "".join(map(str, result.all_events))
    assert "Zoë" not in events
    assert "4111" not in events
    assert "0.50 EUR" not in events


def test_the_quarantine_of_a_window_that_failed_can_be_looked_at(there: ServedSource) -> None:
    assert _materialize(there).success
    command = ["quarantine", "--partition", _PARTITION]
    assert "Nothing is quarantined" in CliRunner().invoke(main, command).output
    for number in range(20):
        there.rows[number] = sent_row(number, country="UK")
    assert not _materialize(there).success
    shown = CliRunner().invoke(main, command).output
    assert f"{_PARTITION} was not published since it was landed: validated now." in shown
    assert re.search(r"country.unknown .* 20 ", shown)
    assert _materialize(there, validation={"config": {"max_quarantine": 0.2}}).success
    shown = CliRunner().invoke(main, command).output
    assert "validated now" not in shown
    assert re.search(r"country.unknown .* 20 ", shown)


def test_the_checks_of_a_window_hold_also_when_a_run_does_not_record_them(
    there: ServedSource,
) -> None:
    there.totals = replace(ControlTotals.of(sent_frame(there.rows)), rows=201)
    landing = dg.AssetSelection.assets("raw_transactions").without_checks()
    result = _materialize(there, selection=landing)
    assert not result.success
    assert not result.get_asset_check_evaluations()
    assert not list(Path(".txn").rglob("*.parquet"))


def test_a_window_that_another_run_has_replaced_is_recorded_as_superseded(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = DirectoryLake.publish

    def superseded(*args: Any, **kwargs: Any) -> StoredObject:
        return replace(publish(*args, **kwargs), superseded=True)

    monkeypatch.setattr(DirectoryLake, "publish", superseded)
    assert _published_metadata(_materialize(there))["superseded"] is True


def test_a_source_without_totals_gets_no_check_of_totals(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_api(monkeypatch)
    with _instance() as instance:
        result = _materialize(there, instance=instance)
        assert result.success
        assert _statuses(instance, checks.LANDED_TOTALS, checks.PUBLISHED_TOTALS) == [
            "SKIPPED",
            "SKIPPED",
        ]
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert "totals_equal_source" not in found
    stated = found["source_states_totals"]
    assert (stated.passed, stated.blocking, stated.severity) == (
        False,
        False,
        dg.AssetCheckSeverity.WARN,
    )
    assert "states no control totals" in (stated.description or "")
    assert found["raw_is_published_plus_quarantined"].passed
    assert pq.read_metadata(_PUBLISHED).num_rows == 200
    assert pq.read_metadata(_RAW).metadata[b"totals_stated"] == b"false"


def test_files_of_two_landings_are_not_published_together(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_api(monkeypatch)
    assert _materialize(there).success
    published = _PUBLISHED.read_bytes()
    there.rows.pop()
    assert _materialize(there, "raw_transactions").success
    result = _materialize(there, "s3_parquet_transactions")
    assert not _check(result, checks.EVERY_ROW_PUBLISHED).passed
    assert _PUBLISHED.read_bytes() == published


def test_the_share_can_be_set_for_a_run_and_for_all(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        there.rows[number] = sent_row(number, amount="free")
    assert not _materialize(there).success
    assert _materialize(there, validation={"config": {"max_quarantine": 0.2}}).success
    monkeypatch.setenv("TXN_MAX_QUARANTINE", "0.1")
    assert _materialize(there).success


def test_totals_that_differ_from_the_sources_fail_the_window(there: ServedSource) -> None:
    stated = ControlTotals.of(sent_frame(there.rows))
    there.totals = replace(
        stated,
        rows=201,
        amount_by_type={"PURCHASE": stated.amount_by_type["PURCHASE"] + Decimal("0.01")},
    )
    result = _materialize(there)
    assert not result.success
    assert not _check(result, checks.LANDED_TOTALS).passed
    (message,) = _messages(result)
    assert "rows: 200 against 201; amount of PURCHASE: 20,200.00 against 20,200.01" in message
    assert not list(Path(".txn").rglob("*.parquet"))
    assert not list(Path(".txn").rglob("?*.staging"))


def test_a_row_replaced_by_another_of_the_same_amount_is_noticed(there: ServedSource) -> None:
    there.totals = ControlTotals.of(sent_frame(there.rows))
    there.rows[3] = sent_row(3, transaction_id=sent_row(999)["transaction_id"])
    (message,) = _messages(_materialize(there))
    assert re.search(
        r"digest of ids: [0-9a-f]{8}-[0-9a-f]{8} against [0-9a-f]{8}-[0-9a-f]{8}", message
    )


def test_each_asset_can_be_materialized_alone(there: ServedSource) -> None:
    assert _materialize(there).success
    published = _PUBLISHED.read_bytes()
    _PUBLISHED.unlink()
    _QUARANTINED.unlink()
    asked = len(there.requests)
    assert _materialize(there, "quarantined_transactions").success
    assert _materialize(there, "validated_transactions").success
    assert _materialize(there, "s3_parquet_transactions").success
    assert _PUBLISHED.read_bytes() == published
    assert len(there.requests) == asked


def test_an_asset_without_its_input_says_what_to_do(there: ServedSource) -> None:
    (message,) = _messages(_materialize(there, "s3_parquet_transactions"))
    assert re.search(r"does not exist: materialize \w+_transactions for this partition", message)


@pytest.mark.parametrize("noted", [None, {"another note": "1"}])
def test_a_file_of_an_earlier_version_says_what_to_do(
    there: ServedSource, noted: dict[str, str] | None
) -> None:
    """Its footer lacks the note that the step which makes it leaves."""
    assert _materialize(there).success
    validated = Path(str(_PUBLISHED).replace("s3_parquet_transactions", "validated_transactions"))
    rows = pq.read_table(validated)
    pq.write_table(rows.replace_schema_metadata(noted), validated, store_schema=bool(noted))
    published = _PUBLISHED.read_bytes()
    (message,) = _messages(_materialize(there, "s3_parquet_transactions"))
    assert re.search(r"made by an earlier version.*: materialize the whole window again", message)
    assert _PUBLISHED.read_bytes() == published


def test_an_empty_window_is_published_empty(there: ServedSource) -> None:
    there.rows.clear()
    assert _materialize(there).success
    assert pq.read_metadata(_PUBLISHED).num_rows == 0


def test_a_late_row_is_published_by_the_next_run(there: ServedSource) -> None:
    late = there.rows.pop()
    assert _materialize(there).success
    assert pq.read_metadata(_PUBLISHED).num_rows == 199
    there.rows.append(late)
    assert _materialize(there).success
    assert pq.read_metadata(_PUBLISHED).num_rows == 200


def test_card_numbers_are_in_the_raw_zone_and_the_quarantine_only(there: ServedSource) -> None:
    there.rows.append(sent_row(900, amount="free"))
    with _instance() as instance:
        result = dg.materialize(
            _ASSETS,
            instance=instance,
            partition_key=_PARTITION,
            resources=run_resources(GeneratorResource(url=there.url)),
        )
        events = "".join(map(str, instance.all_logs(result.run_id)))
    assert "4111111111111111" not in events
    published = pl.read_parquet(_PUBLISHED)
    assert set(published["card_number"]) == {"411111******1111"}
    assert published["card_token"].n_unique() == 1
    raw, validated = (
        Path(str(_PUBLISHED).replace("s3_parquet_transactions", name))
        for name in ("raw_transactions", "validated_transactions")
    )
    assert set(pl.read_parquet(raw)["card_number"]) == {"4111111111111111"}
    assert set(pl.read_parquet(_QUARANTINED)["card_number"]) == {"4111111111111111"}
    assert set(pl.read_parquet(validated)["card_number"]) == {"411111******1111"}


def test_a_card_number_within_a_name_quarantines_its_row_alone(there: ServedSource) -> None:
    there.rows[3] = sent_row(3, merchant_name="Paid with 5555 5555 5555 4444 at the bar")
    result = _materialize(there)
    assert result.success
    assert pl.read_parquet(_QUARANTINED)["reasons"].to_list() == [["merchant_name.card_number"]]
    assert pq.read_metadata(_PUBLISHED).num_rows == 199
    assert not any("5555 5555" in str(event) for event in result.all_events)


def test_tokens_join_across_windows_and_runs(there: ServedSource) -> None:
    assert _materialize(there).success
    tokens = set(pl.read_parquet(_PUBLISHED)["card_token"])
    assert _materialize(there).success
    assert set(pl.read_parquet(_PUBLISHED)["card_token"]) == tokens
    assert (Path(".txn/card-key").stat().st_mode & 0o777) == 0o600


def test_a_run_on_s3_writes_there_and_nowhere_else(
    there: ServedSource,
    s3_endpoint: S3Endpoint,
    s3_environment: dict[str, str],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    there.rows.append(sent_row(900, amount="free"))
    assert _materialize(there).success
    listed = s3_endpoint.client().list_objects_v2(Bucket=s3_endpoint.bucket, Prefix=s3_prefix)
    tables = (
        "quarantined_transactions",
        "raw_transactions",
        "s3_parquet_transactions",
        "validated_transactions",
    )
    assert {entry["Key"] for entry in listed["Contents"]} == {
        f"{s3_prefix}/{name}"
        for name in (
            *(f"{table}/event_date=2026-11-01/event_hour=00/part-0.parquet" for table in tables),
            CONTRACT_NAME,
            PACKAGE_NAME,
        )
    }
    assert not Path(".txn/lake").exists()
    assert not list(Path(".txn").rglob("*.parquet"))
    assert not list(Path(".txn").rglob("?*.staging"))


@pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)
def test_the_objects_with_card_numbers_are_encrypted_under_the_named_key(
    there: ServedSource,
    s3_endpoint: S3Endpoint,
    s3_environment: dict[str, str],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (s3_environment | {"TXN_RAW_SSE": "alias/raw-zone"}).items():
        monkeypatch.setenv(name, value)
    there.rows.append(sent_row(900, amount="free"))
    assert _materialize(there).success
    client = s3_endpoint.client()
    encrypted = {
        name: client.head_object(
            Bucket=s3_endpoint.bucket,
            Key=f"{s3_prefix}/{name}/event_date=2026-11-01/event_hour=00/part-0.parquet",
        ).get("ServerSideEncryption")
        == "aws:kms"
        for name in (
            "raw_transactions",
            "quarantined_transactions",
            "validated_transactions",
            "s3_parquet_transactions",
        )
    }
    assert encrypted == {
        "raw_transactions": True,
        "quarantined_transactions": True,
        "validated_transactions": False,
        "s3_parquet_transactions": False,
    }


def test_duckdb_pandas_and_pyarrow_read_the_contracts_types(there: ServedSource) -> None:
    assert _materialize(there).success
    described = duckdb.sql(f"describe from '{_PUBLISHED}'").fetchall()
    types = {name: kind for name, kind, *_ in described}
    assert types["amount"] == "DECIMAL(18,2)"
    assert types["transaction_at"] == "TIMESTAMP WITH TIME ZONE"
    frame = pd.read_parquet(_PUBLISHED, dtype_backend="pyarrow")
    assert frame["amount"].dtype == pd.ArrowDtype(pa.decimal128(18, 2))
    assert frame["transaction_at"].dtype == pd.ArrowDtype(pa.timestamp("us", tz="UTC"))
    assert frame["amount"].sum() == pq.read_table(_PUBLISHED)["amount"].to_pandas().sum()


@pytest.mark.parametrize("kind", [pl.DataFrame, pl.LazyFrame, pa.Table, pd.DataFrame])
def test_users_assets_load_by_annotation_and_store_what_they_return(
    there: ServedSource, kind: Any
) -> None:
    assert _materialize(there).success

    def passed_on(s3_parquet_transactions: Any) -> Any:
        assert isinstance(s3_parquet_transactions, kind)
        return s3_parquet_transactions

    passed_on.__annotations__ = {"s3_parquet_transactions": kind, "return": kind}
    downstream = dg.asset(partitions_def=HOURS, io_manager_key="lake")(passed_on)
    result = dg.materialize(
        [downstream, _STORED],
        selection=["passed_on"],
        partition_key=_PARTITION,
        resources=lake_resources(),
    )
    assert result.success
    stored = Path(str(_PUBLISHED).replace("s3_parquet_transactions", "passed_on"))
    assert pl.read_parquet(stored).equals(pl.read_parquet(_PUBLISHED))


def test_a_day_loads_its_hours_as_one_frame(there: ServedSource) -> None:
    assert _materialize(there).success
    for hour in range(1, 24):
        target = Path(str(_PUBLISHED).replace("event_hour=00", f"event_hour={hour:02}"))
        target.parent.mkdir(parents=True)
        target.write_bytes(_PUBLISHED.read_bytes())
    seen: list[int] = []

    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def rows_of_day(s3_parquet_transactions: pl.LazyFrame) -> None:
        seen.append(s3_parquet_transactions.select(pl.len()).collect().item())

    assert dg.materialize(
        [rows_of_day, _STORED],
        selection=["rows_of_day"],
        partition_key="2026-11-01",
        resources=lake_resources() | {"io_manager": dg.mem_io_manager},
    ).success
    assert seen == [24 * 200]


def test_raw_is_what_was_sent(there: ServedSource) -> None:
    assert _materialize(there, "raw_transactions").success
    raw = Path(str(_PUBLISHED).replace("s3_parquet_transactions", "raw_transactions"))
    assert pq.read_schema(raw).equals(TRANSACTIONS.raw_schema)
    sent = pl.read_parquet(raw).sort("position").drop("position", "extra_fields")
    assert sent.to_dicts() == there.rows


def _proven(file: pq.ParquetFile, expected: ControlTotals) -> list[dg.AssetCheckResult]:
    """The check results on a file that is to be published."""
    schema = file.metadata.schema.to_arrow_schema()
    proof = prove_published(schema, partial(read_batches, file), expected, clear_cards=False)
    return checks.published(proof, "token")


def test_the_proof_of_the_published_file_can_fail(tmp_path: Path) -> None:
    """Each check finds the fault it is there for, in files that no run would write."""
    row = pl.DataFrame(
        {
            "transaction_id": ["a", "a"],
            "transaction_type": ["PURCHASE", "PURCHASE"],
            "amount": [Decimal("1.00"), Decimal("2.00")],
            "card_number": ["411111******1111", "4111111111111111"],
        }
    )
    columns = {
        field.name: row[field.name].to_arrow().cast(field.type)
        if field.name in row.columns
        else pa.array([None, None], field.type)
        for field in TRANSACTIONS.published_schema
    }
    nullable = pa.schema([field.with_nullable(True) for field in TRANSACTIONS.published_schema])
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns, schema=nullable), path)
    with open_parquet(path, TRANSACTIONS.dictionary_encoded) as file:
        (schema,) = _proven(file, ControlTotals())
    assert not schema.passed
    assert "amount" in (schema.description or "")
    filler = {pa.string(): "x", pa.bool_(): False, pa.float64(): 0.0}
    filled = {
        name: pa.array([filler.get(column.type, 0)] * 2).cast(column.type)
        if column.null_count
        else column
        for name, column in columns.items()
    }
    pq.write_table(pa.table(filled, schema=TRANSACTIONS.published_schema), path)
    with open_parquet(path, TRANSACTIONS.dictionary_encoded) as file:
        results = _proven(file, ControlTotals())
    assert {result.check_name for result in results if not result.passed} == {
        "ids_are_unique",
        "raw_is_published_plus_quarantined",
        "totals_equal_source",
        "no_card_number_in_clear",
    }


@pytest.mark.parametrize(
    ("column", "text", "shown"),
    [
        ("merchant_name", "REF 4111-1111-1111-1111", True),
        ("fraud_scenario", "a_4111111111111111", True),
        ("customer_id", "4111_1111_1111_1111", True),
        ("merchant_id", "378282246310005", True),
        ("merchant_id", "REF4111111111111111", False),
        ("card_number", "4111111111111111", True),
    ],
)
def test_a_card_number_in_any_part_of_the_file_is_found_and_its_position_told(
    there: ServedSource, tmp_path: Path, column: str, text: str, *, shown: bool
) -> None:
    assert _materialize(there).success
    good = pq.read_table(_PUBLISHED)
    path = tmp_path / "bad.parquet"
    for rows in ([0], [99], [199], [0, 60, 199], list(range(12))):
        values = good[column].to_pylist()
        for row in rows:
            values[row] = text
        at = good.schema.get_field_index(column)
        bad = good.set_column(at, good.schema.field(at), pa.array(values, pa.string()))
        # Four row groups, each with a dictionary of its own.
        pq.write_table(bad, path, row_group_size=50)
        with open_parquet(path, TRANSACTIONS.dictionary_encoded) as file:
            totals = ControlTotals.of(pl.DataFrame(good))
            results = _proven(file, totals)
        failed = {result.check_name: result.description for result in results if not result.passed}
        named = ", ".join(map(str, rows[:10])) + (" ..." if len(rows) > 10 else "")
        said = (
            f"{len(rows)} rows show a card number in {column}, at the positions {named} of the"
            " file, counted from 0"
        )
        assert set(failed) == ({"no_card_number_in_clear"} if shown else set())
        assert all(f"Found: {said}." in (message or "") for message in failed.values())


def test_one_reason_can_have_a_limit_of_its_own(there: ServedSource) -> None:
    there.rows[3] = sent_row(3, currency="XXX")
    limits = {"max_quarantine_by_reason": {"currency.unknown": 0.001}}
    result = _materialize(there, validation={"config": limits})
    assert not result.success
    (message,) = _messages(result)
    assert "1 of 200 rows are quarantined for currency.unknown, 0.50%, and 0.10%" in message
    limits = {"max_quarantine_by_reason": {"currency.unknown": 0.005, "amount.format": 0}}
    assert _materialize(there, validation={"config": limits}).success


def test_fictitious_numbers_can_be_published_in_clear_and_the_object_says_so(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_CARD_POLICY", "clear")
    assert _materialize(there).success
    assert set(pl.read_parquet(_PUBLISHED)["card_number"]) == {"4111111111111111"}
    assert (pq.read_metadata(_PUBLISHED).metadata or {})[b"card_policy"] == b"clear"
    monkeypatch.delenv("TXN_CARD_POLICY")
    assert _materialize(there).success
    assert set(pl.read_parquet(_PUBLISHED)["card_number"]) == {"411111******1111"}


@pytest.mark.parametrize(
    ("mask", "shown"), [("last4", "************1111"), ("none", "****"), ("first6last4", None)]
)
def test_a_mask_that_shows_less_is_told_by_the_object_and_the_contract(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, mask: CardMask, shown: str | None
) -> None:
    monkeypatch.setenv("TXN_CARD_MASK", mask)
    result = _materialize(there)
    assert result.success
    assert set(pl.read_parquet(_PUBLISHED)["card_number"]) == {shown or "411111******1111"}
    notes = pq.read_metadata(_PUBLISHED).metadata or {}
    # The default adds nothing, so that objects stay as they were.
    assert notes.get(b"card_mask") == (mask.encode() if shown else None)
    fingerprint = notes[b"card_key_fingerprint"].decode()
    told = {
        event.asset_key.path[-1]: event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    for asset in ("validated_transactions", "s3_parquet_transactions"):
        assert told[asset]["card_mask"].value == mask
        assert told[asset]["card_key_fingerprint"].value == fingerprint
    field = pq.read_schema(_PUBLISHED).field("card_number")
    assert field.metadata == {b"description": CARD_MASKS[mask].description.encode()}
    contract = Path(".txn/lake/contract.odcs.yaml").read_text("utf-8")
    assert CARD_MASKS[mask].pattern in contract.replace("\\\\", "\\")
    # A file with another mask than it says is not published.
    if shown:
        validated = Path(str(_PUBLISHED).replace("s3_parquet", "validated"))
        table = pq.read_table(validated)
        wrong = dict(notes) | {b"card_mask": b"first6last4"}
        wrong.pop(b"ARROW:schema")
        pq.write_table(table.replace_schema_metadata(wrong), validated)
        failed = _materialize(there, "s3_parquet_transactions")
        assert not failed.success
        assert any("show a card number in card_number" in each for each in _messages(failed))


def test_a_shared_lake_without_a_key_is_refused(
    there: ServedSource, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**s3_environment, "GENERATOR_URL": there.url}.items():
        monkeypatch.setenv(name, value)
    (message,) = _messages(_materialize(there))
    assert message.startswith("TXN_CARD_KEY is not set")
    monkeypatch.setenv("TXN_CARD_KEY", "short")
    (message,) = _messages(_materialize(there))
    assert message.startswith("TXN_CARD_KEY: the card key must have at least 16 bytes. Make")
    monkeypatch.setenv("TXN_CARD_KEY", "a key of sixteen bytes and more")
    assert _materialize(there).success


def test_mended_rows_leave_the_quarantine(there: ServedSource) -> None:
    good = there.rows[3]
    there.rows[3] = sent_row(3, amount="free")
    assert _materialize(there).success
    assert pq.read_metadata(_QUARANTINED).num_rows == 1
    there.rows[3] = good
    assert _materialize(there).success
    assert pq.read_metadata(_QUARANTINED).num_rows == 0
    assert pq.read_metadata(_PUBLISHED).num_rows == 200
