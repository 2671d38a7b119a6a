"""The change of the card key: which windows get new tokens, and how the others stay joinable.

`runs` rewrites a window, `lake/card_tokens` has the mapping, and `card_key` the keys. Each step can
be repeated, so a rotation that was killed goes on when it is called again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from txn_platform.audit import audited
from txn_platform.card_key import (
    CardKey,
    begin_kept_rotation,
    checked_card_key,
    end_kept_rotation,
    find_card_key,
    is_kept,
    previous_card_key,
)
from txn_platform.contract.schema import PUBLISHED, QUARANTINED, RAW, TRANSACTIONS, VALIDATED
from txn_platform.errors import UserError
from txn_platform.lake.card_tokens import (
    keys_of,
    map_tokens,
    mappings_to,
    old_tokens,
    tokens_without,
)
from txn_platform.lake.delta import open_delta
from txn_platform.lake.footers import read_footer
from txn_platform.lake.layout import object_key, window_of_key
from txn_platform.lake.opening import require_first_hour
from txn_platform.rows.protection import CardProtector
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from txn_platform.lake.base import Lake
    from txn_platform.settings import Settings
    from txn_platform.windows import Window


@dataclass(frozen=True)
class RotationPlan:
    """The published windows by what a rotation does with them, oldest first.

    Attributes:
        rewritten: have another key, and a raw object: they get tokens under the new key.
        kept: have another key, and no raw object; with the fingerprints of their keys.
        done: number of windows that have the new key.
    """

    rewritten: dict[Window, str]
    kept: dict[Window, str]
    done: int


@dataclass(frozen=True)
class Mapped:
    """The mapping from old tokens to new ones.

    Attributes:
        uri: of its object.
        tokens: number of cards in it.
        missing: number of old tokens in kept windows whose card no raw object has.
    """

    uri: str
    tokens: int
    missing: int


class Rotation:
    """The change from one card key to another.

    Args:
        settings: of the lake and its keys.
        lake: that is changed.

    Raises:
        UserError: there is no previous key, the new one is weak, or one of them can't be read.
    """

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._settings = settings
        self._lake = lake
        self._kept_key = is_kept(settings) and settings.card_key_previous is None
        current, previous = find_card_key(settings), previous_card_key(settings)
        same = previous is not None and previous.fingerprint == current.fingerprint
        self._new: CardKey | None = None
        if self._kept_key and (previous is None or same):
            # The new key is made when the rotation begins.
            self._old = current
        elif previous is None:
            raise UserError(
                "TXN_CARD_KEY_PREVIOUS is not set: make a new key (openssl rand -hex 32), set"
                " TXN_CARD_KEY to it and TXN_CARD_KEY_PREVIOUS to the old one, for every process"
                " that uses the lake, and run `txn rotate-card-key` then",
                Section.CARD_KEY,
            )
        elif same:
            raise UserError(
                "TXN_CARD_KEY and TXN_CARD_KEY_PREVIOUS are the same key: set TXN_CARD_KEY to the"
                " new one",
                Section.CARD_KEY,
            )
        else:
            self._old, self._new = previous, self._strong()

    @property
    def change(self) -> str:
        """The keys by their fingerprints, for people."""
        new = self._new.fingerprint if self._new else "a new key, which is made now"
        return f"from {self._old.fingerprint} to {new}"

    def plan(self, on_progress: Callable[[int], None] = lambda _: None) -> RotationPlan:
        """Find the windows that have another key than the new one.

        Args:
            on_progress: called with the number of objects that were looked at.

        Raises:
            UserError: the lake or the Delta table can't be read, or a window is before
                `TXN_FIRST_HOUR`.
        """
        # Dagster would not run an older window.
        require_first_hour(self._lake, PUBLISHED, self._settings.first_hour)
        published = _by_window(self._lake.keys(PUBLISHED))
        validated = _by_window(self._lake.keys(VALIDATED))
        landed = _by_window(self._lake.keys(RAW)).keys()
        # The next publication would copy the tokens of a validated object.
        looked_at = [
            (window, objects[window])
            for window in sorted(published)
            for objects in (published, validated)
            if window in objects
        ]
        keys: dict[Window, list[str]] = {}
        found = keys_of(self._lake, [key for _, key in looked_at], on_progress)
        for (window, _), name in zip(looked_at, found, strict=True):
            keys.setdefault(window, []).append(name)
        new = self._new.fingerprint if self._new else None
        delta = open_delta(self._settings)
        in_delta = delta.lookup() if delta is not None else None
        rewritten: dict[Window, str] = {}
        kept: dict[Window, str] = {}
        done = 0
        for window, names in keys.items():
            other = next((name for name in names if name != new), None)
            if other is None and window in landed and in_delta is not None:
                key = published[window]
                rows = read_footer(self._lake, key).num_rows
                if not in_delta(window, self._lake.digest(key) or "", rows):
                    other = names[0]
            if other is None:
                done += 1
            elif window in landed:
                rewritten[window] = other
            else:
                kept[window] = names[0]
        return RotationPlan(rewritten, kept, done)

    def begin(self) -> None:
        """Make the new key, if the platform keeps the key itself.

        Raises:
            UserError: it can't be made.
        """
        with audited("key_change", step="begin", old=self._old.fingerprint) as line:
            if self._kept_key:
                begin_kept_rotation(self._settings.home)
                self._old = previous_card_key(self._settings) or self._old
                self._new = self._strong()
            line["new"] = self._new.fingerprint if self._new else None

    def map(self, plan: RotationPlan) -> Mapped:
        """Write the mapping for all cards that are found in clear in the lake.

        Args:
            plan: whose kept windows are compared with it.

        Raises:
            UserError: the lake can't be read or written.
        """
        old, new = self._old, self._new
        if new is None:
            raise RuntimeError("the rotation has not begun")
        landed = _by_window(self._lake.keys(RAW))
        # Validation leaves no card out: the quarantine of a landed window has no other.
        quarantined = _by_window(self._lake.keys(QUARANTINED))
        sources = {**quarantined, **landed}
        stored, tokens = map_tokens(
            self._lake,
            sources.values(),
            TRANSACTIONS.card or "",
            CardProtector(old.secret),
            CardProtector(new.secret),
        )
        mapped = {
            name: old_tokens(self._lake, name, new.fingerprint)
            for name in mappings_to(self._lake, new.fingerprint)
        }
        missing = [
            tokens_without(self._lake, object_key(PUBLISHED, window), mapped.get(name))
            for window, name in plan.kept.items()
        ]
        return Mapped(stored.uri, tokens, pl.concat(missing).n_unique() if missing else 0)

    def end(self) -> str:
        """Retire the old key, if the platform keeps it; returns what to do with the old one.

        Raises:
            UserError: its file can't be renamed.
        """
        new = self._new.fingerprint if self._new else None
        with audited("key_change", step="end", old=self._old.fingerprint, new=new):
            retired = end_kept_rotation(self._settings.home, self._old) if self._kept_key else None
        if retired is None:
            return "Unset TXN_CARD_KEY_PREVIOUS, and destroy the old key when nobody needs it."
        return f"The old key is in {retired}: destroy it when nobody needs it."

    def _strong(self) -> CardKey:
        """The new key.

        Raises:
            UserError: it is weak, also if a weak one is allowed for now.
        """
        return checked_card_key(self._settings.model_copy(update={"allow_weak_card_key": False}))


def _by_window(keys: Iterable[str]) -> dict[Window, str]:
    """Keys of objects by their windows, without those of other programs."""
    found: dict[Window, str] = {}
    for key in keys:
        # `txn expire` reports it.
        with suppress(UserError):
            found[window_of_key(key)] = key
    return found
