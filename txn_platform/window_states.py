"""The states of windows: what the lake has of them, compared with the source as it is now.

Writes no object. `txn status` shows the states, and `txn run` skips windows that are as they should
be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from txn_platform.card_key import valid_fingerprints
from txn_platform.contract.schema import PUBLISHED, RAW
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED
from txn_platform.in_threads import in_threads
from txn_platform.lake.delta import open_delta
from txn_platform.lake.footers import PublishedNotes, read_footer
from txn_platform.lake.layout import object_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from txn_platform.feeds import Feed
    from txn_platform.lake.base import Lake
    from txn_platform.settings import Settings
    from txn_platform.source.client import Source
    from txn_platform.windows import Window

State = Literal[
    "published", "missing", "changed", "outdated", "failed", "unknown", "queued", "running"
]
# Windows that are looked at together: reading a footer is waiting for the store.
_TOGETHER: Final = 8


class WindowState(BaseModel):
    """The state of one window.

    Attributes:
        partition: its key.
        state: `published` is as the source has it, if the source states totals. `changed` differs
            from the source. `outdated` was published under another contract, key or card policy.
            `failed` is not published as it should be, and its last run failed. A run of a `queued`
            or `running` window waits or goes on, and the window is not as it should be yet. Of an
            `unknown` window the source or the lake did not answer.
        reason: why it is not `published`.
        rows: that are published; None if none are, or if it is not known.
        quarantined: rows of the published window that are quarantined, if known.
        quarantine_rate: their share of all rows, 0 to 1.
        uri: of the published object.
    """

    model_config = ConfigDict(frozen=True)

    partition: str
    state: State
    reason: str = ""
    rows: int | None = None
    quarantined: int | None = None
    quarantine_rate: float | None = None
    uri: str | None = None


@dataclass(frozen=True)
class KnownRuns:
    """The runs of windows that an instance knows, by partition key.

    Attributes:
        failures: why the last run failed.
        unfinished: those that wait, or go on.
    """

    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    unfinished: Mapping[str, Literal["queued", "running"]] = field(
        default_factory=dict[str, Literal["queued", "running"]]
    )


class WindowStates:
    """Finds the states of windows.

    Args:
        lake: that has them.
        settings: with the card key and the card policy of today.
        source: to compare with; None to compare with nothing, which makes windows `unknown`.
        feed: that the windows are of, with the contract of today.

    Raises:
        UserError: the card key or the Delta table of the settings can't be used.
    """

    def __init__(
        self,
        lake: Lake,
        settings: Settings,
        source: Source | None,
        feed: Feed = GENERATOR_FEED,
    ) -> None:
        settings = feed.settings(settings)
        self._lake = lake
        self._source = source
        self._feed = feed
        self._contract = feed.contract
        delta = open_delta(settings, feed.contract)
        self._in_delta = None if delta is None else delta.lookup()
        self._policy = settings.card_policy
        self._mask = settings.card_mask
        # Empty if there is no key yet: then nothing was published here under one.
        self._card_keys = valid_fingerprints(settings) if feed.contract.card else ()

    def of(
        self,
        windows: Sequence[Window],
        runs: KnownRuns,
        on_progress: Callable[[int], None],
    ) -> list[WindowState]:
        """The states of some windows, in their order.

        Args:
            windows: that are complete.
            runs: of these windows.
            on_progress: called with the number of windows that are done.

        Raises:
            UserError: the objects of the lake can't be listed.
        """
        missing = self._absent(PUBLISHED, windows)
        never_landed = self._absent(RAW, [window for window in windows if window in missing])

        def look(window: Window) -> WindowState:
            if window in missing:
                state = _missing(window, landed=window not in never_landed)
            else:
                state = self._published(window)
            if state.state not in {"missing", "changed", "outdated", "failed"}:
                return state
            key = window.partition_key
            if (doing := runs.unfinished.get(key)) is not None:
                return state.model_copy(
                    update={"state": doing, "reason": f"a run of it is {doing}"}
                )
            if (why := runs.failures.get(key)) is not None:
                return state.model_copy(update={"state": "failed", "reason": why})
            return state

        return in_threads(look, windows, _TOGETHER, on_progress)

    def _absent(self, asset: str, windows: Sequence[Window]) -> set[Window]:
        """The windows without an object of an asset."""
        keys = {object_key(self._feed.asset(asset), window): window for window in windows}
        return {keys[key] for key in self._lake.absent(list(keys))}

    def _published(self, window: Window) -> WindowState:
        key = object_key(self._feed.asset(PUBLISHED), window)
        try:
            footer = read_footer(self._lake, key)
        except UserError as error:
            return WindowState(partition=window.partition_key, state="unknown", reason=str(error))
        rows, notes = footer.num_rows, PublishedNotes.of_footer(footer.metadata)
        quarantined = notes.totals.rows - rows if notes else None
        of_all = quarantined / (notes.totals.rows or 1) if notes and quarantined else 0.0
        state, reason = self._compared(window, notes)
        if state == "published" and not self._is_in_delta(window, key, rows):
            state, reason = "outdated", "the Delta table does not have it"
        return WindowState(
            partition=window.partition_key,
            state=state,
            reason=reason,
            rows=rows,
            quarantined=quarantined,
            quarantine_rate=None if quarantined is None else of_all,
            uri=self._lake.uri(key),
        )

    def _is_in_delta(self, window: Window, key: str, rows: int) -> bool:
        """Whether the Delta table has a published window, if there is to be one."""
        if self._in_delta is None:
            return True
        digest = self._lake.digest(key)
        return digest is not None and self._in_delta(window, digest, rows)

    def _compared(self, window: Window, notes: PublishedNotes | None) -> tuple[State, str]:
        if self._source is None:
            return "unknown", "the source does not answer"
        try:
            stated = self._source.control_totals(window, datetime.now(UTC))
        except UserError as error:
            return "unknown", str(error)
        if notes is None:
            if stated is None:
                return "published", ""
            return "outdated", "published by an earlier version, which left no notes in the object"
        differences = notes.totals.differences(stated) if stated is not None else []
        if differences:
            return "changed", f"published against source: {'; '.join(differences)}"
        outdated = self._outdated(notes)
        return ("outdated", outdated) if outdated else ("published", "")

    def _outdated(self, notes: PublishedNotes) -> str:
        version = self._contract.version
        if notes.contract_version != version:
            return f"published under contract {notes.contract_version}, not {version}"
        if self._contract.card is None:
            return ""
        if notes.card_policy != self._policy:
            return f"published under the card policy {notes.card_policy}, not {self._policy}"
        if notes.card_mask != self._mask and self._policy == "token":
            return f"published with the card mask {notes.card_mask}, not {self._mask}"
        if self._card_keys and notes.card_key not in self._card_keys:
            return "published under another card key"
        return ""


def _missing(window: Window, *, landed: bool) -> WindowState:
    if landed:
        return WindowState(
            partition=window.partition_key,
            state="failed",
            reason="it was landed, and then not published",
        )
    return WindowState(
        partition=window.partition_key, state="missing", reason="it was not published yet"
    )
