"""Frames that users' assets return, as record batches that Parquet keeps as they are.

A frame comes back from the lake with the same values, or is refused in one sentence.
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
from txn_platform.runbook import Section

_UNKEPT_BY_ARROW: Final = frozenset({pl.Object, pl.Int128, pl.UInt128})


def batches_of(returned: object) -> pa.RecordBatchReader:
    """The rows of a frame, a table or a reader, with the schema that Parquet keeps of theirs.

    The index of a pandas frame becomes a column: under its name, or as `__index_level_0__` without
    one. A `RangeIndex` without a name is left out.

    Raises:
        UserError: it is no table, or one that Parquet can't keep.
    """
    if isinstance(returned, pl.LazyFrame):
        # Before the `with`, so that the author of the plan sees its errors as they are.
        returned = returned.collect()
    with explained_writes():
        reader = _reader(returned)
        _require_columns(reader.schema)
        return reader


def kept_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that a Parquet file of these columns has when it is read.

    It differs in types that Parquet does not have, such as dictionaries of large text, or seconds.
    The values are the same.

    Raises:
        UserError: Parquet has no column for one of them.
    """
    with explained_writes():
        file = pa.BufferOutputStream()
        pq.ParquetWriter(file, schema).close()
        return pq.read_schema(pa.BufferReader(file.getvalue()))


@contextmanager
def explained_writes() -> Generator[None]:
    """Explain why a frame can't be kept.

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
            f"the lake can't keep this table: {reason}. Cast the column to another type",
            Section.OWN_ASSET,
        ) from None


def is_of_pandas(kind: type) -> bool:
    """Whether a class is pandas' frame, without importing pandas.

    The import takes a tenth of a small run, and pandas' frames exist only after it.
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
                " a staged file",
                Section.OWN_ASSET,
            )


def _of_polars(frame: pl.DataFrame) -> pa.RecordBatchReader:
    for name, kind in frame.schema.items():
        _require_name(name)
        for part in _polars_types(kind):
            for field in part.fields if isinstance(part, pl.Struct) else []:
                _require_name(field.name)
        # For Python objects, Arrow would write their addresses.
        if _UNKEPT_BY_ARROW.intersection(part.base_type() for part in _polars_types(kind)):
            raise _unkept(name, str(kind))
    return frame.to_arrow().to_reader()


def _polars_types(kind: Any) -> Iterator[Any]:
    """A type and all types within it."""
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
            " columns (and its index)",
            Section.OWN_ASSET,
        )
    # Arrow drops the name of an index if a column has the same name.
    _require_distinct(names)
    try:
        table = pa.Table.from_pandas(frame, preserve_index=not numbered)
    except (TypeError, ValueError, OverflowError, pa.ArrowNotImplementedError) as error:
        # The first argument names a value, the last one the column.
        reason = str(error.args[-1]).partition("\n")[0].rstrip(".")
        raise UserError(
            f"the lake can't keep this pandas frame: {reason}. Give the column values of one type"
            " that Parquet has",
            Section.OWN_ASSET,
        ) from None
    # With pandas' metadata, a column would be an index again, but only for pandas.
    return table.replace_schema_metadata(None)


def _require_columns(schema: pa.Schema) -> None:
    if not schema.names:
        raise UserError(
            "the lake keeps tables with columns, and this one has none", Section.OWN_ASSET
        )
    _require_distinct(schema.names)
    for field in schema:
        _require_name(field.name)
        if not all(_is_read_by_polars(part) for part in _arrow_types(field.type)):
            raise _unkept(field.name, str(field.type))


def _arrow_types(kind: Any) -> Iterator[Any]:
    """A type and all types within it."""
    yield kind
    for index in range(kind.num_fields):
        yield from _arrow_types(kind.field(index).type)


def _is_read_by_polars(kind: Any) -> bool:
    """Whether polars and Arrow can read the files that Arrow writes of a type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "pandas.interval":
        return False
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size > 0
    return not (pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _require_name(name: str) -> None:
    # polars panics at U+0000 in a name.
    if "\0" in name:
        raise UserError(
            f"the lake keeps columns and fields without U+0000 in their names, not {name!r}:"
            " rename it",
            Section.OWN_ASSET,
        )


def _require_distinct(names: Iterable[str]) -> None:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(
            f"the lake keeps columns of different names, and {twice[0]!r} is there more than once:"
            " rename it",
            Section.OWN_ASSET,
        )


def _unkept(name: str, kind: str) -> UserError:
    return UserError(
        f"the lake can't keep column {name!r} of type {kind}: cast it to another type",
        Section.OWN_ASSET,
    )
