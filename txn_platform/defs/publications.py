"""Dagster's record of published windows, as the metadata of their materializations.

Written by the assets, read by the sensor and the schedule, which compare it with the source.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg
from dagster import DagsterEventType

from txn_platform.defs import checks
from txn_platform.defs.feed_keys import key_of
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.rows.reconciliation import ControlTotals

# The source's statement is in the footer of the landed file, so that later steps can compare their
# totals with it.
SOURCE_TOTALS_NOTE: Final = "source_control_totals"

SOURCE_TOTALS: Final = "source_totals"
AS_OF: Final = "as_of"
WATERMARK: Final = "source_watermark"


@dataclass(frozen=True)
class Publication:
    """The record of a window that was materialized.

    Attributes:
        recorded: whether it says if there were source totals. Records of earlier versions do not.
        totals: the source's statement on the published rows; None if it states none.
        watermark: the source's watermark when its rows were read, if known.
        storage_id: the id of Dagster's record; newer records have higher ids.
    """

    recorded: bool
    totals: ControlTotals | None
    watermark: datetime | None
    storage_id: int


def landing_metadata(as_of: datetime, watermark: datetime) -> dict[str, Any]:
    """The metadata of a window that was landed.

    Args:
        as_of: rows that arrived later are not in it.
        watermark: the source's watermark at that time.
    """
    return {
        AS_OF: dg.MetadataValue.timestamp(as_of),
        WATERMARK: dg.MetadataValue.timestamp(watermark),
    }


def publication_metadata(totals: ControlTotals | None, landing: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a window that is published.

    Args:
        totals: the source's statement; None if it states none.
        landing: the metadata of the window's newest landing, or empty; see `latest_landing`.
    """
    stated = dg.MetadataValue.null()
    if totals is not None:
        stated = dg.MetadataValue.json(totals.to_display())
    return {**landing, SOURCE_TOTALS: stated}


def latest_landing(
    instance: dg.DagsterInstance, partition_key: str, feed: Feed = GENERATOR_FEED
) -> dict[str, Any]:
    """The metadata of the newest landing of a partition; empty if there is none."""
    wanted = dg.AssetRecordsFilter(key_of(checks.RAW, feed), asset_partitions=[partition_key])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        metadata = record.asset_materialization.metadata if record.asset_materialization else {}
        return {name: metadata[name] for name in (AS_OF, WATERMARK) if name in metadata}
    return {}


def landed_before(instance: dg.DagsterInstance, partition_key: str) -> tuple[int, datetime] | None:
    """Rows and time of the landing before the newest one of a partition; None if there is none."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(checks.RAW), asset_partitions=[partition_key])
    for record in instance.fetch_materializations(wanted, limit=2).records[1:]:
        metadata = record.asset_materialization.metadata if record.asset_materialization else {}
        rows = metadata.get("dagster/partition_row_count")
        if rows is not None:
            return int(str(rows.value)), datetime.fromtimestamp(record.timestamp, UTC)
    return None


def latest_ids(
    instance: dg.DagsterInstance,
    asset: str,
    partition_keys: Collection[str],
    feed: Feed = GENERATOR_FEED,
) -> dict[str, int]:
    """The storage ids of the newest materializations, for those partitions that have one."""
    found = instance.get_latest_storage_id_by_partition(
        key_of(asset, feed), DagsterEventType.ASSET_MATERIALIZATION, set(partition_keys)
    )
    return dict(found)


def publications(
    instance: dg.DagsterInstance, partition_keys: Collection[str], feed: Feed = GENERATOR_FEED
) -> dict[str, Publication]:
    """The newest publication of each partition that has one, in two queries."""
    ids = latest_ids(instance, checks.PUBLISHED, partition_keys, feed)
    if not ids:
        return {}
    wanted = dg.AssetRecordsFilter(key_of(checks.PUBLISHED, feed), storage_ids=list(ids.values()))
    found: dict[str, Publication] = {}
    for record in instance.fetch_materializations(wanted, limit=len(ids)).records:
        event = record.asset_materialization
        if event is not None and event.partition is not None:
            found[event.partition] = _publication(event, record.storage_id)
    return found


def _publication(event: dg.AssetMaterialization, storage_id: int) -> Publication:
    stated = event.metadata.get(SOURCE_TOTALS)
    try:
        told = stated.value if stated is not None else None
        totals = ControlTotals.of_display(told) if told is not None else None
    except (KeyError, TypeError, AttributeError, ValueError):
        # Another asset's metadata of this name.
        stated = totals = None
    return Publication(
        recorded=stated is not None,
        totals=totals,
        watermark=_moment(event.metadata.get(WATERMARK)),
        storage_id=storage_id,
    )


def _moment(recorded: object) -> datetime | None:
    if not isinstance(recorded, dg.TimestampMetadataValue):
        return None
    try:
        return datetime.fromtimestamp(recorded.value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
