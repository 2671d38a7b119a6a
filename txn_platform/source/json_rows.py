"""JSON objects as rows: the most common shapes column by column, the others one by one.

Values are not interpreted: a number keeps its digits, and nested values stay as sent. A row with
two fields of one name has the value of the last, as in other parsers, and is also kept as a whole.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa

from txn_platform.arrow.dictionaries import as_batch, integers
from txn_platform.source.decode_limits import MOST_COLUMNS, TooLargeError
from txn_platform.source.json_columns import read_alike
from txn_platform.source.json_objects import is_too_deep, parts, repeats_a_name, too_many_names
from txn_platform.source.json_values import printable, value_text
from txn_platform.source.landed_rows import RowByRow, landed, require_few_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from txn_platform.contract.model import Contract
    from txn_platform.source.decode_limits import Budget

_BLANK_BEHIND_A_STRING: Final = re.compile(rb'"[ \t\r\n]')
_SHAPES_TRIED: Final = 4
# A longer row is read alone, and its names are counted before they become objects.
_LONG_ROW: Final = 1 << 16
# Beyond this, a row that only Python's parser can read would take too much memory.
_LONGEST_ODD_ROW: Final = 1 << 20

# Each value as the bytes that were sent.
_ROW: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Digits(str):
    """A JSON number as sent."""

    __slots__ = ()


def rows_of(rows: Sequence[msgspec.Raw], budget: Budget, contract: Contract) -> pa.RecordBatch:
    """Rows of valid JSON, in UTF-8.

    Args:
        rows: n rows, whose memory the budget has counted.
        budget: limits the length of a row.
        contract: of the rows.

    Raises:
        msgspec.DecodeError: one is no object.
        RefusedError: they have too many different names.
        TooLargeError: one is too long.
    """
    lengths = np.fromiter(map(len, cast("Any", rows)), np.int64, len(rows))
    _require_short(int(lengths.max(initial=0)), budget)
    done: list[pa.RecordBatch] = []
    indices: list[NDArray[np.int64]] = []
    left = np.arange(len(rows))
    alone = left[lengths > _LONG_ROW]
    left = left[lengths <= _LONG_ROW]
    unknown: set[str] = set()
    for tried in range(_SHAPES_TRIED):
        if not left.size:
            break
        some = [rows[index] for index in left] if len(left) < len(rows) else rows
        # A row from another part each time, because the first may have a unique shape.
        like = some[len(some) * tried // _SHAPES_TRIED]
        names = list(_ROW.decode(like))
        unknown.update(names)
        require_few_names(len(unknown) - len(contract.names))
        columns, alike = read_alike(some, lengths[left], bytes(like), names, value_text)
        batch = landed(contract, columns.schema.names, columns.columns, columns.num_rows)
        if len(batch) == len(rows):
            return batch
        done.append(batch)
        indices.append(left[alike])
        left = left[~alike]
    left = np.concatenate([left, alone])
    found = RowByRow(contract, unknown)
    for index in left:
        _add(found, bytes(rows[index]))
    order = integers(np.argsort(np.concatenate([*indices, left])))
    return as_batch(pa.Table.from_batches([*done, found.batch()]), contract.answer_schema).take(
        order
    )


class NoJsonError(ValueError):
    """An element is not JSON."""


def odd_rows_of(
    rows: Iterable[bytes], budget: Budget, contract: Contract, *, are_json: bool = False
) -> pa.RecordBatch:
    """The same, of rows of which some are not JSON by the letter; those that are none as text.

    Raises:
        NoJsonError: one is no JSON at all, where they all must be.
    """
    found = RowByRow(contract)
    for row in rows:
        _require_short(len(row), budget)
        try:
            row.decode()
            _add(found, row)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _add_odd(found, row, is_json=are_json)
    return found.batch()


def _require_short(length: int, budget: Budget) -> None:
    if length > budget.longest_value:
        raise TooLargeError(f"has a row longer than {budget.longest_value:,} bytes")


def _add(found: RowByRow, row: bytes) -> None:
    """Add a row of valid JSON."""
    long = len(row) > _LONG_ROW
    repeats = long and repeats_a_name(row)
    fields = _ROW.decode(row)
    if len(fields) > MOST_COLUMNS:
        raise too_many_names()
    # A name ends with a quote and a colon. If there are as many of these as fields, no name occurs
    # twice. So most rows are not parsed again.
    if not long and (row.count(b'":') != len(fields) or _BLANK_BEHIND_A_STRING.search(row)):
        repeats = repeats_a_name(row)
    found.add(
        {name: value_text(bytes(value)) for name, value in fields.items()},
        row.decode() if repeats else None,
    )


def _add_odd(found: RowByRow, row: bytes, *, is_json: bool) -> None:
    """Add a row with NaN or half a character, or one that is no object, or not JSON at all."""
    # How deep a parser goes is another depth in each version of Python.
    too_deep = is_too_deep(row)
    value = None if too_deep else parsed(row)
    if not isinstance(value, dict):
        if is_json and value is None and row != b"null" and not too_deep:
            raise NoJsonError
        found.add_unreadable(row.decode("utf-8", "backslashreplace"))
        return
    fields: dict[str, str | None] = {}
    for part in parts(row, row.index(b"{")):
        name = printable(json.loads(part.name))
        fields[name] = value_text(row[part.start : part.end].strip())
    found.add(fields, row.decode() if repeats_a_name(row) else None)


def parsed(document: bytes) -> Any:
    """A parsed JSON text, with numbers as `Digits`; NaN is allowed. None if it is no JSON."""
    if len(document) > _LONGEST_ODD_ROW:
        return None
    try:
        return json.loads(
            document.decode(), parse_float=Digits, parse_int=Digits, parse_constant=Digits
        )
    except (ValueError, RecursionError):
        return None
