"""The sensor `alerts`: it tells a webhook once when something breaks, and once when it is right.

A tick looks at the runs that have finished since the last tick, and at freshness. It then delivers
the messages that are owed. The cursor keeps what is wrong, and what could not be delivered.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from txn_platform.defs.alert_cursor import Alert, AlertCursor, Owed
from txn_platform.defs.alert_messages import LAKE, SOURCE, deliver
from txn_platform.defs.freshness import freshness
from txn_platform.defs.resources import GeneratorResource
from txn_platform.defs.run_history import ended_at, is_unfinished, utc
from txn_platform.defs.run_outcome import RunOutcome, subject_of
from txn_platform.errors import UserError
from txn_platform.runbook import Section
from txn_platform.settings import Settings, load_settings
from txn_platform.source.client import Source
from txn_platform.webhook import Webhook

ALERTS: Final = "alerts"

# Updates of runs become visible late: clocks differ, and transactions take time. It is longer than
# Dagster takes to start its own retry of a run.
_OVERLAP: Final = timedelta(minutes=15)
# How long freshness may be unknown. A source that restarts wakes nobody.
_PATIENCE: Final = timedelta(minutes=15)
_PAGE: Final = 100
# Dagster ends a tick after 60 s.
_SCAN_SECONDS: Final = 10.0
_DELIVERY_SECONDS: Final = 40.0
_LONGEST_REASON: Final = 1_000


def is_turned_on(instance: dg.DagsterInstance) -> bool:
    """Whether somebody has turned the sensor on, in any code location of the instance."""
    return any(
        state.instigator_name == ALERTS and state.is_running
        for state in instance.all_instigator_state()
    )


class AlertTick:
    """One look at the runs and at freshness; it changes the cursor.

    Args:
        instance: has the runs and the publications.
        cursor: of the last tick.
        settings: how far to look back.
        location: the name of the code location; runs of others are left out. None for all.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        cursor: AlertCursor,
        settings: Settings,
        location: str | None = None,
    ) -> None:
        self._instance = instance
        self._cursor = cursor
        self._settings = settings
        self._location = location
        self._now = datetime.now(UTC)

    def look_at_runs(self) -> None:
        """Open and close alerts by the runs that have finished since the last tick."""
        deadline = time.monotonic() + _SCAN_SECONDS
        floor = self._cursor.since - _OVERLAP
        for record in self._finished(floor):
            ended = ended_at(record)
            run = record.dagster_run
            # An update of an older run is no news.
            if ended <= floor or run.run_id in self._cursor.seen:
                continue
            if is_unfinished(record, self._now):
                continue
            if time.monotonic() > deadline:
                # The next tick goes on with those that are not seen yet.
                return
            self._look_at(run, ended)
            self._cursor.seen[run.run_id] = ended
        self._cursor.since = self._now
        self._cursor.seen = {
            run_id: ended
            for run_id, ended in self._cursor.seen.items()
            if ended > self._now - _OVERLAP
        }

    def look_at_freshness(self, source: Callable[[], Source]) -> None:
        """Open and close the alerts on freshness, and on a source that does not answer.

        Args:
            source: opens it; may raise a `UserError`.
        """
        cursor = self._cursor
        try:
            found = freshness(self._instance, source())
        except UserError as error:
            cursor.unanswered_since = cursor.unanswered_since or self._now
            if self._now - cursor.unanswered_since >= _PATIENCE:
                self._open(self._alert(SOURCE, error.section), str(error))
            return
        cursor.unanswered_since = None
        for alert in self._opened(SOURCE):
            self._close(alert, str(found))
        was_fresh = cursor.fresh
        if was_fresh is None:
            # A lake that is long out of date was not kept up to date before.
            lookback = timedelta(hours=self._settings.lookback_hours)
            was_fresh = found.lag is not None and found.lag <= lookback
        if found.is_fresh:
            for alert in self._opened(LAKE):
                self._close(alert, str(found))
        elif was_fresh:
            self._open(self._alert(LAKE, Section.FRESHNESS), str(found))
        cursor.fresh = found.is_fresh

    def _finished(self, after: datetime) -> Iterator[dg.RunRecord]:
        """The runs that were updated after a moment and have ended, in this order."""
        statuses = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
        while True:
            page = self._instance.get_run_records(
                dg.RunsFilter(statuses=statuses, updated_after=after),
                limit=_PAGE,
                order_by="update_timestamp",
                ascending=True,
            )
            yield from page
            if len(page) < _PAGE:
                return
            # Others may have been updated in the same microsecond; those that come twice are seen.
            last = utc(page[-1].update_timestamp) - timedelta(microseconds=1)
            if last <= after:
                return
            after = last

    def _look_at(self, run: dg.DagsterRun, ended: datetime) -> None:
        if not self._is_ours(run) or "dagster/auto_retry_run_id" in run.tags:
            return
        outcome = RunOutcome.of(self._instance, run)
        failed: set[tuple[str, str]] = set()
        for cause in outcome.causes:
            alert = Alert(
                subject=subject_of(run, cause.step),
                cause=cause.name,
                section=cause.section,
                step=cause.step,
                job=run.job_name,
                run_id=run.run_id,
                at=ended,
            )
            failed.add(alert.key)
            if not self._was_righted(run, alert):
                self._open(alert, cause.reason)
        if run.status is dg.DagsterRunStatus.SUCCESS:
            for alert in list(self._cursor.open):
                rights = alert.run_id and alert.at < ended and _covers(run, outcome, alert)
                if rights and alert.key not in failed:
                    self._close(alert, "a later run succeeded", run.run_id)

    def _is_ours(self, run: dg.DagsterRun) -> bool:
        # Runs of the terminal have no origin.
        origin = run.remote_job_origin
        if origin is None or self._location is None:
            return True
        return origin.location_name == self._location

    def _was_righted(self, run: dg.DagsterRun, alert: Alert) -> bool:
        """Whether a later run has succeeded already, which was looked at before this one."""
        partition = run.tags.get("dagster/partition")
        wanted = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.SUCCESS],
            job_name=None if partition else run.job_name,
            tags={"dagster/partition": partition} if partition else {},
        )
        return any(
            ended_at(record) > alert.at
            and _covers(
                record.dagster_run, RunOutcome.of(self._instance, record.dagster_run), alert
            )
            for record in self._instance.get_run_records(wanted, limit=5)
        )

    def _alert(self, subject: str, section: Section) -> Alert:
        return Alert(subject=subject, cause=section, section=section, at=self._now)

    def _opened(self, subject: str) -> list[Alert]:
        return [alert for alert in self._cursor.open if alert.subject == subject]

    def _open(self, alert: Alert, reason: str) -> None:
        before = [opened for opened in self._cursor.open if opened.key == alert.key]
        self._cursor.open = [opened for opened in self._cursor.open if opened.key != alert.key] + [
            alert
        ]
        if not before:
            short = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}..."
            self._cursor.owed.append(
                Owed(alert=alert, right=False, reason=short, run_id=alert.run_id)
            )

    def _close(self, alert: Alert, reason: str, run_id: str = "") -> None:
        self._cursor.open.remove(alert)
        self._cursor.owed.append(Owed(alert=alert, right=True, reason=reason, run_id=run_id))


def _covers(run: dg.DagsterRun, outcome: RunOutcome, alert: Alert) -> bool:
    """Whether a run did, for the same subject, the step that failed."""
    if subject_of(run, alert.step) != alert.subject:
        return False
    return alert.step in outcome.steps if alert.step else run.job_name == alert.job


@dg.sensor(
    name=ALERTS,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Tells TXN_ALERT_WEBHOOK once when a window or a job breaks or the lake falls"
    " behind its source, and once when that is right again. docs/runbook.md says what to do.",
)
def alerts(context: dg.SensorEvaluationContext, generator: GeneratorResource) -> dg.SensorResult:
    """Look at what has changed since the last tick, and deliver what is owed."""
    deadline = time.monotonic() + _DELIVERY_SECONDS
    try:
        settings = load_settings()
        webhook = Webhook.of(settings)
        lookback = timedelta(hours=settings.lookback_hours)
        cursor = AlertCursor.parse(context.cursor, datetime.now(UTC) - lookback)
    except UserError as error:
        return dg.SensorResult(skip_reason=str(error))
    if webhook is None:
        return dg.SensorResult(
            skip_reason="TXN_ALERT_WEBHOOK is not set: set it to the address of a webhook, or turn"
            " this sensor off"
        )
    origin = context.code_location_origin
    tick = AlertTick(context.instance, cursor, settings, origin and origin.location_name)
    tick.look_at_runs()
    tick.look_at_freshness(generator.source_for_tick)
    owed = len(cursor.owed)
    problems = deliver(cursor, webhook, settings.ui_url, deadline)
    if problems:
        context.log.warning("; ".join([*problems, "the next tick tries again"]))
    told = f"{owed - len(cursor.owed):,} told, {len(cursor.open):,} open"
    return dg.SensorResult(skip_reason="; ".join([told, *problems]), cursor=cursor.to_text())
