"""Dagster's partitions: one for each window. `windows.py` has the arithmetic of windows."""

from datetime import UTC, datetime
from typing import Any, Final, override

import click
import dagster as dg

from txn_platform.windows import FIRST_WINDOW_START, PARTITION_KEY_FORMAT, WINDOW_LENGTH, Window


class UnknownHour(click.ClickException):
    """A partition key is no hour, too early or not over; Dagster prints the message as it is."""


class HourlyWindows(dg.HourlyPartitionsDefinition):
    """Hourly partitions that explain what is wrong with an invalid key.

    Dagster's own answer is a traceback of its command line.
    """

    @override
    def validate_partition_key(self, partition_key: str, context: Any) -> None:
        try:
            super().validate_partition_key(partition_key, context)
        except dg.DagsterUnknownPartitionError:
            newest = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - WINDOW_LENGTH
            raise UnknownHour(
                f"partition {partition_key!r} is not an hour that is over: write it as"
                f" {Window(newest).partition_key}, which is the newest (UTC);"
                f" the oldest is {Window(FIRST_WINDOW_START).partition_key}"
            ) from None


HOURS: Final = HourlyWindows(
    start_date=FIRST_WINDOW_START.strftime(PARTITION_KEY_FORMAT),
    fmt=PARTITION_KEY_FORMAT,
    timezone="UTC",
)


def window_of(context: dg.AssetExecutionContext) -> Window:
    """The window that a step materializes."""
    return Window.of_partition(context.partition_key)
