"""Card numbers in text, in every spelling.

This module knows the digits of every script, separators, issuers' ranges and the check digit.
`schema` names the columns that are searched. `rows/protection` makes tokens and masks.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from txn_platform.arrow.text import by_length

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import pyarrow as pa
    from numpy.typing import NDArray

LENGTHS: Final = range(13, 20)
"""How many digits a card number has (ISO/IEC 7812-1 allows fewer; no network issues them)."""

CARD_NUMBER_RULE: Final = "check__card_number"
"""The rule that a text holds no card number."""


@dataclass(frozen=True)
class IssuerRange:
    """A range of numbers that a network issues cards from.

    Attributes:
        network: the network's name.
        low: the first four digits of the lowest number.
        high: the first four digits of the highest number.
        lengths: how many digits the numbers have.
    """

    network: str
    low: int
    high: int
    lengths: tuple[int, ...]


_LONG: Final = (16, 17, 18, 19)

ISSUER_RANGES: Final = (
    IssuerRange("JCB", 1800, 1800, (15,)),
    IssuerRange("JCB", 2131, 2131, (15,)),
    IssuerRange("Mir", 2200, 2204, _LONG),
    IssuerRange("Mastercard", 2221, 2720, (16,)),
    IssuerRange("Diners Club", 3000, 3059, (14, *_LONG)),
    IssuerRange("Diners Club", 3095, 3095, (14, *_LONG)),
    IssuerRange("American Express", 3400, 3499, (15,)),
    IssuerRange("JCB", 3528, 3589, _LONG),
    IssuerRange("Diners Club", 3600, 3699, (14, 15, *_LONG)),
    IssuerRange("American Express", 3700, 3799, (15,)),
    IssuerRange("Diners Club", 3800, 3999, (14, *_LONG)),
    IssuerRange("Visa", 4000, 4999, (13, 16, 19)),
    IssuerRange("Maestro, Verve, Dankort, RuPay", 5000, 5099, _LONG),
    *(
        IssuerRange("Maestro", prefix, prefix, (13, 14, 15))
        for prefix in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)
    ),
    IssuerRange("Mastercard", 5100, 5599, (16,)),
    IssuerRange("Maestro", 5600, 5899, _LONG),
    IssuerRange("RuPay", 6000, 6099, (16,)),
    IssuerRange("Discover", 6011, 6011, _LONG),
    IssuerRange("UnionPay", 6200, 6299, _LONG),
    IssuerRange("Maestro", 6300, 6399, _LONG),
    IssuerRange("Discover", 6440, 6599, _LONG),
    IssuerRange("Maestro", 6700, 6799, _LONG),
    IssuerRange("UnionPay, RuPay", 8100, 8199, _LONG),
    IssuerRange("RuPay", 8200, 8299, (16,)),
    IssuerRange("UzCard", 8600, 8600, (16,)),
    IssuerRange("Troy", 9792, 9792, (16,)),
    IssuerRange("Humo", 9860, 9860, (16,)),
)
"""The networks' ranges, as wide as they are published.

UATP is left out, because its 15 digits begin with any 1, and so are Maestro's short numbers outside
the prefixes in use: with them, every second numeric id would look like a card number.

Source: the networks' own tables of ranges, as collected in
https://en.wikipedia.org/wiki/Payment_card_number.
"""


def _lengths_by_prefix() -> NDArray[np.uint32]:
    """For each of 10,000 prefixes the lengths of its numbers, as bits."""
    bits = np.zeros(10_000, dtype=np.uint32)
    for issuer in ISSUER_RANGES:
        for length in issuer.lengths:
            bits[issuer.low : issuer.high + 1] |= np.uint32(1 << length)
    return bits


_LENGTHS_BY_PREFIX: Final = _lengths_by_prefix()


def false_share(length: int) -> float:
    """The share of random numbers of this length that look like card numbers.

    One in ten has the right check digit.
    """
    return float((_LENGTHS_BY_PREFIX >> np.uint32(length) & np.uint32(1)).mean()) / 10


# The check digit.

# The digit sum of twice a digit. Callers check that all characters are digits.
_DOUBLED: Final = np.array([sum(divmod(2 * digit, 10)) for digit in range(256)], dtype=np.uint8)


def luhn_is_valid(numbers: pl.Series) -> pl.Series:
    """Whether the last digit is the check digit of ISO/IEC 7812-1, annex B (Luhn).

    Args:
        numbers: n texts. Only 1 to 19 ASCII digits can be valid; null stays null.

    Returns:
        n booleans.
    """
    valid = np.zeros(len(numbers), dtype=bool)
    for rows, texts in by_length(numbers):
        # Backwards from the check digit, every second digit is doubled, and the two digits of the
        # result are added.
        if not 0 < texts.shape[1] <= LENGTHS[-1]:
            continue
        digits = np.ascontiguousarray(texts.T[::-1]) - np.uint8(ord("0"))
        total = digits[0::2].sum(axis=0, dtype=np.uint8)
        for doubled in digits[1::2]:
            total += _DOUBLED[doubled]
        valid[rows] = (total % 10 == 0) & (digits.max(axis=0) <= 9)
    return pl.select(
        pl.when(numbers.is_not_null()).then(pl.Series(valid)).alias(numbers.name)
    ).to_series()


def is_card_number(numbers: pl.Expr) -> dict[str, pl.Expr]:
    """The rules that a column of card numbers obeys, by problem, once each is of digits alone."""
    return {
        "check_digit": numbers.map_batches(luhn_is_valid, return_dtype=pl.Boolean),
        "repeated_digit": ~numbers.is_in(_PLACEHOLDERS),
    }


# Some of them, such as zeros alone, have the right check digit. No card has such a number.
_PLACEHOLDERS: Final = [digit * length for length in LENGTHS for digit in "0123456789"]


# Text.

_BREAK: Final = -2
_SEPARATOR: Final = -1
# Digits that may also be letters are counted from here.
_EITHER: Final = 10
# Letters that are invisible.
_FILLERS: Final = "\u115f\u1160\u3164\uffa0"
# Also those of banks, which nobody can change into others.
_CHINESE_DIGITS: Final = "零一二三四五六七八九壹壱貳贰弐參叁参肆伍陸陆柒捌玖"
_DIGIT: Final = rf"[\p{{N}}{_CHINESE_DIGITS}]"
# Where the groups of a number begin as it is printed on a card, by its length.
_PRINTED_GROUPS: Final = {14: (4, 10), 15: (4, 10), 16: (4, 8, 12), 19: (4, 8, 12, 16)}
# The length of a UUID in bytes, and where it has hyphens (RFC 9562).
_UUID_LENGTH: Final = 36
_HYPHENS: Final = [8, 13, 18, 23]
# Texts that are searched at a time.
_BLOCK: Final = 1 << 14


def holds_card_number(texts: pl.Series | pa.Array[Any], *, whole: bool = False) -> pl.Series:
    """Whether a text holds a card number.

    A card number has 13 to 19 digits of any script, of a network's range and length, with the right
    check digit. Anything but letters may separate its digits. One letter may separate its groups,
    if they are as on a card (4-4-4-4). It begins and ends with a group of digits: it never takes
    only a part of a group, except that zeros before it do not count.

    Args:
        texts: n values.
        whole: whether the text must be a card number from end to end, with no zeros before it.
            Identifiers are validated so, because one in thirty numbers of 15 digits holds a card
            number by chance.

    Returns:
        n booleans; false for null.
    """
    column = pl.Series("text", texts, dtype=pl.String)
    found = np.zeros(len(column), dtype=np.bool_)
    long = column.str.len_bytes() >= LENGTHS[0]
    suspects = long.fill_null(value=False).arg_true()
    digits = column.gather(suspects).str.count_matches(_DIGIT) >= LENGTHS[0]
    suspects = suspects.filter(digits)
    for start in range(0, len(suspects), _BLOCK):
        block = suspects.slice(start, _BLOCK)
        windows = _find(column.gather(block).to_list(), whole=whole)
        found[block.to_numpy()[windows.texts]] = True
    return pl.Series(column.name, found)


def shows_card_number(texts: pl.Series | pa.Array[Any], *, whole: bool) -> pl.Series:
    """The same, but in a UUID the digits of a card number are there by chance."""
    if whole:
        # No UUID is one: it has too many digits and letters.
        return holds_card_number(texts, whole=True)
    searched = np.ones(len(texts), np.bool_)
    for rows, characters in by_length(texts):
        if characters.shape[1] == _UUID_LENGTH:
            searched[rows] = (characters[:, _HYPHENS] != ord("-")).any(axis=1)
    found = np.zeros(len(texts), np.bool_)
    if searched.any():
        some = pl.Series("text", texts, dtype=pl.String).filter(pl.Series(searched))
        found[searched] = holds_card_number(some).to_numpy()
    return pl.Series("text", found)


def card_number_spans(text: str) -> list[tuple[int, int]]:
    """The start and end indices of the card numbers in a text."""
    windows = _find([text], whole=False)
    return list(zip(windows.starts.tolist(), windows.ends.tolist(), strict=True))


@dataclass(frozen=True)
class _Windows:
    """m card numbers in several texts: the index of the text, the start and the end of each."""

    texts: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def _find(texts: Sequence[str], *, whole: bool) -> _Windows:
    # Two letters between texts: one letter may be within a number.
    kinds = kinds_of("xx".join(["", *texts, ""]))
    text_ends = np.cumsum([0, *(len(text) + 2 for text in texts)], dtype=np.int64)
    either = kinds >= _EITHER
    found = [_card_numbers(np.where(either, kinds - _EITHER, kinds), text_ends, whole=whole)]
    if either.any():
        found.append(_card_numbers(np.where(either, _BREAK, kinds), text_ends, whole=whole))
    first, last = np.concatenate(found, axis=1)
    text = np.searchsorted(text_ends, first)
    before = text_ends[text - 1] + 2
    return _Windows(text - 1, first - before, last - before + 1)


def _card_numbers(
    kinds: NDArray[np.int8], text_ends: NDArray[np.int64], *, whole: bool
) -> NDArray[np.int64]:
    """The positions of the first and the last digit of m card numbers; two times m."""
    positions = np.flatnonzero(kinds >= 0)
    digits = kinds[positions].astype(np.int64)
    apart = np.diff(positions, prepend=-1, append=len(kinds) + 1) > 1
    begins, ends = apart[:-1], apart[1:]
    # Digits of one run have the same number of letters before them.
    runs = np.cumsum(kinds == _BREAK)[positions]
    letters = _letters_before(kinds)
    letters_of_digits = letters[positions]
    starts = begins if whole else _first_nonzero(digits, begins)
    edges = np.searchsorted(positions, text_ends)
    sums = _sums(digits)
    found: list[NDArray[np.int64]] = []
    for length in LENGTHS:
        first = np.flatnonzero(starts[: max(len(positions) - length + 1, 0)])
        last = first + length - 1
        together = runs[first] == runs[last]
        if length in _PRINTED_GROUPS:
            as_printed = letters_of_digits[first] == letters_of_digits[last]
            for group in _PRINTED_GROUPS[length]:
                as_printed &= begins[first + group]
            together |= as_printed
        first = first[ends[last] & together]
        if whole:
            text = np.searchsorted(text_ends, positions[first])
            alone = edges[text] - edges[text - 1] == length
            first = first[alone & (letters[text_ends[text]] - letters[text_ends[text - 1]] == 2)]
        prefixes = digits[first] * 1000 + digits[first + 1] * 100
        prefixes += digits[first + 2] * 10 + digits[first + 3]
        known = _LENGTHS_BY_PREFIX[prefixes] >> np.uint32(length) & np.uint32(1)
        first = first[known.astype(np.bool_)]
        behind = first + length
        parity = (behind - 1) % 2
        first = first[(sums[parity, behind] - sums[parity, first]) % 10 == 0]
        found.append(positions[np.stack([first, first + length - 1])])
    return np.concatenate(found, axis=1)


def digit_runs(text: str) -> list[NDArray[np.int64]]:
    """The indices of the digits of a text, in runs with at most one letter between two digits."""
    kinds = kinds_of(text)
    digits = np.flatnonzero(kinds >= 0)
    return np.split(digits, np.flatnonzero(np.diff(_letters_before(kinds)[digits])) + 1)


def _letters_before(kinds: NDArray[np.int8]) -> NDArray[np.int64]:
    """How many letters come up to each character, without single letters between two digits."""
    letters = kinds == _BREAK
    letters[1:-1] &= (kinds[:-2] < 0) | (kinds[2:] < 0)
    return np.cumsum(letters)


def _first_nonzero(digits: NDArray[np.int64], begins: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each digit is the first of its group that is not zero."""
    before = np.cumsum(digits != 0) - (digits != 0)
    group = np.maximum.accumulate(np.where(begins, np.arange(len(digits)), 0))
    return (digits != 0) & (before == before[group])


def _sums(digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Luhn's sums of the digits before each index: odd digits doubled, and even ones."""
    even = np.arange(len(digits)) % 2 == 0
    doubled = _DOUBLED[digits].astype(np.int64)
    sums = np.zeros((2, len(digits) + 1), dtype=np.int64)
    np.cumsum(np.where(even, digits, doubled), out=sums[0, 1:])
    np.cumsum(np.where(even, doubled, digits), out=sums[1, 1:])
    return sums


def kinds_of(text: str) -> NDArray[np.int8]:
    """The digit that each character stands for; -1 for a separator, -2 for a letter.

    A separator is a character that is neither a letter nor a number: a space, a dash, punctuation,
    a symbol, a mark or an invisible character. Letters that only modify others are separators too,
    such as the Japanese long vowel mark. Characters that are read both as digits and as letters,
    such as the Chinese and the Roman digits, have ten more than their digit.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _OF_ASCII[np.minimum(codes, 127)]
    others = np.flatnonzero(codes > 127)
    if len(others):
        distinct, indices = np.unique(codes[others], return_inverse=True)
        of_distinct = np.array([_kind(chr(code)) for code in distinct], dtype=np.int8)
        kinds[others] = of_distinct[indices]
    return kinds


def _kind(character: str) -> int:
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return digit
    category = unicodedata.category(character)
    if category[0] == "N" or character in _CHINESE_DIGITS:
        number = unicodedata.numeric(character, -1.0)
        return _EITHER + int(number) if number in range(10) else _BREAK
    is_letter = category[0] == "L" and category != "Lm" and character not in _FILLERS
    return _BREAK if is_letter else _SEPARATOR


_OF_ASCII: Final = np.array([_kind(chr(code)) for code in range(128)], dtype=np.int8)
