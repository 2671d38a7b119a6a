"""An Arrow IPC stream whose messages are measured before Arrow decodes them.

A few bytes can decode to any number of rows: columns of nulls have no bytes, compressed buffers
have few, and repeated values are sent once. Each message states how many rows and bytes it has.
This module reads these numbers from the message and checks them with a `Budget`. Arrow itself then
verifies that the message is valid.

Source: Message.fbs and Schema.fbs of the Arrow columnar format, version 1.5.
"""

from __future__ import annotations

import io
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final, override

from txn_platform.source.decode_limits import (
    MOST_COLUMNS,
    RefusedError,
    TooLargeError,
    UnreadableError,
)

if TYPE_CHECKING:
    from txn_platform.source.decode_limits import Budget

_CONTINUES: Final = b"\xff\xff\xff\xff"
_LONGEST_METADATA: Final = 1 << 20
# The kinds of message, and the slots of their fields in the tables of the format.
_SCHEMA, _DICTIONARY, _ROWS = 1, 2, 3
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_FIELDS, _CHILDREN = 1, 5
_DICTIONARY_ID, _DICTIONARY_DATA, _IS_DELTA = 0, 1, 2
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3
# The least memory of a decoded value: an offset or an index.
_VALUE_BYTES: Final = 4


class ArrowMessages(io.RawIOBase):
    """The bytes of an Arrow stream, unchanged, each message measured before it is returned."""

    def __init__(self, body: Any, budget: Budget, beginning: bytes) -> None:
        """Args: body: a file of bytes; budget: the memory that the rows may use.

        The caller has read the first four bytes of the stream, `beginning`.
        """
        super().__init__()
        self._body = body
        self._beginning = beginning
        self._budget = budget
        self._ready: deque[bytes] = deque()
        self._dictionaries: dict[int, int] = {}

    @override
    def readable(self) -> bool:
        return True

    @override
    def read(self, size: int = -1, /) -> bytes:
        """The next `size` bytes, fewer only at the end.

        Raises:
            TooLargeError: a message is too large.
            RefusedError: there are more columns than can be read.
            UnreadableError: a message is not one of Arrow's.
        """
        pieces: list[bytes] = []
        while size:
            if not self._ready:
                self._next_message()
            piece = self._ready.popleft()
            if not piece:
                break
            if 0 < size < len(piece):
                self._ready.appendleft(piece[size:])
                piece = piece[:size]
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _next_message(self) -> None:
        """Measure the next message; an empty piece at the end."""
        prefix: bytes = self._beginning or self._body.read(4)
        self._beginning = b""
        self._ready.append(prefix)
        length = prefix
        if prefix == _CONTINUES:
            length = self._body.read(4)
            self._ready.append(length)
        size = int.from_bytes(length, "little")
        if len(length) < 4 or not size:
            self._ready.append(b"")
            return
        if size > _LONGEST_METADATA and prefix != _CONTINUES:
            # Old streams begin a message with its length; this value is no such length.
            raise UnreadableError(
                "has text where an Arrow message should be"
                if prefix.isascii() and prefix.decode().isprintable()
                else "is no whole Arrow stream of text"
            )
        if size > _LONGEST_METADATA:
            raise TooLargeError(f"has a message of {size:,} bytes")
        metadata: bytes = self._body.read(size)
        self._ready.append(metadata)
        try:
            self._measure(metadata)
        except (struct.error, IndexError):
            raise UnreadableError("is no whole Arrow stream of text") from None

    def _measure(self, metadata: bytes) -> None:
        message = _Table(metadata, _unsigned(metadata, 0))
        size = message.long(_BODY_LENGTH)
        if size > self._budget.left:
            raise TooLargeError(f"has a message of {size:,} bytes")
        if size < 0:
            raise UnreadableError("is no whole Arrow stream of text")
        body: bytes = self._body.read(size) if size else b""
        header = message.table(_HEADER)
        if header is None:
            raise UnreadableError("is no whole Arrow stream of text")
        sent = len(metadata) + size
        match message.byte(_HEADER_TYPE):
            case kind if kind == _SCHEMA:
                _count_fields(header, _FIELDS, 0)
            case kind if kind == _ROWS:
                self._budget.take(*_decoded(header, body), sent=sent)
            case kind if kind == _DICTIONARY:
                data = header.table(_DICTIONARY_DATA)
                if data is None:
                    raise UnreadableError("is no whole Arrow stream of text")
                # An addition to a dictionary makes a new one of all its values.
                which = header.long(_DICTIONARY_ID)
                _, decoded = _decoded(data, body)
                if header.byte(_IS_DELTA):
                    decoded += self._dictionaries.get(which, 0)
                self._dictionaries[which] = decoded
                self._budget.take(0, decoded, sent=sent)
            case _:
                pass
        if body:
            self._ready.append(body)


def _decoded(batch: _Table, body: bytes) -> tuple[int, int]:
    """How many rows a batch has, and how many bytes."""
    rows = batch.long(_LENGTH)
    # Pairs of a column's length and its nulls, and of a buffer's offset and length.
    nodes, buffers = batch.pairs(_NODES), batch.pairs(_BUFFERS)
    values = sum(nodes[::2])
    if rows < 0 or min([*nodes, *buffers], default=0) < 0:
        raise UnreadableError("is no whole Arrow stream of text")
    size = sum(buffers[1::2])
    if batch.table(_COMPRESSION) is not None:
        size = sum(
            _uncompressed(body, position, length)
            for position, length in zip(buffers[::2], buffers[1::2], strict=True)
            if length
        )
    return rows, max(size, values * _VALUE_BYTES)


def _uncompressed(body: bytes, position: int, length: int) -> int:
    """The length that a compressed buffer begins with; -1 if it is not compressed."""
    (size,) = struct.unpack_from("<q", body, position)
    if size < -1:
        raise UnreadableError("is no whole Arrow stream of text")
    return length if size == -1 else size


def _count_fields(table: _Table, slot: int, count: int) -> int:
    """Count the columns of a schema, also nested ones; several may share one table in memory."""
    for field in table.tables(slot):
        count += 1
        if count > MOST_COLUMNS:
            raise RefusedError(f"has more than {MOST_COLUMNS:,} columns: let the source send fewer")
        count = _count_fields(field, _CHILDREN, count)
    return count


class _Table:
    """A table of a flatbuffer; absent numbers are 0.

    Every method raises `struct.error` for a position outside the buffer.
    """

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._fields = position - struct.unpack_from("<i", data, position)[0]
        (self._fields_size,) = struct.unpack_from("<H", data, self._fields)

    def byte(self, slot: int) -> int:
        position = self._find(slot)
        return self._data[position] if position else 0

    def long(self, slot: int) -> int:
        position = self._find(slot)
        return struct.unpack_from("<q", self._data, position)[0] if position else 0

    def table(self, slot: int) -> _Table | None:
        position = self._find(slot)
        return _Table(self._data, position + _unsigned(self._data, position)) if position else None

    def tables(self, slot: int) -> list[_Table]:
        start, count = self._vector(slot)
        positions = range(start, start + 4 * min(count, MOST_COLUMNS + 1), 4)
        return [
            _Table(self._data, position + _unsigned(self._data, position)) for position in positions
        ]

    def pairs(self, slot: int) -> tuple[int, ...]:
        """The numbers of a vector of pairs, in one sequence."""
        start, count = self._vector(slot)
        if count > len(self._data):
            raise struct.error
        return struct.unpack_from(f"<{2 * count}q", self._data, start)

    def _vector(self, slot: int) -> tuple[int, int]:
        position = self._find(slot)
        if not position:
            return 0, 0
        start = position + _unsigned(self._data, position)
        return start + 4, _unsigned(self._data, start)

    def _find(self, slot: int) -> int:
        """The position of a field; 0 when it is absent."""
        entry = 4 + 2 * slot
        if entry >= self._fields_size:
            return 0
        (offset,) = struct.unpack_from("<H", self._data, self._fields + entry)
        return self._position + offset if offset else 0


def _unsigned(data: bytes, position: int) -> int:
    return struct.unpack_from("<I", data, position)[0]
