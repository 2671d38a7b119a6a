"""JSON objects of the same shape, read column by column.

Arrays of the bytes of all rows are ten times as fast as a Python object for each value. A row is
read only if its values are proven to be at the expected indices. The caller reads the other rows,
and knows that all rows are valid JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.arrow.dictionaries import boolean, integers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import msgspec
    from numpy.typing import NDArray

    type Flags = NDArray[np.bool_]
    type Bytes = NDArray[np.uint8]
    # Indices of bytes in the text, or of such indices in a list.
    type Indices = NDArray[np.int64]

_SPACE, _QUOTE, _COLON, _BACKSLASH, _NULL = b' ":\\n'
# A block's bytes and indices stay in the processor's cache.
_BLOCK_ROWS: Final = 2_048
_BLOCK_BYTES: Final = 1 << 21
_NONE: Final = np.empty(0, np.int64)
# The first bytes of a number, true, false or null.
_BARE: Final = np.isin(np.arange(256), np.frombuffer(b"-0123456789tfn", np.uint8))


def read_alike(
    rows: Sequence[msgspec.Raw],
    lengths: Indices,
    like: bytes,
    names: Sequence[str],
    text_of: Callable[[bytes], str | None],
) -> tuple[pa.Table, Flags]:
    """Read the rows that are flat objects with the same fields in the same order as a given row.

    They have no blanks, or one after every colon and every comma.

    Args:
        rows: n, each one valid JSON in UTF-8, without blanks around it.
        lengths: the bytes of each row.
        like: the given row.
        names: the names of its fields, all different.
        text_of: decodes a string, in its quotes, that has a backslash.

    Returns:
        Columns of m texts, strings without their quotes and other values as sent; and n flags that
        mark these rows.
    """
    if not names:
        return pa.table({}), np.zeros(len(rows), np.bool_)
    space = like.startswith(_heads(names, 1)[0])
    tables: list[pa.Table] = []
    flags: list[Flags] = []
    for block in _blocks(lengths):
        columns, alike = _read_block(rows[block], lengths[block], names, int(space), text_of)
        tables.append(pa.Table.from_arrays(columns, names=list(names)))
        flags.append(alike)
    return pa.concat_tables(tables), np.concatenate(flags)


def _blocks(lengths: Indices) -> Iterator[slice]:
    """Which rows to read together, one at least."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        longest = int(np.searchsorted(ends, before + _BLOCK_BYTES, side="right"))
        stop = max(start + 1, min(start + _BLOCK_ROWS, longest))
        yield slice(start, stop)
        start = stop


def _read_block(
    rows: Sequence[msgspec.Raw],
    lengths: Indices,
    names: Sequence[str],
    space: int,
    text_of: Callable[[bytes], str | None],
) -> tuple[list[pa.Array[Any]], Flags]:
    heads = _heads(names, space)
    # No head that is looked for reaches over the end.
    text = b"\n".join([*rows, b"\n" * max(map(len, heads))])
    data = np.frombuffer(text, np.uint8)
    ends = np.cumsum(lengths + 1) - 1

    is_quote = data == _QUOTE
    backslashes = np.flatnonzero(data == _BACKSLASH) if b"\\" in text else _NONE
    is_quote[_escaped(backslashes)] = False
    quotes = np.flatnonzero(is_quote)
    opening, closing = quotes[::2], quotes[1::2]
    # In valid JSON a string before a colon is a key.
    keys = np.flatnonzero(data[closing + 1] == _COLON)
    counts = np.diff(np.searchsorted(opening[keys], ends), prepend=0)
    alike = counts == len(names)
    keys = keys[np.repeat(alike, counts)].reshape(-1, len(names))
    ends = ends[alike]

    indices = opening[keys]
    starts = indices + [len(name.encode()) + 3 + space for name in names]
    stops = np.column_stack([indices[:, 1:] - 1 - space, ends - 1])
    # A row must be heads and values in turn, and nothing else.
    sound = indices[:, 0] - 1 == ends - lengths[alike]
    for head, start in zip(heads, starts.T, strict=True):
        sound &= _stands_at(data, start - len(head), head)
    strings = np.column_stack([keys[:, 1:], np.searchsorted(opening, ends)]) - keys - 1
    string = np.minimum(keys + 1, opening.size - 1)
    is_text = (strings == 1) & (opening[string] == starts) & (closing[string] == stops - 1)
    first = data[starts]
    is_bare = (strings == 0) & _BARE[first] & (data[stops - 1] > _SPACE)
    sound &= (is_text | is_bare).all(axis=1)
    is_null = is_bare & (first == _NULL)
    edges = np.stack([starts + is_text, stops - is_text], axis=-1)
    if not sound.all():
        alike[alike] = sound
        edges, is_null = edges[sound], is_null[sound]
    return _cut(text, edges, is_null, backslashes, text_of), alike


def _heads(names: Sequence[str], space: int) -> list[bytes]:
    """The bytes before the value of each field."""
    blank = " " * space
    return [
        f'{f",{blank}" if index else "{"}"{name}":{blank}'.encode()
        for index, name in enumerate(names)
    ]


def _escaped(backslashes: Indices) -> Indices:
    """The indices of escaped bytes; in a run of backslashes, every second one is escaped."""
    count = np.arange(backslashes.size)
    begins = np.diff(backslashes, prepend=-2) > 1
    begun = np.maximum.accumulate(np.where(begins, count, 0))
    return backslashes[(count - begun) % 2 == 0] + 1


def _stands_at(data: Bytes, indices: Indices, wanted: bytes) -> Flags:
    width = len(wanted)
    windows = np.ndarray((data.size - width + 1,), f"S{width}", data.data, strides=(1,))
    return windows[indices] == wanted


def _cut(
    text: bytes,
    edges: Indices,
    is_null: Flags,
    backslashes: Indices,
    text_of: Callable[[bytes], str | None],
) -> list[pa.Array[Any]]:
    """The values of m rows of k fields; `edges` has the start and end of each."""
    rows, fields, _ = edges.shape
    offsets = np.append(edges.ravel(), len(text))
    _, checked = integers(offsets).cast(pa.int32()).buffers()
    # Values alternate with the bytes between them.
    pieces = pa.StringArray.from_buffers(
        2 * rows * fields, cast("pa.Buffer", checked), pa.py_buffer(text)
    )
    holders = np.unique(np.searchsorted(offsets, backslashes, side="right") - 1)
    holders = holders[(holders >= 0) & (holders % 2 == 0)] // 2
    columns: list[pa.Array[Any]] = []
    for field in range(fields):
        indices = np.arange(2 * field, 2 * rows * fields, 2 * fields)
        nulls = is_null[:, field]
        column = pieces.take(integers(indices, nulls if nulls.any() else None))
        here = holders[holders % fields == field] // fields
        if here.size:
            decoded = [text_of(text[start - 1 : end + 1]) for start, end in edges[here, field]]
            others = pl.Series(decoded, dtype=pl.String).to_arrow().cast(pa.string())
            is_other = np.zeros(rows, np.bool_)
            is_other[here] = True
            column = pc.replace_with_mask(column, boolean(is_other), others)
        columns.append(column)
    return columns
