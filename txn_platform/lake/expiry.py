"""Expired objects and the versions that a store keeps of them: finding and removing them.

The caller names the assets. `directory` and `s3` remove the objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from txn_platform.errors import UserError
from txn_platform.lake.auditing import audited_object
from txn_platform.lake.layout import asset_of_key, window_of_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from txn_platform.lake.base import Lake
    from txn_platform.windows import Window


@dataclass(frozen=True)
class Expiring:
    """The objects that are old enough to be removed.

    Attributes:
        versions: ids of versions by key, as in `base.Kept`.
        markers: ids of delete markers by key, likewise.
        windows: of the versions, oldest first.
        unseen: why there may be more, one sentence each.
        strangers: keys in the folders of the assets that do not belong to an hour.
    """

    versions: dict[str, list[str]]
    markers: dict[str, list[str]]
    windows: list[Window]
    unseen: list[str]
    strangers: list[str]

    @property
    def count(self) -> str:
        """The number of objects and versions, as text."""
        total = sum(map(len, self.versions.values()))
        objects = f"{len(self.versions):,} objects"
        return objects if total == len(self.versions) else f"{objects} in {total:,} versions"

    @property
    def span(self) -> str:
        """From the first hour to the end of the last one, as text."""
        return (
            f"{self.windows[0].start:%Y-%m-%d %H:%M} to {self.windows[-1].end:%Y-%m-%d %H:%M} UTC"
        )


@dataclass(frozen=True)
class Expired:
    """The result of a removal.

    Attributes:
        removed: number of keys of which the store keeps nothing.
        stays: for other keys, why a version remains, one sentence each.
    """

    removed: int
    stays: list[str]


def expiring(lake: Lake, assets: Iterable[str], limit: datetime) -> Expiring:
    """Find the objects and versions of windows that ended at a moment or before.

    Raises:
        UserError: the store can't be reached, or refuses.
    """
    found = Expiring({}, {}, [], [], [])
    for asset in assets:
        kept = lake.kept(asset)
        found.unseen.extend([kept.unseen] if kept.unseen else [])
        for kind, into in ((kept.versions, found.versions), (kept.markers, found.markers)):
            for key, names in kind.items():
                old = _ended(key, limit)
                if old is None or asset_of_key(key) != asset:
                    found.strangers.append(key)
                elif old:
                    into[key] = names
    found.windows.extend(sorted({window_of_key(key) for key in found.versions}))
    return found


def unknown_folders(lake: Lake, assets: Collection[str], limit: datetime) -> list[str]:
    """The folders that have assets of these names and of others' feeds, and old windows of them.

    Args:
        lake: where.
        assets: of all feeds that are known.
        limit: a window is old that ended then or before.

    Raises:
        UserError: the store can't be reached.
    """
    names = sorted({asset.rpartition("/")[2] for asset in assets})
    found: list[str] = []
    for folder in lake.folders():
        others = [name for name in names if f"{folder}/{name}" not in assets]
        firsts = (lake.first_key(f"{folder}/{name}") for name in others)
        if any(first is not None and _ended(first, limit) for first in firsts):
            found.append(folder)
    return found


def _ended(key: str, limit: datetime) -> bool | None:
    """Whether the window of a key had ended at a moment; None if it is no window's."""
    try:
        return window_of_key(key).end <= limit
    except UserError:
        return None


def remove(lake: Lake, found: Expiring) -> Expired:
    """Remove the found objects and versions for good, each with a line of the audit log.

    Raises:
        UserError: the store can't be reached, or the audit log can't be written; the next run finds
            the remaining ones.
    """
    removed = 0
    stays: list[str] = []
    for key in found.versions | found.markers:
        versions = found.versions.get(key, [])
        with audited_object("expire", lake, key, versions=len(versions)) as line:
            reason = lake.erase(key, [*versions, *found.markers.get(key, [])])
            line["remains"] = bool(reason)
        if reason:
            stays.append(reason)
        elif versions:
            removed += 1
    return Expired(removed, stays)
