"""Text columns as matrices of bytes, for arithmetic on digits that polars has no expression for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import boolean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Texts of a block. A block stays in the processor's cache.
_BLOCK_ROWS: Final = 1 << 14


def by_length(
    texts: pl.Series | pa.Array[Any],
) -> Iterator[tuple[NDArray[np.intp] | slice, NDArray[np.uint8]]]:
    """The UTF-8 bytes of texts, in groups of texts that have the same length.

    Args:
        texts: n texts; null counts as empty.

    Yields:
        The indices of m texts, or a slice, and their bytes, of shape (m, length).
    """
    if not len(texts):
        return
    array: Any = texts
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.Array) and array.null_count:
        array = pl.Series(array, dtype=pl.String)
    if isinstance(array, pl.Series):
        array = array.cast(pl.String).fill_null("").to_arrow()
    if array.type != pa.string():
        array = array.cast(pa.large_string())
    lengths = np.diff(_offsets(array))
    usual = int(lengths[len(lengths) // 2])
    alike = lengths == usual
    everywhere = np.flatnonzero(alike)
    if len(everywhere) == len(lengths):
        for block, texts_of_bytes in _blocks(array, usual):
            yield block, texts_of_bytes
        return
    for block, texts_of_bytes in _blocks(array.filter(boolean(alike)), usual):
        yield everywhere[block], texts_of_bytes
    rest = np.flatnonzero(~alike)
    rest = rest[np.argsort(lengths[rest], kind="stable")]
    starts = _offsets(array)[rest]
    data = np.frombuffer(array.buffers()[2] or b"", dtype=np.uint8)
    for same in np.split(np.arange(len(rest)), np.flatnonzero(np.diff(lengths[rest])) + 1):
        length = int(lengths[rest[same[0]]])
        yield rest[same], data[starts[same][:, None] + np.arange(length)]


def _offsets(array: Any) -> NDArray[np.integer[Any]]:
    width = np.int32 if array.type == pa.string() else np.int64
    offsets = np.frombuffer(array.buffers()[1], dtype=width)
    return offsets[array.offset : array.offset + len(array) + 1]


def _blocks(array: Any, length: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Blocks of an array of texts that all have one length."""
    offsets = _offsets(array)
    data = np.frombuffer(array.buffers()[2] or b"", dtype=np.uint8)
    texts = data[offsets[0] : offsets[-1]].reshape(len(array), length)
    for start in range(0, len(array), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        yield block, texts[block]


def integers_of_bytes(texts: NDArray[np.uint8]) -> Iterator[NDArray[np.uint64]]:
    """Each eight bytes of texts as one little-endian integer; the last is padded with zeros.

    Args:
        texts: bytes of shape (n, length).

    Yields:
        The first integer of each text, n values; then the second; and so on.
    """
    count, length = texts.shape
    rest = length % 8
    for start in range(0, length - rest, 8):
        yield texts[:, start : start + 8].view("<u8")[:, 0]
    if rest:
        last = np.zeros((count, 8), dtype=np.uint8)
        last[:, :rest] = texts[:, -rest:]
        yield last.view("<u8")[:, 0]
