"""The lake that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txn_platform.errors import UserError
from txn_platform.lake.directory import DirectoryLake
from txn_platform.lake.layout import window_of_key
from txn_platform.lake.store_errors import StoreError
from txn_platform.runbook import Section
from txn_platform.windows import Window

if TYPE_CHECKING:
    from datetime import datetime

    from txn_platform.lake.base import Lake
    from txn_platform.settings import Settings


def open_lake(settings: Settings) -> Lake:
    """Open the lake that the settings name: a bucket if they name one, otherwise a directory.

    See `settings.load_settings` for the rule by which they name one.

    Raises:
        UserError: there are no credentials for the bucket.
    """
    if settings.bucket is None:
        home = settings.home.absolute()
        inside = settings.directory.is_relative_to(home)
        return DirectoryLake(settings.directory, home if inside else None)
    from txn_platform.lake.s3 import open_s3_lake

    return open_s3_lake(settings)


def require_first_hour(lake: Lake, asset: str, first_hour: datetime) -> None:
    """Check that no published window is before the first partition. It costs one request.

    Args:
        lake: that has the windows.
        asset: the published one.
        first_hour: the start of the first partition.

    Raises:
        UserError: one is, so Dagster would not see it; or the store can't be reached.
    """
    try:
        oldest = lake.first_key(asset)
    except StoreError as error:
        if error.refused:
            # A run needs no right to list objects.
            return
        raise
    try:
        window = None if oldest is None else window_of_key(oldest)
    except UserError:
        # Another program's object. `txn expire` reports it.
        return
    if window is not None and window.start < first_hour:
        raise UserError(
            f"TXN_FIRST_HOUR={Window(first_hour).partition_key} is after the oldest published"
            f" window, {window.partition_key} in {lake.uri(asset)}: set it to that hour or an"
            " earlier one, or move the older windows out of the lake",
            Section.SETTINGS,
        )
