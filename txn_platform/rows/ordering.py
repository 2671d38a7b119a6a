"""The order in which rows are published: a test for it, and sorting in bounded memory."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.arrow.dictionaries import numbers, take
from txn_platform.contract.schema import TRANSACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow.parquet as pq
    from numpy.typing import NDArray

    from txn_platform.contract.model import Contract
    from txn_platform.windows import Window

_ROWS_AT_ONCE: Final = 1 << 20


class Order:
    """Tests whether rows come in the order of their time, then of their id.

    Attributes:
        holds: whether all rows so far are in order.
    """

    def __init__(self, contract: Contract = TRANSACTIONS) -> None:
        """Args: contract: of the rows."""
        self._time, self._id = contract.order
        self.holds = True
        self._last: tuple[int, str] | None = None

    def add(self, rows: pa.RecordBatch) -> None:
        """Look at the next rows, which have no null in the two columns."""
        if not self.holds or not rows.num_rows:
            return
        times: NDArray[np.int64] = numbers(rows.column(self._time).cast(pa.int64()))
        ids = rows.column(self._id)
        steps = np.diff(times)
        same = np.flatnonzero(steps == 0)
        first = (int(times[0]), str(ids[0]))
        self.holds = (
            (self._last is None or self._last <= first)
            and bool((steps >= 0).all())
            and _ascend(ids, same)
        )
        self._last = (int(times[-1]), str(ids[-1]))


def _ascend(ids: pa.Array[Any], indices: NDArray[np.intp]) -> bool:
    """Whether no id at these indices is above the next id."""
    one, other = (take(ids, at) for at in (indices, indices + 1))
    return bool(pc.all(pc.less_equal(one, other), min_count=0).as_py())


def in_order(
    file: pq.ParquetFile, window: Window, contract: Contract = TRANSACTIONS
) -> Iterator[pl.DataFrame]:
    """The file's rows by their time, then by their id.

    The window is split into spans of time, which are sorted one by one. A span reads only the row
    groups that can hold rows of it. Rows in order of time are read once. Rows in no order are read
    once for each span, but never need more memory.

    Args:
        file: rows of one window, typed.
        window: the window.
        contract: of the rows.
    """
    spans = max(1, -(-file.metadata.num_rows // _ROWS_AT_ONCE))
    step = (window.end - window.start) / spans
    bounds = [window.start + step * index for index in range(spans)] + [window.end]
    extents = _extents(file, contract.time)
    for start, end in pairwise(bounds):
        groups = [index for index, (low, high) in enumerate(extents) if low < end and high >= start]
        if not groups:
            continue
        rows = pl.DataFrame(file.read_row_groups(groups))
        yield rows.filter(pl.col(contract.time).is_between(start, end, closed="left")).sort(
            contract.order
        )


def _extents(file: pq.ParquetFile, time: str) -> list[tuple[Any, Any]]:
    """The earliest and latest time of every row group, from the footer."""
    column = file.schema_arrow.get_field_index(time)
    footer = file.metadata
    extents: list[tuple[Any, Any]] = []
    for index in range(footer.num_row_groups):
        if footer.row_group(index).num_rows:
            statistics = footer.row_group(index).column(column).statistics
            if statistics is None or not statistics.has_min_max:
                extents.append((datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)))
            else:
                extents.append((statistics.min, statistics.max))
    return extents
