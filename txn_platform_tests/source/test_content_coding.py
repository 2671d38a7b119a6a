"""Content codings: whatever pieces the content comes in, and to their own ends."""

import gzip
import io
import zlib
from collections.abc import Callable
from typing import Final, override

import pyarrow as pa
import pytest

from txn_platform.source.content_coding import codings_in, decoded
from txn_platform.source.decode_limits import UnreadableError

_TEXT: Final = b"".join(b"%d,transaction\n" % number for number in range(5_000))


def _bare(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


def _of_arrow(codec: str) -> Callable[[bytes], bytes]:
    return lambda content: pa.Codec(codec).compress(content, asbytes=True)


def _zstd_frames(content: bytes) -> bytes:
    compress = _of_arrow("zstd")
    return compress(content[:100]) + compress(content[100:])


_CODINGS: Final[dict[str, tuple[str, Callable[[bytes], bytes]]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip of two members": (
        "x-gzip",
        lambda content: gzip.compress(content[:100]) + gzip.compress(content[100:]),
    ),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", _bare),
    "zstd": ("zstd", _of_arrow("zstd")),
    "zstd of two frames": ("zstd", _zstd_frames),
    "br": ("br", _of_arrow("brotli")),
}
_OF_ARROW: Final = {"br", "zstd"}
_each_coding = pytest.mark.parametrize("name", list(_CODINGS))


class _Pieces(io.RawIOBase):
    """Gives at most so many bytes at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__()
        self._content = io.BytesIO(content)
        self._size = size

    @override
    def readable(self) -> bool:
        return True

    @override
    def read(self, size: int = -1, /) -> bytes:
        return self._content.read(self._size if size < 0 else min(size, self._size))


def _read(content: io.RawIOBase, size: int = 1 << 16) -> bytes:
    return b"".join(iter(lambda: content.read(size) or b"", b""))


@pytest.mark.parametrize(
    ("name", "piece"),
    # Arrow takes a short piece for the end.
    [(name, 1 << 20) for name in _CODINGS]
    + [
        (name, piece)
        for name in _CODINGS
        if name.endswith(("deflate", "gzip", "members"))
        for piece in (1, 2)
    ],
)
def test_content_may_come_in_pieces_of_any_size(name: str, piece: int) -> None:
    coding, encode = _CODINGS[name]
    for text in (_TEXT, b"", b"x"):
        assert _read(decoded(_Pieces(encode(text), piece), [coding])) == text


@_each_coding
def test_a_reader_may_ask_for_any_number_of_bytes(name: str) -> None:
    coding, encode = _CODINGS[name]
    for size in (1, 7, 100_000):
        assert _read(decoded(io.BytesIO(encode(_TEXT)), [coding]), size) == _TEXT  # pyright: ignore[reportArgumentType] - a file in memory


@_each_coding
def test_content_that_ends_early_broke_off_wherever_it_ends(name: str) -> None:
    coding, encode = _CODINGS[name]
    whole = encode(_TEXT)
    ends = {1, 2, 5, len(whole) // 2, len(whole) - 9, len(whole) - 1}
    for end in sorted(ends):
        with pytest.raises(UnreadableError):
            _read(decoded(_Pieces(whole[:end], 1 << 20), [coding]))


@pytest.mark.parametrize("name", ["deflate", "bare deflate"])
def test_content_goes_not_on_behind_the_end_of_deflate(name: str) -> None:
    coding, encode = _CODINGS[name]
    with pytest.raises(UnreadableError, match="goes on behind the end"):
        _read(decoded(_Pieces(encode(_TEXT) + b"\n", 1 << 20), [coding]))


@_each_coding
def test_content_in_another_coding_is_refused(name: str) -> None:
    with pytest.raises(UnreadableError):
        _read(decoded(_Pieces(_TEXT, 1 << 20), [_CODINGS[name][0]]))


def test_codings_are_removed_in_the_opposite_order() -> None:
    content = zlib.compress(_of_arrow("zstd")(gzip.compress(_TEXT)))
    codings = codings_in(" GZip, identity, zstd ,deflate,")
    assert codings == ["gzip", "zstd", "deflate"]
    assert _read(decoded(_Pieces(content, 1 << 20), codings)) == _TEXT


def test_codings_are_known_and_few() -> None:
    assert codings_in(None) == codings_in("identity") == []
    assert len(codings_in("gzip, gzip, gzip, gzip")) == 4
    with pytest.raises(UnreadableError, match="has 5 content codings, one around the other"):
        codings_in("gzip, gzip, gzip, gzip, gzip")
    with pytest.raises(UnreadableError, match="content coding 'compress', which is not known"):
        codings_in("gzip, compress")
