"""The platform's definitions with sensors that are on, and tick as often as the daemon looks."""

import dagster as dg

from txn_platform.definitions import build_defs
from txn_platform.defs.alerts import ALERTS, alerts
from txn_platform.defs.automation import LAND_TRANSACTIONS, on_watermark
from txn_platform.defs.run_history import SENSOR


@dg.sensor(
    name=SENSOR,
    job=LAND_TRANSACTIONS,
    minimum_interval_seconds=1,
    required_resource_keys={"generator"},
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def quick(context: dg.SensorEvaluationContext) -> object:
    """Do the same as the platform's own sensor."""
    return on_watermark(context)


@dg.sensor(
    name=ALERTS,
    minimum_interval_seconds=1,
    required_resource_keys={"generator"},
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def quick_alerts(context: dg.SensorEvaluationContext) -> object:
    """Do the same as the platform's own alerts."""
    return alerts(context)


def _with_quick_sensors(platform: dg.Definitions) -> dg.Definitions:
    return dg.Definitions(
        assets=platform.assets,
        asset_checks=platform.asset_checks,
        jobs=platform.jobs,
        schedules=platform.schedules,
        sensors=[quick, quick_alerts],
        resources=platform.resources,
        executor=platform.executor,
    )


defs = _with_quick_sensors(build_defs())
