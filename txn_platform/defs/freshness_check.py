"""The check of freshness, and the sensor that evaluates it without a run.

Dagster's `FreshnessPolicy` looks at the time of the last materialization, so a backfill of old
windows would satisfy it. This check compares the newest published window with the watermark.
"""

from datetime import timedelta
from typing import Any, Final

import dagster as dg

from txn_platform.defs.checks import PUBLISHED, message
from txn_platform.defs.freshness import LARGEST_LAG, Freshness, freshness
from txn_platform.defs.resources import GeneratorResource
from txn_platform.errors import UserError
from txn_platform.runbook import Section, place
from txn_platform.windows import WINDOW_LENGTH, iso

NAME: Final = "is_fresh"
_SENSOR: Final = "freshness"
_SECONDS: Final = 60
_EXPECTED: Final = (
    "the newest published window ends at most"
    f" {LARGEST_LAG // timedelta(minutes=1)} minutes before the source's watermark"
)


@dg.asset_check(
    asset=PUBLISHED,
    name=NAME,
    description="The newest published window ends at most one hour before the source's watermark."
    " Older windows change nothing, so a backfill does not satisfy it. The sensor"
    f" `{_SENSOR}` evaluates it without a run.",
)
def is_fresh(
    context: dg.AssetCheckExecutionContext, generator: GeneratorResource
) -> dg.AssetCheckResult:
    """Compare the newest published window with the watermark."""
    try:
        found = freshness(context.instance, generator.source_for_tick())
    except UserError as error:
        # A run that has published a window does not fail because the source is silent now.
        return dg.AssetCheckResult(
            asset_key=PUBLISHED,
            check_name=NAME,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=message(
                _EXPECTED,
                f"no watermark: {error}",
                f"execute the check again when the source answers ({place(Section.SOURCE_SILENT)})",
            ),
        )
    return dg.AssetCheckResult(asset_key=PUBLISHED, check_name=NAME, **_outcome(found))


@dg.sensor(
    name=_SENSOR,
    minimum_interval_seconds=_SECONDS,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=f"Evaluates the check `{NAME}` of {PUBLISHED} each minute, and reports the result"
    " when the newest published window or the source's watermark has changed. Starts no run.",
)
def freshness_sensor(
    context: dg.SensorEvaluationContext, generator: GeneratorResource
) -> dg.SensorResult | dg.SkipReason:
    """Report the result of the check if it is new."""
    try:
        found = freshness(context.instance, generator.source_for_tick())
    except UserError as error:
        return dg.SkipReason(str(error))
    state = str(found)
    if state == context.cursor:
        return dg.SkipReason(f"nothing has changed: {state}")
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(PUBLISHED), check_name=NAME, **_outcome(found)
    )
    return dg.SensorResult(asset_events=[evaluation], skip_reason=state, cursor=state)


def _outcome(found: Freshness) -> dict[str, Any]:
    """The arguments that a result and a reported evaluation have in common."""
    to_do = (
        "turn on the sensor on_watermark, or find out why its runs fail"
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
