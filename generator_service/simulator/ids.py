"""Transaction ids: UUIDv7 texts that contain the position of their row.

An id contains the row's time, and its index in its cell plus a keyed hash and noise. So a row is
found from its id alone, and ids sort in the order of the rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from generator_service.simulator.configuration import MINUTE
from generator_service.simulator.randomness import Hashes, Integers, hashed, mix

WIDTH = 36
"""Characters in an id."""

NOISE_BITS = 31
"""Bits of noise under the index of a row; the index itself stays below 2**32."""

# The eight groups of four hex digits, each with its offset in the text.
_OFFSETS = (0, 4, 9, 14, 19, 24, 28, 32)
_TEXT = np.dtype(
    {
        "names": [f"group{offset}" for offset in _OFFSETS],
        "formats": ["<u4"] * 8,
        "offsets": list(_OFFSETS),
        "itemsize": WIDTH,
    }
)


def _hex_groups() -> npt.NDArray[np.uint32]:
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    number = np.arange(1 << 16)
    text = np.empty((1 << 16, 4), dtype=np.uint8)
    for digit in range(4):
        text[:, digit] = digits[(number >> (12 - 4 * digit)) & 15]
    return text.view("<u4").reshape(-1)


_HEX = _hex_groups()


def tails(key: int, cells: Integers, indices: Integers) -> Hashes:
    """Return the 64 bits that follow the time in an id: increasing with the index in a cell."""
    tail: Hashes = hashed(key, cells) >> np.uint64(1)
    tail += indices.view(np.uint64) << np.uint64(NOISE_BITS)
    tail += hashed(key ^ 1, cells, indices) >> (64 - NOISE_BITS)
    return tail


def texts(times: Integers, tail: Hashes) -> npt.NDArray[np.uint8]:
    """Write the ids of rows as text: (n, 36) bytes.

    times are microseconds since the epoch. 48 bits of milliseconds, the version, 10 bits of
    microseconds, two bits of the tail, the variant, and the tail's other 62 bits.
    """
    milliseconds = times // 1000
    microseconds = times - milliseconds * 1000
    high = tail.view(np.int64)
    groups = (
        milliseconds >> 32,
        (milliseconds >> 16) & 0xFFFF,
        milliseconds & 0xFFFF,
        0x7000 | (microseconds << 2) | ((high >> 62) & 3),
        0x8000 | ((high >> 48) & 0x3FFF),
        (high >> 32) & 0xFFFF,
        (high >> 16) & 0xFFFF,
        high & 0xFFFF,
    )
    text = np.empty((times.size, WIDTH), dtype=np.uint8)
    text[:, (8, 13, 18, 23)] = ord("-")
    fields = text.reshape(-1).view(_TEXT)
    for offset, group in zip(_OFFSETS, groups, strict=True):
        fields[f"group{offset}"] = _HEX[group]
    return text


def row_of(key: int, transaction_id: str) -> tuple[int, int] | None:
    """Return the (cell, index) that an id has with the key; None for a text of another form."""
    if len(transaction_id) != WIDTH or any(transaction_id[at] != "-" for at in (8, 13, 18, 23)):
        return None
    digits = transaction_id.replace("-", "")
    if len(digits) != 32 or not set(digits) <= set("0123456789abcdef"):
        return None
    number = int(digits, 16)
    if (number >> 76) & 15 != 7 or (number >> 62) & 3 != 2:
        return None
    microseconds = (number >> 66) & 1023
    if microseconds > 999:
        return None
    cell = ((number >> 80) * 1000 + microseconds) // MINUTE
    tail = (((number >> 64) & 3) << 62) | (number & ((1 << 62) - 1))
    start = int(hashed(key, np.array([cell]))[0]) >> 1
    return cell, (tail - start) >> NOISE_BITS


def digest(text: npt.NDArray[np.uint8]) -> int:
    """Return the order-independent digest of ids given as (n, 36) bytes: the sum of their hashes.

    Each id's hash starts from its length and takes its bytes, zero-padded, as little-endian 64-bit
    values.
    """
    padded = np.zeros((text.shape[0], 40), dtype=np.uint8)
    padded[:, :WIDTH] = text
    values = np.ascontiguousarray(padded.view("<u8").T)
    state = mix(np.full(text.shape[0], WIDTH, dtype=np.uint64))
    for value in values:
        state ^= value
        mix(state)
    return int(state.sum(dtype=np.uint64))
