"""One tick of the sensor: it finds windows that are not published as the source has them.

The tick compares the source with the publications that Dagster has recorded. Every question to the
source is bounded in time. So is the tick, which saves how far it came.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from txn_platform.defs import checks
from txn_platform.defs.feed_keys import key_of
from txn_platform.defs.priorities import priority_tags
from txn_platform.defs.publications import (
    SOURCE_TOTALS_NOTE,
    Publication,
    latest_ids,
    publications,
)
from txn_platform.defs.run_history import (
    RunHistory,
    content_of,
    is_lost,
    run_key,
    unfinished_requests,
)
from txn_platform.defs.sensor_cursor import Asked, Cursor
from txn_platform.errors import UserError
from txn_platform.feeds import GENERATOR_FEED, Feed
from txn_platform.lake.base import explained_reads
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.runbook import Section
from txn_platform.settings import Settings
from txn_platform.source.client import Source
from txn_platform.windows import WINDOW_LENGTH, Window, full_hour

# Dagster ends a tick after 60 s. The last question may begin just before this.
BUDGET_SECONDS: Final = 20.0
# The most runs that a tick requests, and the most that wait or run at a time.
_PORTION: Final = 25
_MOST_UNFINISHED: Final = 100
# Windows whose publications are looked up at once.
_CHUNK: Final = 100
_LAKE_SECONDS: Final = 8.0
# Windows of a source without totals are read again under this name when they have settled.
_SETTLED: Final = "settled"


@dataclass
class Outcome:
    """The result of a tick.

    Attributes:
        requests: the runs to start, oldest window first.
        cursor: the state for the next tick.
        unanswered: by window, why it could not be compared.
    """

    requests: list[dg.RunRequest]
    cursor: Cursor
    unanswered: dict[str, str] = field(default_factory=dict[str, str])


class Tick:
    """Compares the source with the publications.

    Args:
        instance: has the records of publications and runs.
        source: answers within seconds, or raises.
        settings: how far to look back.
        started: when the tick began, by the monotonic clock.
        feed: that the source is of.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        source: Source,
        settings: Settings,
        started: float,
        feed: Feed = GENERATOR_FEED,
    ) -> None:
        self._feed = feed
        self._instance = instance
        self._source = source
        self._settings = settings
        self._settles_after = source.lag
        self._deadline = started + BUDGET_SECONDS
        self._now = datetime.now(UTC)
        self._histories: dict[str, RunHistory] = {}
        # By window, the storage id of the publication that was compared.
        self._compared: dict[str, int | None] = {}
        self._publications: dict[str, Publication] = {}
        self._lake_answers = True

    def run(self, before: Cursor | None) -> Outcome | None:
        """Compare the windows from the lower bound on; None if the source has no complete window.

        Args:
            before: the cursor of the last tick; None for the first.

        Raises:
            UserError: the source does not state its watermark.
        """
        # Dagster has no partitions for hours that are not over by its own clock.
        watermark = full_hour(min(self._source.watermark(), self._now))
        if watermark <= self._settings.first_hour:
            return None
        cursor = self._opened(before, watermark)
        outcome = Outcome([], cursor)
        windows = self._windows(cursor, watermark)
        if cursor.next is not None:
            # The rest of the last pass. The next pass begins with the oldest window.
            goes_on = Window.of_partition(cursor.next)
            windows = [window for window in windows if window >= goes_on] or windows
        from_oldest = cursor.next is None
        cursor.next = None
        self._look_at(windows, outcome, from_oldest=from_oldest)
        for key, history in self._histories.items():
            if key in cursor.asked and cursor.asked[key].attempt <= history.attempt:
                del cursor.asked[key]
        outcome.requests = self._still_needed(outcome.requests)
        for request in outcome.requests:
            _, content, attempt = str(request.run_key).split("/")
            cursor.asked[str(request.partition_key)] = Asked(
                content=content, attempt=int(attempt), at=self._now
            )
        return outcome

    def _still_needed(self, requests: list[dg.RunRequest]) -> list[dg.RunRequest]:
        """The requests for windows of which no run started or finished during the tick."""
        keys = [str(request.partition_key) for request in requests]
        published = latest_ids(self._instance, checks.PUBLISHED, keys, self._feed) if keys else {}
        histories = RunHistory.of(self._instance, keys, self._now, self._feed)
        return [
            request
            for request, key in zip(requests, keys, strict=True)
            if published.get(key) == self._compared[key] and not histories[key].unfinished
        ]

    def _opened(self, before: Cursor | None, watermark: datetime) -> Cursor:
        if before is None:
            lookback = timedelta(hours=self._settings.lookback_hours)
            first = max(watermark - lookback, self._settings.first_hour)
            return Cursor.starting(Window(first), watermark)
        cursor = before.model_copy(deep=True)
        # A watermark that goes back changes nothing.
        cursor.watermark = max(cursor.watermark, watermark)
        return cursor

    def _windows(self, cursor: Cursor, watermark: datetime) -> list[Window]:
        """The windows to compare, oldest first.

        They are the windows without a publication, and those that can still change. A source
        without totals shows no changes, so each of its windows is compared when it has settled.
        """
        settled = cursor.watermark - self._settles_after
        asset = key_of(checks.PUBLISHED, self._feed)
        published = self._instance.get_materialized_partitions(asset)
        confirmed = Window.of_partition(cursor.confirmed or cursor.first)
        found: list[Window] = []
        first = max(cursor.bound, Window(self._settings.first_hour))
        for window in _windows_between(first, watermark):
            if window.partition_key not in published:
                found.append(window)
            elif self._source.states_totals:
                if window.end > settled:
                    found.append(window)
            elif confirmed <= window and window.end + self._settles_after <= watermark:
                found.append(window)
        # Notes on other windows are no longer needed.
        keys = {window.partition_key for window in found}
        beyond = Window(watermark).partition_key
        for remembered in (cursor.asked, cursor.landed):
            for key in [key for key in remembered if key not in keys and key < beyond]:
                del remembered[key]
        return found

    def _look_at(self, windows: list[Window], outcome: Outcome, *, from_oldest: bool) -> None:
        room = min(_PORTION, _MOST_UNFINISHED - unfinished_requests(self._instance, self._feed))
        in_a_row = from_oldest and not self._source.states_totals
        for number, window in enumerate(windows):
            key = window.partition_key
            if number and time.monotonic() > self._deadline:
                outcome.cursor.next = key
                return
            if len(outcome.requests) >= room:
                # The newest hour waits neither for the backlog nor for the queue.
                newest = windows[-1]
                self._look_up([newest])
                self._look_at_one(newest, outcome)
                return
            if number % _CHUNK == 0:
                self._look_up(windows[number : number + _CHUNK])
            answered = self._look_at_one(window, outcome)
            # All windows before the first unfinished one stay finished.
            in_a_row = (
                answered and in_a_row and self._is_confirmed(window, self._publications.get(key))
            )
            if in_a_row:
                outcome.cursor.confirmed = Window(window.end).partition_key

    def _look_up(self, windows: list[Window]) -> None:
        """Look up the publications of windows, and the runs of those that have none."""
        keys = [window.partition_key for window in windows]
        self._publications = publications(self._instance, keys, self._feed)
        missing = [key for key in keys if key not in self._publications]
        self._histories |= RunHistory.of(self._instance, missing, self._now, self._feed)

    def _look_at_one(self, window: Window, outcome: Outcome) -> bool:
        """Add the request that a window needs, if any; return whether the source answered."""
        key = window.partition_key
        published = self._publications.get(key)
        self._compared[key] = published.storage_id if published else None
        try:
            request = self._request(window, published, outcome.cursor)
        except UserError as error:
            outcome.unanswered[key] = str(error)
            return False
        if request is not None:
            outcome.requests.append(request)
        return True

    def _request(
        self, window: Window, published: Publication | None, cursor: Cursor
    ) -> dg.RunRequest | None:
        """The run that a window needs now, if any.

        Raises:
            UserError: the source does not state its control totals.
        """
        key = window.partition_key
        if published is None and self._history(key).unfinished:
            # No question to the source is needed.
            return None
        content = self._missing_content(window, published, cursor)
        history = self._history(key)
        if content is None or history.unfinished:
            return None
        attempt = history.attempt
        asked = cursor.asked.get(key)
        if asked is not None and asked.attempt > history.attempt:
            # Its run has not appeared yet.
            if asked.content == content and not is_lost(asked.at, asked.attempt, self._now):
                return None
            attempt = asked.attempt
        elif not history.allows(self._instance, content, self._now):
            return None
        attempt += 1
        return dg.RunRequest(
            run_key=run_key(key, content, attempt),
            partition_key=key,
            tags=priority_tags(window, cursor.watermark, self._settles_after),
        )

    def _missing_content(
        self, window: Window, published: Publication | None, cursor: Cursor
    ) -> str | None:
        """The digest of the source's content, if the lake does not have it.

        Raises:
            UserError: the source does not state its control totals.
        """
        if self._source.states_totals:
            content = content_of(self._source.control_totals(window, self._now))
            right = published is not None and self._has(window, published, content, cursor)
            return None if right else content
        if published is None:
            return content_of(None)
        return None if self._is_confirmed(window, published) else _SETTLED

    def _history(self, key: str) -> RunHistory:
        if key not in self._histories:
            self._histories |= RunHistory.of(self._instance, [key], self._now, self._feed)
        return self._histories[key]

    def _is_confirmed(self, window: Window, published: Publication | None) -> bool:
        """Whether the rows of a source without totals were read after the window settled."""
        return (
            published is not None
            and published.watermark is not None
            and published.watermark >= window.end + self._settles_after
        )

    def _has(self, window: Window, published: Publication, content: str, cursor: Cursor) -> bool:
        """Whether the publication has the source's current content."""
        if published.recorded:
            return published.totals is not None and content_of(published.totals) == content
        key = window.partition_key
        if key not in cursor.landed:
            cursor.landed[key] = self._landed(window, published)
        return cursor.landed[key] == content

    def _landed(self, window: Window, published: Publication) -> str:
        """The content of a window that an earlier version published, by its raw object's footer.

        Empty when that is not known: also when it was landed again since, and not published.
        """
        ids = latest_ids(self._instance, checks.RAW, [window.partition_key], self._feed)
        if ids.get(window.partition_key, published.storage_id) > published.storage_id:
            return ""
        if not self._lake_answers:
            raise UserError("the lake did not answer in time", Section.STORE_SILENT)
        reader = ThreadPoolExecutor(1, "footer")
        try:
            return reader.submit(self._read_footer, window).result(_LAKE_SECONDS)
        except TimeoutError:
            self._lake_answers = False
            raise UserError("the lake did not answer in time", Section.STORE_SILENT) from None
        finally:
            reader.shutdown(wait=False)

    def _read_footer(self, window: Window) -> str:
        lake, key = open_lake(self._settings), object_key(self._feed.asset(checks.RAW), window)
        if lake.find(key) is None:
            return ""
        try:
            with explained_reads(lake.uri(key)), lake.open(key) as file:
                note = (file.metadata.metadata or {}).get(SOURCE_TOTALS_NOTE.encode())
            return content_of(ControlTotals.parse(note or b""))
        except ValueError:
            # It is no Parquet file, or has no such note.
            return ""


def _windows_between(first: Window, end: datetime) -> Iterator[Window]:
    start = first.start
    while start < end:
        yield Window(start)
        start += WINDOW_LENGTH
