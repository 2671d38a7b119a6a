"""Card numbers: the token that joins without the number, and the mask that shows enough of it.

Pure. Where the key comes from is `settings.py`'s matter; which columns are protected is
`contract.py`'s.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import polars as pl

CLEAR_PREFIX_DIGITS = 6
CLEAR_SUFFIX_DIGITS = 4


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
        self._tokens: dict[str, str] = {}

    def protect(self, numbers: pl.Series) -> tuple[pl.Series, pl.Series]:
        """The masks and the tokens of card numbers, null where the number is null.

        Args:
            numbers: text of 13 to 19 digits, n values.

        Returns:
            Two series of text, n values each, named `card_number` and `card_token`.
        """
        distinct = numbers.unique().drop_nulls()
        # One window holds each card many times over; a window's cards are few enough to remember.
        known = self._tokens
        for number in distinct.to_list():
            if number not in known:
                known[number] = self._token(number)
        tokens = pl.DataFrame(
            {"number": distinct, "token": [known[number] for number in distinct.to_list()]},
            schema={"number": pl.String, "token": pl.String},
        ).with_columns(
            mask=pl.col("number").str.slice(0, CLEAR_PREFIX_DIGITS)
            + pl.lit("*")
            .repeat_by(pl.col("number").str.len_bytes() - CLEAR_PREFIX_DIGITS - CLEAR_SUFFIX_DIGITS)
            .list.join("")
            + pl.col("number").str.slice(-CLEAR_SUFFIX_DIGITS)
        )
        joined = (
            numbers.rename("number")
            .to_frame()
            .join(tokens, on="number", how="left", maintain_order="left")
        )
        return joined["mask"].alias("card_number"), joined["token"].alias("card_token")

    def _token(self, number: str) -> str:
        code = hmac.digest(self._key, number.encode("ascii"), hashlib.sha256)
        return base64.b32encode(code).decode("ascii").rstrip("=").lower()
