"""Dagster's partitions: one for each window. `windows.py` has the arithmetic of windows.

The first one is read from the settings when this module is imported, as a code location is loaded.
"""

from datetime import UTC, datetime
from typing import Any, Final, override

import click
import dagster as dg

from txn_platform.defs.failures import leave_out_tracebacks
from txn_platform.errors import UserError
from txn_platform.settings import load_first_hour
from txn_platform.windows import PARTITION_KEY_FORMAT, WINDOW_LENGTH, Window


class WrongSetting(click.ClickException):
    """The definitions cannot be loaded; Dagster prints the message as it is."""


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
                f" the oldest is {Window(FIRST_HOUR).partition_key}"
            ) from None


def _first_hour() -> datetime:
    try:
        return load_first_hour()
    except UserError as error:
        leave_out_tracebacks()
        raise WrongSetting(str(error)) from None


FIRST_HOUR: Final = _first_hour()
HOURS: Final = HourlyWindows(
    start_date=Window(FIRST_HOUR).partition_key,
    fmt=PARTITION_KEY_FORMAT,
    timezone="UTC",
)


def window_of(context: dg.AssetExecutionContext) -> Window:
    """The window that a step materializes."""
    return Window.of_partition(context.partition_key)
