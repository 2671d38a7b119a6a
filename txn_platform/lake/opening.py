"""The lake that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txn_platform.lake.directory import DirectoryLake

if TYPE_CHECKING:
    from txn_platform.lake.base import Lake
    from txn_platform.settings import Settings


def open_lake(settings: Settings) -> Lake:
    """Open the lake that the settings name: a bucket if they name one, otherwise a directory.

    Raises:
        UserError: there are no credentials for the bucket.
    """
    if settings.bucket is None:
        return DirectoryLake((settings.home / "lake").absolute())
    from txn_platform.lake.s3 import open_s3_lake

    return open_s3_lake(settings)
