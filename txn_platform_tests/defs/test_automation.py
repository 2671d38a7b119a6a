"""The schedule and the sensor: which windows they ask for, and when they ask again."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterEvent, DagsterEventType

from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.definitions import build_defs
from txn_platform.defs import checks, sensor_tick
from txn_platform.defs import resources as resources_module
from txn_platform.defs.automation import hourly, on_watermark
from txn_platform.defs.publications import (
    SOURCE_TOTALS_NOTE,
    WATERMARK,
    landing_metadata,
    latest_landing,
    publication_metadata,
)
from txn_platform.defs.resources import GeneratorResource
from txn_platform.defs.run_history import JOB, SENSOR, pause_after
from txn_platform.errors import UserError
from txn_platform.lake.layout import object_key
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.source import client
from txn_platform.windows import Window, full_hour
from txn_platform_tests.conftest import gone, of_family
from txn_platform_tests.support.announced_stack import announced_stack
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.other_api import use_api
from txn_platform_tests.support.served_source import served
from txn_platform_tests.support.set_clock import SetClock

_DAY = datetime(2026, 11, 3, tzinfo=UTC)


def _hour(number: int) -> Window:
    """An hour of the day; those before it count below zero."""
    return Window(_DAY + timedelta(hours=number))


def _key(number: int) -> str:
    return _hour(number).partition_key


def _keys(first: int, end: int) -> list[str]:
    return [_key(number) for number in range(first, end)]


_ENDS = {
    dg.DagsterRunStatus.FAILURE: DagsterEventType.PIPELINE_FAILURE,
    dg.DagsterRunStatus.SUCCESS: DagsterEventType.PIPELINE_SUCCESS,
    dg.DagsterRunStatus.CANCELED: DagsterEventType.PIPELINE_CANCELED,
}


@dataclass
class Automation:
    """The sensor over a source and an instance; the test does what the runs would do."""

    source: HourlySource
    instance: dg.DagsterInstance
    cursor: str | None = None
    reason: str = ""
    run_keys: list[str] = field(default_factory=list[str])

    def tick(self) -> list[str]:
        """Evaluate the sensor as the daemon does, and give the partitions that it asks for."""
        return [str(request.partition_key) for request in self.requests()]

    def requests(self) -> list[dg.RunRequest]:
        """Evaluate the sensor as the daemon does, and give its requests."""
        resources = {"generator": GeneratorResource(url=self.source.url)}
        with dg.build_sensor_context(
            cursor=self.cursor, resources=resources, instance=self.instance
        ) as context:
            result = on_watermark(context)
        if isinstance(result, dg.SkipReason):
            self.reason = result.skip_message or ""
            return []
        assert isinstance(result, dg.SensorResult)
        reason = result.skip_reason
        self.reason = (reason.skip_message or "") if isinstance(reason, dg.SkipReason) else ""
        self.cursor = result.cursor
        requests = list(result.run_requests or [])
        self.run_keys += [str(request.run_key) for request in requests]
        # Dagster never runs a key twice.
        assert len(set(self.run_keys)) == len(self.run_keys)
        return requests

    def publish(
        self,
        *numbers: int,
        totals: ControlTotals | None = None,
        stated: bool = True,
        recorded: bool = True,
    ) -> None:
        """Record publications, with what the source states now."""
        for number in numbers:
            window = _hour(number)
            said = (totals or self.source.totals_of(window)) if stated else None
            landing = landing_metadata(datetime.now(UTC), self.source.watermark)
            event = dg.AssetMaterialization(
                checks.PUBLISHED,
                partition=window.partition_key,
                metadata=publication_metadata(said, landing) if recorded else {"rows": 2},
            )
            self.instance.report_runless_asset_event(event)

    def runs(
        self,
        number: int,
        status: dg.DagsterRunStatus,
        *,
        ended: timedelta = timedelta(),
        of_sensor: bool = True,
        job: str = JOB,
        failed_check: bool = False,
        tags: dict[str, str] | None = None,
    ) -> str:
        """Record a run; of the sensor, that of its newest request for the window."""
        key = _key(number)
        own = {"dagster/partition": key, **(tags or {})}
        if of_sensor:
            asked = [run_key for run_key in self.run_keys if run_key.startswith(f"{key}/")]
            own |= {"dagster/sensor_name": SENSOR, "dagster/run_key": asked[-1]}
        first = dg.DagsterRunStatus.STARTED if status in _ENDS else status
        run = dg.DagsterRun(job_name=job, run_id=str(uuid.uuid4()), status=first, tags=own)
        self.instance.add_run(run)
        if failed_check:
            evaluation = dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(checks.VALIDATED),
                check_name=checks.QUARANTINE_SHARE.name,
                passed=False,
                metadata={},
                severity=dg.AssetCheckSeverity.ERROR,
                blocking=True,
            )
            event = DagsterEvent(
                DagsterEventType.ASSET_CHECK_EVALUATION.value, job, event_specific_data=evaluation
            )
            self.instance.report_dagster_event(event, run.run_id)
        if status in _ENDS:
            self.instance.handle_run_event(
                run.run_id,
                DagsterEvent(_ENDS[status].value, job),
                update_timestamp=datetime.now(UTC) - ended,
            )
        return run.run_id

    def fails(self, number: int, *, ended: timedelta, failed_check: bool = False) -> None:
        """Let the newest request for a window fail, so long ago."""
        self.runs(number, dg.DagsterRunStatus.FAILURE, ended=ended, failed_check=failed_check)


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    """A source that is complete up to 03:00, and a sensor that looks back three hours."""
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "3")
    source = HourlySource([], watermark=_hour(3).start)
    with served(source), dg.DagsterInstance.ephemeral() as instance:
        yield Automation(source, instance)


def test_the_first_tick_asks_for_the_hours_it_looks_back_and_the_second_for_nothing(
    auto: Automation,
) -> None:
    assert auto.tick() == _keys(0, 3)
    assert auto.tick() == []


def test_two_days_are_looked_back_unless_it_is_said_otherwise(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TXN_LOOKBACK_HOURS")
    asked = [auto.tick() for _ in range(3)]
    assert asked == [[*_keys(-45, -20), _key(2)], _keys(-20, 2), []]


def test_windows_that_are_right_when_it_is_turned_on_are_not_run_again(auto: Automation) -> None:
    auto.publish(0, 2)
    assert auto.tick() == [_key(1)]


def test_a_new_hour_is_asked_for(auto: Automation) -> None:
    auto.publish(0, 1, 2)
    assert auto.tick() == []
    auto.source.watermark += timedelta(hours=2)
    assert auto.tick() == _keys(3, 5)


def test_a_watermark_within_an_hour_completes_the_hours_before_it(auto: Automation) -> None:
    auto.source.watermark = _hour(3).start + timedelta(minutes=59)
    assert auto.tick() == _keys(0, 3)


def test_late_rows_are_asked_for_once(auto: Automation) -> None:
    auto.publish(0, 1, 2)
    assert auto.tick() == []
    auto.source.hours[_key(1)] += rows_of(_hour(1), 3)[2:]
    assert auto.tick() == [_key(1)]
    auto.runs(1, dg.DagsterRunStatus.STARTED)
    assert auto.tick() == []
    auto.publish(1)
    assert auto.tick() == []


def test_late_rows_of_a_window_whose_run_is_lost_are_asked_for(auto: Automation) -> None:
    auto.tick()
    auto.source.hours[_key(1)] += rows_of(_hour(1), 3)[2:]
    assert auto.tick() == [_key(1)]


def test_published_windows_that_have_settled_are_left_alone(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_SETTLED_HOURS", "2")
    auto.publish(0, 1, 2)
    assert auto.tick() == []
    for number in range(3):
        auto.source.hours[_key(number)] += rows_of(_hour(number), 3)[2:]
    auto.source.asked.clear()
    # The first ended two hours before the watermark, or more.
    auto.source.watermark = _hour(3).start
    assert auto.tick() == _keys(1, 3)
    assert auto.source.asked == _keys(1, 3)


def test_missing_windows_are_asked_for_however_old_they_are(auto: Automation) -> None:
    auto.publish(0, 2)
    assert auto.tick() == [_key(1)]
    auto.fails(1, ended=timedelta(hours=2))
    auto.source.watermark = _hour(90).start
    assert auto.tick() == [_key(1), *_keys(3, 27), _key(89)]


def test_each_tick_asks_for_the_oldest_portion_and_the_newest_hour(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "30")
    assert [auto.tick() for _ in range(3)] == [
        [*_keys(-27, -2), _key(2)],
        _keys(-2, 2),
        [],
    ]


def test_only_the_newest_hour_is_asked_for_while_a_hundred_runs_wait(auto: Automation) -> None:
    own = {"dagster/sensor_name": SENSOR}
    for number in range(-99, 0):
        auto.runs(number, dg.DagsterRunStatus.STARTING, of_sensor=False, tags=own)
    for number in range(-299, -99):
        # A backfill, which has the lowest priority.
        auto.runs(number, dg.DagsterRunStatus.STARTING, of_sensor=False)
    assert auto.tick() == [_key(0), _key(2)]
    auto.runs(0, dg.DagsterRunStatus.STARTING)
    auto.runs(2, dg.DagsterRunStatus.STARTING)
    assert auto.tick() == []
    auto.source.watermark = _hour(4).start
    assert auto.tick() == [_key(3)]


def test_the_newest_hour_has_priority_over_late_rows_and_those_over_history(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "100")
    auto.publish(*range(-97, -50), *range(-48, 1))
    requests = auto.requests()
    assert [(request.partition_key, request.tags["dagster/priority"]) for request in requests] == [
        (_key(-50), "0"),
        (_key(-49), "0"),
        (_key(1), "5"),
        (_key(2), "10"),
    ]


def test_a_window_that_failed_by_its_source_or_store_is_asked_for_again_with_growing_pauses(
    auto: Automation,
) -> None:
    auto.publish(0, 2)
    assert auto.tick() == [_key(1)]
    for attempt in range(1, 6):
        pause = pause_after(attempt)
        auto.fails(1, ended=pause - timedelta(seconds=5))
        assert auto.tick() == []
        auto.instance.delete_run(auto.instance.get_runs(limit=1)[0].run_id)
        auto.fails(1, ended=pause)
        assert auto.tick() == [_key(1)]
    assert [run_key.rpartition("/")[2] for run_key in auto.run_keys] == list("123456")
    auto.publish(1)
    assert auto.tick() == []


def test_a_window_that_failed_a_check_is_asked_for_again_after_an_hour(auto: Automation) -> None:
    auto.publish(0, 2)
    assert auto.tick() == [_key(1)]
    auto.fails(1, ended=timedelta(minutes=59), failed_check=True)
    assert auto.tick() == []
    auto.instance.delete_run(auto.instance.get_runs(limit=1)[0].run_id)
    auto.fails(1, ended=timedelta(minutes=60), failed_check=True)
    assert auto.tick() == [_key(1)]


def test_a_window_that_failed_a_check_is_asked_for_again_when_its_content_changes(
    auto: Automation,
) -> None:
    auto.publish(0, 2)
    assert auto.tick() == [_key(1)]
    auto.fails(1, ended=timedelta(), failed_check=True)
    assert auto.tick() == []
    auto.source.hours[_key(1)] = rows_of(_hour(1), 2, amount="7.00")
    assert auto.tick() == [_key(1)]


def test_content_that_changes_all_the_time_is_asked_for_a_few_times_an_hour(
    auto: Automation,
) -> None:
    auto.publish(0, 2)
    asked = 0
    for rows in range(1, 12):
        auto.source.hours[_key(1)] = rows_of(_hour(1), rows)
        if auto.tick():
            asked += 1
            auto.fails(1, ended=timedelta())
    assert asked == 5


def test_content_that_comes_back_is_asked_for_under_a_new_key(auto: Automation) -> None:
    auto.publish(0, 2)
    for rows in (2, 3, 2):
        auto.source.hours[_key(1)] = rows_of(_hour(1), rows)
        assert auto.tick() == [_key(1)]
        auto.runs(1, dg.DagsterRunStatus.SUCCESS, ended=timedelta(minutes=1))
        auto.publish(1)
        assert auto.tick() == []


@pytest.mark.parametrize("whose", ["sensor", "schedule", "UI"])
def test_a_window_whose_run_is_on_its_way_is_not_asked_for(auto: Automation, whose: str) -> None:
    auto.source.watermark = _hour(5).start
    statuses = {
        2: dg.DagsterRunStatus.STARTING,
        3: dg.DagsterRunStatus.NOT_STARTED,
        4: dg.DagsterRunStatus.STARTED,
    }
    if whose == "sensor":
        assert auto.tick() == _keys(2, 5)
    for number, status in statuses.items():
        job = "__ASSET_JOB" if whose == "UI" else JOB
        auto.runs(number, status, of_sensor=whose == "sensor", job=job)
    auto.source.asked.clear()
    auto.source.hours[_key(3)] = rows_of(_hour(3), 5)
    assert auto.tick() == []
    # Nor is the source asked about it.
    assert auto.source.asked == []


@pytest.mark.parametrize("published_before", [False, True])
def test_a_window_that_is_published_during_the_tick_is_not_asked_for(
    auto: Automation, monkeypatch: pytest.MonkeyPatch, published_before: bool
) -> None:
    auto.publish(0, 2)
    if published_before:
        auto.publish(1, totals=ControlTotals(1, {}, 5))
    totals_of = auto.source.totals_of

    def and_published(window: Window) -> ControlTotals:
        """State the totals of a window while a run publishes it."""
        monkeypatch.setattr(auto.source, "totals_of", totals_of)
        auto.publish(1)
        return totals_of(window)

    auto.source.hours[_key(0)] = rows_of(_hour(0))
    monkeypatch.setattr(auto.source, "totals_of", and_published)
    assert auto.tick() == []
    assert auto.tick() == []


def test_a_run_that_dagster_starts_again_by_itself_is_on_its_way(auto: Automation) -> None:
    auto.publish(0, 2)
    auto.tick()
    auto.runs(
        1,
        dg.DagsterRunStatus.FAILURE,
        ended=timedelta(minutes=1),
        tags={"dagster/will_retry": "true"},
    )
    assert auto.tick() == []
    auto.runs(1, dg.DagsterRunStatus.FAILURE, ended=timedelta(minutes=1))
    auto.instance.add_run_tags(
        auto.instance.get_runs()[1].run_id, {"dagster/auto_retry_run_id": str(uuid.uuid4())}
    )
    assert auto.tick() == [_key(1)]


def test_a_window_of_a_canceled_run_is_asked_for_again(auto: Automation) -> None:
    auto.publish(0, 2)
    auto.tick()
    auto.runs(1, dg.DagsterRunStatus.CANCELED, ended=timedelta(minutes=1))
    assert auto.tick() == [_key(1)]


def test_attempts_are_counted_by_the_runs_when_the_cursor_is_cleared(auto: Automation) -> None:
    auto.publish(0, 2)
    auto.tick()
    auto.fails(1, ended=timedelta(minutes=1))
    auto.cursor = None
    assert auto.tick() == [_key(1)]
    # Also behind many runs of other people.
    for _ in range(15):
        auto.runs(1, dg.DagsterRunStatus.FAILURE, ended=timedelta(hours=2), of_sensor=False)
    auto.fails(1, ended=timedelta(hours=2))
    for _ in range(15):
        auto.runs(1, dg.DagsterRunStatus.FAILURE, ended=timedelta(hours=2), of_sensor=False)
    auto.cursor = None
    assert auto.tick() == [_key(1)]
    assert [run_key.rpartition("/")[2] for run_key in auto.run_keys] == list("123")


def test_a_watermark_that_goes_back_changes_nothing_that_is_known(auto: Automation) -> None:
    asked: list[list[str]] = []
    for hour in (6, 8, 3, 11):
        auto.source.watermark = _hour(hour).start
        asked.append(auto.tick())
    assert asked == [_keys(3, 6), _keys(6, 8), [], _keys(8, 11)]


def test_published_windows_that_settled_stay_so_when_the_watermark_goes_back(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_SETTLED_HOURS", "2")
    auto.publish(*range(8))
    auto.source.watermark = _hour(3).start
    assert auto.tick() == []
    auto.source.watermark = _hour(8).start
    assert auto.tick() == []
    auto.source.watermark = _hour(3).start
    auto.source.hours[_key(2)] += rows_of(_hour(2), 3)[2:]
    assert auto.tick() == []


@pytest.mark.parametrize(
    "watermark", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z"]
)
def test_a_watermark_before_the_first_window_asks_for_nothing(
    auto: Automation, watermark: str
) -> None:
    auto.source.watermark_text = watermark
    assert auto.tick() == []
    assert "no complete hour" in auto.reason
    auto.source.watermark_text = None
    assert auto.tick() == _keys(0, 3)


def test_a_watermark_of_the_future_ends_at_the_clock(auto: Automation) -> None:
    auto.source.watermark_text = "9999-12-31T23:00:00Z"
    before = datetime.now(UTC)
    asked = auto.tick()
    assert len(asked) == 3
    assert Window.of_partition(asked[-1]).end <= datetime.now(UTC)
    assert Window.of_partition(asked[-1]).end > before - timedelta(hours=1)
    auto.source.watermark_text = None
    assert auto.tick() == []


def test_a_watermark_without_a_zone_skips_the_tick(auto: Automation) -> None:
    auto.source.watermark_text = "2026-11-03T03:00:00"
    assert auto.tick() == []
    assert "has a time without a zone under 'watermark'" in auto.reason


def test_a_source_that_does_not_answer_skips_the_tick_with_a_message(auto: Automation) -> None:
    url, auto.source.url = auto.source.url, "http://127.0.0.1:9"
    for _ in range(10):
        assert auto.tick() == []
        assert "no source answers" in auto.reason
    auto.source.url = url
    assert auto.tick() == _keys(0, 3)


def test_a_window_whose_totals_cannot_be_had_is_skipped_alone(auto: Automation) -> None:
    auto.source.silent = {_key(1)}
    assert auto.tick() == [_key(0), _key(2)]
    assert auto.tick() == []
    assert _key(1) in auto.reason
    assert "status 500" in auto.reason
    auto.source.silent.clear()
    assert auto.tick() == [_key(1)]


def test_a_tick_that_runs_out_of_time_goes_on_in_the_next(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensor_tick, "BUDGET_SECONDS", 0.3)
    auto.source.seconds = 0.2
    ticks: list[list[str]] = []
    while sum(map(len, ticks)) < 3:
        started = time.monotonic()
        ticks.append(auto.tick())
        # One question more at most.
        assert time.monotonic() - started < 3
    assert len(ticks) > 1
    assert [key for tick in ticks for key in tick] == _keys(0, 3)
    assert auto.source.asked == _keys(0, 3)
    auto.publish(0, 1, 2)
    auto.source.watermark = _hour(4).start
    later = [auto.tick() for _ in range(8)]
    assert later.count([_key(3)]) == 1
    assert set(auto.source.asked[3:]) == set(_keys(0, 4))


def test_a_source_that_stalls_costs_a_tick_little(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_SOURCE_READ_SECONDS", "0.3")
    monkeypatch.setattr(sensor_tick, "BUDGET_SECONDS", 0.5)
    auto.source.seconds = 1.5
    started = time.monotonic()
    assert auto.tick() == []
    assert time.monotonic() - started < 5
    assert _key(0) in auto.reason
    assert "stalled" in auto.reason
    auto.source.seconds = 0
    assert {key for _ in range(2) for key in auto.tick()} == set(_keys(0, 3))


def test_the_tick_is_well_within_the_time_that_dagster_gives_it() -> None:
    resource = GeneratorResource(url="http://127.0.0.1:9")
    limits = resource.source_for_tick().limits
    longest = limits.backoff.attempts * (limits.connect_seconds + limits.whole_seconds)
    assert sensor_tick.BUDGET_SECONDS == 20
    # A generator is started, one question each for the watermark and the last window.
    assert sensor_tick.BUDGET_SECONDS + longest + sensor_tick._LAKE_SECONDS < 45


def test_the_source_of_a_tick_is_the_one_that_the_settings_name(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERATOR_URL", auto.source.url)
    before = set(_generators())
    assert GeneratorResource().source_for_tick().watermark() == _hour(3).start
    # The run's own configuration comes first.
    other = GeneratorResource(url="http://127.0.0.1:9").source_for_tick()
    with pytest.raises(UserError, match=r"no source answers at http://127\.0\.0\.1:9"):
        other.watermark()
    assert not set(_generators()) - before


def _generators() -> list[psutil.Process]:
    below = of_family(os.getpid(), lambda each: (each, each.cmdline()))
    return [process for process, command in below if "generator_service" in " ".join(command)]


def test_a_tick_without_a_source_starts_one_generator_which_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GENERATOR_TPS", "0.01")
    monkeypatch.setenv("GENERATOR_CUSTOMERS", "50")
    monkeypatch.setenv("GENERATOR_MERCHANTS", "100")
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "3")
    # On a busy machine a generator takes longer to start than a tick waits for it.
    for name in ("_GENERATOR_SECONDS", "_CONNECT_SECONDS", "_ANSWER_SECONDS"):
        monkeypatch.setattr(resources_module, name, 60)
    monkeypatch.setattr(sensor_tick, "BUDGET_SECONDS", 60)
    before = set(_generators())
    resources = {"generator": GeneratorResource()}
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(resources=resources, instance=instance) as context,
    ):
        result = on_watermark(context)
        started = set(_generators()) - before
        assert len(started) == 1
    assert isinstance(result, dg.SensorResult)
    assert len(result.run_requests or []) == 3
    assert all(map(gone, started))


@pytest.mark.parametrize("by_setting", [True, False])
def test_a_source_that_is_named_is_used_and_no_generator_is_started(
    auto: Automation, monkeypatch: pytest.MonkeyPatch, *, by_setting: bool
) -> None:
    if by_setting:
        monkeypatch.setenv("GENERATOR_URL", auto.source.url)
    resource = GeneratorResource(url=None if by_setting else auto.source.url)
    before = set(_generators())
    assert resource.source().watermark() == auto.source.watermark
    assert resource.source_for_tick().watermark() == auto.source.watermark
    assert not set(_generators()) - before


def test_a_tick_uses_the_generator_of_the_local_stack(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = auto.source.url
    monkeypatch.setattr(auto.source, "url", None)
    with announced_stack(Path(".txn"), GENERATOR_URL=url):
        assert auto.tick() == _keys(0, 3)
    # It has ended: what answers there is another's.
    monkeypatch.setenv("GENERATOR_TPS", "nonsense")
    auto.source.watermark = _hour(4).start
    assert auto.tick() == []
    assert "GENERATOR_TPS=nonsense cannot be used" in auto.reason


def _no_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    use_api(monkeypatch, watermark="/v1/watermark")


def _complete_until(auto: Automation, hour: int) -> None:
    auto.source.watermark = _hour(hour).start


def test_a_window_of_a_source_without_totals_is_run_once_and_once_more_when_it_has_settled(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_totals(monkeypatch)
    monkeypatch.setenv("TXN_SETTLED_HOURS", "2")
    _complete_until(auto, 1)
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "1")
    assert auto.tick() == [_key(0)]
    auto.runs(0, dg.DagsterRunStatus.SUCCESS)
    auto.publish(0, stated=False)
    assert auto.tick() == []
    _complete_until(auto, 3)
    assert auto.tick() == [_key(0), _key(1), _key(2)]
    for number in range(3):
        auto.runs(number, dg.DagsterRunStatus.SUCCESS)
        auto.publish(number, stated=False)
    assert auto.tick() == []
    _complete_until(auto, 10)
    assert auto.tick() == _keys(1, 10)
    for number in range(1, 10):
        auto.runs(number, dg.DagsterRunStatus.SUCCESS)
        auto.publish(number, stated=False)
    assert auto.tick() == []
    # The windows before the first one that has not settled are not looked at again.
    assert json.loads(auto.cursor or "")["confirmed"] == _key(8)
    # Those that had settled already when they were published are done.
    _complete_until(auto, 11)
    assert auto.tick() == [_key(8), _key(10)]
    assert auto.source.asked == []


def test_a_window_of_a_source_without_a_watermark_waits_for_its_lag_and_is_run_once_more(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "1")
    lag = timedelta(hours=2)
    use_api(monkeypatch, lag=lag)
    first = _hour(0).end + lag
    monkeypatch.setattr(client, "datetime", SetClock)
    for after, asked in (
        (timedelta(minutes=-1), False),
        (timedelta(0), True),
        (lag - timedelta(minutes=1), False),
        (lag, True),
        (2 * lag, False),
    ):
        SetClock.moment = first + after
        assert (_key(0) in auto.tick()) == asked, after
        if asked:
            auto.source.watermark = full_hour(SetClock.moment - lag)
            auto.runs(0, dg.DagsterRunStatus.SUCCESS)
            auto.publish(0, stated=False)


def test_a_window_before_the_middle_at_which_a_tick_goes_on_is_not_finished(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs of the oldest windows fail while later ticks find the others finished."""
    _no_totals(monkeypatch)
    monkeypatch.setenv("TXN_SETTLED_HOURS", "2")
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "12")
    monkeypatch.setattr(sensor_tick, "BUDGET_SECONDS", 0)
    _complete_until(auto, 2)
    auto.publish(0, 1, stated=False)
    _complete_until(auto, 12)
    auto.publish(*range(2, 12), stated=False)
    requested = [key for _ in range(12) for key in auto.tick()]
    assert requested == [_key(0), _key(1)]
    for number in (0, 1):
        auto.fails(number, ended=timedelta(hours=2), failed_check=True)
    requested = [key for _ in range(12) for key in auto.tick()]
    assert requested == [_key(0), _key(1)]


def test_a_source_that_begins_to_state_totals_has_its_windows_run_again(auto: Automation) -> None:
    auto.publish(0, 1, 2, stated=False)
    assert auto.tick() == _keys(0, 3)


def _land(window: Window, totals: ControlTotals) -> None:
    """The raw object as earlier versions wrote it."""
    path = Path(".txn/lake", object_key(checks.RAW, window))
    path.parent.mkdir(parents=True)
    schema = TRANSACTIONS.raw_schema.with_metadata({SOURCE_TOTALS_NOTE: totals.to_json()})
    pq.write_table(schema.empty_table(), path)
    assert pa.OSFile(str(path)).size()


def test_windows_of_earlier_versions_are_compared_once_by_what_they_landed(
    auto: Automation,
) -> None:
    auto.publish(0, 1, 2, recorded=False)
    _land(_hour(0), auto.source.totals_of(_hour(0)))
    _land(_hour(1), ControlTotals(1, {}, 5))
    # Of the last there is no raw object any more: it is not known whether it is right.
    assert auto.tick() == [_key(1), _key(2)]
    Path(".txn/lake", object_key(checks.RAW, _hour(0))).unlink()
    assert auto.tick() == []
    auto.source.hours[_key(0)] += rows_of(_hour(0), 3)[2:]
    assert auto.tick() == [_key(0)]


@pytest.mark.parametrize("damaged", [b"", b"PAR1" * 50, b"nothing of the kind"])
def test_a_raw_object_that_cannot_be_read_says_nothing(auto: Automation, damaged: bytes) -> None:
    auto.publish(1, 2)
    auto.publish(0, recorded=False)
    _land(_hour(0), auto.source.totals_of(_hour(0)))
    Path(".txn/lake", object_key(checks.RAW, _hour(0))).write_bytes(damaged)
    assert auto.tick() == [_key(0)]


def test_a_landing_after_a_publication_says_nothing_of_it(auto: Automation) -> None:
    auto.publish(0, 1, 2, recorded=False)
    for number in range(3):
        _land(_hour(number), auto.source.totals_of(_hour(number)))
    event = dg.AssetMaterialization(checks.RAW, partition=_key(1))
    auto.instance.report_runless_asset_event(event)
    assert auto.tick() == [_key(1)]


def test_a_cursor_of_an_earlier_version_becomes_the_lower_bound(auto: Automation) -> None:
    auto.cursor = json.dumps({_key(-5): "abcdef123456", _key(-6): "0123456789ab"})
    assert auto.tick() == _keys(-6, 3)


_SOUND = '"first": "2026-11-03-00:00", "watermark": "2026-11-03T00:00:00Z"'


def _asked(*, attempt: int = 1, at: str = "2026-11-03T00:00:00Z") -> str:
    return json.dumps({_key(0): {"content": "abc", "attempt": attempt, "at": at}})


@pytest.mark.parametrize(
    "cursor",
    [
        "2026-11-03-00:00",
        "[]",
        "7",
        "{}",
        "{",
        "[" * 100_000,
        '{"hour": "abc"}',
        '{"first": "2026-11-03-00:30", "watermark": "2026-11-03T00:00:00Z"}',
        '{"first": "1969-11-03-00:00", "watermark": "2026-11-03T00:00:00Z"}',
        '{"first": 7, "watermark": "2026-11-03T00:00:00Z"}',
        '{"first": "2026-11-03-00:00", "watermark": "2026-11-03T00:00:00"}',
        '{"first": "2026-11-03-00:00", "watermark": "2026-11-03T00:00:00Z", "nxt": null}',
        '{"first": "2026-11-03-00:00", "watermark": "2026-11-03T00:00:00Z", "asked": []}',
        '{"first": "2026-11-03-00:00"}',
        '{"first": "2099-11-03-00:00", "watermark": "2026-11-03T00:00:00Z"}',
        '{"first": "2026-11-03-00:00", "watermark": "2099-11-03T00:00:00Z"}',
        '{"first": "2026-11-03-00:00", "watermark": "9999-12-31T23:59:59-12:00"}',
        '{"first": "2026-11-03-00:00", "watermark": "0001-01-01T00:00:00+14:00"}',
        f'{{{_SOUND}, "asked": {_asked(at="2099-01-01T00:00:00Z")}}}',
        f'{{{_SOUND}, "asked": {_asked(attempt=10**10)}}}',
        f'{{{_SOUND}, "landed": {{"2026-11-03-00:00": "\\ud800"}}}}',
        '{"9999-12-31-23:00": "abcdef123456"}',
        f'{{{_SOUND}, "next": "{"9" * 100_000}"}}',
    ],
)
def test_a_cursor_that_was_edited_by_hand_is_explained(auto: Automation, cursor: str) -> None:
    auto.cursor = cursor
    assert auto.tick() == []
    assert auto.reason.startswith("the cursor of the sensor on_watermark cannot be read (")
    assert "clear it" in auto.reason
    assert len(auto.reason) < 700
    assert auto.cursor == cursor


@pytest.mark.parametrize("seconds", [9e15, -9e15, float("nan")])
def test_a_watermark_that_a_person_recorded_does_not_end_the_tick(
    auto: Automation, seconds: float
) -> None:
    event = dg.AssetMaterialization(
        checks.PUBLISHED,
        partition=_key(0),
        metadata={WATERMARK: dg.MetadataValue.timestamp(seconds)},
    )
    auto.instance.report_runless_asset_event(event)
    assert auto.tick() == _keys(0, 3)


def test_the_record_of_a_landing_is_of_its_own_window(auto: Automation) -> None:
    for number in (0, 1):
        event = dg.AssetMaterialization(
            checks.RAW,
            partition=_key(number),
            metadata=landing_metadata(_hour(number).end, _hour(number + 1).end),
        )
        auto.instance.report_runless_asset_event(event)
    landing = latest_landing(auto.instance, _key(0))
    assert landing == landing_metadata(_hour(0).end, _hour(1).end)
    assert latest_landing(auto.instance, _key(2)) == {}


def test_the_cursor_stays_small(auto: Automation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXN_LOOKBACK_HOURS", "30")
    for _ in range(2):
        for key in auto.tick():
            number = round((Window.of_partition(key).start - _DAY) / timedelta(hours=1))
            auto.runs(number, dg.DagsterRunStatus.SUCCESS)
            auto.publish(number)
    auto.tick()
    assert len(auto.cursor or "") < 120


def _schedule(auto: Automation, hour: int) -> list[str | None]:
    resources = {"generator": GeneratorResource(url=auto.source.url)}
    with dg.build_schedule_context(
        instance=auto.instance,
        scheduled_execution_time=_hour(hour).start + timedelta(minutes=5),
        resources=resources,
    ) as context:
        data = hourly.evaluate_tick(context)
    return [request.partition_key for request in data.run_requests or []]


@pytest.fixture
def persistent(auto: Automation, tmp_path: Path) -> Iterator[Automation]:
    """An instance on disk, which is what schedules need."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        auto.instance = instance
        yield auto


def test_the_schedule_leaves_alone_what_the_sensor_has_run_or_runs(persistent: Automation) -> None:
    auto = persistent
    assert _schedule(auto, 3) == [_key(2)]
    auto.publish(0, 1)
    assert auto.tick() == [_key(2)]
    auto.runs(2, dg.DagsterRunStatus.STARTED)
    assert _schedule(auto, 3) == []
    auto.instance.delete_run(auto.instance.get_runs(limit=1)[0].run_id)
    auto.publish(2)
    assert _schedule(auto, 3) == []
    auto.source.hours[_key(2)] += rows_of(_hour(2), 3)[2:]
    assert _schedule(auto, 3) == [_key(2)]


def test_the_sensor_leaves_alone_what_the_schedule_runs(persistent: Automation) -> None:
    auto = persistent
    auto.publish(0, 1)
    auto.runs(2, dg.DagsterRunStatus.STARTING, of_sensor=False)
    assert auto.tick() == []
    auto.publish(2)
    assert auto.tick() == []


def test_the_schedule_runs_what_the_source_says_nothing_of(persistent: Automation) -> None:
    auto = persistent
    auto.publish(2)
    auto.source.silent = {_key(2)}
    assert _schedule(auto, 3) == [_key(2)]


def test_the_schedule_runs_a_window_whose_source_states_no_totals_any_more(
    persistent: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = persistent
    auto.publish(2)
    assert _schedule(auto, 3) == []
    use_api(monkeypatch)
    assert _schedule(auto, 3) == [_key(2)]


def test_the_schedule_asks_for_the_hour_that_is_over() -> None:
    defs = build_defs()
    schedule = defs.resolve_schedule_def("hourly")
    context = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 11, 1, 15, 5, tzinfo=UTC)
    )
    data = schedule.evaluate_tick(context)
    (request,) = data.run_requests or []
    # The key is Dagster's guard against a second run for the same tick.
    assert (request.partition_key, request.run_key) == ("2026-11-01-14:00",) * 2
    assert schedule.cron_schedule == "5 * * * *"
