"""Transaction ids: their hashes, and the times in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from txn_platform.arrow.text import by_length, integers_of_bytes

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from numpy.typing import NDArray

_UUID_LENGTH: Final = 36


def id_hashes(ids: pl.Series | pa.Array[Any]) -> NDArray[np.uint64]:
    """A 64-bit hash of every id; null counts as the empty text.

    With mix = the finalizer of splitmix64 after adding its increment: state = mix(byte length);
    then for the UTF-8 bytes, zero-padded to a multiple of 8 and read as little-endian integers w of
    64 bits, state = mix(state ^ w). The source has its own implementation of this definition, so
    that equal hashes are evidence.

    Args:
        ids: text, n values.

    Returns:
        n hashes.

    Source: S. Vigna, splitmix64 (public domain), for mix.
    """
    hashes = np.empty(len(ids), dtype=np.uint64)
    for rows, texts in by_length(ids):
        count, length = texts.shape
        state = np.full(count, length, dtype=np.uint64)
        scratch = np.empty_like(state)
        _mix(state, scratch)
        for values in integers_of_bytes(texts):
            state ^= values
            _mix(state, scratch)
        hashes[rows] = state
    return hashes


def _mix(state: NDArray[np.uint64], scratch: NDArray[np.uint64]) -> None:
    # In place, because new memory costs more than the arithmetic.
    state += np.uint64(0x9E3779B97F4A7C15)
    np.right_shift(state, np.uint64(30), out=scratch)
    state ^= scratch
    state *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(state, np.uint64(27), out=scratch)
    state ^= scratch
    state *= np.uint64(0x94D049BB133111EB)
    np.right_shift(state, np.uint64(31), out=scratch)
    state ^= scratch


def id_times(ids: pl.Series | pa.Array[Any]) -> NDArray[np.int64]:
    """The Unix time in milliseconds of each UUID of version 7; -1 for text of another length.

    Text of the right length that is no UUID gets some number, the same for equal texts.

    Args:
        ids: text, n values.

    Returns:
        n times.
    """
    times = np.full(len(ids), -1, dtype=np.int64)
    for rows, texts in by_length(ids):
        if texts.shape[1] == _UUID_LENGTH:
            times[rows] = _first_48_bits(texts)
    return times


def _first_48_bits(texts: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The first twelve hexadecimal digits of n UUIDs as numbers."""
    digits = np.concatenate([texts[:, :8], texts[:, 9:13]], axis=1)
    # The low four bits of "0" to "9" are 0 to 9; those of "a" to "f", which have bit 6, are 1 to 6.
    values = (digits & 0x0F) + 9 * (digits >> 6 & 1)
    big_endian = np.zeros((len(texts), 8), dtype=np.uint8)
    big_endian[:, 2:] = values[:, 0::2] << 4 | values[:, 1::2]
    return big_endian.view(">i8")[:, 0].astype(np.int64)
