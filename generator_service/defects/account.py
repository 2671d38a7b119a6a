"""The account of the defects that were injected, one entry a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from generator_service.defects.columns import replaced, texts_at
from generator_service.defects.selection import CLEAN

if TYPE_CHECKING:
    from generator_service.defects.kinds import Kind
    from generator_service.defects.selection import SelectedRows
    from generator_service.simulator.randomness import Flags
    from generator_service.wire import Column

ACCOUNT_SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("kind", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("field", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("before", pa.string()),
    ]
)
"""The columns of the account; `models.Defect` describes them."""


class Account:
    """Lists the selected rows, each with its kind and the value before.

    Args:
        kinds: the kinds of defects, by code.
    """

    def __init__(self, kinds: list[Kind]) -> None:
        self._kinds = kinds
        # Only the copies of these kinds are listed, not the rows that they repeat.
        self._only_copies = [
            code for code, kind in enumerate(kinds) if kind.repeats and not kind.copy_differs
        ]

    def count(self, rows: SelectedRows) -> int:
        """Return the number of entries of the rows."""
        return int(np.count_nonzero(self._listed(rows)))

    def entries(self, rows: SelectedRows, first: int) -> pa.RecordBatch:
        """Return the entries of rows: a batch of `ACCOUNT_SCHEMA`.

        Args:
            rows: the selected rows.
            first: the position of the first row among all rows that are sent.
        """
        listed = np.flatnonzero(self._listed(rows))
        codes = rows.codes[listed].astype(np.int32)
        columns = dict(zip(rows.batch.schema.names, rows.batch.columns, strict=True))
        before = pa.nulls(listed.size, pa.string())
        for code in np.unique(codes).tolist():
            field = self._kinds[code].field
            if field in columns:
                entries = np.flatnonzero(codes == code)
                texts = cast("list[str | None]", texts_at(columns, field, listed[entries]))
                before = replaced(before, [(entries, texts)])
        return pa.RecordBatch.from_arrays(
            [
                columns["transaction_id"].take(listed),
                pa.array(first + listed),
                _dictionary_encoded(codes, [kind.name for kind in self._kinds]),
                _dictionary_encoded(codes, [kind.field for kind in self._kinds]),
                before,
            ],
            schema=ACCOUNT_SCHEMA,
        )

    def _listed(self, rows: SelectedRows) -> Flags:
        """Return whether each row has an entry."""
        return (rows.codes != CLEAN) & (rows.copies | ~np.isin(rows.codes, self._only_copies))


def _dictionary_encoded(indices: npt.NDArray[np.int32], values: list[str]) -> Column:
    return pa.DictionaryArray.from_arrays(
        pa.array(indices, pa.int32()), pa.array(values, pa.string())
    )
