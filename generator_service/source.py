"""The rows, totals and parameters that the routes answer with, for one configuration."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Self

from generator_service import models, wire
from generator_service.cursors import Cursors
from generator_service.defects import Sent
from generator_service.models import moment_text
from generator_service.scorecard import Scorecard, measure
from generator_service.simulator import SCHEMA, VERSION, ControlTotals, Simulator, Window
from generator_service.simulator.configuration import FIRST_MOMENT, HOUR
from generator_service.tally import Tallies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from generator_service.defects import DefectInjector
    from generator_service.settings import Settings
    from generator_service.simulator import Labels

_WARM_UP_ROWS = 1_000
_TOTALS_KEPT = 256
_SCORECARDS_KEPT = 4


def clock() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1_000


class Source:
    """A simulator with its settings, a clock, and caches of what it has computed.

    Args:
        settings: the settings of the service.
        now: the clock, in microseconds since the epoch.
    """

    def __init__(self, settings: Settings, now: Callable[[], int]) -> None:
        self.settings = settings
        self.now = now
        self.simulator = Simulator(settings.configuration())
        self.generator = models.Generator(
            version=VERSION, configuration=self.simulator.configuration_hash
        )
        self.headers = {
            "X-Generator-Version": VERSION,
            "X-Generator-Configuration": self.simulator.configuration_hash,
        }
        self.cursors = Cursors(settings.secret_of_cursors())
        self.tallies = Tallies()
        # The rows of a window never change.
        self._totals = _Cache[tuple[Window, int | None], ControlTotals](_TOTALS_KEPT)
        self._counting = threading.Lock()
        self._counts = _Cache[tuple[Window, int | None], int](_TOTALS_KEPT)
        self._sent = _Cache[tuple[Window, int | None, str | None], Sent](_TOTALS_KEPT)
        self._scorecards = _Cache[tuple[Window, int], Scorecard](_SCORECARDS_KEPT)

    def stoppable(self, checkpoint: Callable[[], None]) -> Self:
        """Return the same source, with the same caches, for one computation.

        An exception that `checkpoint` raises ends the computation; see `Simulator.stoppable`.
        """
        stoppable = copy.copy(self)
        stoppable.simulator = self.simulator.stoppable(checkpoint)
        return stoppable

    def count(self, window: Window, *, as_of: int | None = None) -> int:
        """Return how many rows of a window have arrived; without as_of no row is made."""

        def count() -> int:
            return self._counts.get(
                (window, as_of), lambda: self.simulator.count(window, as_of=as_of)
            )

        if as_of is not None:
            return count()
        # Requests for one window that come together count it once.
        with self._counting:
            return count()

    def known_totals(
        self, window: Window, as_of: int | None, defects: str | None
    ) -> ControlTotals | None:
        """Return the control totals of a window as it is sent, None when they must be computed."""
        if known := self.tallies.of(window, (as_of, defects)):
            return known
        if self.injector(window, defects).alters:
            sent = self._sent.known((window, as_of, defects))
            return None if sent is None else sent.totals
        return self._totals.known((window, as_of))

    def totals(self, window: Window, as_of: int | None, defects: str | None) -> ControlTotals:
        """Return the control totals of a window as it is sent, from a cache when they are known."""
        if known := self.known_totals(window, as_of, defects):
            return known
        if self.injector(window, defects).alters:
            return self.sent(window, as_of, defects).totals
        return self._totals.get(
            (window, as_of), lambda: self.simulator.control_totals(window, as_of=as_of)
        )

    def sent(self, window: Window, as_of: int | None, defects: str | None) -> Sent:
        """Return the totals of a window as it is sent, computed from its rows; cached as well."""
        injector = self.injector(window, defects)
        return self._sent.get(
            (window, as_of, defects), lambda: injector.sent(self.rows(window, as_of))
        )

    def known_scorecard(self, window: Window, rows: int) -> Scorecard | None:
        """Return the scorecard of the first rows of a window, None when it must be computed."""
        return self._scorecards.known((window, rows))

    def scorecard(self, window: Window, rows: int) -> Scorecard:
        """Return the scorecard of the first rows of a window, from a cache when it is known.

        Raises:
            ValueError: the rows are too few.
        """
        return self._scorecards.get((window, rows), lambda: measure(self.simulator, window, rows))

    def rows(
        self,
        window: Window,
        as_of: int | None,
        *,
        position: int = 0,
        stop: int | None = None,
        labels: Labels = "oracle",
        schema: pa.Schema = SCHEMA,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a window from position to stop, None for its end."""
        make = partial(self.simulator.batches, window, as_of=as_of, labels=labels, schema=schema)
        return wire.in_parallel(
            lambda start, stop: make(position=start, stop=stop),
            position,
            self.count(window) if stop is None else stop,
        )

    def first_from(self, moment: int) -> pa.RecordBatch:
        """Return the first row from a moment on, in microseconds since the epoch."""
        length = HOUR
        while not self.count(window := Window(moment, moment + length)):
            length *= 2
        return next(self.simulator.batches(window, stop=1))

    def warm_up(self) -> None:
        """Make a few rows and discard them, so that no request waits for lazy set-up."""
        hour = Window(FIRST_MOMENT, FIRST_MOMENT + HOUR)
        few = min(_WARM_UP_ROWS, self.simulator.count(hour))
        batches = wire.text_batches(self.rows(hour, None, stop=few))
        for _ in wire.encode(batches, wire.text_schema(SCHEMA), wire.Format.ARROW):
            pass

    def injector(
        self, window: Window, defects: str | None, schema: pa.Schema = SCHEMA
    ) -> DefectInjector:
        """Return the injector of a window; raises RequestError for unusable defects."""
        try:
            return self.settings.injector(window, defects, schema)
        except ValueError as error:
            raise models.refused("defects", defects, str(error)) from None

    def window(self, asked: models.WindowParameters) -> Window:
        """Return the window asked for; raises RequestError when it is backwards or too long."""
        start, end = moment_text(asked.start), moment_text(asked.end)
        if asked.end <= asked.start:
            raise models.refused("end", end, f"a time after start, {start}")
        hours = self.settings.max_window_hours
        if asked.end - asked.start > hours * HOUR:
            raise models.refused("end", end, f"a time at most {hours} hours after start, {start}")
        return Window(asked.start, asked.end)

    def require_countable(self, window: Window) -> None:
        """Raise RequestError when the rows of a window are too many to compute for one document."""
        rows, most = self.count(window), self.settings.max_computed_rows
        if rows > most:
            expected = (
                f"an earlier time: this needs {rows:,} rows, and at most {most:,} are computed"
            )
            raise models.refused("end", moment_text(window.end), expected)

    def limit(self, asked: models.PageParameters, form: wire.Format) -> int | None:
        """Return the rows a page may have, None for no limit; raises RequestError out of range."""
        limit, most = asked.limit, self.settings.max_limit
        if limit is not None and not 1 <= limit <= most:
            raise models.refused("limit", limit, f"a whole number from 1 to {most}")
        if limit is None and form is wire.Format.JSON:
            return self.settings.default_limit
        return limit


class _Cache[K, V]:
    """The results that were used last; threads may use it concurrently."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, key: K) -> V | None:
        """Return a result, None when it was not computed, or is no more known."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """Return a result, computed when it is not known."""
        known = self.known(key)
        if known is not None:
            return known
        result = compute()
        with self._lock:
            self._results[key] = result
            if len(self._results) > self._size:
                self._results.popitem(last=False)
        return result
