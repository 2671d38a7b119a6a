"""Card numbers: the token that joins without the number, and the mask that shows enough of it.

Pure. Where the key comes from is `settings.py`'s matter; which columns are protected is
`contract.py`'s.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.columns import Coded, Column, boolean, compacted, recoded, taken
from txn_platform.contract import PUBLISHED_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLEAR_PREFIX_DIGITS = 6
CLEAR_SUFFIX_DIGITS = 4

# Of each length, how many numbers are shorter, from 13 digits on.
_SHORTER: Final = np.array(
    [sum(10**shorter for shorter in range(13, length)) for length in range(20)], dtype=np.uint64
)
_BASE32: Final = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", dtype=np.uint8)
_TOKEN_CHARACTERS: Final = 52
_BYTE_SHIFTS: Final = np.arange(32, -1, -8, dtype=np.uint64)
_CHARACTER_SHIFTS: Final = np.arange(35, -1, -5, dtype=np.uint64)


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

    def protect(self, numbers: Coded) -> tuple[Coded, Coded]:
        """The masks and the tokens of card numbers, null where the number is null.

        Args:
            numbers: text of 13 to 19 digits, n values.

        Returns:
            The column `card_number` and the column `card_token`, n values each.
        """
        # Of what no row has, nothing is known: it need not be a card number.
        numbers = compacted(numbers, spare=0)
        # One window holds each card many times over; a window's cards are few enough to remember.
        codes = _codes(numbers.dictionary)
        found = np.searchsorted(self._codes, codes)
        unknown = self._codes[found] != codes
        if unknown.any():
            self._remember(numbers.dictionary.filter(boolean(unknown)), codes[unknown])
            found = np.searchsorted(self._codes, codes)
        places = self._places[found]
        return _each_once(recoded(numbers, taken(self._masks, places))), recoded(
            numbers, taken(self._tokens, places)
        )

    def _remember(self, numbers: Column, codes: NDArray[np.uint64]) -> None:
        codes, firsts = np.unique(codes, return_index=True)
        numbers = taken(numbers, firsts)
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
        # Five bytes are eight characters; the last of seven such groups is not full.
        padded = np.zeros((len(numbers), 7, 5), dtype=np.uint64)
        padded.reshape(-1, 35)[:, :32] = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
        groups = (padded << _BYTE_SHIFTS).sum(axis=2, dtype=np.uint64)
        places = ((groups[:, :, np.newaxis] >> _CHARACTER_SHIFTS) & np.uint64(31)).astype(np.uint8)
        characters = _BASE32[places.reshape(-1, 56)[:, :_TOKEN_CHARACTERS]]
        offsets = np.arange(len(numbers) + 1, dtype=np.int32) * _TOKEN_CHARACTERS
        return pa.StringArray.from_buffers(
            len(numbers), pa.py_buffer(offsets), pa.py_buffer(characters)
        )

    def _digest(self, number: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(number.encode("ascii"))
        return keyed.digest()


def _each_once(column: Coded) -> Coded:
    """The same rows over a dictionary in which no value stands twice, as Parquet needs it."""
    values = cast("Coded", column.dictionary.dictionary_encode())
    indices = cast("pa.Int32Array", values.indices.take(column.indices))
    return pa.DictionaryArray.from_arrays(indices, values.dictionary, safe=False)


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
    masks, tokens = protector.protect(cast("Coded", numbers))
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns |= {"card_number": masks if policy == "token" else numbers, "card_token": tokens}
    return pa.RecordBatch.from_pydict({name: columns[name] for name in PUBLISHED_COLUMNS})
