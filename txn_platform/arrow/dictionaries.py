"""Record batches in which columns whose values repeat are dictionaries.

Windows travel like this from the source to the lake: a value that occurs a thousand times is read,
validated, protected and written once. The contract says which columns repeat
(`DICTIONARY_ENCODED_COLUMNS`).

Use `numbers`, `integers`, `boolean` and `take` between Arrow and numpy, and `empty` for a batch
without rows. pyarrow's own ways import pandas where it is installed, which takes a tenth of a small
run.
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
# The share of values in vain that a dictionary may have; whether it has more, most columns show
# after so many rows.
_SPARE = 0.1
_LOOKED_AT_ROWS = 1 << 17


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
    """The same rows with the columns of a schema, in its order and types; never other values.

    Raises:
        pa.ArrowInvalid: a value does not fit its type.
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
    # Rows point to their values here: a text of a megabyte is there once, however many have it.
    values, indices = values_and_indices(cast("DictionaryEncoded", column))
    return values.gather(indices).alias(name)


def values_and_indices(column: DictionaryEncoded) -> tuple[pl.Series, NDArray[np.int32]]:
    """A dictionary's values with null behind them, and for each row the place of its value there.

    Args:
        column: n rows over k values.

    Returns:
        k + 1 texts, and n numbers from 0 to k.
    """
    values = pl.Series(column.dictionary, dtype=pl.String)
    return values.extend_constant(None, 1), indices_of(column)


def indices_of(column: DictionaryEncoded) -> NDArray[np.int32]:
    """For each row the place of its value in the dictionary; of null, the one behind the last."""
    indices = column.indices
    if not indices.null_count:
        return numbers(indices)
    return pl.Series(indices).fill_null(len(column.dictionary)).to_numpy()


def recoded(column: DictionaryEncoded, values: pa.Array[Any]) -> DictionaryEncoded:
    """The same rows over other values, which stand for the old ones place by place."""
    return pa.DictionaryArray.from_arrays(column.indices, values, safe=False)


def renumbered(
    indices: NDArray[np.int32], places: NDArray[np.int32], values: pa.Array[Any]
) -> DictionaryEncoded:
    """The same rows over some of their values.

    Args:
        indices: for each of n rows the place of its value among k and null, see `indices_of`.
        places: where each of these k + 1 is among the values that are left, -1 where it is not.
        values: those that are left; the rows of all others are null.
    """
    chosen = places[indices]
    absent = chosen < 0
    column = integers(chosen, absent if absent.any() else None)
    return pa.DictionaryArray.from_arrays(cast("pa.Int32Array", column), values, safe=False)


def compacted[T: pa.Array[Any]](column: T) -> T:
    """The same rows, of a dictionary without the values that none of them has.

    Where they are few it stays as it is: new numbers for all rows cost more.
    """
    if not isinstance(column, pa.DictionaryArray):
        return column
    size = len(column.dictionary)
    used = np.zeros(size + 1, dtype=np.bool_)
    indices = indices_of(cast("DictionaryEncoded", column))
    enough = size * (1 - _SPARE)
    for start in range(0, len(indices), _LOOKED_AT_ROWS):
        # numpy is faster by numbers as long as its pointers.
        used[indices[start : start + _LOOKED_AT_ROWS].astype(np.intp)] = True
        if np.count_nonzero(used[:size]) >= enough:
            return column
    kept = np.flatnonzero(used[:size])
    places = np.full(size + 1, -1, dtype=np.int32)
    places[kept] = np.arange(len(kept), dtype=np.int32)
    return cast("T", renumbered(indices, places, take(column.dictionary, kept)))


class PerDictionary[T]:
    """A function of a dictionary's values, whose result is kept until another dictionary comes."""

    def __init__(self, find: Callable[[Column], T]) -> None:
        """Args: find: takes the k values."""
        self._find = find
        self._last: tuple[Column, T] | None = None

    def __call__(self, dictionary: Column) -> T:
        """The result for these k values, computed or kept."""
        if self._last is None or not is_same(self._last[0], dictionary):
            self._last = dictionary, self._find(dictionary)
        return self._last[1]


def few(rows: pa.RecordBatch, chosen: NDArray[np.bool_]) -> pa.RecordBatch:
    """Some rows of many, of dictionaries without the values that only the others have."""
    picked = rows.filter(boolean(chosen))
    columns = [compacted(column) for column in picked.columns]
    return pa.RecordBatch.from_arrays(columns, schema=picked.schema)


def combined(column: pa.ChunkedArray[Any]) -> Column:
    """A column without chunks; where they have different dictionaries, over one of all values."""
    chunks: list[Column] = column.chunks
    if pa.types.is_dictionary(column.type):
        # As soon as two dictionaries differ, Arrow looks up all values of every chunk. Chunks of
        # one dictionary are put together first, for which it only compares them.
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
    """Whether two columns are views of the same memory: cheaper than to compare the values."""

    def place(column: Column) -> list[int]:
        buffers = [buffer.address for buffer in column.buffers() if buffer is not None]
        return [column.offset, len(column), *buffers]

    return place(one) == place(other)


def boolean(values: NDArray[np.bool_]) -> pa.BooleanArray:
    """A column of truth values."""
    buffers = [None, _bits(values)]
    return cast("pa.BooleanArray", pa.Array.from_buffers(pa.bool_(), len(values), buffers))


def integers(values: NDArray[np.integer[Any]], nulls: NDArray[np.bool_] | None = None) -> Column:
    """A column of whole numbers, of the same memory where that is in one piece."""
    valid = None if nulls is None else _bits(~nulls)
    buffers = [valid, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def numbers(column: Column) -> NDArray[Any]:
    """The whole numbers of a column without nulls, of the same memory."""
    return np.from_dlpack(cast("Any", column))


def take[T: pa.Array[Any]](column: T, places: NDArray[np.integer[Any]]) -> T:
    """A column's values at some places."""
    return column.take(cast("pa.Int64Array", integers(places)))


def _bits(values: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _whole(column: Column | pa.ChunkedArray[Any], kind: pa.DataType) -> Column:
    """A column in one piece, of a type."""
    if isinstance(column, pa.ChunkedArray):
        column = combined(column)
    in_order = not isinstance(column, pa.DictionaryArray) or not column.dictionary.null_count
    if column.type == kind and in_order:
        return column
    if pa.types.is_dictionary(kind):
        return pc.dictionary_encode(column.cast(pa.string()))
    return column.cast(kind)
