"""Rows as they are landed: the contract's columns as text, unknown fields together as JSON.

Columns come from formats that have columns, single rows from those that have not. What the bytes
of a format mean is the matter of `decoding.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.arrow_text import as_plain, expanded_bytes
from txn_platform.columns import as_batch, as_series, boolean
from txn_platform.contract import DUPLICATE_FIELD, LANDED_SCHEMA, SENT_COLUMNS, UNREADABLE
from txn_platform.decode_limits import MOST_COLUMNS, Budget
from txn_platform.json_objects import too_many_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from txn_platform.columns import Column

SCHEMA: Final = LANDED_SCHEMA.remove(LANDED_SCHEMA.get_field_index("position"))
_SENT: Final = frozenset(SENT_COLUMNS)
# Unknown fields are written as JSON for so many values at a time.
_CELLS: Final = 1 << 18


def landed(
    names: Sequence[str], columns: Sequence[Any], rows: int, budget: Budget | None = None
) -> pa.RecordBatch:
    """Columns as a batch: those of the contract, absent ones null, and the unknown ones together.

    Args:
        names: of the columns, none twice.
        columns: arrays or chunked arrays of n texts, or of dictionaries of texts.
        rows: n.
        budget: pays for names and texts that were sent once and are written many times; None
            where they were sent with every row.

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
    absent: dict[pa.DataType, Column] = {}
    found: dict[str, Any] = {}
    for field in SCHEMA:
        if field.name == "extra_fields":
            found[field.name] = _extra(unknown, rows, budget)
        elif field.name not in sent:
            found[field.name] = absent.setdefault(field.type, pa.nulls(rows, field.type))
        elif pa.types.is_dictionary(field.type):
            found[field.name] = sent[field.name]
        else:
            found[field.name] = as_plain(sent[field.name], budget or Budget())
    return as_batch(pa.table(found), SCHEMA)


def require_few_names(count: int) -> None:
    """Raise a `RefusedError` when a batch has more unknown names than can be looked at."""
    if count > MOST_COLUMNS:
        raise too_many_names()


class RowByRow:
    """A batch that is made of single rows."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        """Args: names: that other rows of the same answer have already."""
        self._columns: dict[str, list[str | None]] = {name: [] for name in SENT_COLUMNS}
        self._extra: list[str | None] = []
        self._unknown = set(names) - _SENT

    def add(self, fields: Mapping[str, str | None], repeats: str | None = None) -> None:
        """Add a row.

        Args:
            fields: its texts, by name.
            repeats: the row as it was sent, when it has two fields of one name.

        Raises:
            RefusedError: the rows have too many unknown names.
        """
        for name, texts in self._columns.items():
            texts.append(fields.get(name))
        unknown = sorted(fields.keys() - _SENT)
        self._unknown.update(unknown)
        require_few_names(len(self._unknown))
        extra: dict[str, Any] = {name: fields[name] for name in unknown if fields[name] is not None}
        if repeats is not None:
            # A list, so that it is not taken for a field of that name, which is text.
            extra.pop(DUPLICATE_FIELD, None)
            extra = {DUPLICATE_FIELD: [repeats], **extra}
        self._extra.append(
            json.dumps(extra, ensure_ascii=False, separators=(",", ":")) if extra else None
        )

    def add_unreadable(self, text: str) -> None:
        """Add what could not be read as a row."""
        self.add({UNREADABLE: text})

    def batch(self) -> pa.RecordBatch:
        """The rows so far."""
        columns = {**self._columns, "extra_fields": self._extra}
        return as_batch(
            pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()}),
            SCHEMA,
        )


def _extra(fields: list[tuple[str, Any]], rows: int, budget: Budget | None) -> Column:
    """Unknown fields as a JSON object of text for each row, without those that are null.

    Args:
        fields: names, and columns of n texts.
        rows: n.
        budget: as for `landed`.

    Returns:
        n texts; null where all fields are.
    """
    fields = [(name, column) for name, column in fields if column.null_count < rows]
    if not fields:
        return pa.nulls(rows, pa.string())
    pairs = [
        json.dumps(name, ensure_ascii=False) + ":" + _quoted(pl.col(str(place)))
        for place, (name, _) in enumerate(fields)
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
    """By how many bytes a column grows when its name and its text stand in every row."""
    names = (rows - column.null_count) * (len(name.encode()) + len('"":"",'))
    return names + (expanded_bytes(column) if pa.types.is_dictionary(column.type) else 0)


def _objects(columns: list[Any], pairs: list[pl.Expr]) -> Column:
    # By place: a frame has its own idea of columns without a name, or with a character of zeros.
    texts = pl.DataFrame([_series(str(place), column) for place, column in enumerate(columns)])
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
    """Text as JSON has it, null where there is none."""
    # Of an object with one member, what is behind its name.
    written = pl.struct(text.alias("")).struct.json_encode().str.slice(4).str.strip_suffix("}")
    return pl.when(text.is_not_null()).then(written)
