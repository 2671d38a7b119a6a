"""Where the lake keeps an object: keys, and the windows and assets that they name."""

from __future__ import annotations

from typing import Final

from txn_platform.errors import UserError
from txn_platform.runbook import Section
from txn_platform.windows import Window

OBJECT_NAME: Final = "part-0.parquet"


def window_of_key(key: str) -> Window:
    """The window of an object's key, the inverse of `object_key`.

    Raises:
        UserError: it is not the key of a window.
    """
    path = key.removesuffix(f"/{OBJECT_NAME}")
    folders, _, hour = path.rpartition("/")
    asset, _, date = folders.rpartition("/")
    if not asset or not date.startswith("event_date=") or not hour.startswith("event_hour="):
        raise UserError(
            f"{key} is not the object of an hour: move it out of the lake", Section.SETTINGS
        )
    stamp = f"{date.removeprefix('event_date=')}-{hour.removeprefix('event_hour=')}:00"
    return Window.of_partition(stamp)


def partition_of_key(key: str) -> str | None:
    """The partition key of an object's window; None if it is not the object of an hour."""
    try:
        return window_of_key(key).partition_key
    except UserError:
        return None


def asset_of_key(key: str) -> str:
    """The asset of an object's key; only the first folder of it where no date follows."""
    asset, date, _ = key.partition("/event_date=")
    return asset if date else key.partition("/")[0]


def object_key(asset: str, window: Window | None) -> str:
    """Where the lake keeps an asset's window, or an asset without windows, below its root."""
    if window is None:
        return f"{asset}/{OBJECT_NAME}"
    start = window.start
    return f"{asset}/event_date={start:%Y-%m-%d}/event_hour={start:%H}/{OBJECT_NAME}"
