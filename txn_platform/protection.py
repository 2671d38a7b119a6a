"""Card numbers: the token that joins without the number, and the mask that shows enough of it.

Pure. Where the key comes from is `settings.py`'s matter; which columns are protected is
`contract.py`'s.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Literal, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.columns import Coded, compacted, recoded
from txn_platform.contract import PUBLISHED_COLUMNS

CLEAR_PREFIX_DIGITS = 6
CLEAR_SUFFIX_DIGITS = 4

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
        self._key = key
        self._numbers = self._masks = self._tokens = pa.array([], pa.string())

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
        places = pc.index_in(numbers.dictionary, value_set=self._numbers)
        if places.null_count:
            self._remember(cast("pa.StringArray", numbers.dictionary.filter(pc.is_null(places))))
            places = pc.index_in(numbers.dictionary, value_set=self._numbers)
        return recoded(numbers, self._masks.take(places)), recoded(
            numbers, self._tokens.take(places)
        )

    def _remember(self, numbers: pa.StringArray) -> None:
        number = pl.col("number")
        hidden = number.str.len_bytes() - CLEAR_PREFIX_DIGITS - CLEAR_SUFFIX_DIGITS
        masks = pl.DataFrame({"number": pl.Series(numbers, dtype=pl.String)}).select(
            number.str.slice(0, CLEAR_PREFIX_DIGITS)
            + pl.lit("*").repeat_by(hidden).list.join("")
            + number.str.slice(-CLEAR_SUFFIX_DIGITS)
        )
        masks = masks.to_series().to_arrow().cast(pa.string())
        self._numbers = pa.concat_arrays([self._numbers, numbers])
        self._masks = pa.concat_arrays([self._masks, masks])
        self._tokens = pa.concat_arrays([self._tokens, self._tokens_of(numbers)])

    def _tokens_of(self, numbers: pa.StringArray) -> pa.StringArray:
        codes = b"".join(
            hmac.digest(self._key, number.encode("ascii"), hashlib.sha256)
            for number in pl.Series(numbers, dtype=pl.String).to_list()
        )
        # Five bytes are eight characters; the last of seven such groups is not full.
        padded = np.zeros((len(numbers), 7, 5), dtype=np.uint64)
        padded.reshape(-1, 35)[:, :32] = np.frombuffer(codes, dtype=np.uint8).reshape(-1, 32)
        groups = (padded << _BYTE_SHIFTS).sum(axis=2, dtype=np.uint64)
        places = ((groups[:, :, np.newaxis] >> _CHARACTER_SHIFTS) & np.uint64(31)).astype(np.uint8)
        characters = _BASE32[places.reshape(-1, 56)[:, :_TOKEN_CHARACTERS]]
        offsets = np.arange(len(numbers) + 1, dtype=np.int32) * _TOKEN_CHARACTERS
        return pa.StringArray.from_buffers(
            len(numbers), pa.py_buffer(offsets), pa.py_buffer(characters)
        )


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
