"""Frames that users' assets return, as record batches that Parquet keeps as they are.

A frame comes back from the lake with the values that it had, or is refused in one sentence.
"""

import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.errors import UserError

_UNKEPT_BY_ARROW: Final = frozenset({pl.Object, pl.Int128, pl.UInt128})


def batches_of(returned: object) -> pa.RecordBatchReader:
    """The rows of a frame, a table or a reader, with the schema that Parquet keeps of theirs.

    Of a pandas frame a named index becomes a column. So does one without a name, as
    `__index_level_0__`, unless it only numbers the rows (a `RangeIndex`).

    Raises:
        UserError: it is no table, or one that Parquet can't keep.
    """
    if isinstance(returned, pl.LazyFrame):
        # Outside of what follows: an error of the plan is its author's to see, whole.
        returned = returned.collect()
    with explained_writes():
        reader = _reader(returned)
        _require_columns(reader.schema)
        return reader


def kept_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that a Parquet file of these columns has when it is read.

    It differs in types that Parquet has no equal of, as dictionaries of large text, or seconds;
    their values are the same.

    Raises:
        UserError: Parquet has no column for one of them.
    """
    with explained_writes():
        file = pa.BufferOutputStream()
        pq.ParquetWriter(file, schema).close()
        return pq.read_schema(pa.BufferReader(file.getvalue()))


@contextmanager
def explained_writes() -> Generator[None]:
    """Put into words that a frame can't be kept.

    Raises:
        UserError: it can't.
    """
    try:
        yield
    except pa.ArrowException as error:
        # An invalid value would be in the message.
        reason = (
            "a value does not fit its column's type in Parquet"
            if isinstance(error, pa.ArrowInvalid)
            else str(error).partition("\n")[0].rstrip(".")
        )
        raise UserError(
            f"the lake can't keep this table: {reason}. Cast the column to another type"
        ) from None


def is_of_pandas(kind: type) -> bool:
    """Whether a class is pandas' frame: nobody has one who has not imported pandas.

    To import it for the question takes a tenth of a small run.
    """
    frame = getattr(sys.modules.get("pandas"), "DataFrame", None)
    return frame is not None and issubclass(kind, frame)


def _reader(returned: Any) -> pa.RecordBatchReader:
    match returned:
        case pa.RecordBatchReader():
            return returned
        case pa.Table():
            return returned.to_reader()
        case pa.RecordBatch():
            return pa.RecordBatchReader.from_batches(returned.schema, [returned])
        case pl.DataFrame():
            return _of_polars(returned)
        case _ if is_of_pandas(type(returned)):
            return _of_pandas(returned).to_reader()
        case _:
            raise UserError(
                f"the lake keeps tables, not {type(returned).__name__}: return a frame, a table or"
                " a staged file"
            )


def _of_polars(frame: pl.DataFrame) -> pa.RecordBatchReader:
    for name, kind in frame.schema.items():
        _require_name(name)
        for part in _polars_types(kind):
            for field in part.fields if isinstance(part, pl.Struct) else []:
                _require_name(field.name)
        # Of Python objects, Arrow would take the addresses for the values.
        if _UNKEPT_BY_ARROW.intersection(part.base_type() for part in _polars_types(kind)):
            raise _unkept(name, str(kind))
    return frame.to_arrow().to_reader()


def _polars_types(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield kind
    if isinstance(kind, pl.List | pl.Array):
        yield from _polars_types(kind.inner)
    if isinstance(kind, pl.Struct):
        for field in kind.fields:
            yield from _polars_types(field.dtype)


def _of_pandas(frame: Any) -> pa.Table:
    import pandas as pd

    numbered = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    names: list[Any] = [*frame.columns, *(name for name in frame.index.names if name is not None)]
    if strange := [name for name in names if not isinstance(name, str)]:
        raise UserError(
            f"the lake keeps columns whose names are text, not {strange[0]!r}: rename the frame's"
            " columns (and its index)"
        )
    # Arrow leaves out the name of an index that a column has too.
    _require_distinct(names)
    try:
        table = pa.Table.from_pandas(frame, preserve_index=not numbered)
    except (TypeError, ValueError, OverflowError, pa.ArrowNotImplementedError) as error:
        # Arrow's first words are on a value, its last ones on the column.
        reason = str(error.args[-1]).partition("\n")[0].rstrip(".")
        raise UserError(
            f"the lake can't keep this pandas frame: {reason}. Give the column values of one type"
            " that Parquet has"
        ) from None
    # With pandas' own metadata a column would be an index again for pandas alone.
    return table.replace_schema_metadata(None)


def _require_columns(schema: pa.Schema) -> None:
    if not schema.names:
        raise UserError("the lake keeps tables with columns, and this one has none")
    _require_distinct(schema.names)
    for field in schema:
        _require_name(field.name)
        if not all(_is_read_by_polars(part) for part in _arrow_types(field.type)):
            raise _unkept(field.name, str(field.type))


def _arrow_types(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield kind
    for place in range(kind.num_fields):
        yield from _arrow_types(kind.field(place).type)


def _is_read_by_polars(kind: Any) -> bool:
    """Whether polars, and Arrow, read what Arrow writes of a type: of these they do not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "pandas.interval":
        return False
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size > 0
    return not (pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _require_name(name: str) -> None:
    # polars panics at it, whether it writes or reads.
    if "\0" in name:
        raise UserError(
            f"the lake keeps columns and fields without U+0000 in their names, not {name!r}:"
            " rename it"
        )


def _require_distinct(names: Iterable[str]) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(
            f"the lake keeps columns of different names, and {twice[0]!r} is there more than once:"
            " rename it"
        )


def _unkept(name: str, kind: str) -> UserError:
    return UserError(f"the lake can't keep column {name!r} of type {kind}: cast it to another type")
