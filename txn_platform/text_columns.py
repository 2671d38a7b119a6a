"""Text columns as matrices of bytes, for arithmetic on digits that polars has no expression for.

What the digits mean is the callers' matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def by_length(texts: pl.Series) -> Iterator[tuple[NDArray[np.intp] | slice, NDArray[np.uint8]]]:
    """The UTF-8 bytes of texts, all texts of one length at a time.

    Args:
        texts: n texts; null counts as empty.

    Yields:
        Which of the n, and their bytes, of shape (how many, length).
    """
    array = texts.cast(pl.String).fill_null("").to_arrow()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array = array.cast(pa.large_string())
    _, offsets_buffer, data_buffer = cast("list[Any]", array.buffers())
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[
        array.offset : array.offset + len(array) + 1
    ]
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)
    lengths = np.diff(offsets)
    different = np.unique(lengths)
    if len(different) == 1:
        yield slice(None), data[offsets[0] : offsets[-1]].reshape(len(array), -1)
        return
    for length in different:
        rows = np.flatnonzero(lengths == length)
        yield rows, data[offsets[rows][:, None] + np.arange(length)]
