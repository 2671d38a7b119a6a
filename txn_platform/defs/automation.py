"""What happens by itself: windows by a schedule and a sensor, upkeep of the Delta table.

All are off until somebody turns them on.
"""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from txn_platform.defs.failures import failing_for_users
from txn_platform.defs.io_managers import LakeIOManager
from txn_platform.defs.resources import GeneratorResource
from txn_platform.delta import KEEP, require_delta
from txn_platform.errors import UserError
from txn_platform.windows import WINDOW_LENGTH, Window

# Rows can be this late, by the source's word; older windows no longer change.
_SETTLED_AFTER: Final = timedelta(hours=48)

LAND_TRANSACTIONS: Final = dg.define_asset_job(
    "land_transactions",
    selection=dg.AssetSelection.groups("transactions"),
    description="One window, from the source to the lake.",
)

hourly = dg.build_schedule_from_partitioned_job(
    LAND_TRANSACTIONS,
    name="hourly",
    description="Materializes each hour five minutes after it is over.",
    minute_of_hour=5,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)


@dg.op(description="Merges small files, and deletes those that no version needs since 7 days.")
def optimize_delta_table(
    context: dg.OpExecutionContext, lake: dg.ResourceParam[LakeIOManager]
) -> None:
    """What `txn optimize` does."""
    with failing_for_users():
        done = require_delta(lake.delta).optimize(KEEP)
    context.add_output_metadata(asdict(done))


@dg.job(description="Keeps the Delta table small; see `txn optimize`.")
def optimize_delta() -> None:
    """One step; the table of the settings."""
    optimize_delta_table()


nightly_optimize = dg.ScheduleDefinition(
    job=optimize_delta,
    name="optimize_delta_nightly",
    cron_schedule="40 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Keeps the Delta table small.",
)


@dg.sensor(
    job=LAND_TRANSACTIONS,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Materializes an hour as soon as the source says it is complete, and again, whole,"
    " when rows of it arrive late. Looks at the hours since it was turned on, 48 at most.",
)
def on_watermark(
    context: dg.SensorEvaluationContext, generator: GeneratorResource
) -> dg.SensorResult | dg.SkipReason:
    """Ask for the control totals of every window that can still change."""
    try:
        source = generator.source()
        newest = source.watermark() - WINDOW_LENGTH
        seen: dict[str, str] = json.loads(context.cursor or "{}")
        first = min((Window.of_partition(key).start for key in seen), default=newest)
        start = max(first, newest - _SETTLED_AFTER)
        as_of = datetime.now(UTC)
        now: dict[str, str] = {}
        while start <= newest:
            window = Window(start)
            totals = source.control_totals(window, as_of)
            stated = totals.to_json() if totals else ""
            now[window.partition_key] = hashlib.sha256(stated.encode()).hexdigest()[:12]
            start += WINDOW_LENGTH
    except UserError as error:
        return dg.SkipReason(str(error))
    # The totals are in the run key, because Dagster never runs a key twice.
    requests = [
        dg.RunRequest(run_key=f"{key}/{digest}", partition_key=key)
        for key, digest in now.items()
        if seen.get(key) != digest
    ]
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(now))
