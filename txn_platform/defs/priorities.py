"""Which queued run starts first: the newest hour before late windows, and those before history.

Dagster's queue sorts by the tag `dagster/priority`; runs without one have 0.
"""

from datetime import datetime, timedelta
from typing import Final

from txn_platform.defs.names import PRIORITY
from txn_platform.windows import Window

_NEWEST: Final = {PRIORITY: "10"}
_LATE: Final = {PRIORITY: "5"}
_HISTORY: Final = {PRIORITY: "0"}


def priority_tags(window: Window, watermark: datetime, settles_after: timedelta) -> dict[str, str]:
    """The tags of a run, by the age of its window.

    Args:
        window: of the run.
        watermark: until which the source is complete.
        settles_after: how long after its end rows of a window may arrive.

    Returns:
        Priority 10 for the newest complete hour, 5 for an hour of which rows may still arrive, 0
        for history.
    """
    if window.end >= watermark:
        return dict(_NEWEST)
    return dict(_LATE if window.end + settles_after > watermark else _HISTORY)
