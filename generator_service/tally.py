"""Control totals of rows as they are sent, kept for whoever asks for them afterwards.

What a window sums to is known when its last row is written, so that it need not be made again to
be stated. Which rows are sent is `app.py`'s matter; what they are written as is `wire.py`'s.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from generator_service import wire
from generator_service.simulator import ControlTotals, Window
from generator_service.simulator.randomness import mix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from generator_service.simulator.randomness import Integers, Words

# As the platform reads them: a plain decimal of at most two places.
_PLAIN_DECIMAL = r"^-?[0-9]{1,16}(\.[0-9]{1,2})?$"
_KEPT = 4096


class Tally:
    """What rows sum to, typed or as text; more than one thread may add to it."""

    def __init__(self) -> None:
        self._rows = self._digest = 0
        self._amounts: dict[str, Decimal] = {}
        self._lock = threading.Lock()

    def add(self, batch: pa.RecordBatch | wire.Mixed) -> None:
        """Count the rows of a batch.

        An amount counts when it is a plain decimal of at most two places; a row without a type
        counts under "", and one without an id as one whose id is empty.
        """
        for part in [batch] if isinstance(batch, pa.RecordBatch) else _sent(batch):
            ids, types, amounts = (
                part.column(name)
                if name in part.schema.names
                else pa.nulls(part.num_rows, pa.string())
                for name in ("transaction_id", "transaction_type", "amount")
            )
            hashed = int(id_hashes(ids.cast(pa.string())).sum(dtype=np.uint64))
            self._count(part.num_rows, hashed, _sums(types, amounts))

    def include(self, totals: ControlTotals) -> None:
        """Count rows of which only the totals are known."""
        self._count(totals.rows, int(totals.ids_digest, 16), totals.amount_by_type.items())

    def _count(self, rows: int, digest: int, amounts: Iterable[tuple[str, Decimal]]) -> None:
        with self._lock:
            self._rows += rows
            self._digest += digest
            for name, amount in amounts:
                self._amounts[name] = self._amounts.get(name, Decimal(0)) + amount

    @property
    def totals(self) -> ControlTotals:
        """What was counted so far."""
        amounts = dict(sorted(self._amounts.items()))
        return ControlTotals(self._rows, amounts, f"{self._digest % 2**64:016x}")


def _sent(rows: wire.Mixed) -> Iterator[pa.RecordBatch]:
    """Yield of every part the rows that are sent."""
    first = 0
    for part in rows.parts:
        places = rows.order - first
        first += part.num_rows
        yield part.take(places[(places >= 0) & (places < part.num_rows)])


def _sums(types: wire.Column, amounts: wire.Column) -> list[tuple[str, Decimal]]:
    if not isinstance(types, pa.DictionaryArray):
        types = pc.dictionary_encode(types.cast(pa.string()))
    coded = cast("pa.DictionaryArray[Any, Any]", types)
    names = [*cast("list[str]", coded.dictionary.to_pylist()), ""]
    # A row without a type counts under the name behind the last.
    codes = coded.indices.fill_null(len(names) - 1).to_numpy()
    cents = _cents(amounts)
    # Floats add up the halves of so many 64-bit numbers exactly, as 64 bits might not the whole.
    high, low = (
        np.bincount(codes, half, len(names)).astype(np.int64).tolist()
        for half in (cents >> 32, cents & 0xFFFFFFFF)
    )
    return [
        (names[code], Decimal((high[code] << 32) + low[code]).scaleb(-2))
        for code in np.flatnonzero(np.bincount(codes)).tolist()
    ]


def _cents(amounts: wire.Column) -> Integers:
    """Return amounts in hundredths, 0 where there is none that counts."""
    if not pa.types.is_decimal(amounts.type):
        texts = amounts.cast(pa.string())
        amounts = pc.if_else(pc.match_substring_regex(texts, _PLAIN_DECIMAL), texts, None)
    decimals = amounts.cast(pa.decimal128(18, 2)).fill_null(Decimal(0))
    words = np.frombuffer(cast("pa.Buffer", decimals.buffers()[1]), np.int64).reshape(-1, 2)
    return words[decimals.offset : decimals.offset + len(decimals), 0]


def id_hashes(ids: wire.Column) -> Words:
    """Return the state of each id, as `/v1/control-totals` defines it; of null, as of no text."""
    texts = cast("pa.StringArray", ids.fill_null("") if ids.null_count else ids)
    lengths = pc.binary_length(texts).to_numpy()
    hashes = np.empty(len(texts), np.uint64)
    for length in np.unique(lengths).tolist():
        places = np.flatnonzero(lengths == length)
        alike = texts if places.size == len(texts) else texts.take(places)
        padded = np.zeros((places.size, -(-length // 8) * 8), np.uint8)
        padded[:, :length] = wire.utf8(alike).reshape(places.size, length)
        state = mix(np.full(places.size, length, np.uint64))
        for word in np.ascontiguousarray(padded.view("<u8").T):
            state = mix(state ^ word)
        hashes[places] = state
    return hashes


class Tallies:
    """The totals of the windows sent whole lately, by whatever else decides their rows."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, int], tuple[int, ControlTotals]] = OrderedDict()
        self._begun: OrderedDict[tuple[object, Window, int], ControlTotals] = OrderedDict()
        self._lock = threading.Lock()

    def counted[T: pa.RecordBatch | wire.Mixed](
        self,
        batches: Iterable[T],
        window: Window,
        key: object,
        *,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[T]:
        """Yield the batches, and know what they sum to when the last one was taken.

        They are the window's rows from position `start` to `stop`, None for its end. Of a window
        that is sent in pages it is known when they were sent one after the other.
        """
        tally = Tally()
        if start:
            with self._lock:
                before = self._begun.get((key, window, start))
            if before is None:
                yield from batches
                return
            tally.include(before)
        for batch in batches:
            tally.add(batch)
            yield batch
        with self._lock:
            if stop is None:
                _keep(self._known, (key, window.start), (window.end, tally.totals))
            else:
                _keep(self._begun, (key, window, stop), tally.totals)

    def of(self, window: Window, key: object) -> ControlTotals | None:
        """Return what a window sums to when it was sent whole, at once or in parts; else None."""
        tally = Tally()
        at = window.start
        with self._lock:
            while at < window.end:
                end, totals = self._known.get((key, at), (at, None))
                if totals is None or end > window.end:
                    return None
                at = end
                tally.include(totals)
        return tally.totals


def _keep[K, V](kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)
