"""Control totals of rows, computed while they are sent and cached.

The totals of a window are known when its last row is written, so `/v1/control-totals` need not
make its rows again.
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

    from generator_service.simulator.randomness import Hashes, Integers

# At most two decimals; the totals of `/v1/control-totals` are of these.
_PLAIN_DECIMAL = r"^-?[0-9]{1,16}(\.[0-9]{1,2})?$"
_KEPT = 4096


class Tally:
    """Control totals of rows, typed or as text; threads may add to it concurrently."""

    def __init__(self) -> None:
        self._rows = self._digest = 0
        self._amounts: dict[str, Decimal] = {}
        self._lock = threading.Lock()

    def add(self, batch: pa.RecordBatch | wire.Mixed) -> None:
        """Add the rows of a batch.

        Only plain decimals with at most two digits are added to the amounts. A row without a type
        counts under "", and a row without an id as an empty id.
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
        """Add rows by their totals."""
        self._count(totals.rows, int(totals.ids_digest, 16), totals.amount_by_type.items())

    def _count(self, rows: int, digest: int, amounts: Iterable[tuple[str, Decimal]]) -> None:
        with self._lock:
            self._rows += rows
            self._digest += digest
            for name, amount in amounts:
                self._amounts[name] = self._amounts.get(name, Decimal(0)) + amount

    @property
    def totals(self) -> ControlTotals:
        """The totals so far."""
        amounts = dict(sorted(self._amounts.items()))
        return ControlTotals(self._rows, amounts, f"{self._digest % 2**64:016x}")


def _sent(rows: wire.Mixed) -> Iterator[pa.RecordBatch]:
    """Yield the rows of each part that are sent."""
    first = 0
    for part in rows.parts:
        indices = rows.order - first
        first += part.num_rows
        yield part.take(indices[(indices >= 0) & (indices < part.num_rows)])


def _sums(types: wire.Column, amounts: wire.Column) -> list[tuple[str, Decimal]]:
    if not isinstance(types, pa.DictionaryArray):
        types = pc.dictionary_encode(types.cast(pa.string()))
    encoded = cast("pa.DictionaryArray[Any, Any]", types)
    names = [*cast("list[str]", encoded.dictionary.to_pylist()), ""]
    # The index of null: the empty name, which comes last.
    codes = encoded.indices.fill_null(len(names) - 1).to_numpy()
    cents = _cents(amounts)
    # bincount sums floats: the 32-bit halves are exact in them, and 64-bit sums could overflow.
    high, low = (
        np.bincount(codes, half, len(names)).astype(np.int64).tolist()
        for half in (cents >> 32, cents & 0xFFFFFFFF)
    )
    return [
        (names[code], Decimal((high[code] << 32) + low[code]).scaleb(-2))
        for code in np.flatnonzero(np.bincount(codes)).tolist()
    ]


def _cents(amounts: wire.Column) -> Integers:
    """Return amounts in hundredths; 0 for one that does not count."""
    if not pa.types.is_decimal(amounts.type):
        texts = amounts.cast(pa.string())
        amounts = pc.if_else(pc.match_substring_regex(texts, _PLAIN_DECIMAL), texts, None)
    decimals = amounts.cast(pa.decimal128(18, 2)).fill_null(Decimal(0))
    halves = np.frombuffer(cast("pa.Buffer", decimals.buffers()[1]), np.int64).reshape(-1, 2)
    return halves[decimals.offset : decimals.offset + len(decimals), 0]


def id_hashes(ids: wire.Column) -> Hashes:
    """Return the state of each id, as `/v1/control-totals` defines it; null is empty text."""
    texts = cast("pa.StringArray", ids.fill_null("") if ids.null_count else ids)
    lengths = pc.binary_length(texts).to_numpy()
    hashes = np.empty(len(texts), np.uint64)
    for length in np.unique(lengths).tolist():
        indices = np.flatnonzero(lengths == length)
        alike = texts if indices.size == len(texts) else texts.take(indices)
        padded = np.zeros((indices.size, -(-length // 8) * 8), np.uint8)
        padded[:, :length] = wire.utf8(alike).reshape(indices.size, length)
        state = mix(np.full(indices.size, length, np.uint64))
        for value in np.ascontiguousarray(padded.view("<u8").T):
            state = mix(state ^ value)
        hashes[indices] = state
    return hashes


class Tallies:
    """The totals of the windows that were sent completely, by their other parameters; a cache."""

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
        """Yield the batches, and store their totals after the last one.

        The totals of a window that is sent in pages are known when the pages were sent in order.

        Args:
            batches: the window's rows from `start` to `stop`.
            window: the window.
            key: the other parameters that decide the rows.
            start: the position of the first row.
            stop: the position after the last row; None is the end of the window.
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
        """Return the totals of a window, or of the windows that make it up; None when unknown."""
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
