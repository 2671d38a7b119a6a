"""All that Dagster sees, on one page."""

from typing import Final

import dagster as dg

from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
from txn_platform.defs.automation import (
    LAND_TRANSACTIONS,
    hourly,
    nightly_optimize,
    on_watermark,
    optimize_delta,
)
from txn_platform.defs.io_managers import LakeIOManager
from txn_platform.defs.resources import CardKeyResource, GeneratorResource


def build_defs() -> dg.Definitions:
    """Fresh definitions; building them touches no network, no store and no environment."""
    return dg.Definitions(
        assets=[raw_transactions, validation, s3_parquet_transactions],
        jobs=[LAND_TRANSACTIONS, optimize_delta],
        schedules=[hourly, nightly_optimize],
        sensors=[on_watermark],
        resources={
            "generator": GeneratorResource(),
            "lake": LakeIOManager(),
            "card_key": CardKeyResource(),
        },
        # The chain is linear: a process a step would cost seconds and gain nothing.
        executor=dg.in_process_executor,
    )


defs: Final = build_defs()
