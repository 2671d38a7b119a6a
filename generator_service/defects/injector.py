"""Injects defects into the rows of a window, and lets their schema drift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from generator_service.defects.account import Account
from generator_service.defects.corruption import Corruption
from generator_service.defects.kinds import KINDS, Defects
from generator_service.defects.selection import Selection
from generator_service.simulator import SCHEMA, ControlTotals, Window
from generator_service.tally import Tally
from generator_service.wire import Format, Mixed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from generator_service.defects.drift import Drift


@dataclass(frozen=True)
class Sent:
    """The control totals of rows as they are sent, and the number of entries of their account."""

    totals: ControlTotals
    entries: int


class DefectInjector:
    """Injects defects into a window's rows: selection, corruption and account.

    It takes the simulator's batches, and yields text.

    Args:
        defects: the rates by kind.
        drifts: how the schema drifts.
        seed: the seed of the generator.
        window: the window of the rows.
        schema: the schema of the simulator's batches.

    Attributes:
        schema: the schema of `batches` for CSV, Arrow and Parquet.
        injects: whether any row gets a defect.
        alters: whether any row differs from what the simulator makes.
        repeats: whether copies are sent in addition to the rows.
    """

    def __init__(
        self,
        defects: Defects,
        drifts: tuple[Drift, ...],
        seed: int,
        window: Window,
        schema: pa.Schema = SCHEMA,
    ) -> None:
        kinds = [KINDS[name] for name, _ in defects.rates]
        self._corruption = Corruption(kinds, drifts, window, schema)
        self._selection = Selection(defects, drifts, seed, self._corruption.fields)
        self._account = Account(kinds)
        self.schema = self._corruption.schema
        self.injects = bool(kinds)
        self.alters = self.injects or bool(drifts)
        self.repeats = any(kind.repeats for kind in kinds)

    def batches(
        self, batches: Iterable[pa.RecordBatch], form: Format
    ) -> Iterator[pa.RecordBatch | Mixed]:
        """Yield typed batches as the text that a format sends.

        JSON and NDJSON get rows of several shapes, the other formats all columns of `schema`.
        """
        is_json = form in {Format.JSON, Format.NDJSON}
        write = self._corruption.shapes if is_json else self._corruption.columns
        return map(write, self._selection.select(batches))

    def account(self, batches: Iterable[pa.RecordBatch], first: int) -> Iterator[pa.RecordBatch]:
        """Yield the account of typed batches: batches of `ACCOUNT_SCHEMA`.

        Args:
            batches: the rows.
            first: the position of the first row among all rows that are sent.
        """
        for rows in self._selection.select(batches):
            yield self._account.entries(rows, first)
            first += rows.batch.num_rows

    def sent(self, batches: Iterable[pa.RecordBatch]) -> Sent:
        """Return the control totals of typed batches as they are sent; see `Tally`."""
        tally = Tally()
        entries = 0
        for rows in self._selection.select(batches):
            tally.add(self._corruption.columns(rows))
            entries += self._account.count(rows)
        return Sent(tally.totals, entries)

    def copies(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Return the number of copies that are sent in addition to typed batches."""
        return sum(int(np.count_nonzero(rows.copies)) for rows in self._selection.select(batches))
