"""Small answers that expand to very many bytes, and their expected results."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from txn_platform_tests.support.served_source import sent_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTE: Final = 1 << 20
_ID: Final = "transaction_id"


@dataclass(frozen=True)
class Bomb:
    """A small answer that expands to very many bytes.

    Attributes:
        id: its name.
        wire: the format.
        make: its body.
        message: a part of the one message, a regular expression; None if its rows are landed,
            and quarantined later.
        long: whether it takes longer than most.
    """

    id: str
    wire: str
    make: Callable[[], bytes]
    message: str | None
    long: bool = False


def _stream(batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch], **options: Any) -> bytes:
    sink = io.BytesIO()
    batches = iter(batches)
    first = next(batches)
    with pa.ipc.new_stream(sink, first.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def _one(column: Any, name: str = _ID, **options: Any) -> bytes:
    return _stream([pa.RecordBatch.from_arrays([column], names=[name])], **options)


def _repeated(rows: int, size: int) -> pa.Array[Any]:
    """Return one text for all rows."""
    indices = pa.Array.from_buffers(pa.int8(), rows, [None, pa.py_buffer(bytes(rows))])
    return pa.DictionaryArray.from_arrays(indices, pa.array(["x" * size]))


def _views(rows: int, size: int) -> pa.Array[Any]:
    """Return one text for all rows, as views of the same bytes."""
    view = struct.pack("<i4sii", size, b"xxxx", 0, 0)
    buffers = [None, pa.py_buffer(view * rows), pa.py_buffer(b"x" * size)]
    return pa.Array.from_buffers(pa.string_view(), rows, buffers)


def _deltas(count: int) -> bytes:
    """Return a dictionary that grows by a value in each batch."""
    values = [f"{number:0100}" for number in range(count)]
    return _stream(
        (
            pa.RecordBatch.from_arrays(
                [
                    pa.DictionaryArray.from_arrays(
                        pa.array([size], pa.int32()), pa.array(values[: size + 1])
                    )
                ],
                names=["merchant_name"],
            )
            for size in range(count)
        ),
        emit_dictionary_deltas=True,
    )


def _lists(rows: int) -> pa.Array[Any]:
    return pa.ListArray.from_arrays(pa.array([0, rows], pa.int32()), pa.nulls(rows))


def _named(rows: int, length: int) -> pa.Array[Any]:
    return pa.StructArray.from_arrays([pa.array([1] * rows, pa.int8())], names=["n" * length])


def _wide(names: int) -> bytes:
    schema = pa.schema([(f"c{number}", pa.null()) for number in range(names)])
    batch = pa.RecordBatch.from_arrays([pa.nulls(1)] * names, schema=schema)
    return _stream([batch])


def _keys(count: int, first: int = 0) -> str:
    return "{" + ",".join(f'"k{number}":1' for number in range(first, first + count)) + "}"


_ROW: Final = json.dumps(sent_row(1))


def _page(rows: str, more: str = "") -> bytes:
    return f'{{"data":[{rows}],{more}"next":null}}'.encode()


_PROPORTION: Final = "decodes to more than (100 times its size|33,554,432 bytes)"
_NAMES: Final = "has rows of more than 1,000 different fields"

BOMBS: Final = (
    Bomb("nulls", "arrow", lambda: _one(pa.nulls(40_000_000)), _PROPORTION),
    Bomb("nulls-unknown", "arrow", lambda: _one(pa.nulls(40_000_000), "x"), _PROPORTION, long=True),
    Bomb(
        "zstd-text",
        "arrow",
        lambda: _one(pa.array(["x" * 100 * MEGABYTE]), "merchant_name", compression="zstd"),
        _PROPORTION,
    ),
    Bomb(
        "lz4-zeros",
        "arrow",
        lambda: _one(pa.array([0] * 5_000_000), "x", compression="lz4"),
        _PROPORTION,
        long=True,
    ),
    Bomb(
        "zstd-batches",
        "arrow",
        lambda: _stream(
            [pa.RecordBatch.from_arrays([pa.array([0] * 10_000)], names=["amount"])] * 2_000,
            compression="zstd",
        ),
        _PROPORTION,
    ),
    Bomb(
        "long-text",
        "arrow",
        lambda: _one(pa.array(["x" * 20 * MEGABYTE])),
        "has a value longer",
        long=True,
    ),
    Bomb("dictionary", "arrow", lambda: _one(_repeated(400_000, MEGABYTE)), _PROPORTION),
    Bomb(
        "dictionary-x",
        "arrow",
        lambda: _one(_repeated(400_000, MEGABYTE), "x"),
        _PROPORTION,
        long=True,
    ),
    Bomb(
        "runs",
        "arrow",
        lambda: _one(pc.run_end_encode(pa.nulls(400_000).cast(pa.string()).fill_null("x" * 99))),
        _PROPORTION,
    ),
    Bomb("views", "arrow", lambda: _one(_views(400_000, MEGABYTE)), _PROPORTION),
    Bomb("deltas", "arrow", lambda: _deltas(3_000), _PROPORTION, long=True),
    Bomb("list-of-nulls", "arrow", lambda: _one(_lists(40_000_000), "x"), _PROPORTION),
    Bomb(
        "long-names", "arrow", lambda: _one(_named(100_000, 100_000), "x"), _PROPORTION, long=True
    ),
    Bomb(
        "long-name", "arrow", lambda: _one(pa.array([True] * 100_000), "n" * 900_000), _PROPORTION
    ),
    Bomb("wide", "arrow", lambda: _wide(5_000), "has more than 1,000 columns"),
    Bomb("wider", "arrow", lambda: _wide(100_000), "has a message of", long=True),
    Bomb("keys", "ndjson", lambda: _keys(5_000).encode() + b"\n", _NAMES),
    Bomb("more-keys", "ndjson", lambda: _keys(50_000).encode() + b"\n", _NAMES, long=True),
    Bomb(
        "keys-of-rows",
        "ndjson",
        lambda: "\n".join(_keys(1, number) for number in range(5_000)).encode() + b"\n",
        _NAMES,
    ),
    Bomb(
        "nested-keys",
        "ndjson",
        lambda: b'{"x":' + _keys(200_000).encode() + b"}\n",
        _NAMES,
        long=True,
    ),
    Bomb("empty-objects", "ndjson", lambda: b"{}\n" * 1_000_000, _PROPORTION),
    Bomb("ones", "ndjson", lambda: b"1\n" * 4_000_000, _PROPORTION, long=True),
    Bomb("odd-ones", "ndjson", lambda: b"NaN\n" * 4_000_000, _PROPORTION, long=True),
    Bomb(
        "deep",
        "ndjson",
        lambda: b'{"x":' + b"[" * 2_000_000 + b"\n",
        "has no row with any",
        long=True,
    ),
    Bomb(
        "deep-closed",
        "ndjson",
        lambda: b'{"x":' + b"[" * 900 + b"]" * 900 + b"}\n",
        "has no row with any",
        long=True,
    ),
    Bomb(
        "long-line",
        "ndjson",
        lambda: b'{"x":"' + b"x" * 20 * MEGABYTE + b'"}\n',
        "has a line",
        long=True,
    ),
    Bomb(
        "quotes",
        "ndjson",
        lambda: b'{"amount":NaN,"x":[' + b'"",' * 1_000_000 + b'""]}\n',
        "has no row with any",
        long=True,
    ),
    Bomb("digits", "ndjson", lambda: b'{"amount":' + b"9" * 1_000_000 + b"}\n", None),
    Bomb("exponent", "ndjson", lambda: b'{"amount":1e999999999}\n', None, long=True),
    Bomb("page-of-empty", "json", lambda: _page("{}," * 1_000_000 + "{}"), _PROPORTION, long=True),
    Bomb("page-of-ones", "json", lambda: _page("1," * 10_000_000 + "1"), _PROPORTION, long=True),
    Bomb("page-of-odd", "json", lambda: _page("NaN," * 2_000_000 + "{}"), _PROPORTION, long=True),
    Bomb("page-of-keys", "json", lambda: _page(_keys(5_000)), _NAMES, long=True),
    Bomb(
        "envelope",
        "json",
        lambda: _page(_ROW, _keys(2_000_000)[1:-1] + ","),
        "beside its rows",
        long=True,
    ),
    Bomb("envelope-keys", "json", lambda: _page(_ROW, _keys(5_000)[1:-1] + ","), _NAMES),
    Bomb("page-deep", "json", lambda: _page("[" * 500_000), "is no JSON", long=True),
    Bomb(
        "columns",
        "csv",
        lambda: b"amount" + b",".join(b"c%d" % number for number in range(100_000)) + b"\n",
        "has more than 1,000 columns",
        long=True,
    ),
    Bomb("million-columns", "csv", lambda: b"amount" + b",a" * 500_000 + b"\n", "has more than"),
    Bomb("short-lines", "csv", lambda: b"amount\n" + b"1\n" * 8_000_000, _PROPORTION),
    Bomb(
        "broken-lines",
        "csv",
        lambda: b"amount,country\n" + b"1\n" * 8_000_000,
        _PROPORTION,
        long=True,
    ),
    Bomb(
        "commas",
        "csv",
        lambda: (
            b"amount"
            + b"".join(b",c%d" % number for number in range(999))
            + b"\n"
            + (b"," * 999 + b"\n") * 20_000
        ),
        _PROPORTION,
        long=True,
    ),
    Bomb(
        "csv-long-name",
        "csv",
        lambda: b"amount," + b"n" * 100_000 + b"\n" + b"1,1\n" * 100_000,
        _PROPORTION,
        long=True,
    ),
)
