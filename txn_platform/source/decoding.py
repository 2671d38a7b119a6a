"""The wire formats, Arrow, CSV, NDJSON and JSON: each gives the same batches of text.

Values are not interpreted: a JSON number keeps its digits, and text keeps its spaces. Bytes that
are no row are kept as a row without fields. `client` fetches the bytes.

A new format is a function here and an entry in `DECODERS`.
"""

from __future__ import annotations

import codecs
import csv
import io
import struct
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, override

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from txn_platform.arrow.dictionaries import as_batch, empty, integers
from txn_platform.contract.model import UNREADABLE
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import shown
from txn_platform.source.arrow_messages import ArrowMessages
from txn_platform.source.arrow_text import AsText
from txn_platform.source.decode_limits import (
    MOST_COLUMNS,
    Budget,
    RefusedError,
    TooLargeError,
    UnreadableError,
)
from txn_platform.source.envelope import leaves_out, require_no_failure
from txn_platform.source.json_objects import parts, repeats_a_name
from txn_platform.source.json_rows import NoJsonError, odd_rows_of, parsed, rows_of
from txn_platform.source.json_values import find_loosely, find_value
from txn_platform.source.landed_rows import RowByRow, landed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from txn_platform.contract.model import Contract

__all__ = [
    "DECODERS",
    "FORMATS",
    "PAGES",
    "UNREADABLE",
    "UnreadableError",
    "arrow",
    "delimited",
    "ndjson",
    "page",
]

_CHUNK_BYTES: Final = 1 << 22
_SMALLEST_BLOCK: Final = 1 << 18
_USUAL_COLUMNS: Final = 64
_LONGEST_HEADER: Final = 1 << 20
# Smaller batches have a higher cost each; larger ones leave the processor's cache.
_GATHERED_ROWS: Final = 1 << 17
_GATHERED_COLUMNS: Final = 1 << 14
# Lines that are decoded at a time.
_BLOCK_LINES: Final = 1 << 16
# The envelope of a page becomes Python objects, which are many times larger.
_LONGEST_ENVELOPE: Final = 1 << 20

# The first bytes of other formats.
_BEGINNINGS: Final = {
    b"ARROW1": "an Arrow file",
    b"FEA1": "a Feather file",
    b"PAR1": "a Parquet file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x1f\x8b": "compressed with gzip, which its headers do not say",
    b"\x28\xb5\x2f\xfd": "compressed with zstd, which its headers do not say",
    b"\x04\x22\x4d\x18": "compressed with lz4, which its headers do not say",
    b"\xfd7zXZ": "compressed with xz, which its headers do not say",
    b"BZh": "compressed with bzip2, which its headers do not say",
    b"PK\x03\x04": "a ZIP file",
    b"Obj\x01": "an Avro file",
    b"ORC\n": "an ORC file",
}
_EXPECTED: Final = {
    "arrow": "an Arrow stream (the IPC streaming format)",
    "csv": "CSV",
    "ndjson": "JSON objects, one a line",
    "json": "a JSON page",
}


_VALUE: Final = msgspec.json.Decoder(msgspec.Raw)
_VALUES: Final = msgspec.json.Decoder(list[msgspec.Raw])
# The size of a list element as an object, besides its text.
_ELEMENT_BYTES: Final = 64


def arrow(
    body: Any, budget: Budget | None = None, contract: Contract = TRANSACTIONS
) -> Iterator[pa.RecordBatch]:
    """An Arrow IPC stream; columns of other types than text become text, see `arrow_text`.

    Args:
        body: a file of bytes.
        budget: the memory that the rows may use.
        contract: of the rows.

    Raises:
        UnreadableError: it is no whole stream.
        RefusedError: it has columns that cannot be read.
        TooLargeError: it takes too much memory.
    """
    budget = budget or Budget()
    beginning = body.read(4)
    _require_format(beginning, "arrow")
    try:
        with pa.ipc.open_stream(ArrowMessages(body, budget, beginning)) as reader:
            names = reader.schema.names
            _require_once(names, "an Arrow schema")
            texts = {name: AsText(name, budget) for name in names}
            gathered: list[pa.RecordBatch] = []
            rows = 0
            some = False
            for batch in reader:
                gathered.append(batch)
                rows += batch.num_rows
                some |= bool(rows)
                if rows >= _GATHERED_ROWS or len(gathered) * len(names) >= _GATHERED_COLUMNS:
                    yield _as_text_batch(gathered, texts, budget, contract)
                    gathered, rows = [], 0
            if not some:
                _require_columns(names, contract)
            if gathered:
                yield _as_text_batch(gathered, texts, budget, contract)
    except (pa.ArrowException, OSError, UnicodeDecodeError, pl.exceptions.PolarsError):
        raise UnreadableError("is no whole Arrow stream of text") from None


def _require_format(beginning: bytes, wire: str) -> None:
    """Raise a `RefusedError` when an answer begins like one of another format."""
    for magic, kind in _BEGINNINGS.items():
        if len(beginning) >= 4 and beginning.startswith(magic[: len(beginning)]):
            if kind == "an Arrow stream" and wire == "arrow":
                return
            raise RefusedError(
                f"is {kind}, and {_EXPECTED[wire]} is expected: let the source send that, or set"
                " GENERATOR_FORMAT, or the format of its SourceApi, to what it sends"
            )


def _is_text(beginning: bytes) -> bool:
    """Whether these may be the first bytes of a text; most other formats have small numbers."""
    return not any(byte < 9 or byte == 0xFF for byte in beginning[:16])


def _require_columns(names: Sequence[str], contract: Contract) -> None:
    """Raise an `UnreadableError` when an answer without rows is not known to be one of rows."""
    missing = [name for name in contract.required if not contract.is_among(name, names)]
    if missing:
        raise UnreadableError(
            f"has no row, and lacks {len(missing)} of the contract's columns, as {missing[0]!r}"
        )


def _require_once(names: Sequence[str], what: str) -> None:
    found: set[str] = set()
    for name in names:
        if name in found:
            raise UnreadableError(f"has {what} with the column {shown(name)} twice")
        found.add(name)


def delimited(
    body: Any, budget: Budget | None = None, contract: Contract = TRANSACTIONS
) -> Iterator[pa.RecordBatch]:
    """CSV with a header line (RFC 4180): an empty field is null, a quoted empty one is text.

    A line with another number of fields is kept as an unreadable row.

    Args:
        body: a buffered file of bytes.
        budget: the memory that the rows may use.
        contract: of the rows.

    Raises:
        UnreadableError: it is no CSV in UTF-8, or has no header line of different names.
        TooLargeError: it takes too much memory.
    """
    budget = budget or Budget()
    names = _header(body.readline(_LONGEST_HEADER), contract)
    lines = _Lines(budget, contract)
    text = _Utf8(body)
    # A field of one byte needs many times as much memory.
    largest = min(_CHUNK_BYTES, budget.most_bytes // 32)
    block = max(_SMALLEST_BLOCK, largest // (1 + len(names) // _USUAL_COLUMNS))
    some = False
    try:
        reader = pa_csv.open_csv(
            cast("Any", text),
            # With several threads Arrow does not know the numbers of broken lines.
            read_options=pa_csv.ReadOptions(
                column_names=names, block_size=block, use_threads=False
            ),
            parse_options=pa_csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=lines.keep
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        for batch in reader:
            some |= bool(batch.num_rows)
            budget.take(batch.num_rows, batch.nbytes, sent=text.read_since())
            yield lines.in_place(landed(contract, names, batch.columns, batch.num_rows, budget))
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise lines.refused or _no_csv(error, block) from None
    if not some and not lines.broken:
        _require_columns(names, contract)
    if lines.broken:
        yield lines.in_place(empty(contract.answer_schema))


def _header(line: bytes, contract: Contract) -> list[str]:
    """The names in a header line, which may do without its newline when it is whole."""
    if not _is_text(line):
        _require_format(line, "csv")
    # Names are counted before they are objects; few have a comma in them.
    if line.count(b",") > 2 * MOST_COLUMNS:
        raise _too_many_columns()
    try:
        names = next(csv.reader([line.decode("utf-8-sig").rstrip("\r\n")]), [])
    except (csv.Error, UnicodeDecodeError):
        names = []
    required = [name for name in contract.required if contract.is_among(name, names)]
    whole = len(required) == len(contract.required) or (
        bool(names) and names[-1] in contract.fields
    )
    if not whole and not line.endswith(b"\n"):
        raise UnreadableError("has a header line that does not end")
    if not names:
        raise UnreadableError("has no header line of different names")
    if len(names) > MOST_COLUMNS:
        raise _too_many_columns()
    _require_once(names, "a header line")
    if not required:
        raise UnreadableError("has a header line with none of the contract's columns")
    return names


def _too_many_columns() -> RefusedError:
    return RefusedError(f"has more than {MOST_COLUMNS:,} columns: let the source send fewer")


class _Lines:
    """The lines of a CSV that have another number of fields, until they are put back in order.

    Attributes:
        broken: number and text of those that are not back in order yet.
        refused: why no more of them are kept.
    """

    def __init__(self, budget: Budget, contract: Contract) -> None:
        self._budget = budget
        self._contract = contract
        self._passed = 0
        self.broken: list[tuple[int, str]] = []
        self.refused: TooLargeError | None = None

    def keep(self, row: pa_csv.InvalidRow) -> Literal["skip", "error"]:
        # Arrow would swallow an exception.
        try:
            self._budget.take(1, len(row.text), sent=len(row.text) + 1)
        except TooLargeError as error:
            self.refused = error
            return "error"
        self.broken.append((cast("int", row.number) - 1, row.text))
        return "skip"

    def in_place(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The next good rows, and the broken ones before and between them.

        No rows stand for the end, before which all broken ones are.
        """
        if not self.broken:
            self._passed += rows.num_rows
            return rows
        numbers = np.array([number for number, _ in self.broken])
        indices = np.arange(self._passed, self._passed + rows.num_rows + len(numbers))
        good = indices[~np.isin(indices, numbers)][: rows.num_rows]
        end = good[-1] + 1 if rows.num_rows else numbers[-1] + 1
        here = int(np.searchsorted(numbers, end))
        found = RowByRow(self._contract)
        for _, text in self.broken[:here]:
            found.add_unreadable(text)
        del self.broken[:here]
        self._passed = int(end)
        order = integers(np.argsort(np.concatenate([good, numbers[:here]])))
        both = pa.Table.from_batches([rows, found.batch()])
        return as_batch(both, self._contract.answer_schema).take(cast("pa.Int64Array", order))


class _Utf8(io.RawIOBase):
    """A file that must be text: Arrow would print a traceback for a bad line that is none."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self._body = body
        self._rest = b""
        self._sent = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def read(self, size: int = -1, /) -> bytes:
        content = self._body.read(size)
        self._sent += len(content)
        text = self._rest + content if self._rest else content
        # The next bytes may hold the rest of a character.
        end = _last_character(text) if content else len(text)
        if not is_utf8(memoryview(text)[:end]):
            raise UnreadableError("is no CSV in UTF-8")
        self._rest = text[end:]
        return content

    def read_since(self) -> int:
        """How many bytes were read since the last call."""
        sent, self._sent = self._sent, 0
        return sent


def _last_character(text: bytes) -> int:
    """Where the last character begins, when it has several bytes; otherwise the text's end."""
    for back in range(1, min(len(text), 4) + 1):
        if text[-back] < 0x80:
            break
        if text[-back] >= 0xC0:
            return len(text) - back
    return len(text)


def _no_csv(error: Exception, longest: int) -> UnreadableError:
    """The fault of a CSV, without the row that Arrow quotes."""
    if "straddling" in str(error):
        return UnreadableError(f"has a line longer than {longest:,} bytes")
    return UnreadableError("is no CSV")


def is_utf8(content: bytes | memoryview) -> bool:
    """Whether bytes are text; a copy of it is not made."""
    offsets = pa.py_buffer(struct.pack("<qq", 0, len(content)))
    text = pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(content))
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def ndjson(
    body: Any, budget: Budget | None = None, contract: Contract = TRANSACTIONS
) -> Iterator[pa.RecordBatch]:
    """One JSON object a line; a line that is none is kept as unreadable.

    The last line may do without its newline when it is a whole object.

    Args:
        body: a file of bytes.
        budget: the memory that the rows may use.
        contract: of the rows.

    Raises:
        UnreadableError: its last line does not end.
        RefusedError: its rows have too many different names.
        TooLargeError: it takes too much memory.
    """
    budget = budget or Budget()
    rest: bytes = body.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    first = True
    while (chunk := body.read(_CHUNK_BYTES)) or (first and rest):
        if first and not _is_text(rest + chunk[:16]):
            _require_format(rest + chunk[:16], "ndjson")
        first = False
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline:
            # Very many short lines would become very many objects.
            few = len(whole) // 2 * _ELEMENT_BYTES <= budget.left // 4
            for lines in [whole] if few else _blocks(whole):
                yield _objects(lines, budget, contract)
        elif len(rest) > budget.longest_value:
            raise TooLargeError(f"has a line longer than {budget.longest_value:,} bytes")
    if rest.strip():
        if not (rest.lstrip().startswith(b"{") and _is_json(rest)):
            raise UnreadableError("has a last line that does not end")
        yield _objects(rest, budget, contract)


def _blocks(lines: bytes) -> Iterator[bytes]:
    """Lines in portions that are not too many at a time."""
    if len(lines) < 2 * _BLOCK_LINES or lines.count(b"\n") < _BLOCK_LINES:
        yield lines
        return
    middle = lines.find(b"\n", len(lines) // 2)
    if middle < 0:
        middle = lines.rindex(b"\n")
    yield from _blocks(lines[:middle])
    yield from _blocks(lines[middle + 1 :])


class Page(NamedTuple):
    """A JSON page of rows.

    Attributes:
        rows: its rows.
        envelope: its other members, with an empty list for the rows; empty if it is the list alone.
        last_row: its last row as sent; None without rows.
    """

    rows: pa.RecordBatch
    envelope: dict[str, Any]
    last_row: bytes | None


def page(
    content: bytes,
    items: Sequence[str],
    budget: Budget | None = None,
    contract: Contract = TRANSACTIONS,
    *,
    fields: Sequence[str] = (),
    may_be_absent: bool = False,
) -> Page:
    """A JSON page's rows and all that it says beside them.

    A member that has the whole path for its name, joined by dots, comes before one within
    another.

    Args:
        content: the page.
        items: the names on the way to its rows; none if it is the list of them.
        budget: the memory that the rows may use.
        contract: of the rows.
        fields: names at its top whose meaning is known, so that they state no failure.
        may_be_absent: a page without rows may leave out the list, or have null there.

    Raises:
        UnreadableError: the page is not JSON, has no list where its rows should be, or states a
            failure.
        RefusedError: a field of its envelope occurs twice, or its rows have too many names.
        TooLargeError: it takes too much memory.
    """
    budget = budget or Budget()
    content = content.removeprefix(codecs.BOM_UTF8)
    if not _is_text(content):
        _require_format(content[:16], "json")
    no_page = _no_page(items)
    if not is_utf8(content):
        raise no_page
    if not items and not content.lstrip().startswith(b"["):
        raise no_page
    strict = find_value(content, items) if items else _list_of(content)
    if strict is None:
        span = find_loosely(content, 0, len(content), items)
    else:
        start = _address_of(strict) - _address_of(content)
        span = start, start + len(cast("Any", strict))
    if may_be_absent and span is not None and content[slice(*span)].strip() == b"null":
        span = None
    if span is None and len(content) > _LONGEST_ENVELOPE:
        raise no_page
    # A page that states a failure may have no rows.
    envelope = _envelope(content, *(span or (0, 0)), budget) if items else {}
    if not isinstance(envelope, dict):
        raise no_page
    require_no_failure(envelope, {*items[:1], *fields})
    if may_be_absent and span is None and leaves_out(envelope, items):
        return Page(rows_of([], budget, contract), envelope, None)
    if span is None or not content[slice(*span)].lstrip().startswith(b"["):
        raise no_page
    rows = content[slice(*span)].lstrip()
    batch, last = (
        _strict_rows(strict, rows, budget, contract)
        if strict
        else _odd_rows(rows, items, budget, contract)
    )
    return Page(batch, envelope, last)


def _no_page(items: Sequence[str]) -> UnreadableError:
    if not items:
        return UnreadableError("is no JSON list of rows")
    return UnreadableError(f"is no JSON with a list under {'.'.join(items)!r}")


def _list_of(content: bytes) -> msgspec.Raw | None:
    """The whole of valid JSON."""
    try:
        return _VALUE.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return None


def _envelope(content: bytes, start: int, end: int, budget: Budget) -> Any:
    """The envelope of a page, parsed; None when it is not JSON."""
    size = len(content) - (end - start)
    # An empty list stands for the rows.
    if size + len(b"[]") > min(_LONGEST_ENVELOPE, budget.most_bytes // 32):
        raise TooLargeError(f"has {size:,} bytes beside its rows")
    text = content[:start] + b"[]" * (start < end) + content[end:]
    try:
        repeats = repeats_a_name(text)
    except RecursionError:
        return None
    if repeats:
        raise RefusedError(
            "has a page with two fields of one name: let the source send each name once"
        )
    return parsed(text)


def _address_of(content: Any) -> int:
    """The address of bytes in memory."""
    return np.frombuffer(content, np.uint8).ctypes.data


def _strict_rows(
    sent: msgspec.Raw, rows: bytes, budget: Budget, contract: Contract
) -> tuple[pa.RecordBatch, bytes | None]:
    """The rows of a list of valid JSON, and the last as sent."""
    # A row has two bytes at least, with its comma: only where there may be very many are they
    # counted before they are objects.
    if len(rows) // 2 * _ELEMENT_BYTES > budget.left:
        most = budget.left // _ELEMENT_BYTES
        count = sum(1 for _ in islice(parts(rows, 0), most + 1))
        budget.copy().take(count, sent=len(rows))
    elements = _VALUES.decode(sent)
    budget.take(len(elements), sent=len(rows))
    last = bytes(elements[-1]) if elements else None
    try:
        return rows_of(elements, budget, contract), last
    except (msgspec.DecodeError, RecursionError):
        return odd_rows_of(map(bytes, elements), budget, contract), last


def _odd_rows(
    rows: bytes, items: Sequence[str], budget: Budget, contract: Contract
) -> tuple[pa.RecordBatch, bytes | None]:
    """The rows of a list that is not JSON by the letter, and the last as sent."""
    last: bytes | None = None

    def elements() -> Iterator[bytes]:
        nonlocal last
        end = 1
        for part in parts(rows, 0):
            budget.take(1, sent=part.end - part.start)
            last, end = rows[part.start : part.end].strip(), part.end
            yield last
        if rows[end:].strip() != b"]":
            raise NoJsonError

    try:
        return odd_rows_of(elements(), budget, contract, are_json=True), last
    except UnreadableError:
        raise
    except ValueError:
        # It is not JSON at all, or a list that does not close.
        raise _no_page(items) from None


def _is_json(element: bytes) -> bool:
    try:
        _VALUE.decode(element)
    except (msgspec.DecodeError, RecursionError):
        return parsed(element) is not None
    return True


def _objects(lines: bytes, budget: Budget, contract: Contract) -> pa.RecordBatch:
    """Lines, each of which should be a JSON object."""
    rows: list[msgspec.Raw] | None = None
    # The decoder does not validate UTF-8 within strings.
    if is_utf8(lines):
        with suppress(msgspec.DecodeError, RecursionError):
            rows = _VALUE.decode_lines(lines)
    if rows is not None:
        budget.take(len(rows), sent=len(lines))
        with suppress(msgspec.DecodeError, RecursionError):
            return rows_of(rows, budget, contract)
    texts = [line for line in lines.split(b"\n") if line.strip()]
    if rows is None:
        budget.take(len(texts), sent=len(lines))
    return odd_rows_of(texts, budget, contract)


def _as_text_batch(
    batches: list[pa.RecordBatch],
    texts: Mapping[str, AsText],
    budget: Budget,
    contract: Contract,
) -> pa.RecordBatch:
    """Untrusted batches as one batch of text.

    Args:
        batches: the next of a stream, at least one.
        texts: makes text of each column, by name.
        budget: the memory that the rows may use.
        contract: of the rows.

    Raises:
        pa.ArrowInvalid: their offsets, indices or texts are invalid.
    """
    table = pa.Table.from_batches(batches)
    columns = [
        as_text(column) for as_text, column in zip(texts.values(), table.columns, strict=True)
    ]
    return landed(contract, list(texts), columns, table.num_rows, budget)


DECODERS: Final[dict[str, Callable[..., Iterator[pa.RecordBatch]]]] = {
    "arrow": arrow,
    "csv": delimited,
    "ndjson": ndjson,
}
"""The formats that stream rows: a function of a file of bytes, a `Budget` and a contract."""

PAGES: Final = "json"
"""The format of `page`."""

FORMATS: Final = (*DECODERS, PAGES)
"""The values of `GENERATOR_FORMAT`."""
