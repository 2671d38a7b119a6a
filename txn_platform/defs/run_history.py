"""How the runs of a window ended, and when the sensor may ask for another.

This module makes run keys. Dagster never runs a key twice, so a key has the digest of the source's
content and the number of the attempt.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import Final, Literal, Self

import dagster as dg
from dagster import DagsterEventType

from txn_platform.defs import checks
from txn_platform.defs.feed_keys import is_of_feed, key_of
from txn_platform.defs.names import JOB, PARTITION, RETRIED_AS, WILL_RETRY
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.rows.reconciliation import ControlTotals

SENSOR: Final = "on_watermark"

UNFINISHED: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_WAITING: Final = frozenset({dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED})
# The first and longest pause before a failed window is requested again; each doubles the last.
_FIRST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(hours=1)
# A requested run that has not appeared after this time is lost.
_LOST_AFTER: Final = timedelta(minutes=1)
# How often an hour changing content is requested without a pause.
_CHANGES_AN_HOUR: Final = 5
# Dagster starts its own retry shortly after it marks a run as failed, and launches a run shortly
# after it creates it.
_SOON: Final = timedelta(minutes=10)
# The runs of a window that matter: after nine attempts the pause is the longest.
_RUNS: Final = 12
# Partitions, or runs, in one query: SQLite takes only so many values.
_PARTITIONS_AT_ONCE: Final = 500
_SENSOR_NAME: Final = "dagster/sensor_name"
_RUN_KEY: Final = re.compile(r"[^/]+/(?P<content>[^/]+)(/(?P<attempt>[0-9]{1,9}))?")


def content_of(totals: ControlTotals | None) -> str:
    """A digest of the source's content of a window; constant for a source without totals."""
    if totals is None:
        return "no-totals"
    counted = {kind: total for kind, total in totals.amount_by_type.items() if total}
    text = ControlTotals(totals.rows, counted, totals.ids_digest).to_json()
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_key(partition_key: str, content: str, attempt: int) -> str:
    """The key of a requested run."""
    return f"{partition_key}/{content}/{attempt}"


@dataclass(frozen=True)
class _Request:
    content: str
    attempt: int
    at: datetime


@dataclass(frozen=True)
class RunHistory:
    """The newest runs of a window.

    Attributes:
        unfinished: whether one is queued or running, or is about to be.
        attempt: the number of the sensor's newest request; 0 for none.
    """

    unfinished: bool
    attempt: int
    _requests: tuple[_Request, ...]
    _last: str | None
    _ended: datetime | None

    @classmethod
    def of(
        cls,
        instance: dg.DagsterInstance,
        partition_keys: Sequence[str],
        now: datetime,
        feed: Feed = GENERATOR_FEED,
    ) -> dict[str, Self]:
        """The histories of several windows of a feed, in one query unless they have many runs."""
        if not partition_keys:
            return {}
        most = _RUNS * len(partition_keys)
        found = _records(instance, partition_keys, most)
        if len(found) == most > _RUNS:
            return {key: cls.of(instance, [key], now, feed)[key] for key in partition_keys}
        runs: dict[str, list[dg.RunRecord]] = {key: [] for key in partition_keys}
        for record in found:
            runs[record.dagster_run.tags[PARTITION]].append(record)
        return {
            key: cls._of_one(instance, key, records, now, feed) for key, records in runs.items()
        }

    @classmethod
    def _of_one(
        cls,
        instance: dg.DagsterInstance,
        partition_key: str,
        found: Sequence[dg.RunRecord],
        now: datetime,
        feed: Feed,
    ) -> Self:
        records = [record for record in found if _is_of(record.dagster_run, feed)]
        requests = _requests_of(records, feed)
        if not requests and len(found) == _RUNS:
            # It is older than the other runs of the window.
            by_sensor = {_SENSOR_NAME: feed.named(SENSOR)}
            requests = _requests_of(_records(instance, [partition_key], 1, by_sensor), feed)
        finished = [
            record
            for record in records
            if record.dagster_run.is_finished and _publishes(record.dagster_run, feed)
        ]
        last = finished[0] if finished else None
        return cls(
            any(is_unfinished(record, now) for record in records),
            max((request.attempt for request in requests), default=0),
            requests,
            last and last.dagster_run.run_id,
            last and ended_at(last),
        )

    def allows(self, instance: dg.DagsterInstance, content: str, now: datetime) -> bool:
        """Whether to request a window that has no run in progress and is not right yet.

        New content is requested at once. The same content is requested again after a growing pause,
        or after the longest pause if the data failed a check.

        Args:
            instance: has the records of the last run's checks.
            content: see `content_of`.
            now: the time.
        """
        same = sum(request.content == content for request in self._requests)
        if not same:
            recent = [request for request in self._requests if now - request.at < _LONGEST_PAUSE]
            return len(recent) < _CHANGES_AN_HOUR
        if self._ended is None or self._last is None:
            return True
        waited = now - self._ended
        if waited >= _LONGEST_PAUSE:
            return True
        return waited >= pause_after(same) and not _failed_a_check(instance, self._last)


def pause_after(attempts: int) -> timedelta:
    """The pause after this many attempts, from the end of the last."""
    return min(_FIRST_PAUSE * 2 ** min(attempts - 1, 12), _LONGEST_PAUSE)


def is_lost(at: datetime, attempt: int, now: datetime) -> bool:
    """Whether a request is so old that its run, which has not appeared, is lost."""
    return now - at >= min(_LOST_AFTER * 2 ** min(attempt - 1, 12), _LONGEST_PAUSE)


def failed_runs(
    instance: dg.DagsterInstance, partition_keys: Sequence[str], feed: Feed = GENERATOR_FEED
) -> dict[str, str]:
    """By partition key, the id of the last run that should have published it, if that failed."""
    failed: dict[str, str] = {}
    for keys in batched(partition_keys, _PARTITIONS_AT_ONCE):
        # Few windows have a failed run, and reading the runs of all takes seconds.
        ever = _records(instance, keys, _RUNS * len(keys), statuses=[dg.DagsterRunStatus.FAILURE])
        suspects = {record.dagster_run.tags[PARTITION] for record in ever}
        last: dict[str, dg.DagsterRun] = {}
        for record in _records(instance, sorted(suspects), _RUNS * len(suspects)):
            run = record.dagster_run
            if run.is_finished and _publishes(run, feed):
                last.setdefault(run.tags[PARTITION], run)
        failed |= {
            key: run.run_id
            for key, run in last.items()
            if run.status is dg.DagsterRunStatus.FAILURE
        }
    return failed


def failure_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed, as its steps said it; an empty text if none did."""
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_FAILURE).records
    said = [
        event.step_failure_data.user_failure_data.description
        for record in records
        if (event := record.event_log_entry.dagster_event) is not None
        and event.step_failure_data.user_failure_data is not None
    ]
    return "; ".join(filter(None, said))


def unfinished_windows(
    instance: dg.DagsterInstance, now: datetime, feed: Feed = GENERATOR_FEED
) -> dict[str, Literal["queued", "running"]]:
    """By partition key, the windows whose publishing runs wait in the queue, or go on.

    Args:
        instance: has the records of runs.
        now: the time.
        feed: that the windows are of.
    """
    found: dict[str, Literal["queued", "running"]] = {}
    cursor: str | None = None
    while True:
        wanted = dg.RunsFilter(statuses=UNFINISHED)
        records = instance.get_run_records(wanted, limit=_PARTITIONS_AT_ONCE, cursor=cursor)
        for record in records:
            run = record.dagster_run
            key = run.tags.get(PARTITION)
            if key is not None and _publishes(run, feed) and is_unfinished(record, now):
                waits = run.status in _WAITING
                found[key] = "queued" if waits and found.get(key) != "running" else "running"
        if len(records) < _PARTITIONS_AT_ONCE:
            return found
        cursor = records[-1].dagster_run.run_id


def unfinished_requests(instance: dg.DagsterInstance, feed: Feed = GENERATOR_FEED) -> int:
    """How many runs that the sensor of a feed requested are queued or running, for any window.

    Runs that others queue, such as a backfill of a year, do not count: they have lower priorities.
    """
    return instance.get_runs_count(
        dg.RunsFilter(
            job_name=feed.named(JOB),
            statuses=UNFINISHED,
            tags={_SENSOR_NAME: feed.named(SENSOR)},
        )
    )


def _records(
    instance: dg.DagsterInstance,
    partition_keys: Sequence[str],
    limit: int,
    tags: dict[str, str] | None = None,
    statuses: Sequence[dg.DagsterRunStatus] = (),
) -> Sequence[dg.RunRecord]:
    """The newest runs of some windows, newest first; of all statuses if none are named."""
    if not partition_keys:
        return []
    wanted = dg.RunsFilter(
        tags={PARTITION: list(partition_keys), **(tags or {})}, statuses=statuses
    )
    return instance.get_run_records(wanted, limit=limit)


def _requests_of(records: Sequence[dg.RunRecord], feed: Feed) -> tuple[_Request, ...]:
    found: list[_Request] = []
    for record in records:
        tags = record.dagster_run.tags
        key = _RUN_KEY.fullmatch(tags.get("dagster/run_key", ""))
        if key and tags.get(_SENSOR_NAME) == feed.named(SENSOR):
            # Earlier versions did not number attempts.
            attempt = int(key["attempt"] or 1)
            found.append(_Request(key["content"], attempt, utc(record.create_timestamp)))
    return tuple(found)


def _is_of(run: dg.DagsterRun, feed: Feed) -> bool:
    """Whether a run may be of a feed: it is not of the job or of the assets of others alone."""
    if run.job_name.startswith(JOB):
        return run.job_name == feed.named(JOB)
    chosen = run.asset_selection
    return not chosen or any(is_of_feed(key, feed) for key in chosen)


def _publishes(run: dg.DagsterRun, feed: Feed) -> bool:
    chosen = run.asset_selection
    if run.job_name == feed.named(JOB):
        return True
    return chosen is not None and key_of(checks.PUBLISHED, feed) in chosen


def is_unfinished(record: dg.RunRecord, now: datetime) -> bool:
    """Whether a run is queued or running, or Dagster is about to retry it."""
    run = record.dagster_run
    if run.status is dg.DagsterRunStatus.NOT_STARTED:
        return now - utc(record.create_timestamp) < _SOON
    if run.status is dg.DagsterRunStatus.FAILURE:
        return (
            run.tags.get(WILL_RETRY) == "true"
            and RETRIED_AS not in run.tags
            and now - ended_at(record) < _SOON
        )
    return not run.is_finished


def ended_at(record: dg.RunRecord) -> datetime:
    """When a run ended; when its record last changed if that is not known."""
    if record.end_time is not None:
        return datetime.fromtimestamp(record.end_time, UTC)
    return utc(record.update_timestamp)


def utc(moment: datetime) -> datetime:
    """A moment of Dagster's storage, which may lack its zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _failed_a_check(instance: dg.DagsterInstance, run_id: str) -> bool:
    records = instance.get_records_for_run(
        run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    return any(
        not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR
        for record in records
        if (event := record.event_log_entry.dagster_event) is not None
        for evaluation in [event.asset_check_evaluation_data]
    )
