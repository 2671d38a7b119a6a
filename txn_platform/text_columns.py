"""Text columns as matrices of bytes, for arithmetic on digits that polars has no expression for.

What the digits mean is the callers' matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# What is worked on at a time then stays in the processor's cache.
_BLOCK_ROWS: Final = 1 << 15


def by_length(
    texts: pl.Series | pa.Array[Any],
) -> Iterator[tuple[NDArray[np.intp] | slice, NDArray[np.uint8]]]:
    """The UTF-8 bytes of texts, some texts of one length at a time.

    Args:
        texts: n texts; null counts as empty.

    Yields:
        Which of the n, and their bytes, of shape (how many, length).
    """
    array: Any = texts.cast(pl.String).to_arrow() if isinstance(texts, pl.Series) else texts
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if not len(array):
        return
    if array.null_count:
        array = array.fill_null("")
    if array.type != pa.string():
        array = array.cast(pa.large_string())
    _, offsets_buffer, data_buffer = cast("list[Any]", array.buffers())
    offsets = np.frombuffer(
        offsets_buffer, dtype=np.int32 if array.type == pa.string() else np.int64
    )[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)
    lengths = np.diff(offsets)
    length = int(lengths[0])
    if (lengths == length).all():
        texts_of_bytes = data[offsets[0] : offsets[-1]].reshape(len(array), length)
        for start in range(0, len(array), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            yield rows, texts_of_bytes[rows]
        return
    by_size = np.argsort(lengths, kind="stable")
    ends = np.flatnonzero(np.diff(lengths[by_size])) + 1
    for rows in np.split(by_size, ends):
        yield rows, data[offsets[rows][:, None] + np.arange(int(lengths[rows[0]]))]
