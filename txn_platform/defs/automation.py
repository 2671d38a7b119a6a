"""Automation: windows by a schedule and a sensor, upkeep of the Delta table.

All are off until a user turns them on.
"""

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg

from txn_platform.defs import checks
from txn_platform.defs.assets import GROUP
from txn_platform.defs.failures import failing_for_users, retry_after_database_faults
from txn_platform.defs.feed_keys import key_of
from txn_platform.defs.freshness_check import NAME as FRESH
from txn_platform.defs.names import JOB
from txn_platform.defs.partitions import HOURS
from txn_platform.defs.priorities import priority_tags
from txn_platform.defs.publications import publications
from txn_platform.defs.resources import FeedSource, GeneratorResource, LakeResource, source_key
from txn_platform.defs.run_history import SENSOR, RunHistory, content_of
from txn_platform.defs.sensor_cursor import Cursor
from txn_platform.defs.sensor_tick import Tick
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED, Feed, load_feeds
from txn_platform.lake.delta import KEEP, optimized, require_delta
from txn_platform.settings import load_settings
from txn_platform.windows import WINDOW_LENGTH, Window, full_hour

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )


def land_job(feed: Feed = GENERATOR_FEED) -> "UnresolvedAssetJobDefinition":
    """The job that lands, validates and publishes a window of a feed."""
    checked = dg.AssetSelection.checks(dg.AssetCheckKey(key_of(checks.PUBLISHED, feed), FRESH))
    return dg.define_asset_job(
        feed.named(JOB),
        # Freshness is not a matter of one window.
        selection=dg.AssetSelection.groups(feed.named(GROUP)) - checked,
        description="One window, from the source to the lake.",
        hooks={retry_after_database_faults},
    )


def hourly_schedule(
    job: "UnresolvedAssetJobDefinition", feed: Feed = GENERATOR_FEED
) -> dg.ScheduleDefinition:
    """The schedule of a feed."""

    @dg.schedule(
        job=job,
        name=feed.named("hourly"),
        cron_schedule="5 * * * *",
        execution_timezone="UTC",
        required_resource_keys={source_key(feed)},
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Materializes each hour five minutes after it is"
        f" {'over' if feed.api.watermark else 'complete'}, unless that was done.",
    )
    def hourly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Request the hour that is over, unless it is right or a run of it is in progress."""
        window = Window(full_hour(context.scheduled_execution_time - _lag(feed)) - WINDOW_LENGTH)
        key = window.partition_key
        tags = {
            **HOURS.get_tags_for_partition_key(key),
            **priority_tags(window, window.end, timedelta(0)),
        }
        request = dg.RunRequest(run_key=key, partition_key=key, tags=tags)
        # Without an instance there is no record of other runs.
        if context.instance_ref is None:
            return request
        if RunHistory.of(context.instance, [key], datetime.now(UTC), feed)[key].unfinished:
            return dg.SkipReason(f"a run of {key} is queued or running")
        resource: GeneratorResource | FeedSource = getattr(context.resources, source_key(feed))
        published = publications(context.instance, [key], feed).get(key)
        if published is None or not published.recorded:
            return request
        try:
            source = resource.source_for_tick()
            totals = source.control_totals(window, datetime.now(UTC))
        except UserError:
            # The run has more retries, and reports the fault.
            return request
        if totals is None or published.totals is None:
            right = totals is published.totals
        else:
            right = content_of(totals) == content_of(published.totals)
        return dg.SkipReason(f"{key} is published as the source has it") if right else request

    return hourly


def _lag(feed: Feed) -> timedelta:
    """How long after its end an hour of a source that states no watermark is complete."""
    if feed.api.watermark:
        return timedelta(0)
    return timedelta(hours=load_settings().settled_hours) if feed.api.lag is None else feed.api.lag


@dg.op(description="Merges small files, and deletes those that no version needs since 7 days.")
def optimize_delta_table(context: dg.OpExecutionContext, store: LakeResource) -> None:
    """Do the same as `txn optimize`."""
    with failing_for_users():
        feeds = [GENERATOR_FEED, *load_feeds(load_settings()).values()]
        tables = {require_delta(store.delta(feed)): feed for feed in feeds}
        for table, done in optimized(list(tables), KEEP):
            context.add_output_metadata(
                {tables[table].named(name): of for name, of in asdict(done).items()}
            )


@dg.job(description="Keeps the Delta tables small; see `txn optimize`.")
def optimize_delta() -> None:
    """One step; the table of the settings, and those of the feeds of TXN_FEEDS."""
    optimize_delta_table()


nightly_optimize = dg.ScheduleDefinition(
    job=optimize_delta,
    name="optimize_delta_nightly",
    cron_schedule="40 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Keeps the Delta tables small.",
)


def watermark_sensor(
    job: "UnresolvedAssetJobDefinition", feed: Feed = GENERATOR_FEED
) -> dg.SensorDefinition:
    """The sensor of a feed."""
    late = (
        "and again, whole, when rows of it arrive late, until TXN_SETTLED_HOURS later"
        if feed.api.totals
        else "and once more when no more rows of it can arrive late"
    )

    @dg.sensor(
        job=job,
        name=feed.named(SENSOR),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Materializes every hour that the source says is complete, from"
        f" TXN_LOOKBACK_HOURS before it was turned on: until it is published, {late}.",
        required_resource_keys={source_key(feed)},
    )
    # Dagster passes the resources when another sensor calls this one as a function.
    def on_watermark(
        context: dg.SensorEvaluationContext, **_: object
    ) -> dg.SensorResult | dg.SkipReason:
        """Compare the source with the publications, and request the windows that differ."""
        started = time.monotonic()
        resource: GeneratorResource | FeedSource = getattr(context.resources, source_key(feed))
        try:
            before = Cursor.parse(context.cursor, feed.named(SENSOR))
            source = resource.source_for_tick()
            outcome = Tick(context.instance, source, load_settings(), started, feed).run(before)
        except UserError as error:
            return dg.SkipReason(str(error))
        if outcome is None:
            return dg.SkipReason("the source has no complete hour yet")
        unanswered = [
            f"{key} could not be looked at: {why}" for key, why in outcome.unanswered.items()
        ]
        for line in unanswered:
            context.log.warning(line)
        return dg.SensorResult(
            run_requests=outcome.requests,
            skip_reason=None if outcome.requests or not unanswered else "; ".join(unanswered[:3]),
            cursor=outcome.cursor.to_text(),
        )

    return on_watermark


LAND_TRANSACTIONS: Final = land_job()
hourly: Final = hourly_schedule(LAND_TRANSACTIONS)
on_watermark: Final = watermark_sensor(LAND_TRANSACTIONS)
