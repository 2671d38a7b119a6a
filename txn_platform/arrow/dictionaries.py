"""Record batches in which columns whose values repeat are dictionaries.

Rows have this form from the source to the lake. A value that occurs a thousand times is read,
validated, protected and written once. The contract lists the columns whose values repeat
(`DICTIONARY_ENCODED_COLUMNS`).

Use `numbers`, `integers`, `boolean` and `take` between Arrow and numpy, and `empty` for a batch
without rows. The methods of pyarrow import pandas if it is installed, which takes a tenth of a
small run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

type Column = pa.Array[Any]
type DictionaryEncoded = pa.DictionaryArray[Any, Any]

_ENCODED = pa.dictionary(pa.int32(), pa.string())
# The largest share of unused values that a dictionary may keep.
_UNUSED_SHARE = 0.1
# Rows that `compacted` examines at a time. Most columns use enough of their values in the first.
_EXAMINED_ROWS = 1 << 17


def encoded_schema(schema: pa.Schema, encoded: Collection[str]) -> pa.Schema:
    """The schema with dictionaries in place of the text columns of the given names."""
    return pa.schema(
        [
            field.with_type(_ENCODED)
            if field.name in encoded and field.type == pa.string()
            else field
            for field in schema
        ],
        cast("Any", schema.metadata),
    )


def as_batch(rows: pa.RecordBatch | pa.Table | pl.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    """The same rows with the columns of a schema, in its order and of its types.

    Raises:
        pa.ArrowInvalid: a value does not fit its type; none is changed to fit.
        KeyError: a column is absent.
    """
    if isinstance(rows, pl.DataFrame):
        rows = rows.to_arrow()
    columns = [_whole(rows.column(field.name), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """A batch of no rows."""
    columns = [pa.nulls(0, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def as_frame(rows: pa.RecordBatch) -> pl.DataFrame:
    """The same rows as a frame, dictionaries as plain text."""
    return pl.DataFrame([as_series(name, rows.column(name)) for name in rows.schema.names])


def as_series(name: str, column: Column) -> pl.Series:
    """The same values as a series, dictionaries as plain text."""
    if not isinstance(column, pa.DictionaryArray):
        return pl.Series(name, column)
    # polars keeps a long text once, however many rows have it.
    values, indices = values_and_indices(cast("DictionaryEncoded", column))
    return values.gather(indices).alias(name)


def values_and_indices(column: DictionaryEncoded) -> tuple[pl.Series, NDArray[np.int32]]:
    """A dictionary's values with null as the last, and for each row the index of its value.

    Args:
        column: n rows over k values.

    Returns:
        k + 1 texts, and n indices from 0 to k.
    """
    values = pl.Series(column.dictionary, dtype=pl.String)
    return values.extend_constant(None, 1), indices_of(column)


def indices_of(column: DictionaryEncoded) -> NDArray[np.int32]:
    """For each row the index of its value in the dictionary; for null, the dictionary's length."""
    indices = column.indices
    if not indices.null_count:
        return numbers(indices)
    return pl.Series(indices).fill_null(len(column.dictionary)).to_numpy()


def with_values(column: DictionaryEncoded, values: pa.Array[Any]) -> DictionaryEncoded:
    """The same indices with other values, each in place of the old value of the same index."""
    return pa.DictionaryArray.from_arrays(column.indices, values, safe=False)


def renumbered(
    indices: NDArray[np.int32], new_indices: NDArray[np.int32], values: pa.Array[Any]
) -> DictionaryEncoded:
    """The same rows with some of their values; rows of other values are null.

    Args:
        indices: for each of n rows the index of its value, from 0 to k; see `indices_of`.
        new_indices: for each of these k + 1 indices the index in `values`, -1 for none.
        values: the remaining values.
    """
    chosen = new_indices[indices]
    absent = chosen < 0
    column = integers(chosen, absent if absent.any() else None)
    return pa.DictionaryArray.from_arrays(cast("pa.Int32Array", column), values, safe=False)


def compacted[T: pa.Array[Any]](column: T) -> T:
    """The same rows with a dictionary that has no unused values.

    A dictionary with few of them stays as it is, because renumbering all rows costs more.
    """
    if not isinstance(column, pa.DictionaryArray):
        return column
    size = len(column.dictionary)
    used = np.zeros(size + 1, dtype=np.bool_)
    indices = indices_of(cast("DictionaryEncoded", column))
    enough = size * (1 - _UNUSED_SHARE)
    for start in range(0, len(indices), _EXAMINED_ROWS):
        # numpy indexes fastest with integers of its own index type.
        used[indices[start : start + _EXAMINED_ROWS].astype(np.intp)] = True
        if np.count_nonzero(used[:size]) >= enough:
            return column
    kept = np.flatnonzero(used[:size])
    new_indices = np.full(size + 1, -1, dtype=np.int32)
    new_indices[kept] = np.arange(len(kept), dtype=np.int32)
    return cast("T", renumbered(indices, new_indices, take(column.dictionary, kept)))


class PerDictionary[T]:
    """Caches the result of a function for the dictionary that it was called with last."""

    def __init__(self, find: Callable[[Column], T]) -> None:
        """Args: find: a function of the k values of a dictionary."""
        self._find = find
        self._last: tuple[Column, T] | None = None

    def __call__(self, dictionary: Column) -> T:
        """The result for these k values, computed or cached."""
        if self._last is None or not is_same(self._last[0], dictionary):
            self._last = dictionary, self._find(dictionary)
        return self._last[1]


def few(rows: pa.RecordBatch, chosen: NDArray[np.bool_]) -> pa.RecordBatch:
    """A few rows of a batch, in dictionaries without the values of the other rows."""
    picked = rows.filter(boolean(chosen))
    columns = [compacted(column) for column in picked.columns]
    return pa.RecordBatch.from_arrays(columns, schema=picked.schema)


def combined(column: pa.ChunkedArray[Any]) -> Column:
    """The chunks of a column as one array; different dictionaries become one."""
    chunks: list[Column] = column.chunks
    if pa.types.is_dictionary(column.type):
        # If two dictionaries differ, Arrow looks up all values of every chunk. It is faster to
        # concatenate chunks of equal dictionaries first.
        runs: list[list[DictionaryEncoded]] = []
        for chunk in cast("list[DictionaryEncoded]", chunks):
            if runs and chunk.dictionary.equals(runs[-1][0].dictionary):
                runs[-1].append(chunk)
            else:
                runs.append([chunk])
        chunks = [_joined(run) for run in runs]
    return _joined(chunks) if chunks else pa.nulls(0, column.type)


def _joined(chunks: Sequence[Column]) -> Column:
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)


def is_same(one: Column, other: Column) -> bool:
    """Whether two columns are views of the same memory; cheaper than comparing values."""

    def memory(column: Column) -> list[int]:
        buffers = [buffer.address for buffer in column.buffers() if buffer is not None]
        return [column.offset, len(column), *buffers]

    return memory(one) == memory(other)


def boolean(values: NDArray[np.bool_]) -> pa.BooleanArray:
    """A column of truth values."""
    buffers = [None, _bits(values)]
    return cast("pa.BooleanArray", pa.Array.from_buffers(pa.bool_(), len(values), buffers))


def integers(values: NDArray[np.integer[Any]], nulls: NDArray[np.bool_] | None = None) -> Column:
    """A column of integers; shares the memory if that is contiguous."""
    valid = None if nulls is None else _bits(~nulls)
    buffers = [valid, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def numbers(column: Column) -> NDArray[Any]:
    """The integers of a column without nulls, in the same memory."""
    return np.from_dlpack(cast("Any", column))


def take[T: pa.Array[Any]](column: T, indices: NDArray[np.integer[Any]]) -> T:
    """The values of a column at the given indices."""
    return column.take(cast("pa.Int64Array", integers(indices)))


def _bits(values: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _whole(column: Column | pa.ChunkedArray[Any], kind: pa.DataType) -> Column:
    """A column as one array of the given type."""
    if isinstance(column, pa.ChunkedArray):
        column = combined(column)
    has_null_value = isinstance(column, pa.DictionaryArray) and column.dictionary.null_count
    if column.type == kind and not has_null_value:
        return column
    if pa.types.is_dictionary(kind):
        return pc.dictionary_encode(column.cast(pa.string()))
    return column.cast(kind)
