"""The rows of any window of time, in any order and on any thread, without earlier windows.

This module counts, splits and assembles rows; the model decides their values.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from generator_service.simulator import arrow, ids, pools
from generator_service.simulator.behaviour import Behaviour
from generator_service.simulator.configuration import (
    DAY,
    FIRST_MOMENT,
    HOUR,
    MINUTE,
    Configuration,
    ControlTotals,
    Window,
)
from generator_service.simulator.handbook import Handbook
from generator_service.simulator.randomness import (
    Flags,
    Floats,
    Hashes,
    Integers,
    bits,
    exponential,
    key_of,
    mix,
)
from generator_service.simulator.schema import (
    CHANNELS,
    MOMENT,
    SCHEMA,
    TRANSACTION_TYPES,
)
from generator_service.simulator.slots import CellFacts, Draft, Slots, single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from generator_service.simulator.identities import Coordinates
    from generator_service.simulator.slots import Model

type Labels = Literal["oracle", "delayed"]

BLOCK_ROWS = 131_072
"""Rows of a block. A block has a fixed cost of about ten milliseconds, for its fraud and refunds,
and its columns take some megabytes."""

_SPAN_CELLS = 7 * 1440
"""Cells counted at a time, so that the first row of a long window does not wait for its count."""

_EARLIEST_CELL = (FIRST_MOMENT - 15 * DAY) // MINUTE
"""The earliest row that a row of any window refers to is a purchase refunded 14 days later."""

LATEST_ARRIVAL = 48 * HOUR
"""The longest delay of a row's arrival."""

_LATE = 0.02
"""Share of rows that arrive late: 1 second to 48 hours, log-uniformly distributed."""

_LATE_LOG = math.log(LATEST_ARRIVAL / 1_000_000)

_REPORT_LOG = math.log(60.0)
"""Fraud becomes known after 1 to 60 days, log-uniformly distributed."""


@dataclass(frozen=True)
class _Span:
    """Part of a window: consecutive cells, with their rows from lows to highs (excluded).

    position is the position of the span's first row in the window.
    """

    first: int
    facts: CellFacts
    lows: Integers
    highs: Integers
    position: int

    @property
    def total(self) -> int:
        """The number of rows inside."""
        return int((self.highs - self.lows).sum())


class _SpanLookup:
    """The facts of a span's cells and of the earlier cells that its rows look up."""

    def __init__(self, model: Model, span: _Span) -> None:
        self._first = span.first - model.look_back
        self._run = span.facts
        if model.look_back:
            self._run = model.facts(np.arange(self._first, span.first)).followed_by(span.facts)

    def facts(self, cells: Integers) -> CellFacts:
        return self._run.take(cells - self._first)


class _Degrees:
    """The latitudes or longitudes of all locations."""

    def __init__(self, coordinates: Coordinates) -> None:
        # Values are unique: Parquet writers require that of a dictionary.
        low = int(coordinates.min())
        present = np.zeros(int(coordinates.max()) - low + 1, dtype=np.bool_)
        present[coordinates - low] = True
        ranks = np.cumsum(present, dtype=np.int32) - 1
        self._codes = ranks[coordinates - low]
        self._values = (np.flatnonzero(present) + low) / 1e5
        self._dictionary = arrow.buffered(pa.float64(), self._values)

    def at(self, indices: Integers, *, encoded: bool) -> arrow.Column:
        """Return the values at some indices, dictionary-encoded or plain."""
        codes = self._codes[indices]
        if encoded:
            return arrow.encoded(codes, self._dictionary)
        return arrow.buffered(pa.float64(), self._values[codes])


class Simulator:
    """A source of transactions: it always makes the same rows for a window.

    Safe to use from several threads: it does not change after it is made. Positions
    count all rows of a window in order, arrived or not. as_of is a moment in microseconds since
    the epoch: only rows that had arrived by then are seen; None sees every row.
    """

    def __init__(self, configuration: Configuration) -> None:
        """Draw the population of a configuration; raises ValueError for an unknown locale."""
        found = pools.load(configuration.locale)
        preset = Handbook if configuration.preset == "handbook" else Behaviour
        self.configuration = configuration
        self.configuration_hash = configuration.digest(repr(found))
        self._model: Model = preset(configuration, found)
        self._id_key = key_of("ids", configuration.seed)
        self._time_key = key_of("times", configuration.seed)
        self._arrival_key = np.uint64(key_of("arrivals", configuration.seed))
        self._report_key = np.uint64(key_of("reports", configuration.seed))
        self._transaction_types = arrow.strings(TRANSACTION_TYPES)
        self._channels = arrow.strings(CHANNELS)
        locations = self._model.locations
        self._latitudes = _Degrees(locations.latitudes)
        self._longitudes = _Degrees(locations.longitudes)
        self.checkpoint: Callable[[], None] = _proceed

    def stoppable(self, checkpoint: Callable[[], None]) -> Simulator:
        """Return the same simulator for a computation that can be stopped.

        It calls `checkpoint` before every block of rows, some tenths of a second apart at the most;
        an exception that this raises ends the computation.
        """
        stoppable = copy.copy(self)
        stoppable.checkpoint = checkpoint
        return stoppable

    # The API

    def count(self, window: Window, *, as_of: int | None = None) -> int:
        """Return how many rows of the window have arrived by as_of, without making them."""
        if as_of is None:
            return sum(span.total for span in self._spans(window))
        return sum(self._arrived_in(span, as_of) for span in self._spans(window))

    def advance(self, window: Window, position: int, rows: int, *, as_of: int | None = None) -> int:
        """Return the position after the next `rows` arrived rows from `position`.

        When fewer are left it is the end: the number of all rows of the window.
        """
        if rows <= 0:
            return position
        if as_of is None or _all_arrived(window.end, as_of):
            return min(position + rows, self.count(window))
        end = 0
        left = rows
        # Slightly more rows than asked for: usually almost all have arrived.
        at_once = min(BLOCK_ROWS, rows + rows // 16)
        for span in self._spans(window):
            end += span.total
            if end <= position:
                continue
            for start, slots in self._blocks(span, position, None, at_once):
                times = slots.times(self._time_key)
                if int(times[0]) > as_of:
                    break
                arrived = np.flatnonzero(self._have_arrived(slots, times, as_of))
                if arrived.size >= left:
                    return start + int(arrived[left - 1]) + 1
                left -= arrived.size
        return end

    def batches(
        self,
        window: Window,
        *,
        position: int = 0,
        stop: int | None = None,
        as_of: int | None = None,
        labels: Labels = "oracle",
        schema: pa.Schema = SCHEMA,
    ) -> Iterator[pa.RecordBatch]:
        """Yield the window's rows with position <= p < stop, ordered by time and id.

        With labels "delayed" a fraud is labelled only when it was known by as_of; the schema is
        SCHEMA, DICTIONARY_ENCODED_SCHEMA or COORDINATES_ENCODED_SCHEMA. No batch is empty.
        """
        known_by = as_of if labels == "delayed" else None
        for slots, times in self._arrived_blocks(window, position, stop, as_of):
            yield self._batch(slots, times, known_by, schema)

    def control_totals(self, window: Window, *, as_of: int | None = None) -> ControlTotals:
        """Return the control totals of the window."""
        rows = 0
        digest = 0
        cents = np.zeros(len(TRANSACTION_TYPES), dtype=np.int64)
        seen = np.zeros(len(TRANSACTION_TYPES), dtype=np.int64)
        for slots, times in self._arrived_blocks(window, 0, None, as_of):
            draft = self._model.draft(slots, details=False)
            rows += slots.size
            digest += ids.digest(ids.texts(times, self._tails(slots)))
            # A block's cents stay below 2**53, so their sums in floats are exact.
            sums = np.bincount(draft.types, weights=self._hundredths(draft), minlength=cents.size)
            cents += sums.astype(np.int64)
            seen += np.bincount(draft.types, minlength=seen.size)
        amounts = {
            name: Decimal(int(cents[code])).scaleb(-2)
            for name, code in sorted(zip(TRANSACTION_TYPES, range(seen.size), strict=True))
            if seen[code]
        }
        return ControlTotals(rows, amounts, f"{digest % 2**64:016x}")

    def transaction(self, transaction_id: str) -> pa.RecordBatch | None:
        """Return the one row with an id, or None when there is none."""
        row = ids.row_of(self._id_key, transaction_id)
        if row is None or row[0] < _EARLIEST_CELL:
            return None
        slots = single(np.array([row[0]]), np.array([row[1]]), self._model)
        if not 0 <= row[1] < int(slots.facts.counts[0]):
            return None
        times = slots.times(self._time_key)
        text = ids.texts(times, self._tails(slots)).tobytes().decode()
        return self._batch(slots, times, None) if text == transaction_id else None

    @property
    def card_count(self) -> int:
        """How many cards there are."""
        return self._model.population.cards

    def customers(self, position: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the customers from position to stop (excluded), with their addresses."""
        return self._checked(self._model.population.customer_batches(position, stop))

    def cards(self, position: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cards from position to stop (excluded), each with its owner and network."""
        return self._checked(self._model.population.card_batches(position, stop))

    def merchants(self, position: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the merchants from position to stop (excluded), with categories and coordinates."""
        return self._checked(self._model.population.merchant_batches(position, stop))

    def _checked(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.checkpoint()
            yield batch

    # From a window to blocks of slots

    def _spans(self, window: Window) -> Iterator[_Span]:
        first, last = window.start // MINUTE, (window.end - 1) // MINUTE
        position = 0
        for start in range(first, last + 1, _SPAN_CELLS):
            self.checkpoint()
            end = min(start + _SPAN_CELLS - 1, last)
            facts = self._model.facts(np.arange(start, end + 1))
            lows, highs = np.zeros_like(facts.counts), facts.counts.copy()
            if start == first:
                lows[0] = self._rows_before(first, int(facts.counts[0]), window.start)
            if end == last:
                highs[-1] = self._rows_before(last, int(facts.counts[-1]), window.end)
            span = _Span(start, facts, lows, highs, position)
            yield span
            position += span.total

    def _rows_before(self, cell: int, count: int, moment: int) -> int:
        """Return how many of a cell's rows happen before a moment.

        Row i of n happens in the i-th of n equal parts of its minute, so only one row must be
        computed.
        """
        doubtful = (moment - cell * MINUTE) * count // MINUTE
        if doubtful >= count:
            return count
        slots = single(np.array([cell]), np.array([doubtful]), self._model)
        return doubtful + int(slots.times(self._time_key)[0] < moment)

    def _blocks(
        self, span: _Span, position: int, stop: int | None, rows: int = BLOCK_ROWS
    ) -> Iterator[tuple[int, Slots]]:
        """Yield the slots of a span from position to stop, with the position of their first.

        They come in blocks of a fixed number of rows.
        """
        ends = np.cumsum(span.highs - span.lows)
        starts = ends - (span.highs - span.lows)
        total = int(ends[-1])
        at = max(position - span.position, 0)
        until = total if stop is None else min(stop - span.position, total)
        if at >= until:
            return
        lookup = _SpanLookup(self._model, span)
        while at < until:
            self.checkpoint()
            upto = min(at + rows, until)
            first = int(np.searchsorted(ends, at, side="right"))
            last = int(np.searchsorted(ends, upto, side="left"))
            here = slice(first, last + 1)
            lows = span.lows[here] + np.maximum(at - starts[here], 0)
            highs = span.highs[here] - np.maximum(ends[here] - upto, 0)
            sizes = highs - lows
            which = np.repeat(np.arange(sizes.size), sizes)
            indices = np.arange(upto - at) + (lows - (np.cumsum(sizes) - sizes))[which]
            cells = np.arange(span.first + first, span.first + last + 1)
            slots = Slots(cells, span.facts.take(here), which, indices, lookup)
            yield span.position + at, slots
            at = upto

    def _arrived_blocks(
        self, window: Window, position: int, stop: int | None, as_of: int | None
    ) -> Iterator[tuple[Slots, Integers]]:
        """Yield the slots that have arrived, and their times."""
        for span in self._spans(window):
            if stop is not None and span.position >= stop:
                return
            for _, slots in self._blocks(span, position, stop):
                times = slots.times(self._time_key)
                if as_of is None:
                    yield slots, times
                    continue
                if int(times[0]) > as_of:
                    return
                arrived = self._have_arrived(slots, times, as_of)
                if arrived.all():
                    yield slots, times
                elif arrived.any():
                    yield slots.select(arrived), times[arrived]

    # Arrival

    def _have_arrived(self, slots: Slots, times: Integers, as_of: int) -> Flags:
        if _all_arrived(int(times[-1]), as_of):
            return np.ones(slots.size, dtype=np.bool_)
        hashes = mix(slots.roots() ^ self._arrival_key)
        late = np.flatnonzero(bits(hashes, 0, 16) < int(_LATE * 65536))
        arrivals = times.copy()
        delays = (exponential(_part_of(hashes[late]) * _LATE_LOG) * 1e6).astype(np.int64)
        arrivals[late] += np.minimum(delays, LATEST_ARRIVAL)
        return arrivals <= as_of

    def _arrived_in(self, span: _Span, as_of: int) -> int:
        """Count the arrived rows of a span; cells that are complete by then are only counted."""
        complete = max((as_of - LATEST_ARRIVAL) // MINUTE - span.first, 0)
        count = int((span.highs - span.lows)[:complete].sum())
        for _, slots in self._blocks(span, span.position + count, None):
            times = slots.times(self._time_key)
            if int(times[0]) > as_of:
                break
            count += int(np.count_nonzero(self._have_arrived(slots, times, as_of)))
        return count

    # From slots to Arrow

    def _tails(self, slots: Slots) -> Hashes:
        return ids.tails(self._id_key, slots.row_cells(), slots.indices)

    def _batch(
        self, slots: Slots, times: Integers, known_by: int | None, schema: pa.Schema = SCHEMA
    ) -> pa.RecordBatch:
        draft = self._model.draft(slots, details=True)
        details = draft.details
        if details is None:
            raise TypeError("A model left out the details it was asked for.")
        if known_by is not None:
            self._forget_unreported(slots, times, draft, known_by)
        population = self._model.population
        merchants = draft.merchants

        def is_encoded(name: str) -> bool:
            return isinstance(schema.field(name).type, pa.DictionaryType)

        fraud = draft.fraud > 0
        columns = [
            arrow.fixed_width(ids.texts(times, self._tails(slots))),
            arrow.buffered(MOMENT, times),
            arrow.encoded(draft.customers, population.all_customer_ids)
            if is_encoded("customer_id")
            else population.customer_ids(draft.customers),
            arrow.encoded(details.cards, population.card_numbers)
            if is_encoded("card_number")
            else arrow.take(population.card_numbers, details.cards),
            arrow.encoded(merchants, population.merchant_ids),
            arrow.encoded(merchants, population.merchant_names),
            arrow.encoded(population.merchant_category[merchants], population.categories),
            arrow.encoded(draft.types, self._transaction_types),
            arrow.encoded(details.channels, self._channels),
            arrow.decimals(self._hundredths(draft)),
            arrow.encoded(population.merchant_currency[merchants], population.currencies),
            arrow.encoded(population.merchant_country[merchants], population.countries),
            self._latitudes.at(details.locations, encoded=is_encoded("latitude")),
            self._longitudes.at(details.locations, encoded=is_encoded("longitude")),
            arrow.flags(fraud),
            arrow.encoded(np.maximum(draft.fraud - 1, 0), self._model.scenarios, ~fraud),
            self._parent_ids(slots.size, draft),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _hundredths(self, draft: Draft) -> Integers:
        """Amounts in hundredths; a draft has them in the currency's smallest unit."""
        units = self._model.population.hundredths
        return draft.cents if units is None else draft.cents * units[draft.merchants]

    def _forget_unreported(
        self, slots: Slots, times: Integers, draft: Draft, known_by: int
    ) -> None:
        """Remove the labels of fraud that was not yet known at a moment."""
        rows = np.flatnonzero(draft.fraud)
        hashes = mix(slots.select(rows).roots() ^ self._report_key)
        delays = (exponential(_part_of(hashes) * _REPORT_LOG) * DAY).astype(np.int64)
        draft.fraud[rows[times[rows] + delays > known_by]] = 0

    def _parent_ids(self, size: int, draft: Draft) -> arrow.Column:
        text = np.empty((size, ids.WIDTH), dtype=np.uint8)
        present = np.zeros(size, dtype=np.bool_)
        for rows, parents in draft.refunds:
            text[rows] = ids.texts(parents.times(self._time_key), self._tails(parents))
            present[rows] = True
        return arrow.where_present(text[present], present)


def _proceed() -> None:
    """Let a computation go on."""


def _all_arrived(until: int, as_of: int) -> bool:
    """Return whether all rows up to a moment have arrived by another."""
    return until + LATEST_ARRIVAL <= as_of


def _part_of(hashes: Hashes) -> Floats:
    """Return uniforms in [0, 1) from the upper half of hashes."""
    return (hashes >> 32).astype(np.float64) * 2.0**-32
