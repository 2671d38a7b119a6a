"""Card numbers: the token replaces the number in joins, the mask shows a part of it.

The key comes from `txn_platform.card_key`, the columns from the contract.
"""

from __future__ import annotations

import hashlib
import hmac
from itertools import batched
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import (
    Column,
    DictionaryEncoded,
    PerDictionary,
    boolean,
    take,
    with_values,
)
from txn_platform.card_key import SHORTEST_KEY, fingerprint
from txn_platform.contract.card_forms import CARD_MASKS, DEFAULT_MASK, TOKEN_COLUMN
from txn_platform.contract.schema import TRANSACTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from txn_platform.contract.card_forms import CardMask
    from txn_platform.contract.model import Contract

# For each length, how many numbers of 13 or more digits are shorter.
_SHORTER: Final = np.array(
    [sum(10**shorter for shorter in range(13, length)) for length in range(20)], dtype=np.uint64
)
_TOKEN_CHARACTERS: Final = 52
_DIGEST_BITS: Final = 256
_BITS: Final = np.array([16, 8, 4, 2, 1], dtype=np.uint8)
_BASE32: Final = bytes.maketrans(bytes(range(32)), b"abcdefghijklmnopqrstuvwxyz234567")
# Digests that are encoded at a time, so that their bits stay in the processor's cache.
_BLOCK_DIGESTS: Final = 1 << 11


class CardProtector:
    """Turns card numbers into tokens and masks.

    The token is HMAC-SHA256 of the number's ASCII digits under the key, in base32 (RFC 4648, lower
    case, no padding; 52 characters). Equal numbers have equal tokens, and nobody can test a guess
    without the key. A hexadecimal token could have long runs of digits, which scanners would take
    for card numbers.

    The mask keeps the first six and the last four digits, as PCI DSS 4.0.1 (requirement 3.4.1)
    allows, or less.

    Attributes:
        key_fingerprint: tells the key from others; see `card_key.fingerprint`.
        mask: the name of the mask.
    """

    def __init__(self, key: bytes, mask: CardMask = DEFAULT_MASK) -> None:
        """Make tokens under a key, and masks of a form.

        Args:
            key: secret, at least `SHORTEST_KEY` bytes.
            mask: a name in `CARD_MASKS`.

        Raises:
            ValueError: the key is shorter.
        """
        if len(key) < SHORTEST_KEY:
            raise ValueError(f"the card key must have at least {SHORTEST_KEY} bytes")
        self.key_fingerprint = fingerprint(key)
        self.mask: CardMask = mask
        # A copy has the key in it already, which saves half of the hashing.
        self._keyed = hmac.new(key, digestmod=hashlib.sha256)
        # The numbers met so far as integers, ascending, and the indices of their masks and tokens.
        # The last entry is above every number, so that a search always ends at an entry.
        self._numbers = np.array([np.iinfo(np.uint64).max])
        self._indices = np.array([-1], dtype=np.int64)
        self._masks = self._tokens = pa.nulls(0, pa.string())
        self._of_dictionary = PerDictionary(self._protect)

    def protect(self, numbers: DictionaryEncoded) -> tuple[DictionaryEncoded, DictionaryEncoded]:
        """The masks and the tokens of card numbers, null where the number is null.

        Args:
            numbers: n rows, over text of 13 to 19 digits.

        Returns:
            The column of the card and that of the token, n values each.
        """
        masks, tokens = self._of_dictionary(numbers.dictionary)
        of_rows = cast("pa.Int32Array", masks.indices.take(numbers.indices))
        return (
            pa.DictionaryArray.from_arrays(of_rows, masks.dictionary, safe=False),
            with_values(numbers, tokens),
        )

    def _protect(self, numbers: Column) -> tuple[DictionaryEncoded, Column]:
        """The distinct masks, as Parquet needs them, and the tokens of k numbers."""
        # A window has each card many times, and few enough cards to remember them all.
        values = _as_integers(numbers)
        found = np.searchsorted(self._numbers, values)
        unknown = self._numbers[found] != values
        if unknown.any():
            self._remember(numbers.filter(boolean(unknown)), values[unknown])
            found = np.searchsorted(self._numbers, values)
        indices = self._indices[found]
        masks = cast("DictionaryEncoded", take(self._masks, indices).dictionary_encode())
        return masks, take(self._tokens, indices)

    def _remember(self, numbers: Column, values: NDArray[np.uint64]) -> None:
        values, firsts = np.unique(values, return_index=True)
        numbers = take(numbers, firsts)
        masks = self._masks_of(numbers)
        at = np.searchsorted(self._numbers, values)
        self._numbers = np.insert(self._numbers, at, values)
        indices = np.arange(len(self._masks), len(self._masks) + len(values))
        self._indices = np.insert(self._indices, at, indices)
        self._masks = pa.concat_arrays([self._masks, masks])
        self._tokens = pa.concat_arrays([self._tokens, self._tokens_of(numbers)])

    def _masks_of(self, numbers: Column) -> Column:
        if self.mask == "none":
            return pa.nulls(len(numbers), pa.string()).fill_null("****")
        number, form = pl.col("number"), CARD_MASKS[self.mask]
        hidden = number.str.len_bytes() - form.first - form.last
        masks = pl.DataFrame({"number": pl.Series(numbers, dtype=pl.String)}).select(
            number.str.slice(0, form.first)
            + pl.lit("*").repeat_by(hidden).list.join("")
            + number.str.slice(-form.last)
        )
        return masks.to_series().to_arrow().cast(pa.string())

    def _tokens_of(self, numbers: Column) -> pa.StringArray:
        digests = list(map(self._digest, pl.Series(numbers, dtype=pl.String).to_list()))
        tokens = b"".join(_base32(b"".join(block)) for block in batched(digests, _BLOCK_DIGESTS))
        offsets = np.arange(len(numbers) + 1, dtype=np.int32) * _TOKEN_CHARACTERS
        return pa.StringArray.from_buffers(
            len(numbers), pa.py_buffer(offsets), pa.py_buffer(tokens)
        )

    def _digest(self, number: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(number.encode("ascii"))
        return keyed.digest()


def _base32(digests: bytes) -> bytes:
    """The text of n digests of 32 bytes (RFC 4648, lower case, no padding): n times 52 bytes."""
    count = len(digests) // (_DIGEST_BITS // 8)
    bits = np.zeros((count, _TOKEN_CHARACTERS * len(_BITS)), dtype=np.uint8)
    bits[:, :_DIGEST_BITS] = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(count, -1)
    return (bits.reshape(-1, len(_BITS)) @ _BITS).tobytes().translate(_BASE32)


def _as_integers(numbers: Column) -> NDArray[np.uint64]:
    """An integer for each number of 13 to 19 digits; leading zeros make another integer."""
    digits = pl.Series(numbers, dtype=pl.String)
    return digits.cast(pl.UInt64).to_numpy() + _SHORTER[digits.str.len_bytes().to_numpy()]


def protected(
    rows: pa.RecordBatch,
    protector: CardProtector | None,
    policy: Literal["token", "clear"],
    contract: Contract = TRANSACTIONS,
) -> pa.RecordBatch:
    """Rows of the contract's `conforming_schema` with its published columns.

    The policy `clear` is for fictitious data: card numbers stay as they were sent.

    Args:
        rows: n rows.
        protector: of a contract with a card; None for rows without card numbers.
        policy: of card numbers.
        contract: of the rows.
    """
    if contract.card is None or protector is None:
        return rows
    numbers = rows.column(contract.card)
    masks, tokens = protector.protect(cast("DictionaryEncoded", numbers))
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns |= {contract.card: masks if policy == "token" else numbers, TOKEN_COLUMN: tokens}
    return pa.RecordBatch.from_pydict({name: columns[name] for name in contract.published_columns})
