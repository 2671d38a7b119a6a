"""The schedule and the sensor: which windows they ask for, and when they ask again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from txn_platform.definitions import build_defs
from txn_platform.defs.automation import on_watermark
from txn_platform.defs.resources import GeneratorResource
from txn_platform_tests.served_source import ServedSource, sent_row, served


@pytest.fixture
def there() -> Iterator[ServedSource]:
    """A source whose newest complete hour is the first of 2026-11-01."""
    rows = [sent_row(number) for number in range(3)]
    with served(ServedSource(rows, watermark=datetime(2026, 11, 1, 1, tzinfo=UTC))) as source:
        yield source


def _tick(source: ServedSource, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    resources = {"generator": GeneratorResource(url=source.url)}
    with dg.build_sensor_context(cursor=cursor, resources=resources) as context:
        result = on_watermark(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def _asked(result: dg.SensorResult | dg.SkipReason) -> list[str | None]:
    assert isinstance(result, dg.SensorResult)
    return [request.partition_key for request in result.run_requests or []]


def test_first_tick_asks_for_the_newest_hour_and_the_second_for_nothing(
    there: ServedSource,
) -> None:
    first = _tick(there, None)
    assert _asked(first) == ["2026-11-01-00:00"]
    assert isinstance(first, dg.SensorResult)
    assert _asked(_tick(there, first.cursor)) == []


def test_a_new_hour_is_asked_for(there: ServedSource) -> None:
    first = _tick(there, None)
    assert isinstance(first, dg.SensorResult)
    there.watermark += timedelta(hours=2)
    assert _asked(_tick(there, first.cursor)) == ["2026-11-01-01:00", "2026-11-01-02:00"]


def test_a_late_row_has_its_hour_asked_for_again_under_another_key(there: ServedSource) -> None:
    first = _tick(there, None)
    assert isinstance(first, dg.SensorResult)
    there.rows.append(sent_row(9))
    second = _tick(there, first.cursor)
    assert isinstance(second, dg.SensorResult)
    assert _asked(second) == ["2026-11-01-00:00"]
    keys = {request.run_key for result in (first, second) for request in result.run_requests or []}
    assert len(keys) == 2


def test_hours_that_have_settled_are_left_alone(there: ServedSource) -> None:
    first = _tick(there, None)
    assert isinstance(first, dg.SensorResult)
    there.watermark += timedelta(hours=60)
    there.rows.append(sent_row(9))
    assert "2026-11-01-00:00" not in _asked(_tick(there, first.cursor))


def test_a_source_that_does_not_answer_skips_the_tick_with_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    result = _tick(ServedSource([], url="http://127.0.0.1:9"), None)
    assert isinstance(result, dg.SkipReason)
    assert "no source answers" in (result.skip_message or "")


def test_the_schedule_asks_for_the_hour_that_is_over() -> None:
    defs = build_defs()
    schedule = defs.resolve_schedule_def("hourly")
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 11, 1, 15, 5, tzinfo=UTC)
    )
    data = schedule.evaluate_tick(context)
    assert [request.partition_key for request in data.run_requests or []] == ["2026-11-01-14:00"]
    assert schedule.cron_schedule == "5 * * * *"
