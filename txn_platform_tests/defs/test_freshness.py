"""The check of freshness: the newest published window against the source's watermark."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from txn_platform.definitions import build_defs
from txn_platform.defs.freshness_check import freshness_sensor
from txn_platform.defs.resources import GeneratorResource
from txn_platform_tests.support.served_source import ServedSource, served

_PUBLISHED = dg.AssetKey("s3_parquet_transactions")
_IS_FRESH = dg.AssetCheckKey(_PUBLISHED, "is_fresh")


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedSource]:
    with served(ServedSource([])) as source:
        source.watermark = datetime(2026, 11, 1, 6, tzinfo=UTC)
        monkeypatch.setenv("GENERATOR_URL", source.url)
        yield source


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def _publish(instance: dg.DagsterInstance, partition: str) -> None:
    job = build_defs().resolve_job_def("land_transactions")
    result = job.execute_in_process(instance=instance, partition_key=partition)
    assert result.success
    # It is no matter of one window.
    assert "is_fresh" not in {found.check_name for found in result.get_asset_check_evaluations()}


def _evaluate(instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    """As `Execute` in the UI does."""
    job = dg.define_asset_job("check", selection=dg.AssetSelection.checks(_IS_FRESH))
    defs = dg.Definitions.merge(build_defs(), dg.Definitions(jobs=[job]))
    result = defs.resolve_job_def("check").execute_in_process(instance=instance)
    assert result.success
    assert not result.get_asset_materialization_events()
    (found,) = result.get_asset_check_evaluations()
    return found


def test_the_newest_window_counts_and_a_backfill_changes_nothing(
    there: ServedSource, instance: dg.DagsterInstance
) -> None:
    found = _evaluate(instance)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "Found: no window is published" in (found.description or "")
    _publish(instance, "2026-11-01-02:00")
    found = _evaluate(instance)
    assert not found.passed
    assert "at most 60 minutes before the source's watermark" in (found.description or "")
    assert "published up to 2026-11-01T03:00:00Z" in (found.description or "")
    assert "To do: turn on the sensor on_watermark" in (found.description or "")
    assert (found.description or "").endswith("(docs/runbook.md#freshness).")
    assert found.metadata["hours_behind"].value == 3.0
    _publish(instance, "2026-10-31-23:00")
    assert not _evaluate(instance).passed
    _publish(instance, "2026-11-01-04:00")
    found = _evaluate(instance)
    assert found.passed
    assert "To do" not in (found.description or "")
    there.watermark = datetime(2026, 11, 1, 7, tzinfo=UTC)
    assert not _evaluate(instance).passed


def _tick(instance: dg.DagsterInstance, cursor: str | None) -> tuple[str | None, int]:
    """Evaluate the sensor as the daemon does; its cursor and how many results it reported."""
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"generator": GeneratorResource()}
    ) as context:
        data = freshness_sensor.evaluate_tick(context)
    for event in data.asset_events:
        instance.report_runless_asset_event(event)
    assert not data.run_requests
    return data.cursor, len(data.asset_events)


def _status(instance: dg.DagsterInstance) -> str:
    storage = instance.event_log_storage
    record = storage.get_latest_asset_check_execution_by_key([_IS_FRESH])[_IS_FRESH]
    return record.status.value


def test_the_sensor_reports_a_result_without_a_run_and_only_when_it_is_new(
    there: ServedSource, instance: dg.DagsterInstance
) -> None:
    _publish(instance, "2026-11-01-05:00")
    cursor, reported = _tick(instance, None)
    assert (reported, _status(instance)) == (1, "SUCCEEDED")
    cursor, reported = _tick(instance, cursor)
    assert reported == 0
    there.watermark = datetime(2026, 11, 1, 9, tzinfo=UTC)
    cursor, reported = _tick(instance, cursor)
    assert (reported, _status(instance)) == (1, "FAILED")
    _publish(instance, "2026-11-01-03:00")
    cursor, reported = _tick(instance, cursor)
    assert (reported, _status(instance)) == (0, "FAILED")
    _publish(instance, "2026-11-01-08:00")
    cursor, reported = _tick(instance, cursor)
    assert (reported, _status(instance)) == (1, "SUCCEEDED")


def test_a_source_that_does_not_answer_changes_nothing(
    there: ServedSource, instance: dg.DagsterInstance
) -> None:
    _publish(instance, "2026-11-01-05:00")
    cursor, _ = _tick(instance, None)
    there.faults = ["/v1/watermark"]
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"generator": GeneratorResource()}
    ) as context:
        data = freshness_sensor.evaluate_tick(context)
    assert "watermark" in (data.skip_message or "")
    assert not data.asset_events


def test_a_run_that_publishes_from_the_lake_succeeds_while_the_source_is_down(
    there: ServedSource, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(instance, "2026-11-01-05:00")
    monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:9")
    # As `Materialize` in the UI does: with all checks of the asset.
    job = dg.define_asset_job("again", selection=dg.AssetSelection.assets(_PUBLISHED))
    defs = dg.Definitions.merge(build_defs(), dg.Definitions(jobs=[job]))
    result = defs.resolve_job_def("again").execute_in_process(
        instance=instance, partition_key="2026-11-01-05:00"
    )
    assert result.success
    found = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert found["ids_are_unique"].passed
    fresh = found["is_fresh"]
    assert (fresh.passed, fresh.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "Found: no watermark: " in (fresh.description or "")
    assert "127.0.0.1:9" in (fresh.description or "")
