"""All that Dagster sees, on one page."""

from collections.abc import Sequence
from typing import Any, Final

import dagster as dg

from txn_platform.defs.alerts import alerts
from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
from txn_platform.defs.automation import (
    LAND_TRANSACTIONS,
    hourly,
    nightly_optimize,
    on_watermark,
    optimize_delta,
)
from txn_platform.defs.beta import beta_allowed
from txn_platform.defs.freshness_check import freshness_sensor, is_fresh
from txn_platform.defs.io_managers import LakeIOManager
from txn_platform.defs.resources import (
    CardKeyResource,
    GeneratorResource,
    LakeResource,
    QuarantineResource,
)


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


defs: Final = build_defs()
