"""Freshness: how far the newest published window is behind the source's watermark.

Shared by the sensor `alerts` and by whatever shows freshness. The newest window counts, not the
last one that was materialized: a backfill of old windows changes nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import dagster as dg

from txn_platform.defs import checks
from txn_platform.defs.feed_keys import key_of
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.source.client import Source
from txn_platform.windows import WINDOW_LENGTH, Window, iso

LARGEST_LAG: Final = WINDOW_LENGTH
"""The newest window may be missing: it is published minutes after the watermark has reached it."""


@dataclass(frozen=True)
class Freshness:
    """How fresh the published windows are.

    Attributes:
        newest: the newest published window; None if there is none.
        watermark: of the source.
    """

    newest: Window | None
    watermark: datetime

    @property
    def lag(self) -> timedelta | None:
        """From the end of the newest published window to the watermark; None without a window."""
        return None if self.newest is None else self.watermark - self.newest.end

    @property
    def is_fresh(self) -> bool:
        """Whether the newest published window is at most `LARGEST_LAG` behind the watermark."""
        return self.lag is not None and self.lag <= LARGEST_LAG

    def __str__(self) -> str:
        complete = f"the source is complete up to {iso(self.watermark)}"
        if self.newest is None:
            return f"no window is published, and {complete}"
        return f"windows are published up to {iso(self.newest.end)}, and {complete}"


def freshness(
    instance: dg.DagsterInstance, source: Source, feed: Feed = GENERATOR_FEED
) -> Freshness:
    """The freshness by Dagster's record of publications.

    Args:
        instance: has the record.
        source: is asked for its watermark.
        feed: that the source is of.

    Raises:
        UserError: the source does not state its watermark.
    """
    watermark = source.watermark()
    published = instance.get_materialized_partitions(key_of(checks.PUBLISHED, feed))
    # Partition keys sort as their windows do.
    newest = max(published, default=None)
    return Freshness(None if newest is None else Window.of_partition(newest), watermark)
