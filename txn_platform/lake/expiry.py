"""Expired objects and the versions that a store keeps of them: finding and removing them.

The caller names the assets. `directory` and `s3` remove the objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from txn_platform.errors import UserError
from txn_platform.lake.layout import window_of_key

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from txn_platform.lake.base import Lake
    from txn_platform.windows import Window


@dataclass(frozen=True)
class Expiring:
    """The objects that are old enough to be removed.

    Attributes:
        versions: for each key what the store keeps of it, see `lake.Kept`.
        markers: what only says that a key was deleted, likewise.
        windows: that the versions are of, oldest first.
        unseen: why there may be more, one sentence each.
        strangers: keys in the assets' folders that are no hour's.
    """

    versions: dict[str, list[str]]
    markers: dict[str, list[str]]
    windows: list[Window]
    unseen: list[str]
    strangers: list[str]

    @property
    def count(self) -> str:
        """How much it is, in words."""
        total = sum(map(len, self.versions.values()))
        objects = f"{len(self.versions):,} objects"
        return objects if total == len(self.versions) else f"{objects} in {total:,} versions"

    @property
    def span(self) -> str:
        """From the first hour to the end of the last, in words."""
        return (
            f"{self.windows[0].start:%Y-%m-%d %H:%M} to {self.windows[-1].end:%Y-%m-%d %H:%M} UTC"
        )


@dataclass(frozen=True)
class Expired:
    """The result of a removal.

    Attributes:
        removed: keys of which the store keeps nothing any more.
        stays: why something of others stays, one sentence each.
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
                try:
                    old = window_of_key(key).end <= limit
                except UserError:
                    found.strangers.append(key)
                    continue
                if old:
                    into[key] = names
    found.windows.extend(sorted({window_of_key(key) for key in found.versions}))
    return found


def remove(lake: Lake, found: Expiring) -> Expired:
    """Remove for good what was found.

    Raises:
        UserError: the store can't be reached; what is left is found again.
    """
    removed = 0
    stays: list[str] = []
    for key in found.versions | found.markers:
        versions = found.versions.get(key, [])
        if reason := lake.erase(key, [*versions, *found.markers.get(key, [])]):
            stays.append(reason)
        elif versions:
            removed += 1
    return Expired(removed, stays)
