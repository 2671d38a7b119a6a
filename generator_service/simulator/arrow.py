"""Arrow arrays made from NumPy buffers, without copies and without Python objects.

How bytes become Arrow columns belongs here; which columns there are is in `schema`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from generator_service.simulator.randomness import Flags, Integers

type Column = pa.Array[Any]
type Text = npt.NDArray[np.uint8]
"""Texts of one width, a row each: (rows, width) bytes."""


def buffered(kind: pa.DataType, values: npt.NDArray[np.generic]) -> Column:
    """Return values as a column of a type that has the same bytes."""
    return cast("Column", pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(values)]))


def strings(values: Sequence[str]) -> pa.StringArray:
    """Return texts as a column."""
    return pa.array(values, pa.string())


def fixed_width(text: Text) -> pa.StringArray:
    """Return (rows, width) bytes as a column of texts."""
    rows, width = text.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return _text(rows, None, offsets, text)


def where_present(text: Text, present: Flags) -> pa.StringArray:
    """Return a column with the texts, one after the other, where present and null elsewhere."""
    offsets = np.zeros(present.size + 1, dtype=np.int32)
    np.cumsum(present * np.int32(text.shape[1]), out=offsets[1:])
    return _text(present.size, np.packbits(present, bitorder="little"), offsets, text)


def ragged(text: Text, lengths: Integers) -> pa.StringArray:
    """Return the first so many bytes of each row as a column of texts."""
    rows, width = text.shape
    offsets = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return _text(rows, None, offsets, text[np.arange(width) < lengths[:, None]])


def _text(
    rows: int,
    valid: npt.NDArray[np.uint8] | None,
    offsets: npt.NDArray[np.int32],
    content: npt.NDArray[np.uint8],
) -> pa.StringArray:
    buffers = [None if valid is None else pa.py_buffer(valid), pa.py_buffer(offsets)]
    column = pa.Array.from_buffers(pa.string(), rows, [*buffers, pa.py_buffer(content)])
    return cast("pa.StringArray", column)


def decimals(cents: Integers) -> Column:
    """Return amounts as decimals of two places: cents in the lower word, zero in the upper."""
    words = np.zeros((cents.size, 2), dtype=np.int64)
    words[:, 0] = cents
    kind = pa.decimal128(18, 2)
    return cast("Column", pa.Array.from_buffers(kind, cents.size, [None, pa.py_buffer(words)]))


def flags(values: Flags) -> Column:
    """Return truth values as a column."""
    return pa.array(values)


def coded(
    codes: npt.NDArray[np.integer[Any]], dictionary: Column, nulls: Flags | None = None
) -> Column:
    """Return codes as a column over a dictionary, which is shared and not copied."""
    indices = cast("pa.Int32Array", pa.array(codes.astype(np.int32, copy=False), mask=nulls))
    return pa.DictionaryArray.from_arrays(indices, dictionary, safe=False)


def taken(column: Column, rows: npt.NDArray[np.integer[Any]]) -> Column:
    """Return a column's values at some rows."""
    return pc.take(column, cast("pa.Int64Array", pa.array(rows)), boundscheck=False)


def joined(separator: str, *columns: Column) -> Column:
    """Return the texts of columns, row by row, with a separator between them."""
    join = cast("Any", pc.binary_join_element_wise)
    return cast("Column", join(*columns, separator))
