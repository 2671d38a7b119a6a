"""Rows as they are landed: the contract's columns as text, unknown fields together as JSON.

Some formats give columns, others single rows. `decoding` reads the bytes of a format. A column of
the contract that is within another field is cut from its text; the field stays whole among the
unknown ones.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.arrow.dictionaries import (
    as_batch,
    as_series,
    boolean,
    combined,
    with_values,
)
from txn_platform.contract.model import DUPLICATE_FIELD, EXTRA_FIELDS, UNREADABLE
from txn_platform.source.arrow_text import as_plain, expanded_bytes
from txn_platform.source.decode_limits import MOST_COLUMNS, Budget
from txn_platform.source.json_objects import too_many_names
from txn_platform.source.json_values import text_within

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from txn_platform.arrow.dictionaries import Column, DictionaryEncoded
    from txn_platform.contract.model import Contract

# Values of unknown fields that are written as JSON at a time.
_CELLS: Final = 1 << 18
_NO_FIELDS: Final[dict[str, str | None]] = {}
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def landed(
    contract: Contract,
    names: Sequence[str],
    columns: Sequence[Any],
    rows: int,
    budget: Budget | None = None,
) -> pa.RecordBatch:
    """A batch of the contract's columns, null if absent, and of all unknown columns as one.

    Args:
        contract: of the rows.
        names: the names of the columns, all different.
        columns: arrays or chunked arrays of n texts, or of dictionaries of texts.
        rows: n.
        budget: counts names and texts that were sent once and are written many times; None if they
            were sent with every row.

    Raises:
        RefusedError: there are too many unknown columns.
        TooLargeError: they take too much memory.
    """
    fields, schema = contract.fields, contract.answer_schema
    sent = dict(zip(names, columns, strict=True))
    unknown = sorted((name, sent[name]) for name in sent.keys() - fields.keys())
    require_few_names(len(unknown))
    found = {
        fields[name]: column
        if pa.types.is_dictionary(schema.field(fields[name]).type)
        else as_plain(column, budget or Budget())
        for name, column in sent.items()
        if name in fields
    }
    for name, path in contract.nested.items():
        if name not in found and contract.is_among(name, sent):
            found[name] = _cut(path, sent, budget or Budget())
    found[EXTRA_FIELDS] = _extra(unknown, rows, budget)
    return as_batch(pa.table(_with_absent(found, rows, schema)), schema)


def _cut(path: tuple[str, ...], columns: Mapping[str, Any], budget: Budget) -> Any:
    """The texts at a path within columns of JSON, null where there are none.

    Args:
        path: the names on the way.
        columns: by name, one of them at least named as the path begins.
        budget: counts texts that were sent once and are written many times.
    """
    found = [
        as_plain(_cut_column(columns[name], path[length:]), budget)
        for length in range(len(path) - 1, 0, -1)
        if (name := ".".join(path[:length])) in columns
    ]
    return found[0] if len(found) == 1 else pc.coalesce(*found)


def _cut_column(column: Any, path: tuple[str, ...]) -> Column:
    chunks: list[Column] = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if not chunks:
        return pa.nulls(0, pa.string())
    # Each value of a dictionary is read once, however many rows have it.
    return combined(pa.chunked_array([_cut_chunk(chunk, path) for chunk in chunks]))


def _cut_chunk(column: Column, path: tuple[str, ...]) -> Column:
    if isinstance(column, pa.DictionaryArray):
        encoded = cast("DictionaryEncoded", column)
        return with_values(encoded, _cut_chunk(encoded.dictionary, path))
    texts = pl.Series(column, dtype=pl.String)
    cut = [None if text is None else text_within(text, path) for text in texts]
    return pa.array(cut, pa.string())


def require_few_names(count: int) -> None:
    """Raise a `RefusedError` if a batch has too many unknown names."""
    if count > MOST_COLUMNS:
        raise too_many_names()


class RowByRow:
    """A batch that is made of single rows."""

    def __init__(self, contract: Contract, names: Iterable[str] = ()) -> None:
        """Args: contract: of the rows; names: that other rows of the same answer have."""
        self._contract = contract
        self._rows: list[Mapping[str, str | None]] = []
        self._extra: list[str | None] = []
        self._unknown = set(names) - contract.fields.keys()

    def add(self, fields: Mapping[str, str | None], repeats: str | None = None) -> None:
        """Add a row.

        Args:
            fields: its texts, by name.
            repeats: the row as sent, if it has two fields of one name.

        Raises:
            RefusedError: the rows have too many unknown names.
        """
        self._rows.append(fields)
        unknown = sorted(fields.keys() - self._contract.fields.keys())
        self._unknown.update(unknown)
        require_few_names(len(self._unknown))
        extra: dict[str, Any] = {name: fields[name] for name in unknown if fields[name] is not None}
        if repeats is not None:
            # A list, because a field of that name that the source sends is text.
            extra.pop(DUPLICATE_FIELD, None)
            extra = {DUPLICATE_FIELD: [repeats], **extra}
        self._extra.append(_ENCODER.encode(extra) if extra else None)

    def add_unreadable(self, text: str) -> None:
        """Add the text of a row that could not be read."""
        self._rows.append(_NO_FIELDS)
        self._extra.append(_ENCODER.encode({UNREADABLE: text}))

    def batch(self) -> pa.RecordBatch:
        """The rows so far."""
        columns: dict[str, Any] = {EXTRA_FIELDS: pa.array(self._extra, pa.string())}
        nested = self._contract.nested
        for field, name in self._contract.fields.items():
            path = nested.get(name)
            texts = [
                row.get(field) if path is None or field in row else _value_within(row, path)
                for row in self._rows
            ]
            if texts.count(None) < len(texts):
                columns[name] = pa.array(texts, pa.string())
        schema = self._contract.answer_schema
        return as_batch(pa.table(_with_absent(columns, len(self._rows), schema)), schema)


def _value_within(row: Mapping[str, str | None], path: tuple[str, ...]) -> str | None:
    """The text at a path within the fields of a row; a field of the longest name comes first."""
    for length in range(len(path) - 1, 0, -1):
        field = row.get(".".join(path[:length]))
        if field is not None and (text := text_within(field, path[length:])) is not None:
            return text
    return None


def _with_absent(columns: dict[str, Any], rows: int, schema: pa.Schema) -> dict[str, Any]:
    """The columns of the schema; those that are absent share one column of nulls."""
    absent: dict[pa.DataType, Column] = {}
    for field in schema:
        if field.name not in columns:
            if field.type not in absent:
                absent[field.type] = pa.nulls(rows, field.type)
            columns[field.name] = absent[field.type]
    return columns


def _extra(fields: list[tuple[str, Any]], rows: int, budget: Budget | None) -> Column:
    """Unknown fields as a JSON object of text for each row, without those that are null.

    Args:
        fields: names, and columns of n texts.
        rows: n.
        budget: see `landed`.

    Returns:
        n texts; null for rows without unknown fields.
    """
    fields = [(name, column) for name, column in fields if column.null_count < rows]
    if not fields:
        return pa.nulls(rows, pa.string())
    pairs = [
        json.dumps(name, ensure_ascii=False) + ":" + _quoted(pl.col(str(index)))
        for index, (name, _) in enumerate(fields)
    ]
    if budget is not None:
        budget.take(0, sum(_growth(name, column, rows) for name, column in fields))
    step = max(1, _CELLS // len(fields))
    pieces = [
        _objects([column.slice(start, step) for _, column in fields], pairs)
        for start in range(0, rows, step)
    ]
    return pieces[0] if len(pieces) == 1 else pa.concat_arrays(pieces)


def _growth(name: str, column: Any, rows: int) -> int:
    """By how many bytes a column grows if every row has its name and text."""
    names = (rows - column.null_count) * (len(name.encode()) + len('"":"",'))
    return names + (expanded_bytes(column) if pa.types.is_dictionary(column.type) else 0)


def _objects(columns: list[Any], pairs: list[pl.Expr]) -> Column:
    # Named by index, because a frame handles empty names and names with U+0000 differently.
    texts = pl.DataFrame([_series(str(index), column) for index, column in enumerate(columns)])
    some = texts.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    objects = texts.filter(some).select(
        "{" + pl.concat_str(pairs, separator=",", ignore_nulls=True) + "}"
    )
    written = objects.to_series().to_arrow().cast(pa.string())
    absent = pa.nulls(len(some), pa.string())
    return cast("Column", pc.replace_with_mask(absent, boolean(some.to_numpy()), written))


def _series(name: str, column: Any) -> pl.Series:
    chunks: list[Column] = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    series = pl.concat([as_series(name, chunk) for chunk in chunks])
    return series if series.dtype == pl.String else series.cast(pl.String)


def _quoted(text: pl.Expr) -> pl.Expr:
    """Texts as JSON strings; null stays null."""
    # Written as an object with one member, whose name is cut off.
    written = pl.struct(text.alias("")).struct.json_encode().str.slice(4).str.strip_suffix("}")
    return pl.when(text.is_not_null()).then(written)
