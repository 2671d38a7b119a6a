"""Content codings of HTTP (RFC 9110, 8.4): from compressed bytes to the original bytes.

A coding is read to its own end. Content that stops earlier was cut off, even if its length agrees.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any, Final, Literal, override

import pyarrow as pa

from txn_platform.errors import shown
from txn_platform.source.decode_limits import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PIECE_BYTES: Final = 1 << 16
_MOST_CODINGS: Final = 4
_BROKE_OFF: Final = "broke off"
_SPOILT: Final = "is not compressed as it says"

_GZIP: Final = ("gzip", "x-gzip")
_OF_ARROW: Final[dict[str, Literal["brotli", "zstd"]]] = {"br": "brotli", "zstd": "zstd"}


def codings_in(header: str | None) -> list[str]:
    """The codings that a Content-Encoding header names, in the order they were applied.

    Raises:
        UnreadableError: one of them is not known, or there are too many.
    """
    names = [name.strip().lower() for name in (header or "").split(",")]
    names = [name for name in names if name not in {"", "identity"}]
    for name in names:
        if name not in {*_GZIP, "deflate", *_OF_ARROW}:
            raise UnreadableError(f"has the content coding {shown(name)}, which is not known")
    if len(names) > _MOST_CODINGS:
        raise UnreadableError(f"has {len(names):,} content codings, one around the other")
    return names


def decoded(content: io.RawIOBase, codings: Sequence[str]) -> io.RawIOBase:
    """Content without its codings.

    Args:
        content: the sent bytes; its `read` returns fewer than requested only at the end.
        codings: as `codings_in` gives them.

    Returns:
        A file whose `read` gives at least a byte until the end. It raises `UnreadableError` when
        the content ends before its codings do, goes on behind them, or is not coded so.
    """
    for name in reversed(codings):
        content = _Streamed(content, name) if name in _OF_ARROW else _Zlib(content, name)
    return content


class _Decoded(io.RawIOBase):
    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class _Zlib(_Decoded):
    """gzip (RFC 1952), one member or several, and deflate (RFC 1950, and the bare RFC 1951)."""

    def __init__(self, content: io.RawIOBase, coding: str) -> None:
        super().__init__()
        self._content = content
        self._gzip = coding in _GZIP
        self._sent = b""
        self._inflater: Any = None
        self._ended = False

    @override
    def read(self, size: int = -1, /) -> bytes:
        while not self._ended:
            if not self._sent:
                self._sent = self._content.read(_PIECE_BYTES) or b""
            if self._inflater is None:
                self._inflater = self._new_inflater()
            # Without new input it may still hold output that did not fit before.
            fed = self._sent
            try:
                piece: bytes = self._inflater.decompress(fed, max(0, size))
            except zlib.error:
                raise UnreadableError(_SPOILT) from None
            self._sent = self._inflater.unconsumed_tail
            if self._inflater.eof:
                self._end_member(self._inflater.unused_data)
            elif not piece and not fed:
                raise UnreadableError(_BROKE_OFF)
            if piece:
                return piece
        return b""

    def _new_inflater(self) -> Any:
        if self._gzip:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        while len(self._sent) < 2 and (more := self._content.read(1)):
            self._sent += more
        # RFC 1950, 2.2: the method is 8, and the two bytes are a multiple of 31.
        head = int.from_bytes(self._sent[:2])
        wrapped = head >> 8 & 0xF == zlib.DEFLATED and head % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)

    def _end_member(self, rest: bytes) -> None:
        self._inflater = None
        self._sent = rest or self._content.read(_PIECE_BYTES) or b""
        self._ended = not self._sent
        if self._sent and not self._gzip:
            raise UnreadableError("goes on behind the end of its compressed content")


class _Streamed(_Decoded):
    """zstd (RFC 8878), one frame or several, and br (RFC 7932)."""

    def __init__(self, content: io.RawIOBase, coding: str) -> None:
        super().__init__()
        self._counted = _Counted(content)
        file = pa.PythonFile(self._counted, mode="r")
        self._stream = pa.CompressedInputStream(file, _OF_ARROW[coding])

    @override
    def read(self, size: int = -1, /) -> bytes:
        try:
            piece = self._stream.read(size)
        except OSError:
            raise UnreadableError(_BROKE_OFF if self._counted.ended else _SPOILT) from None
        if not piece and not self._counted.size:
            raise UnreadableError(_BROKE_OFF)
        return piece


class _Counted(_Decoded):
    """Content, and how much of it was read."""

    def __init__(self, content: io.RawIOBase) -> None:
        super().__init__()
        self._content = content
        self.size = 0
        self.ended = False

    @override
    def read(self, size: int = -1, /) -> bytes:
        piece = self._content.read(size) or b""
        self.size += len(piece)
        self.ended = not piece and size != 0
        return piece
