"""Arrow columns made from NumPy buffers, without copies.

`schema` names the columns. pa.array is not used, because it imports pandas.
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
"""Texts of equal width: (rows, width) bytes."""

FOUR_DIGITS: Text = np.frombuffer(
    "".join(f"{number:04}" for number in range(10_000)).encode(), np.uint8
).reshape(-1, 4)
"""The numbers below 10,000 as text."""


def buffered(
    kind: pa.DataType, values: npt.NDArray[np.generic], nulls: Flags | None = None
) -> Column:
    """Return values as a column of a type with the same bytes, with nulls."""
    valid = None if nulls is None else _bitmap(~nulls)
    return cast("Column", pa.Array.from_buffers(kind, values.size, [valid, pa.py_buffer(values)]))


def strings(values: Sequence[str]) -> pa.StringArray:
    """Return texts as a column."""
    encoded = [value.encode() for value in values]
    content = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return _text(None, np.array([len(value) for value in encoded], dtype=np.int64), content)


def fixed_width(text: Text) -> pa.StringArray:
    """Return (rows, width) bytes as a column of texts."""
    return _text(None, np.full(text.shape[0], text.shape[1]), text)


def where_present(text: Text, present: Flags) -> pa.StringArray:
    """Return a column with the texts in order in the rows that are present, and null elsewhere."""
    return _text(_bitmap(present), present * text.shape[1], text)


def from_offsets(
    offsets: npt.NDArray[np.int32], content: Text, valid: pa.Buffer | None = None
) -> pa.StringArray:
    """Return a column of texts from its buffers: row i is bytes offsets[i] to offsets[i + 1]."""
    buffers = [valid, pa.py_buffer(offsets), pa.py_buffer(content)]
    return cast("pa.StringArray", pa.Array.from_buffers(pa.string(), offsets.size - 1, buffers))


def degrees(coordinates: npt.NDArray[np.int32]) -> Column:
    """Return hundred-thousandths of a degree as degrees."""
    return buffered(pa.float64(), coordinates / 1e5)


def _text(
    valid: pa.Buffer | None, lengths: Integers, content: npt.NDArray[np.uint8]
) -> pa.StringArray:
    offsets = np.zeros(lengths.size + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return from_offsets(offsets, content, valid)


def _bitmap(values: Flags) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def decimals(cents: Integers) -> Column:
    """Return amounts as decimals with two digits: cents in the lower 64 bits, zero in the upper."""
    halves = np.zeros((cents.size, 2), dtype=np.int64)
    halves[:, 0] = cents
    kind = pa.decimal128(18, 2)
    return cast("Column", pa.Array.from_buffers(kind, cents.size, [None, pa.py_buffer(halves)]))


def flags(values: Flags) -> Column:
    """Return booleans as a column."""
    return cast("Column", pa.Array.from_buffers(pa.bool_(), values.size, [None, _bitmap(values)]))


def encoded(
    codes: npt.NDArray[np.integer[Any]], dictionary: Column, nulls: Flags | None = None
) -> Column:
    """Return codes as a dictionary-encoded column; the dictionary is shared, not copied."""
    indices = buffered(pa.int32(), codes.astype(np.int32, copy=False), nulls)
    shared = cast("pa.Int32Array", indices)
    return pa.DictionaryArray.from_arrays(shared, dictionary, safe=False)


def take(column: Column, rows: npt.NDArray[np.integer[Any]]) -> Column:
    """Return a column's values at some rows."""
    at = cast("pa.Int64Array", buffered(pa.int64(), rows.astype(np.int64, copy=False)))
    return pc.take(column, at, boundscheck=False)


def joined(separator: str, *columns: Column) -> Column:
    """Return the texts of columns, row by row, with a separator between them."""
    join = cast("Any", pc.binary_join_element_wise)
    return cast("Column", join(*columns, separator))
