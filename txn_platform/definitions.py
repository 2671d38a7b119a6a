"""All that Dagster sees, on one page."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import dagster as dg

from txn_platform.defs.alerts import alerts
from txn_platform.defs.assets import (
    raw_transactions,
    s3_parquet_transactions,
    validation,
    window_assets,
)
from txn_platform.defs.automation import (
    LAND_TRANSACTIONS,
    hourly,
    hourly_schedule,
    land_job,
    nightly_optimize,
    on_watermark,
    optimize_delta,
    watermark_sensor,
)
from txn_platform.defs.beta import beta_allowed
from txn_platform.defs.freshness_check import (
    freshness_check,
    freshness_sensor,
    freshness_sensor_of,
    is_fresh,
)
from txn_platform.defs.io_managers import LakeIOManager
from txn_platform.defs.resources import (
    CardKeyResource,
    FeedSource,
    GeneratorResource,
    LakeResource,
    QuarantineResource,
    source_key,
)
from txn_platform.errors import UserError
from txn_platform.feeds import Feed
from txn_platform.runbook import Section


def _with_code_links(assets: list[dg.AssetsDefinition]) -> Sequence[Any]:
    """The assets with links to the lines that define them."""
    with beta_allowed():
        return dg.with_source_code_references(assets)


def build_defs() -> dg.Definitions:
    """Fresh definitions; building them touches no network, no store and no environment."""
    lake = LakeResource()
    return dg.Definitions(
        assets=_with_code_links([raw_transactions, validation, s3_parquet_transactions]),
        asset_checks=[is_fresh],
        jobs=[LAND_TRANSACTIONS, optimize_delta],
        schedules=[hourly, nightly_optimize],
        sensors=[on_watermark, freshness_sensor, alerts],
        resources={
            "generator": GeneratorResource(),
            "store": lake,
            "lake": LakeIOManager(lake=lake),
            "card_key": CardKeyResource(),
            "quarantine": QuarantineResource(),
        },
        # The chain is linear: a process per step would cost seconds and gain nothing.
        executor=dg.in_process_executor,
    )


def feed_defs(*feeds: Feed) -> dg.Definitions:
    """The definitions of other feeds, to be merged with those of `build_defs`.

    Each feed has the same assets, checks, schedule and sensors. They use the lake, the card key and
    the limit of the quarantine of `build_defs`.

    Raises:
        UserError: two of them have one prefix.
    """
    for prefix, count in Counter(feed.prefix for feed in feeds).items():
        if count > 1:
            raise UserError(
                f"feed_defs is given {count} feeds with the prefix {prefix}: each needs its own",
                Section.SETTINGS,
            )
    return dg.Definitions.merge(*map(_of_feed, feeds))


def _of_feed(feed: Feed) -> dg.Definitions:
    job = land_job(feed)
    return dg.Definitions(
        assets=_with_code_links(window_assets(feed)),
        asset_checks=[freshness_check(feed)],
        jobs=[job],
        schedules=[hourly_schedule(job, feed)],
        sensors=[watermark_sensor(job, feed), freshness_sensor_of(feed)],
        resources={source_key(feed): FeedSource(feed)},
    )


defs: Final = build_defs()
