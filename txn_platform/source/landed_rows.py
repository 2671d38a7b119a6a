"""Rows as they are landed: the contract's columns as text, unknown fields together as JSON.

Some formats give columns, others single rows. `decoding` reads the bytes of a format.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.arrow.dictionaries import as_batch, as_series, boolean
from txn_platform.contract.schema import DUPLICATE_FIELD, LANDED_SCHEMA, SENT_COLUMNS, UNREADABLE
from txn_platform.source.arrow_text import as_plain, expanded_bytes
from txn_platform.source.decode_limits import MOST_COLUMNS, Budget
from txn_platform.source.json_objects import too_many_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from txn_platform.arrow.dictionaries import Column

SCHEMA: Final = LANDED_SCHEMA.remove(LANDED_SCHEMA.get_field_index("position"))
_SENT: Final = frozenset(SENT_COLUMNS)
# Values of unknown fields that are written as JSON at a time.
_CELLS: Final = 1 << 18
_NO_FIELDS: Final[dict[str, str | None]] = {}
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def landed(
    names: Sequence[str], columns: Sequence[Any], rows: int, budget: Budget | None = None
) -> pa.RecordBatch:
    """A batch of the contract's columns, null if absent, and of all unknown columns as one.

    Args:
        names: the names of the columns, all different.
        columns: arrays or chunked arrays of n texts, or of dictionaries of texts.
        rows: n.
        budget: counts names and texts that were sent once and are written many times; None if they
            were sent with every row.

    Raises:
        RefusedError: there are too many unknown columns.
        TooLargeError: they take too much memory.
    """
    sent = {name: column for name, column in zip(names, columns, strict=True) if name in _SENT}
    unknown = sorted(
        ((name, column) for name, column in zip(names, columns, strict=True) if name not in _SENT),
        key=lambda field: field[0],
    )
    require_few_names(len(unknown))
    found = {
        name: column
        if pa.types.is_dictionary(SCHEMA.field(name).type)
        else as_plain(column, budget or Budget())
        for name, column in sent.items()
    }
    found["extra_fields"] = _extra(unknown, rows, budget)
    return as_batch(pa.table(_with_absent(found, rows)), SCHEMA)


def require_few_names(count: int) -> None:
    """Raise a `RefusedError` if a batch has too many unknown names."""
    if count > MOST_COLUMNS:
        raise too_many_names()


class RowByRow:
    """A batch that is made of single rows."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Args: names: unknown names in other rows of the same answer."""
        self._rows: list[Mapping[str, str | None]] = []
        self._extra: list[str | None] = []
        self._unknown = set(names) - _SENT

    def add(self, fields: Mapping[str, str | None], repeats: str | None = None) -> None:
        """Add a row.

        Args:
            fields: its texts, by name.
            repeats: the row as sent, if it has two fields of one name.

        Raises:
            RefusedError: the rows have too many unknown names.
        """
        self._rows.append(fields)
        unknown = sorted(fields.keys() - _SENT)
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
        columns: dict[str, Any] = {"extra_fields": pa.array(self._extra, pa.string())}
        for name in SENT_COLUMNS:
            texts = [row.get(name) for row in self._rows]
            if texts.count(None) < len(texts):
                columns[name] = pa.array(texts, pa.string())
        return as_batch(pa.table(_with_absent(columns, len(self._rows))), SCHEMA)


def _with_absent(columns: dict[str, Any], rows: int) -> dict[str, Any]:
    """The columns of the schema; those that are absent share one column of nulls."""
    absent: dict[pa.DataType, Column] = {}
    for field in SCHEMA:
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
