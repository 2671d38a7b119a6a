"""The check of freshness, and the sensor that evaluates it without a run.

Dagster's `FreshnessPolicy` looks at the time of the last materialization, so a backfill of old
windows would satisfy it. This check compares the newest published window with the watermark.
"""

from datetime import timedelta
from typing import Any, Final

import dagster as dg

from txn_platform.defs.checks import PUBLISHED, message
from txn_platform.defs.feed_keys import key_of
from txn_platform.defs.freshness import LARGEST_LAG, Freshness, freshness
from txn_platform.defs.resources import FeedSource, GeneratorResource, source_key
from txn_platform.defs.run_history import SENSOR
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.runbook import Section, place
from txn_platform.windows import WINDOW_LENGTH, iso

NAME: Final = "is_fresh"
_SENSOR: Final = "freshness"
_SECONDS: Final = 60
_EXPECTED: Final = (
    "the newest published window ends at most"
    f" {LARGEST_LAG // timedelta(minutes=1)} minutes before the source's watermark"
)


def freshness_check(feed: Feed = GENERATOR_FEED) -> dg.AssetChecksDefinition:
    """The check of a feed."""

    @dg.asset_check(
        asset=key_of(PUBLISHED, feed),
        name=NAME,
        description="The newest published window ends at most one hour before the source's"
        " watermark. Older windows change nothing, so a backfill does not satisfy it. The sensor"
        f" `{feed.named(_SENSOR)}` evaluates it without a run.",
        required_resource_keys={source_key(feed)},
    )
    def is_fresh(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Compare the newest published window with the watermark."""
        try:
            found = _found(context.instance, context.resources, feed)
        except UserError as error:
            # A run that has published a window does not fail because the source is silent now.
            return dg.AssetCheckResult(
                asset_key=key_of(PUBLISHED, feed),
                check_name=NAME,
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description=message(
                    _EXPECTED,
                    f"no watermark: {error}",
                    "execute the check again when the source answers"
                    f" ({place(Section.SOURCE_SILENT)})",
                ),
            )
        return dg.AssetCheckResult(
            asset_key=key_of(PUBLISHED, feed), check_name=NAME, **_outcome(found, feed)
        )

    return is_fresh


def freshness_sensor_of(feed: Feed = GENERATOR_FEED) -> dg.SensorDefinition:
    """The sensor of a feed."""

    @dg.sensor(
        name=feed.named(_SENSOR),
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Evaluates the check `{NAME}` of {feed.asset(PUBLISHED)} each minute, and"
        " reports the result when the newest published window or the source's watermark has"
        " changed. Starts no run.",
        required_resource_keys={source_key(feed)},
    )
    def freshness_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """Report the result of the check if it is new."""
        try:
            found = _found(context.instance, context.resources, feed)
        except UserError as error:
            return dg.SkipReason(str(error))
        state = str(found)
        if state == context.cursor:
            return dg.SkipReason(f"nothing has changed: {state}")
        evaluation = dg.AssetCheckEvaluation(
            asset_key=key_of(PUBLISHED, feed), check_name=NAME, **_outcome(found, feed)
        )
        return dg.SensorResult(asset_events=[evaluation], skip_reason=state, cursor=state)

    return freshness_sensor


is_fresh, freshness_sensor = freshness_check(), freshness_sensor_of()


def _found(instance: dg.DagsterInstance, resources: Any, feed: Feed) -> Freshness:
    resource: GeneratorResource | FeedSource = getattr(resources, source_key(feed))
    return freshness(instance, resource.source_for_tick(), feed)


def _outcome(found: Freshness, feed: Feed) -> dict[str, Any]:
    """The arguments that a result and a reported evaluation have in common."""
    to_do = (
        f"turn on the sensor {feed.named(SENSOR)}, or find out why its runs fail"
        f" ({place(Section.FRESHNESS)})"
    )
    return {
        "passed": found.is_fresh,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": message(_EXPECTED, str(found), None if found.is_fresh else to_do),
        "metadata": _metadata(found),
    }


def _metadata(found: Freshness) -> dict[str, dg.MetadataValue[Any]]:
    values: dict[str, dg.MetadataValue[Any]] = {
        "source_watermark": dg.MetadataValue.text(iso(found.watermark))
    }
    if found.newest is not None and found.lag is not None:
        values["newest_window"] = dg.MetadataValue.text(found.newest.partition_key)
        values["hours_behind"] = dg.MetadataValue.float(found.lag / WINDOW_LENGTH)
    return values
