"""Rows as bytes: typed batch -> text batch -> JSON, NDJSON, CSV; either batch -> Arrow, Parquet.

A value is written in the same way in all formats. Threads make rows and bytes before their
consumer. `responses.py` has the fields that JSON adds to the rows.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import queue
import threading
from collections import deque
from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import IO, Any, Self, cast, override

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from generator_service.simulator import VERSION
from generator_service.simulator.arrow import FOUR_DIGITS

_ROW_GROUP_ROWS = 1_000_000
# Limits the memory for the text of a batch: about 8 MB of NDJSON.
_TEXT_ROWS = 16_384
# Rows of one task: enough to make the search for their beginning negligible.
_FIRST_STRETCH, _STRETCH = 32_768, 131_072
_WORKERS = min(4, os.cpu_count() or 1)
# Smaller writes of an encoder are joined up to this size.
_CHUNK_BYTES = 2**20


type Column = pa.Array[Any]
type _Field = pa.Field[Any]


class Format(StrEnum):
    """The formats of rows, by their names in `?format=` and `--format`."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv",
    Format.ARROW: "application/vnd.apache.arrow.stream",
    Format.PARQUET: "application/vnd.apache.parquet",
}


LINES = frozenset({Format.NDJSON, Format.CSV})


class Types(StrEnum):
    """The columns of Arrow and Parquet: typed, or the same text as in JSON."""

    TYPED = "typed"
    TEXT = "text"


# A value as text.


def _four_characters(form: str, count: int) -> npt.NDArray[np.uint32]:
    """Return the numbers below count as four characters each, in one 32-bit value."""
    return np.frombuffer("".join(form % number for number in range(count)).encode(), np.uint32)


# 2026-11-01T00:00:00.000000Z: each group is written as one 32-bit value. The values overlap at
# characters that are the same in both.
_TIME = np.dtype(
    {
        "names": ["minute", "second", "micros", "end"],
        "formats": [np.uint32] * 4,
        "offsets": [13, 16, 20, 23],
        "itemsize": 27,
    }
)
_MINUTES, _SECONDS = _four_characters(":%02d:", 60), _four_characters(":%02d.", 60)
_MICROS, _ENDS = FOUR_DIGITS.view(np.uint32)[:, 0], _four_characters("%03dZ", 1_000)
_HOUR = 3_600_000_000


def _timestamp_text(column: Column) -> Column:
    rows = len(column)
    moments = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    # Rows are ordered by time: usually all are of the same hour.
    begun, which = moments[:1] // _HOUR, None
    if rows and not (begun * _HOUR <= moments.min() and moments.max() < (begun + 1) * _HOUR):
        begun, which = np.unique(moments // _HOUR, return_inverse=True)
    started = pa.array(begun * _HOUR).cast(pa.timestamp("us")).cast(pa.string())
    text = np.empty((rows, 27), np.uint8)
    text[:, :26] = utf8(started).reshape(-1, 26)[slice(None) if which is None else which]
    text[:, 10] = ord("T")
    left = (moments % _HOUR).astype(np.uint32)
    groups = text.reshape(-1).view(_TIME)
    micros = left % 1_000_000
    groups["micros"], groups["end"] = _MICROS[micros // 100], _ENDS[micros % 1_000]
    left //= 1_000_000
    groups["minute"], groups["second"] = _MINUTES[left // 60], _SECONDS[left % 60]
    offsets = np.arange(rows + 1, dtype=np.int32) * 27
    array = pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))
    return pc.if_else(column.is_valid(), array, None) if column.null_count else array


def _plain_text(column: Column) -> Column:
    return column.cast(pa.string())


def _coordinate_text(column: Column) -> Column:
    return column.cast(pa.decimal128(18, 6)).cast(pa.string())


def _boolean_text(column: Column) -> Column:
    return pa.DictionaryArray.from_arrays(column.cast(pa.int32()), pa.array(["false", "true"]))


@dataclass(frozen=True)
class _Numbers:
    """A dictionary of numbers, compared and hashed by the memory that it uses."""

    column: Column

    @override
    def __hash__(self) -> int:
        return hash(_memory(self.column))

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Numbers) and is_same(self.column, other.column)


@lru_cache(maxsize=8)
def _dictionary_text(numbers: _Numbers) -> Column:
    return _coordinate_text(numbers.column)


def _encoded_coordinate_text(column: Column) -> Column:
    encoded = cast("pa.DictionaryArray[Any, Any]", column)
    values = _dictionary_text(_Numbers(encoded.dictionary))
    return pa.DictionaryArray.from_arrays(encoded.indices, values, safe=False)


@dataclass(frozen=True)
class _Form:
    """How all formats write the values of a kind of Arrow column."""

    of: Callable[[pa.DataType], bool]
    text: Callable[[Column], Column]
    type: pa.DataType | None  # of the text; None: as the column's own
    in_json: str  # "string", or "bare" for what JSON writes without quotes


def _is_encoded_number(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.DictionaryType) and pa.types.is_floating(kind.value_type)


def _is_text(kind: pa.DataType) -> bool:
    values = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return pa.types.is_string(values)


_DICTIONARY_ENCODED_TEXT = pa.dictionary(pa.int32(), pa.string())
_FORMS = (
    _Form(_is_text, lambda column: column, None, "string"),
    _Form(pa.types.is_date, _plain_text, pa.string(), "string"),
    _Form(pa.types.is_timestamp, _timestamp_text, pa.string(), "string"),
    _Form(pa.types.is_decimal, _plain_text, pa.string(), "string"),
    _Form(pa.types.is_floating, _coordinate_text, pa.string(), "bare"),
    _Form(_is_encoded_number, _encoded_coordinate_text, _DICTIONARY_ENCODED_TEXT, "bare"),
    _Form(pa.types.is_integer, _plain_text, pa.string(), "bare"),
    _Form(pa.types.is_boolean, _boolean_text, _DICTIONARY_ENCODED_TEXT, "bare"),
)


def _form(field: _Field) -> _Form:
    return next(form for form in _FORMS if form.of(field.type))


def text_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of `text_batches`: strings, some of them dictionary-encoded.

    `json` in the metadata of a field says how JSON writes it: "string", with quotes, or "bare".
    """
    fields: list[_Field] = []
    for field in schema:
        form = _form(field)
        metadata = {"json": form.in_json}
        fields.append(pa.field(field.name, form.type or field.type, field.nullable, metadata))
    return pa.schema(fields).with_metadata(schema.metadata or {})


def text_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows with every value as text, as all formats write it.

    Times are RFC 3339 in UTC with six digits. Amounts have the decimals of their type, and floats
    six. Booleans are `true` and `false`. Null stays null.
    """
    for batch in batches:
        forms = [_form(field) for field in batch.schema]
        schema = text_schema(batch.schema)
        for start in range(0, batch.num_rows, _TEXT_ROWS):
            columns = batch.slice(start, _TEXT_ROWS).columns
            yield pa.RecordBatch.from_arrays(
                [form.text(column) for form, column in zip(forms, columns, strict=True)],
                schema=schema,
            )


# Text as lines.


def _joined(*pieces: Column | str) -> Column:
    """Concatenate columns and constants row by row."""
    # The stubs of pyarrow lack constants here.
    join = cast("Callable[..., Column]", pc.binary_join_element_wise)
    return join(*pieces, "")


def utf8(strings: Column) -> npt.NDArray[np.uint8]:
    """Return the concatenated bytes of all values, without a copy."""
    _, offsets, data = strings.buffers()
    if offsets is None or data is None:
        return np.empty(0, np.uint8)
    ends = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1]
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]


def _is_bare(field: _Field) -> bool:
    return (field.metadata or {}).get(b"json") == b"bare"


def _json_escaped(field: _Field, strings: Column) -> Column:
    if _is_bare(field):
        return strings
    data = utf8(strings)
    if not ((data < 0x20) | (data == ord('"')) | (data == ord("\\"))).any():
        return strings
    present = set(np.unique(data).tolist())
    # The backslash comes first: the other escapes contain it.
    for character in ("\\", '"', *map(chr, range(0x20))):
        if ord(character) in present:
            escape = json.dumps(character)[1:-1]
            strings = pc.replace_substring(strings, character, escape)
    return strings


def _csv_quoted(strings: Column) -> Column:
    """Quote as RFC 4180 requires, and quote empty text, which would otherwise mean null."""
    data = utf8(strings)
    special = (data == ord('"')) | (data == ord(",")) | (data == ord("\r")) | (data == ord("\n"))
    if not special.any() and pc.index(strings, "").as_py() < 0:
        return strings
    needs = pc.match_substring_regex(strings, '[",\r\n]|^$')
    doubled = pc.replace_substring(strings, '"', '""')
    return pc.if_else(needs, _joined('"', doubled, '"'), strings)


@dataclass(frozen=True)
class _Dialect:
    """The syntax of a line."""

    opening: Callable[[int, str], str]  # the text before a value, by its index and name
    quote: Callable[[_Field], str]
    escaped: Callable[[_Field, Column], Column]
    null: str
    end: str


def _json_opening(index: int, name: str) -> str:
    return ("," if index else "{") + json.dumps(name, ensure_ascii=False) + ":"


def _json_quote(field: _Field) -> str:
    return "" if _is_bare(field) else '"'


_JSON = _Dialect(_json_opening, _json_quote, _json_escaped, null="null", end="}\n")
_JSON_ITEMS = replace(_JSON, end="},\n")
_CSV = _Dialect(
    lambda index, _: "," if index else "",
    lambda _: "",
    lambda _, column: _csv_quoted(column),
    null="",
    end="\n",
)


@dataclass(frozen=True)
class Mixed:
    """Text rows of several shapes, which only JSON can write.

    Attributes:
        parts: the rows of each shape.
        order: the index of each row that is sent, among the rows of all parts.
    """

    parts: Sequence[pa.RecordBatch]
    order: npt.NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        """The number of rows that are sent."""
        return self.order.size


class _Lines:
    """Turns text batches into lines: one join of all columns; dictionaries are escaped once."""

    def __init__(self, dialect: _Dialect) -> None:
        self._dialect = dialect
        self._written_values: dict[tuple[str, str, str], tuple[Column, Column]] = {}

    def __call__(self, rows: pa.RecordBatch | Mixed) -> memoryview:
        if isinstance(rows, pa.RecordBatch):
            return memoryview(utf8(self._lines(rows)))
        lines = pa.concat_arrays([self._lines(part) for part in rows.parts])
        return memoryview(utf8(lines.take(rows.order)))

    def _lines(self, batch: pa.RecordBatch) -> Column:
        dialect = self._dialect
        pieces: list[Column | str] = []
        for index, (field, column) in enumerate(zip(batch.schema, batch.columns, strict=True)):
            before = dialect.opening(index, field.name)
            quote = dialect.quote(field)
            if isinstance(column, pa.DictionaryArray):
                values = self._written(field, column.dictionary, before, quote)
                indices = cast("pa.Int32Array", column.indices.fill_null(len(values) - 1))
                pieces.append(values.take(indices))
            elif column.null_count:
                value = dialect.escaped(field, column)
                written = _joined(before + quote, value, quote)
                pieces.append(written.fill_null(before + dialect.null))
            else:
                pieces += [before + quote, dialect.escaped(field, column), quote]
        pieces.append(dialect.end)
        return _joined(*_merged(pieces))

    def _written(self, field: _Field, values: Column, before: str, quote: str) -> Column:
        """Return the values of a dictionary as they appear in a line, followed by that of null."""
        known = self._written_values.get(key := (field.name, before, quote))
        if known is None or not is_same(known[0], values):
            null = pa.array([before + self._dialect.null])
            inside = _joined(before + quote, self._dialect.escaped(field, values), quote)
            known = self._written_values[key] = (values, pa.concat_arrays([inside, null]))
        return known[1]


# Shared by all pages, which have the same dictionaries.
_ITEM_LINES = _Lines(_JSON_ITEMS)


def is_same(one: Column, other: Column) -> bool:
    """Whether two arrays are views of the same memory; cheaper than comparing their values."""
    return _memory(one) == _memory(other)


def _memory(array: Column) -> tuple[int, ...]:
    """Return the identity of a view of memory, valid while the view exists."""
    buffers = [buffer.address for buffer in array.buffers() if buffer is not None]
    return array.offset, len(array), *buffers


def _merged(pieces: Iterable[Column | str]) -> Iterator[Column | str]:
    """Join neighbouring constants: each piece costs time on every row."""
    constant = ""
    for piece in pieces:
        if isinstance(piece, str):
            constant += piece
        else:
            if constant:
                yield constant
            constant = ""
            yield piece
    if constant:
        yield constant


def json_items(batches: Iterable[pa.RecordBatch | Mixed]) -> bytes:
    """Return text batches as the items of a JSON array, one a line, without the brackets."""
    pieces = [_ITEM_LINES(batch) for batch in batches if batch.num_rows]
    if pieces:
        pieces[-1] = pieces[-1][: -len(b",\n")]
    return b"".join(pieces)


# Streams.


def named(schema: pa.Schema, configuration_hash: str) -> pa.Schema:
    """Return a schema whose metadata names the generator of the rows."""
    return schema.with_metadata(
        {"generator.version": VERSION, "generator.configuration": configuration_hash}
    )


class _Sink(io.RawIOBase):
    """A file that an encoder writes, and whose bytes are read in chunks."""

    def __init__(self) -> None:
        self._written: list[memoryview] = []

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Buffer) -> int:
        view = memoryview(data)
        self._written.append(view)
        return view.nbytes

    def take(self) -> Iterator[memoryview]:
        """Yield the bytes written since the last call, small writes joined."""
        written, self._written = self._written, []
        gathered = bytearray()
        for view in written:
            if gathered and len(gathered) + view.nbytes > _CHUNK_BYTES:
                yield memoryview(gathered)
                gathered = bytearray()
            if view.nbytes > _CHUNK_BYTES:
                yield view
            else:
                gathered += view
        if gathered:
            yield memoryview(gathered)


def encode(
    batches: Iterable[pa.RecordBatch | Mixed], schema: pa.Schema, form: Format
) -> Iterator[memoryview]:
    """Yield a stream of rows in a format, chunk by chunk; the same batches give the same bytes.

    NDJSON and CSV take `text_batches` and their `text_schema`; NDJSON takes `Mixed` too. Arrow and
    Parquet also take typed batches, and store the schema's metadata.

    Raises:
        ValueError: the format is JSON, which is not a stream; see `json_items`.
    """
    if form is Format.NDJSON:
        return map(_Lines(_JSON), batches)
    batches = cast("Iterable[pa.RecordBatch]", batches)
    match form:
        case Format.CSV:
            names = ",".join(map(str, _csv_quoted(pa.array(schema.names))))
            header = memoryview(f"{names}\n".encode())
            return itertools.chain([header], map(_Lines(_CSV), batches))
        case Format.ARROW:
            return _arrow(batches, schema)
        case Format.PARQUET:
            return _parquet(batches, schema)
        case Format.JSON:
            raise ValueError("JSON is sent in pages, not as a stream.")


def _arrow(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[memoryview]:
    sink = _Sink()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield from sink.take()
    yield from sink.take()


def _parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[memoryview]:
    values = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    sink = _Sink()
    # The stubs of pyarrow lack lists of columns and Python files here.
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": values,
        # Statistics of texts would double the time, and let no reader skip a row group.
        "write_statistics": [name for name in schema.names if name not in values],
        "store_decimal_as_integer": True,
        # Without the Arrow schema every reader gets plain strings instead of dictionaries.
        "store_schema": False,
    }
    writer = pq.ParquetWriter(cast("IO[bytes]", sink), schema, **options)
    # The metadata is not stored without the Arrow schema.
    metadata = (schema.metadata or {}).items()
    writer.add_key_value_metadata({name.decode(): value.decode() for name, value in metadata})
    for table in _tables(batches, schema):
        writer.write_table(table, row_group_size=table.num_rows)
        # Frees its memory before the next one is gathered.
        del table
        yield from sink.take()
    writer.close()
    yield from sink.take()


def _tables(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Gather batches into tables of one row group each."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= _ROW_GROUP_ROWS:
            yield pa.Table.from_batches(held, schema)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)


# Prefetching.


def in_parallel(
    make: Callable[[int, int], Iterable[pa.RecordBatch]], start: int, stop: int
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of make(start, stop), which threads make in stretches, in order.

    A few stretches of about ten megabytes are in memory at a time. The first is short, so that the
    first rows come soon. Closing the iterator cancels the stretches that have not begun.
    """
    if stop - start <= _FIRST_STRETCH:
        yield from make(start, stop)
        return

    def made(first: int, last: int) -> list[pa.RecordBatch]:
        return list(make(first, last))

    edges = [start, *range(start + _FIRST_STRETCH, stop, _STRETCH), stop]
    waiting: deque[Future[list[pa.RecordBatch]]] = deque()
    pool = ThreadPoolExecutor(_WORKERS, "in-parallel")
    try:
        for first, last in itertools.pairwise(edges):
            waiting.append(pool.submit(made, first, last))
            if len(waiting) > _WORKERS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


class Prefetch[T](Iterator[T]):
    """Runs an iterator in a thread, at most `depth` items before the consumer needs them.

    The consumer gets the exceptions of the iterator. After `close` the thread ends with its current
    item. It is a daemon thread, so it never keeps a process alive.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth - 1)
        self._closed = False
        self.thread = threading.Thread(
            target=self._run, args=(items,), name="prefetch", daemon=True
        )
        self.thread.start()

    def _run(self, items: Iterator[T]) -> None:
        end = _End()
        try:
            for item in items:
                self._ready.put(item)
                self._room.acquire()
                if self._closed:
                    break
        except BaseException as error:
            end = _End(error)
        self._ready.put(end)
        # The error's traceback refers to this frame: both, and the rows, would wait for the
        # garbage collector.
        del items, end

    @override
    def __next__(self) -> T:
        item = self._ready.get()
        if not isinstance(item, _End):
            self._room.release()
            return item
        # Kept for the next call.
        self._ready.put(item)
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Let the thread end; items that were not consumed are dropped."""
        self._closed = True
        self._room.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
