"""The lake's key for a partition of an asset, for every kind of partitions definition.

The platform's own hours and assets without partitions are `lake.object_key`'s matter; their keys
are the same here.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC
from typing import Final

import dagster as dg

from txn_platform.lake.layout import OBJECT_NAME

_FOLDER_OF_SCHEDULE: Final = {
    "DAILY": "event_date=%Y-%m-%d",
    "WEEKLY": "event_week=%Y-%m-%d",
    "MONTHLY": "event_month=%Y-%m",
}
# All other characters have a meaning in a path, a pattern, an address or a Hive partition.
_UNSAFE: Final = re.compile(rb"[^A-Za-z0-9_.\- ]")
# File systems allow 255 bytes for a name.
_LONGEST_SEGMENT: Final = 200
_KEPT_OF_LONG: Final = 120


def partition_key_of_object(
    asset: Sequence[str], definition: dg.PartitionsDefinition | None, partition: str | None
) -> str:
    """The lake's key for a partition of an asset; different partitions have different keys.

    A time window is a folder in Hive's style: `event_date=2026-11-01/event_hour=14` for an hour of
    UTC, `event_date=`, `event_week=` (its first day) or `event_month=` for days, weeks and months
    of the definition's time zone, and `event_start=20261101T141500Z` for all others. Any other
    partition is the folder of its name, with unsafe characters as `%` and two hexadecimal digits.
    Dimensions of a multi-partition are folders in the order of the dimensions' names.

    Args:
        asset: the components of the asset's name.
        definition: its partitions definition; None for an asset without partitions.
        partition: the partition's key; None for an asset without partitions.
    """
    folders = [safe_segment(part) for part in asset]
    if definition is not None and partition is not None:
        folders += _folders(definition, partition)
    return "/".join([*folders, OBJECT_NAME])


def _folders(definition: dg.PartitionsDefinition, partition: str) -> list[str]:
    if isinstance(definition, dg.MultiPartitionsDefinition):
        keys = definition.get_partition_key_from_str(partition).keys_by_dimension
        return [
            folder
            for dimension in sorted(definition.partitions_defs, key=lambda each: each.name)
            for folder in _folders(dimension.partitions_def, keys[dimension.name])
        ]
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return [safe_segment(partition)]
    start = definition.time_window_for_partition_key(partition).start
    utc = start.astimezone(UTC)
    schedule = definition.schedule_type
    if schedule is None or (schedule.value == "HOURLY" and utc.minute):
        return [f"event_start={utc:%Y%m%dT%H%M%SZ}"]
    if schedule.value == "HOURLY":
        return [f"event_date={utc:%Y-%m-%d}", f"event_hour={utc:%H}"]
    return [f"{start:{_FOLDER_OF_SCHEDULE[schedule.value]}}"]


def safe_segment(name: str) -> str:
    """A name as one folder of a key: unique, and unchanged if all its characters are safe."""
    escaped = _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], name.encode("utf-8")).decode()
    if escaped[:1] in {".", "_", " "} or escaped == OBJECT_NAME:
        # Other readers would skip it, or take it for the object.
        escaped = f"%{ord(escaped[0]):02X}{escaped[1:]}"
    if escaped.endswith((".", " ")):
        escaped = f"{escaped[:-1]}%{ord(escaped[-1]):02X}"
    if len(escaped) > _LONGEST_SEGMENT:
        digest = hashlib.sha256(name.encode("utf-8")).hexdigest()
        # No escape begins like this.
        return f"{escaped[:_KEPT_OF_LONG]}%-{digest}"
    return escaped or "%"
