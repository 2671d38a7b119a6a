"""Which rows get a defect, and which one: a hash of a row's id and the seed decides.

So the selection does not depend on the format, the page, the slice of the window or the process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from generator_service import wire
from generator_service.defects.columns import Field, as_batch, is_dictionary_encoded
from generator_service.defects.kinds import KINDS, Defects, Kind
from generator_service.simulator.randomness import Flags, Integers, key_of, mix
from generator_service.tally import id_hashes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from generator_service.defects.drift import Drift

CLEAN = -1
# Huge strings in a batch: limits the memory of what is written at a time.
_HUGE_AT_A_TIME = 32


@dataclass(frozen=True)
class SelectedRows:
    """Rows as true text, in the order in which they are sent, copies included.

    Attributes:
        batch: the rows.
        codes: the index of each row's kind; CLEAN for none.
        copies: whether each row is a copy of the one before it.
        drifts: the drifts that have begun, the same for all rows.
    """

    batch: pa.RecordBatch
    codes: npt.NDArray[np.int16]
    copies: Flags
    drifts: tuple[Drift, ...]

    def slice(self, start: int, stop: int) -> SelectedRows:
        """Return the rows from start to stop."""
        part = slice(start, stop)
        batch = self.batch.slice(start, stop - start)
        return replace(self, batch=batch, codes=self.codes[part], copies=self.copies[part])

    def by_kind(self, kinds: list[Kind]) -> Iterator[tuple[int, Kind, Integers]]:
        """Yield each kind that occurs: its code, the kind, the indices of the rows it corrupts."""
        selected = np.flatnonzero(self.codes != CLEAN)
        codes = self.codes[selected]
        for code in np.unique(codes).tolist():
            kind, indices = kinds[code], selected[codes == code]
            yield code, kind, indices[self.copies[indices]] if kind.repeats else indices


class Selection:
    """Selects the rows of a window that get a defect.

    Args:
        defects: the rates; the codes of kinds are the indices into them.
        drifts: batches are split where one begins.
        seed: the seed of the generator.
        fields: the fields of the text that the rows become, by name.
    """

    def __init__(
        self,
        defects: Defects,
        drifts: tuple[Drift, ...],
        seed: int,
        fields: Mapping[str, Field],
    ) -> None:
        kinds = [KINDS[name] for name, _ in defects.rates]
        rates = np.array([rate for _, rate in defects.rates])
        self._last = len(kinds) - 1
        self._repeating = [code for code, kind in enumerate(kinds) if kind.repeats]
        self._huge = [code for code, kind in enumerate(kinds) if kind.name == "huge_string"]
        self._key = np.uint64(key_of("defects", seed))
        self._limit = round(float(rates.sum()) * 2**32)
        self._shares = np.cumsum(rates) / rates.sum() if kinds else rates
        self._drifts = drifts
        self._fields = fields

    def select(self, batches: Iterable[pa.RecordBatch]) -> Iterator[SelectedRows]:
        """Yield the rows of typed batches as text, with their defects."""
        for part, drifts in self._split_by_drift(batches):
            for batch in wire.text_batches([part]):
                yield from self._split_huge(self._with_codes(self._decoded(batch), drifts))

    def _split_by_drift(
        self, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[tuple[pa.RecordBatch, tuple[Drift, ...]]]:
        """Split batches where a drift begins."""
        moments = np.unique([drift.since for drift in self._drifts])
        for batch in batches:
            times = batch.column("transaction_at").cast(pa.int64()).to_numpy()
            begun = np.searchsorted(moments, times, side="right")
            edges = [0, *(np.flatnonzero(np.diff(begun)) + 1).tolist(), batch.num_rows]
            for start, stop in pairwise(edges):
                if start < stop:
                    now = int(times[start])
                    drifts = tuple(drift for drift in self._drifts if drift.since <= now)
                    yield batch.slice(start, stop - start), drifts

    def _decoded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Decode the dictionaries that are too large to be corrupted value by value."""
        return as_batch(
            {
                name: (
                    self._fields[name],
                    column
                    if is_dictionary_encoded(self._fields[name])
                    else column.cast(pa.string()),
                )
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
        )

    def _with_codes(self, batch: pa.RecordBatch, drifts: tuple[Drift, ...]) -> SelectedRows:
        """Assign the kinds, and insert copies after the rows that get one."""
        hashes = mix(id_hashes(batch.column("transaction_id")) ^ self._key)
        codes = np.full(batch.num_rows, CLEAN, np.int16)
        selected = np.flatnonzero((hashes >> 32) < self._limit)
        # The high half of the hash selects a row and the low half its kind: a higher rate keeps
        # the defects of a lower one.
        draws = (hashes[selected] & 0xFFFFFFFF).astype(np.float64) * 2.0**-32
        kinds = np.searchsorted(self._shares, draws, side="right")
        codes[selected] = np.minimum(kinds, self._last)
        twice = np.isin(codes, self._repeating)
        copies = np.zeros(batch.num_rows, np.bool_)
        if twice.any():
            order = np.repeat(np.arange(batch.num_rows), 1 + twice)
            copies = np.append(False, order[1:] == order[:-1])
            batch, codes = batch.take(order), codes[order]
        return SelectedRows(batch, codes, copies, drifts)

    def _split_huge(self, rows: SelectedRows) -> Iterator[SelectedRows]:
        """Split rows so that no part has too many huge strings."""
        huge = np.flatnonzero(np.isin(rows.codes, self._huge))
        heads = huge[_HUGE_AT_A_TIME::_HUGE_AT_A_TIME]
        if not heads.size:
            yield rows
            return
        edges = [0, *heads.tolist(), len(rows.codes)]
        for start, stop in pairwise(edges):
            yield rows.slice(start, stop)
