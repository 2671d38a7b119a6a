"""Card numbers: the token that joins without the number, and the mask that shows enough of it.

Pure. `card_key` finds the key, and the contract names the columns that are protected.
"""

from __future__ import annotations

import hashlib
import hmac
from itertools import product
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import (
    Column,
    DictionaryEncoded,
    PerDictionary,
    boolean,
    recoded,
    take,
)
from txn_platform.arrow.text import BLOCK_ROWS
from txn_platform.contract.schema import PUBLISHED_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLEAR_PREFIX_DIGITS = 6
CLEAR_SUFFIX_DIGITS = 4

# Of each length, how many numbers are shorter, from 13 digits on.
_SHORTER: Final = np.array(
    [sum(10**shorter for shorter in range(13, length)) for length in range(20)], dtype=np.uint64
)
_TOKEN_CHARACTERS: Final = 52
# Ten bits are two characters, which move as one.
_BASE32: Final = np.array(
    [left + right for left, right in product("abcdefghijklmnopqrstuvwxyz234567", repeat=2)], "S2"
).view(np.uint16)


class CardProtector:
    """Turns card numbers into tokens and masks.

    The token is HMAC-SHA256 of the number's ASCII digits under the key, in base32 (RFC 4648, lower
    case, no padding; 52 characters): equal numbers have equal tokens, and without the key a number
    can't be tried. Base32 rather than hexadecimal, because long runs of digits in a token would set
    off every scanner that looks for card numbers.

    The mask keeps the first six and the last four digits, what PCI DSS 4.0 (requirement 3.4.1)
    allows to be shown.
    """

    def __init__(self, key: bytes) -> None:
        """Args: key: secret, 16 bytes at least.

        Raises:
            ValueError: the key is shorter.
        """
        if len(key) < 16:
            raise ValueError("the card key must have at least 16 bytes")
        # Copies of it have the key in them already, which is half of the work.
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)
        # The cards met so far: their codes in ascending order, and where their mask and token are.
        # Last what is above every code, so that a search ends at one that is there.
        self._codes = np.array([np.iinfo(np.uint64).max])
        self._places = np.array([-1], dtype=np.int64)
        self._masks = self._tokens = pa.nulls(0, pa.string())
        self._of_dictionary = PerDictionary(self._protect)

    def protect(self, numbers: DictionaryEncoded) -> tuple[DictionaryEncoded, DictionaryEncoded]:
        """The masks and the tokens of card numbers, null where the number is null.

        Args:
            numbers: n rows, over text of 13 to 19 digits.

        Returns:
            The column `card_number` and the column `card_token`, n values each.
        """
        masks, tokens = self._of_dictionary(numbers.dictionary)
        of_rows = cast("pa.Int32Array", masks.indices.take(numbers.indices))
        return (
            pa.DictionaryArray.from_arrays(of_rows, masks.dictionary, safe=False),
            recoded(numbers, tokens),
        )

    def _protect(self, numbers: Column) -> tuple[DictionaryEncoded, Column]:
        """The masks, each once as Parquet needs them, and the tokens of k numbers."""
        # One window holds each card many times over; a window's cards are few enough to remember.
        codes = _codes(numbers)
        found = np.searchsorted(self._codes, codes)
        unknown = self._codes[found] != codes
        if unknown.any():
            self._remember(numbers.filter(boolean(unknown)), codes[unknown])
            found = np.searchsorted(self._codes, codes)
        places = self._places[found]
        masks = cast("DictionaryEncoded", take(self._masks, places).dictionary_encode())
        return masks, take(self._tokens, places)

    def _remember(self, numbers: Column, codes: NDArray[np.uint64]) -> None:
        codes, firsts = np.unique(codes, return_index=True)
        numbers = take(numbers, firsts)
        number = pl.col("number")
        hidden = number.str.len_bytes() - CLEAR_PREFIX_DIGITS - CLEAR_SUFFIX_DIGITS
        masks = pl.DataFrame({"number": pl.Series(numbers, dtype=pl.String)}).select(
            number.str.slice(0, CLEAR_PREFIX_DIGITS)
            + pl.lit("*").repeat_by(hidden).list.join("")
            + number.str.slice(-CLEAR_SUFFIX_DIGITS)
        )
        masks = masks.to_series().to_arrow().cast(pa.string())
        at = np.searchsorted(self._codes, codes)
        self._codes = np.insert(self._codes, at, codes)
        places = np.arange(len(self._masks), len(self._masks) + len(codes))
        self._places = np.insert(self._places, at, places)
        self._masks = pa.concat_arrays([self._masks, masks])
        self._tokens = pa.concat_arrays([self._tokens, self._tokens_of(numbers)])

    def _tokens_of(self, numbers: Column) -> pa.StringArray:
        digests = b"".join(map(self._digest, pl.Series(numbers, dtype=pl.String).to_list()))
        of_cards = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
        characters = np.empty((len(numbers), _TOKEN_CHARACTERS), dtype=np.uint8)
        for start in range(0, len(numbers), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            characters[block] = _base32(of_cards[block])
        offsets = np.arange(len(numbers) + 1, dtype=np.int32) * _TOKEN_CHARACTERS
        return pa.StringArray.from_buffers(
            len(numbers), pa.py_buffer(offsets), pa.py_buffer(characters)
        )

    def _digest(self, number: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(number.encode("ascii"))
        return keyed.digest()


def _base32(digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Digests as text (RFC 4648, lower case, no padding): n of 32 bytes, n of 52 characters."""
    count = len(digests)
    padded = np.zeros((count, 40), dtype=np.uint8)
    padded[:, :32] = digests
    # Five bytes are four times ten bits; of the last of seven such groups, two are beyond the end.
    pairs = np.empty((count, 7, 4), dtype=np.uint16)
    for group in range(7):
        word = np.ascontiguousarray(padded[:, 5 * group : 5 * group + 8]).view(">u8")[:, 0]
        word = word.astype(np.uint64)
        for place, shift in enumerate((54, 44, 34, 24)):
            pairs[:, group, place] = _BASE32[word >> np.uint64(shift) & np.uint64(1023)]
    return np.ascontiguousarray(pairs.reshape(count, 28)[:, :26]).view(np.uint8)


def _codes(numbers: Column) -> NDArray[np.uint64]:
    """Numbers of 13 to 19 digits as integers of 64 bits: other digits, or more, another integer."""
    digits = pl.Series(numbers, dtype=pl.String)
    # Leading zeros count: those of each length come behind all those that are shorter.
    return digits.cast(pl.UInt64).to_numpy() + _SHORTER[digits.str.len_bytes().to_numpy()]


def protected(
    rows: pa.RecordBatch, protector: CardProtector, policy: Literal["token", "clear"]
) -> pa.RecordBatch:
    """Rows of `CONFORMING_SCHEMA` with the columns that are published.

    Under the policy `clear`, which is for fictitious data, card numbers stay as they were sent.
    """
    numbers = rows.column("card_number")
    masks, tokens = protector.protect(cast("DictionaryEncoded", numbers))
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns |= {"card_number": masks if policy == "token" else numbers, "card_token": tokens}
    return pa.RecordBatch.from_pydict({name: columns[name] for name in PUBLISHED_COLUMNS})
