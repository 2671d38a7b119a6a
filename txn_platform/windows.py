"""Windows: half-open hours in UTC, the unit of requests and of partitions.

Only the arithmetic of time lives here; Dagster's partitions are made from it in
`defs/partitions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from txn_platform.errors import UserError

WINDOW_LENGTH = timedelta(hours=1)
EARLIEST_HOUR = datetime(1970, 1, 1, tzinfo=UTC)
"""No window is before it. The first partition is TXN_FIRST_HOUR."""
PARTITION_KEY_FORMAT = "%Y-%m-%d-%H:%M"


@dataclass(frozen=True, order=True)
class Window:
    """One hour, `[start, end)`.

    Attributes:
        start: a full hour, in UTC.
    """

    start: datetime

    @property
    def end(self) -> datetime:
        """The end of the window, which is not in it."""
        return self.start + WINDOW_LENGTH

    @property
    def partition_key(self) -> str:
        """Dagster's name for the window, as `2026-11-01-00:00`."""
        return self.start.strftime(PARTITION_KEY_FORMAT)

    @classmethod
    def of_partition(cls, key: str) -> Window:
        """The window of a partition key.

        Raises:
            UserError: the text is no key, or names a time before 1970.
        """
        try:
            start = datetime.strptime(key, PARTITION_KEY_FORMAT).replace(tzinfo=UTC)
        except ValueError:
            start = None
        if start is None or start.minute or start < EARLIEST_HOUR:
            raise UserError(f"partition {key!r} is not an hour: write it as 2026-11-01-00:00 (UTC)")
        return cls(start)

    def require_from(self, first_hour: datetime) -> Window:
        """This window.

        Raises:
            UserError: it is before the first hour.
        """
        if self.start < first_hour:
            raise UserError(
                f"partition {self.partition_key!r} is before the first one,"
                f" {Window(first_hour).partition_key}: set TXN_FIRST_HOUR to begin earlier"
            )
        return self

    def __str__(self) -> str:
        return f"[{iso(self.start)}, {iso(self.end)})"


def full_hour(moment: datetime) -> datetime:
    """The start of the hour of a moment."""
    return moment.replace(minute=0, second=0, microsecond=0)


def iso(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC with a `Z`, with microseconds unless they are zero."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
