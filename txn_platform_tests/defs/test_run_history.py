"""The runs of a window as Dagster knows them, and the pauses between requests."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from txn_platform.defs import checks
from txn_platform.defs.run_history import (
    JOB,
    SENSOR,
    RunHistory,
    is_lost,
    pause_after,
    run_key,
    unfinished_requests,
)
from txn_platform.windows import Window

_NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
_FIRST, _SECOND, _THIRD = (
    Window(datetime(2026, 11, 1, hour, tzinfo=UTC)).partition_key for hour in (1, 2, 3)
)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as there:
        yield there


def _add(
    instance: dg.DagsterInstance,
    key: str,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS,
    *,
    attempt: int | None = None,
    job: str = JOB,
    assets: frozenset[dg.AssetKey] | None = None,
) -> None:
    tags = {"dagster/partition": key}
    if attempt is not None:
        tags |= {"dagster/sensor_name": SENSOR, "dagster/run_key": run_key(key, "c", attempt)}
    instance.add_run(
        dg.DagsterRun(
            job_name=job,
            run_id=str(uuid.uuid4()),
            status=status,
            tags=tags,
            asset_selection=assets,
        )
    )


def test_pauses_grow_to_an_hour() -> None:
    pauses = [pause_after(attempts).total_seconds() for attempts in range(1, 12)]
    assert pauses == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    assert pause_after(10**9) == timedelta(hours=1)


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 60), (2, 120), (6, 1920), (7, 3600), (10**9, 3600)]
)
def test_a_run_that_is_not_there_is_lost_after_a_while(attempt: int, seconds: int) -> None:
    asked, while_ = _NOW, timedelta(seconds=seconds)
    assert is_lost(asked, attempt, asked + while_)
    assert not is_lost(asked, attempt, asked + while_ - timedelta(microseconds=1))


@pytest.mark.parametrize("others", [0, 11, 12, 23, 24, 36, 60])
def test_a_window_with_very_many_runs_hides_none_of_the_others(
    instance: dg.DagsterInstance, others: int
) -> None:
    """The runs of one window, all newer, are as many as the question about several asks for."""
    _add(instance, _FIRST, attempt=7)
    _add(instance, _THIRD, dg.DagsterRunStatus.STARTED)
    for _ in range(others):
        _add(instance, _SECOND)
    found = RunHistory.of(instance, [_FIRST, _SECOND, _THIRD], _NOW)
    assert {key: history.attempt for key, history in found.items()} == {
        _FIRST: 7,
        _SECOND: 0,
        _THIRD: 0,
    }
    assert [key for key, history in found.items() if history.unfinished] == [_THIRD]
    assert RunHistory.of(instance, [], _NOW) == {}


@pytest.mark.parametrize("others", [11, 12, 13, 30])
def test_a_request_of_the_sensor_is_found_behind_the_runs_of_others(
    instance: dg.DagsterInstance, others: int
) -> None:
    _add(instance, _FIRST, attempt=3)
    for _ in range(others):
        _add(instance, _FIRST, job="a backfill")
    assert RunHistory.of(instance, [_FIRST], _NOW)[_FIRST].attempt == 3


@pytest.mark.parametrize(
    ("job", "assets", "counts"),
    [
        (JOB, None, True),
        ("__ASSET_JOB", frozenset([dg.AssetKey(checks.PUBLISHED)]), True),
        ("__ASSET_JOB", frozenset([dg.AssetKey(checks.RAW)]), False),
        ("__ASSET_JOB", None, False),
    ],
)
def test_only_a_run_that_publishes_begins_a_pause(
    instance: dg.DagsterInstance,
    job: str,
    assets: frozenset[dg.AssetKey] | None,
    *,
    counts: bool,
) -> None:
    now = datetime.now(UTC)
    _add(instance, _FIRST, dg.DagsterRunStatus.FAILURE, attempt=1, job=job, assets=assets)
    history = RunHistory.of(instance, [_FIRST], now)[_FIRST]
    assert history.allows(instance, "c", now) is not counts
    assert history.allows(instance, "other content", now)
    assert history.allows(instance, "c", now + timedelta(hours=2))


def test_content_that_keeps_changing_is_asked_for_five_times_an_hour(
    instance: dg.DagsterInstance,
) -> None:
    now = datetime.now(UTC)
    for attempt in range(1, 6):
        history = RunHistory.of(instance, [_FIRST], now)[_FIRST]
        assert history.allows(instance, "new content", now)
        _add(instance, _FIRST, attempt=attempt)
    history = RunHistory.of(instance, [_FIRST], now)[_FIRST]
    assert not history.allows(instance, "new content", now)
    assert history.allows(instance, "new content", now + timedelta(hours=1, minutes=1))


def test_requests_are_counted_that_are_not_over(instance: dg.DagsterInstance) -> None:
    for status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED):
        _add(instance, _FIRST, status, attempt=1)
    _add(instance, _SECOND, attempt=1)
    # Runs of a backfill leave the sensor its room.
    _add(instance, _SECOND, dg.DagsterRunStatus.STARTED)
    _add(instance, _SECOND, dg.DagsterRunStatus.STARTED, attempt=1, job="another job")
    assert unfinished_requests(instance) == 2
