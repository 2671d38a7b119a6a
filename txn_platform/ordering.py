"""The rows of a Parquet file in order of time, in bounded memory.

Only the order; which rows there are and how they are written is the assets' matter.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow.parquet as pq

    from txn_platform.windows import Window

_ROWS_AT_ONCE: Final = 1 << 19
_KEY: Final = ("transaction_at", "transaction_id")


def in_order(file: pq.ParquetFile, window: Window) -> Iterator[pl.DataFrame]:
    """The file's rows by `transaction_at`, then `transaction_id`.

    The window is cut into spans of time, each sorted by itself; a span reads only the row groups
    that can hold rows of it. A source that sends in order of time is read once in all; one that
    sends in no order costs a pass a span, and still no memory.

    Args:
        file: rows of one window, typed.
        window: that one.
    """
    spans = max(1, -(-file.metadata.num_rows // _ROWS_AT_ONCE))
    step = (window.end - window.start) / spans
    bounds = [window.start + step * index for index in range(spans)] + [window.end]
    extents = _extents(file)
    for start, end in pairwise(bounds):
        groups = [index for index, (low, high) in enumerate(extents) if low < end and high >= start]
        if not groups:
            continue
        rows = pl.DataFrame(file.read_row_groups(groups))
        yield rows.filter(pl.col(_KEY[0]).is_between(start, end, closed="left")).sort(_KEY)


def _extents(file: pq.ParquetFile) -> list[tuple[Any, Any]]:
    """The earliest and latest time of every row group, from the footer."""
    column = file.schema_arrow.get_field_index(_KEY[0])
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
