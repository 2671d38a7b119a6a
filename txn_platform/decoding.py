"""What came over the wire, as batches of text: Arrow, CSV, NDJSON and JSON, all to the same rows.

Nothing is interpreted: a JSON number keeps its digits, text keeps its spaces, and what can't be
read as a row at all is kept as one whose fields are absent. Where the bytes come from is
`source.py`'s matter.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, override

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from txn_platform.columns import Column, PerDictionary, as_batch, boolean, integers
from txn_platform.contract import LANDED_SCHEMA, REQUIRED_COLUMNS, SENT_COLUMNS, UNREADABLE
from txn_platform.json_columns import read_alike

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_CHUNK_BYTES: Final = 1 << 22
_LONGEST_LINE: Final = 1 << 24
_LONGEST_HEADER: Final = 1 << 20
_MOST_COLUMNS: Final = 1_000
# So many rows are put together at least: fewer cost more for each batch, more leave the cache.
_GATHERED_ROWS: Final = 1 << 17
_SHAPES_TRIED: Final = 4
_REQUIRED: Final = frozenset(REQUIRED_COLUMNS)
_SCHEMA: Final = LANDED_SCHEMA.remove(LANDED_SCHEMA.get_field_index("position"))


class UnreadableError(ValueError):
    """The answer breaks off, or is not of its format; it may be asked for again."""


# JSON, each value as the bytes that were sent.
# How a page that was answered with a status of success says that it is none, or not whole.
_STATES_FAILURE: Final[dict[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(["error", "errors"], lambda value: bool(value) and value != "0"),
    **dict.fromkeys(["ok", "success"], lambda value: value is False),
    **dict.fromkeys(["timed_out", "incomplete_results"], lambda value: value is True),
}


type NextPage = Literal["text", "null", "neither", "nothing"]


class _Digits(str):
    """A JSON number as it was sent."""

    __slots__ = ()


class Page(NamedTuple):
    """A JSON page of rows.

    Attributes:
        rows: what it holds.
        following: what it has where the next page's address should be, when that is a text.
        says: whether it has a text there, null, something that is neither, or no such member.
    """

    rows: pa.RecordBatch
    following: str | None
    says: NextPage


_Row = dict[str, msgspec.Raw]
_ROW: Final = msgspec.json.Decoder(_Row)
_VALUE: Final = msgspec.json.Decoder(msgspec.Raw)
_VALUES: Final = msgspec.json.Decoder(list[msgspec.Raw])


def arrow(body: Any) -> Iterator[pa.RecordBatch]:
    """An Arrow IPC stream of text columns, plain or dictionary-encoded."""
    try:
        with pa.ipc.open_stream(body) as reader:
            if len({*reader.schema.names}) < len(reader.schema):
                raise UnreadableError("has two columns of one name")
            known = not _REQUIRED.isdisjoint(reader.schema.names)
            words = defaultdict[str, PerDictionary[None]](partial(PerDictionary, _validate))
            gathered: list[pa.RecordBatch] = []
            rows = 0
            for batch in reader:
                gathered.append(batch)
                rows += batch.num_rows
                known |= bool(rows)
                if rows >= _GATHERED_ROWS:
                    yield _believed(gathered, words)
                    gathered, rows = [], 0
            if not known:
                raise UnreadableError("has no row, and none of the contract's columns")
            if gathered:
                yield _believed(gathered, words)
    except (pa.ArrowException, OSError, UnicodeDecodeError, pl.exceptions.PolarsError):
        raise UnreadableError("is no whole Arrow stream of text") from None


def delimited(body: Any) -> Iterator[pa.RecordBatch]:
    """CSV with a header line (RFC 4180): an empty field is null, a quoted empty one is text.

    A line with another number of fields is kept as unreadable.
    """
    names = _header(body.readline(_LONGEST_HEADER))
    broken: list[str] = []

    def keep(row: pa_csv.InvalidRow) -> Literal["skip", "error"]:
        broken.append(row.text)
        return "skip"

    try:
        reader = pa_csv.open_csv(
            cast("Any", _Utf8(body)),
            read_options=pa_csv.ReadOptions(column_names=names, block_size=_CHUNK_BYTES),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        raise _no_csv(error) from None
    try:
        for batch in reader:
            yield _from_arrow(batch)
    except pa.ArrowInvalid as error:
        raise _no_csv(error) from None
    if broken:
        yield _unreadable(broken)


def _header(line: bytes) -> list[str]:
    """The names in a header line, which may do without its newline when it is whole."""
    try:
        names = next(csv.reader([line.decode("utf-8-sig").rstrip("\r\n")]), [])
    except (csv.Error, UnicodeDecodeError):
        names = []
    whole = _REQUIRED.issubset(names) or (bool(names) and names[-1] in SENT_COLUMNS)
    if not whole and not line.endswith(b"\n"):
        raise UnreadableError("has a header line that does not end")
    if not 0 < len(set(names)) == len(names) <= _MOST_COLUMNS:
        raise UnreadableError("has no header line of different names")
    if _REQUIRED.isdisjoint(names):
        raise UnreadableError("has a header line with none of the contract's columns")
    return names


class _Utf8(io.RawIOBase):
    """A file that must be text: Arrow would print a traceback for a bad line that is none."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self._body = body
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    @override
    def readable(self) -> bool:
        return True

    @override
    def read(self, size: int = -1, /) -> bytes:
        content = self._body.read(size)
        try:
            self._decoder.decode(content, final=not content)
        except UnicodeDecodeError:
            raise UnreadableError("is no CSV in UTF-8") from None
        return content


def _no_csv(error: Exception) -> UnreadableError:
    """What is wrong with CSV, without the row that Arrow quotes."""
    if "straddling" in str(error):
        return UnreadableError(f"has a line longer than {_CHUNK_BYTES:,} bytes")
    return UnreadableError("is no CSV")


def ndjson(body: Any) -> Iterator[pa.RecordBatch]:
    """One JSON object a line; a line that is none is kept as unreadable.

    The last line may do without its newline when it is a whole object.
    """
    rest = body.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    while chunk := body.read(_CHUNK_BYTES):
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline:
            yield _objects(whole)
        elif len(rest) > _LONGEST_LINE:
            raise UnreadableError(f"has a line longer than {_LONGEST_LINE:,} bytes")
    if rest.strip():
        if not isinstance(_loads(rest), dict):
            raise UnreadableError("has a last line that does not end")
        yield _objects(rest)


def page(content: bytes, items: Sequence[str], following: Sequence[str]) -> Page:
    """A JSON page's rows and the address of the next, each found at a path of names.

    A member that has the whole path for its name, joined by dots, is taken before one within
    another.

    Raises:
        UnreadableError: the page is not JSON, has no list where its rows should be, or states a
            failure.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    own_names = {items[0], following[0]}
    try:
        content.decode()
        document = _ROW.decode(content)
        found = _at(document, items)
        if found is not None:
            rows = _batch_of(_VALUES.decode(found))
            for name in _STATES_FAILURE.keys() & document.keys() - own_names:
                _require_no_failure(name, _loads(bytes(document[name])))
            sent = _at(document, following)
            return Page(rows, *_next_page(sent is not None, sent and _loads(bytes(sent))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    parsed = _loads(content)
    if isinstance(parsed, dict):
        for name in _STATES_FAILURE.keys() & parsed.keys() - own_names:
            _require_no_failure(name, parsed[name])
    listed, rows = _walk(parsed, items)
    if not listed or not isinstance(rows, list):
        raise UnreadableError(f"is no JSON with a list under {'.'.join(items)!r}")
    batch = _patiently([(row, json.dumps(row).encode()) for row in cast("list[Any]", rows)])
    return Page(batch, *_next_page(*_walk(parsed, following)))


def _next_page(found: bool, value: Any) -> tuple[str | None, NextPage]:
    match value:
        case str() if not isinstance(value, _Digits):
            return value, "text"
        case None:
            return None, "null" if found else "nothing"
        case _:
            return None, "neither"


def _require_no_failure(name: str, value: Any) -> None:
    if _STATES_FAILURE[name](value):
        raise UnreadableError(f"states a failure, under {name!r}")


def _at(document: _Row, path: Sequence[str]) -> msgspec.Raw | None:
    """The value at a path of names, as sent; None when there is none."""
    for length in range(len(path), 0, -1):
        found = document.get(".".join(path[:length]))
        if found is not None:
            if length == len(path):
                return found
            with contextlib.suppress(msgspec.DecodeError):  # It stands for no object.
                within = _at(_ROW.decode(found), path[length:])
                if within is not None:
                    return within
    return None


def _walk(value: Any, path: Sequence[str]) -> tuple[bool, Any]:
    """The same in a document that is parsed already: whether there is one, and which."""
    if not path:
        return True, value
    if isinstance(value, dict):
        document = cast("dict[str, Any]", value)
        for length in range(len(path), 0, -1):
            name = ".".join(path[:length])
            if name in document:
                found, within = _walk(document[name], path[length:])
                if found:
                    return True, within
    return False, None


def _objects(lines: bytes) -> pa.RecordBatch:
    """Lines, each of which should be a JSON object."""
    try:
        # The decoder does not look at what is between quotes.
        lines.decode()
        return _batch_of(_VALUE.decode_lines(lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return _patiently(
        [(_loads(line), line) for line in lines.split(b"\n") if line.strip()],
    )


def _patiently(rows: list[tuple[Any, bytes]]) -> pa.RecordBatch:
    """Rows that the fast decoder refused, one by one: parsed, and as sent."""
    found: list[dict[str, str | None]] = [
        {_printed(name): _as_text(value) for name, value in row.items()}
        if isinstance(row, dict)
        else {UNREADABLE: sent.decode("utf-8", "backslashreplace")}
        for row, sent in rows
    ]
    return _from_fields(found)


def _loads(document: bytes) -> Any:
    """JSON with numbers by their digits; also NaN, and halves of surrogate pairs. None if none."""
    try:
        return json.loads(document, parse_float=_Digits, parse_int=_Digits, parse_constant=_Digits)
    except (ValueError, RecursionError):
        return None


def _as_text(value: Any) -> str | None:
    match value:
        case None:
            return None
        case str():
            return _printed(value)
        case bool():
            return "true" if value else "false"
        case _:
            return _printed(json.dumps(value, ensure_ascii=False))


def _batch_of(rows: list[msgspec.Raw]) -> pa.RecordBatch:
    """Rows of valid JSON: those of the commonest shapes by columns, the others one by one."""
    parts: list[pa.RecordBatch] = []
    places: list[NDArray[np.int64]] = []
    left = np.arange(len(rows))
    for tried in range(_SHAPES_TRIED):
        if not left.size:
            break
        some = [rows[place] for place in left] if places else rows
        # Another place each time: the first row may be one that is like no other.
        like = some[len(some) * tried // _SHAPES_TRIED]
        columns, alike = read_alike(some, bytes(like), list(_ROW.decode(like)), _text)
        if alike.all() and not places:
            return _from_arrow(columns)
        parts.append(_from_arrow(columns))
        places.append(left[alike])
        left = left[~alike]
    parts.append(_one_by_one([rows[place] for place in left]))
    order = integers(np.argsort(np.concatenate([*places, left])))
    return as_batch(pa.Table.from_batches(parts), _SCHEMA).take(order)


def _one_by_one(rows: list[msgspec.Raw]) -> pa.RecordBatch:
    found = [_ROW.decode(row) for row in rows]
    return _from_fields(
        [{name: _text(bytes(value)) for name, value in row.items()} for row in found]
    )


def _text(value: bytes) -> str | None:
    """One JSON value as text."""
    if value == b"null":
        return None
    if not value.startswith(b'"'):
        return value.decode()
    return _printed(json.loads(value))


def _printed(text: str) -> str:
    """Text that UTF-8 can hold.

    Half of a surrogate pair is no character: it is written out behind a SUBSTITUTE, which no rule
    takes for printable.
    """
    return _SURROGATE.sub(lambda half: f"\x1a\\u{ord(half[0]):04x}", text)


def _validate(column: Column) -> None:
    column.validate(full=True)


def _believed(
    batches: list[pa.RecordBatch], words: Mapping[str, PerDictionary[None]]
) -> pa.RecordBatch:
    """Batches of a stranger as one, when their offsets, indices and texts are what they should be.

    Args:
        batches: the next of a stream, at least one.
        words: for each column, by name, what looks at its dictionaries; each is looked at once.

    Raises:
        pa.ArrowInvalid: they are not.
    """
    table = pa.Table.from_batches(batches)
    # Metadata need not be text, and says nothing here.
    table = pa.Table.from_arrays(table.columns, names=table.schema.names)
    for name, column in zip(table.schema.names, table.columns, strict=True):
        for chunk in column.chunks:
            if isinstance(chunk, pa.DictionaryArray):
                words[name](chunk.dictionary)
                found: dict[str, int] = cast("Any", pc.min_max(chunk.indices)).as_py()
                if len(chunk) > chunk.null_count and not (
                    0 <= found["min"] <= found["max"] < len(chunk.dictionary)
                ):
                    raise pa.ArrowInvalid("an index points past its dictionary")
            else:
                _validate(chunk)
    return _from_arrow(table)


def _from_arrow(batch: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
    """The contract's columns, absent ones null, and the unknown ones together."""
    unknown = sorted(name for name in batch.schema.names if name not in SENT_COLUMNS)
    columns: dict[str, Any] = {
        name: batch.column(name) for name in batch.schema.names if name in SENT_COLUMNS
    }
    columns["extra_fields"] = _extra([(name, batch.column(name)) for name in unknown], batch)
    for name in SENT_COLUMNS:
        columns.setdefault(name, pa.nulls(batch.num_rows, pa.string()))
    return as_batch(pa.table(columns), _SCHEMA)


def _from_fields(rows: list[dict[str, str | None]]) -> pa.RecordBatch:
    """The same of rows that are read one by one."""
    names = dict.fromkeys([*SENT_COLUMNS, *(name for row in rows for name in row)])
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))
    return _from_arrow(frame.to_arrow())


def _unreadable(texts: list[str]) -> pa.RecordBatch:
    return _from_fields([{UNREADABLE: text} for text in texts])


def _extra(fields: list[tuple[str, Any]], rows: pa.RecordBatch | pa.Table) -> Any:
    """Unknown fields as a JSON object of text for each row, without those that are null."""
    absent = pa.nulls(rows.num_rows, pa.string())
    if not fields:
        return absent
    # By place: a frame gives a column without a name one of its own.
    texts = pl.DataFrame(
        [pl.Series(str(place), column).cast(pl.String) for place, (_, column) in enumerate(fields)]
    )
    some = texts.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    pairs = [
        json.dumps(name, ensure_ascii=False) + ":" + _quoted(pl.col(str(place)))
        for place, (name, _) in enumerate(fields)
    ]
    objects = texts.filter(some).select(
        "{" + pl.concat_str(pairs, separator=",", ignore_nulls=True) + "}"
    )
    said = objects.to_series().to_arrow().cast(pa.string())
    return pc.replace_with_mask(absent, boolean(some.to_numpy()), said)


def _quoted(text: pl.Expr) -> pl.Expr:
    """Text as JSON has it, null where there is none."""
    # Of an object with one member, what is behind its name.
    written = pl.struct(text.alias("")).struct.json_encode().str.slice(4).str.strip_suffix("}")
    return pl.when(text.is_not_null()).then(written)


DECODERS: Final[dict[str, Callable[[Any], Iterator[pa.RecordBatch]]]] = {
    "arrow": arrow,
    "csv": delimited,
    "ndjson": ndjson,
}
