"""Record batches in which columns whose values repeat are dictionaries.

So windows travel from the source to the lake: a value that occurs a thousand times is read, judged,
protected and written once. Which columns repeat is `contract.py`'s matter (`CODED_COLUMNS`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

type Column = pa.Array[Any]
type Coded = pa.DictionaryArray[Any, Any]

_CODED = pa.dictionary(pa.int32(), pa.string())


def coded_schema(schema: pa.Schema, coded: Collection[str]) -> pa.Schema:
    """The schema with dictionaries in place of the text columns of the given names."""
    return pa.schema(
        [
            field.with_type(_CODED) if field.name in coded and field.type == pa.string() else field
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


def as_frame(rows: pa.RecordBatch) -> pl.DataFrame:
    """The same rows as a frame, dictionaries as plain text."""
    return pl.DataFrame([_series(name, rows.column(name)) for name in rows.schema.names])


def _series(name: str, column: Column) -> pl.Series:
    if not isinstance(column, pa.DictionaryArray):
        return pl.Series(name, column)
    # Rows point to their values here: a text of a megabyte is there once, however many have it.
    values, indices = values_and_indices(column)
    return values.gather(indices).alias(name)


def values_and_indices(column: Column) -> tuple[pl.Series, NDArray[np.int32]]:
    """A dictionary's values with null behind them, and for each row the place of its value there.

    Args:
        column: a dictionary, n rows over k values.

    Returns:
        k + 1 texts, and n numbers from 0 to k.
    """
    coded = cast("Coded", column)
    values = pl.Series(coded.dictionary, dtype=pl.String)
    indices = coded.indices
    if indices.null_count:
        indices = cast("pa.Int32Array", indices.fill_null(len(values)))
    return values.extend_constant(None, 1), indices.to_numpy(zero_copy_only=False)


def recoded(column: Coded, values: pa.Array[Any]) -> Coded:
    """The same rows over other values, which stand for the old ones place by place."""
    return pa.DictionaryArray.from_arrays(column.indices, values, safe=False)


def compacted[T: pa.Array[Any]](column: T, *, spare: float = 0.1) -> T:
    """The same rows, of a dictionary without the values that none of them has.

    Args:
        column: n rows.
        spare: the share of values in vain that is left as it is: new numbers for all rows cost
            more than a few of these.
    """
    if not isinstance(column, pa.DictionaryArray):
        return column
    size = len(column.dictionary)
    used = np.zeros(size + 1, dtype=np.bool_)
    filled = column.indices.fill_null(size) if column.null_count else column.indices
    indices = filled.to_numpy(zero_copy_only=False)
    used[indices] = True
    kept = np.flatnonzero(used[:size])
    if size - len(kept) <= size * spare:
        return column
    numbers = np.zeros(size + 1, dtype=np.int32)
    numbers[kept] = np.arange(len(kept), dtype=np.int32)
    renumbered = pa.array(
        numbers[indices], mask=indices == size if column.null_count else None, type=pa.int32()
    )
    smaller = pa.DictionaryArray.from_arrays(renumbered, column.dictionary.take(kept), safe=False)
    return cast("T", smaller)


def few(rows: pa.RecordBatch, chosen: NDArray[np.bool_]) -> pa.RecordBatch:
    """Some rows of many, of dictionaries without the values that only the others have."""
    picked = rows.filter(boolean(chosen))
    columns = [compacted(column) for column in picked.columns]
    return pa.RecordBatch.from_arrays(columns, schema=picked.schema)


def is_same(one: Column, other: Column) -> bool:
    """Whether two columns are views of the same memory: cheaper than to compare the values."""

    def place(column: Column) -> list[int]:
        buffers = [buffer.address for buffer in column.buffers() if buffer is not None]
        return [column.offset, len(column), *buffers]

    return place(one) == place(other)


def boolean(values: NDArray[np.bool_]) -> pa.BooleanArray:
    """A column of truth values."""
    buffer = pa.py_buffer(np.packbits(values, bitorder="little"))
    return cast("pa.BooleanArray", pa.Array.from_buffers(pa.bool_(), len(values), [None, buffer]))


def _whole(column: Column | pa.ChunkedArray[Any], kind: pa.DataType) -> Column:
    """A column in one piece, of a type."""
    if isinstance(column, pa.ChunkedArray):
        # Where chunks have different dictionaries it makes one of them.
        column = column.combine_chunks()
    in_order = not isinstance(column, pa.DictionaryArray) or not column.dictionary.null_count
    if column.type == kind and in_order:
        return column
    if pa.types.is_dictionary(kind):
        return pc.dictionary_encode(column.cast(pa.string()))
    return column.cast(kind)
