"""Arrow messages are measured before Arrow decodes them: rows, bytes and columns."""

import io
import struct
from typing import Any, Final

import pyarrow as pa
import pytest

from txn_platform.source.arrow_messages import ArrowMessages
from txn_platform.source.decode_limits import (
    MOST_COLUMNS,
    ROW_BYTES,
    Budget,
    RefusedError,
    TooLargeError,
    UnreadableError,
)

# A number of rows that occurs nowhere else in a message.
_ROWS: Final = 123_457


def _stream(batches: list[pa.RecordBatch], **options: Any) -> bytes:
    sink = io.BytesIO()
    written = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, batches[0].schema, options=written) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def _batch(column: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column], names=["amount"])


def _measured(stream: bytes, budget: Budget | None = None) -> Budget:
    """Read a stream to its end; it is handed out unchanged."""
    budget = budget or Budget(1 << 40, inflation=1 << 30)
    messages = ArrowMessages(io.BytesIO(stream[4:]), budget, stream[:4])
    assert messages.read(len(stream) + 1) == stream
    return budget


def _replaced(stream: bytes, number: int, new: int, occurrence: int = 0) -> bytes:
    """The stream with another number at one position, counted from the first."""
    pieces = stream.split(struct.pack("<q", number))
    before = struct.pack("<q", number).join(pieces[: occurrence + 1])
    after = struct.pack("<q", number).join(pieces[occurrence + 1 :])
    assert len(pieces) > occurrence + 1, "the number does not occur so often"
    return before + struct.pack("<q", new) + after


def test_rows_without_bytes_take_memory_all_the_same() -> None:
    assert _measured(_stream([_batch(pa.nulls(_ROWS))])).used == _ROWS * ROW_BYTES
    two = _stream([_batch(pa.nulls(_ROWS)), _batch(pa.nulls(3))])
    assert _measured(two).used == (_ROWS + 3) * ROW_BYTES


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_text_takes_the_bytes_that_it_decodes_to(compression: str | None) -> None:
    stream = _stream([_batch(pa.array(["x" * _ROWS]))], compression=compression)
    # The text and two offsets, each buffer in units of 64 bytes at most.
    assert _ROWS <= _measured(stream).used <= _ROWS + 3 * 64


def test_a_buffer_that_a_compressed_message_leaves_as_it_is_takes_its_length() -> None:
    stream = _stream([_batch(pa.array(["x" * _ROWS]))], compression="zstd")
    # The last one stands before the text; one before it is an offset.
    last = stream.count(struct.pack("<q", _ROWS)) - 1
    assert _measured(_replaced(stream, _ROWS, -1, last)).used < 1_000
    with pytest.raises(UnreadableError, match="is no whole Arrow stream"):
        _measured(_replaced(stream, _ROWS, -2, last))


def test_values_of_a_dictionary_take_memory_and_additions_take_all_of_it_again() -> None:
    texts = [f"{number:01000}" for number in range(4)]
    batches = [
        _batch(
            pa.DictionaryArray.from_arrays(
                pa.array([size], pa.int32()), pa.array(texts[: size + 1])
            )
        )
        for size in range(len(texts))
    ]
    whole = _measured(_stream(batches[-1:])).used
    added = _measured(_stream(batches, emit_dictionary_deltas=True)).used
    assert 4_000 <= whole <= 4_000 + 500
    # One, two, three and four values: each addition makes a new dictionary.
    assert 10_000 <= added <= 10_000 + 4 * 500


def test_a_dictionary_that_replaces_another_takes_the_memory_of_its_own_values() -> None:
    batches = [
        _batch(
            pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array([letter * 1_000]))
        )
        for letter in "abcd"
    ]
    assert 4_000 <= _measured(_stream(batches)).used <= 4_000 + 4 * 500


@pytest.mark.parametrize("occurrence", range(3))
def test_a_negative_number_of_rows_is_refused(occurrence: int) -> None:
    """Of the batch, of its column, and of the column's nulls."""
    stream = _stream([_batch(pa.nulls(_ROWS))])
    assert stream.count(struct.pack("<q", _ROWS)) == 3
    with pytest.raises(UnreadableError, match="is no whole Arrow stream"):
        _measured(_replaced(stream, _ROWS, -1, occurrence))


def test_a_negative_length_of_a_buffer_is_refused() -> None:
    stream = _stream([_batch(pa.array(["x" * _ROWS]))])
    with pytest.raises(UnreadableError, match="is no whole Arrow stream"):
        _measured(_replaced(stream, _ROWS, -_ROWS))


def test_a_negative_length_of_a_body_is_refused() -> None:
    stream = _stream([_batch(pa.array(["x" * _ROWS]))])
    reader = pa.ipc.MessageReader.open_stream(stream)
    body = [message.body.size for message in reader if message.body][-1]
    with pytest.raises(UnreadableError, match="is no whole Arrow stream"):
        _measured(_replaced(stream, body, -8))


def test_a_body_larger_than_what_is_left_is_refused_before_it_is_read() -> None:
    stream = _stream([_batch(pa.array(["x" * _ROWS]))])
    with pytest.raises(TooLargeError, match=r"has a message of 123,\d\d\d bytes"):
        _measured(stream, Budget(_ROWS // 2))


@pytest.mark.parametrize("nested", [False, True])
def test_the_columns_of_a_schema_are_counted_with_those_within(nested: bool) -> None:
    def schema(columns: int) -> pa.Schema:
        fields = [pa.field(f"c{number}", pa.null()) for number in range(columns)]
        return pa.schema([("x", pa.struct(fields[1:]))]) if nested else pa.schema(fields)

    most = pa.ipc.new_stream(sink := io.BytesIO(), schema(MOST_COLUMNS))
    most.close()
    _measured(sink.getvalue())
    more = pa.ipc.new_stream(sink := io.BytesIO(), schema(MOST_COLUMNS + 1))
    more.close()
    with pytest.raises(RefusedError, match="has more than 1,000 columns"):
        _measured(sink.getvalue())


def test_a_message_without_a_header_is_refused() -> None:
    """A root table without a field: its table has no fields, and a size of four bytes."""
    table = struct.pack("<IHHi", 8, 4, 4, 4)
    stream = b"\xff\xff\xff\xff" + struct.pack("<I", len(table)) + table
    with pytest.raises(UnreadableError, match="is no whole Arrow stream"):
        _measured(stream)


@pytest.mark.parametrize(
    ("stream", "error", "message"),
    [
        (b"<htm" + bytes(4), UnreadableError, "has text where an Arrow message should be"),
        (b"\xfe\xff\xff\xff" + bytes(4), UnreadableError, "is no whole Arrow stream"),
        (
            b"\xff\xff\xff\xff" + struct.pack("<I", (1 << 20) + 1),
            TooLargeError,
            "has a message of 1,048,577 bytes",
        ),
        (b"\xff\xff\xff\xff" + struct.pack("<I", 8) + bytes(8), UnreadableError, "is no whole"),
    ],
)
def test_bytes_that_are_no_message_are_refused(
    stream: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _measured(stream)


@pytest.mark.parametrize("size", [1, 3, 8, 1_000])
def test_a_stream_is_handed_out_in_pieces_of_any_size(size: int) -> None:
    stream = _stream([_batch(pa.array(["x" * 5_000]))])
    messages = ArrowMessages(io.BytesIO(stream[4:]), Budget(), stream[:4])
    pieces = list(iter(lambda: messages.read(size), b""))
    assert b"".join(pieces) == stream
    assert {len(piece) for piece in pieces[:-1]} == {size}
