"""Every reason for which a row is quarantined, with its meaning.

A reason is `column.problem`. Most reasons come from the rules of the contract's columns. The
reasons of whole rows and of uniqueness are defined here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dataframely as dy
import polars as pl

from txn_platform.contract.schema import FREE_TEXTS, TEXT_PATTERNS, SentTransaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dataframely.columns import Column

UNREADABLE_ROW: Final = "row.unreadable"
DUPLICATE_FIELD_ROW: Final = "row.duplicate_field"
OUTSIDE_WINDOW: Final = "transaction_at.outside_window"
DUPLICATE: Final = "transaction_id.duplicate"
CONFLICT: Final = "transaction_id.conflict"

# The problem for each rule of dataframely.
_PROBLEMS: Final = {
    "nullability": "missing",
    "regex": "format",
    "max_length": "format",
    "text": "format",
    "min": "range",
    "max": "range",
    "min_exclusive": "range",
    "max_exclusive": "range",
    "inf": "range",
    "nan": "range",
}
_MEANINGS: Final = {
    "missing": "absent, or null",
    "format": "not of the form `{pattern}`",
    "range": "outside the allowed range",
    "card_number": "{holds} a card number: 13 to 19 digits of a known issuer's range and length,"
    " with a right check digit",
    "repeated_digit": "the same digit throughout: a placeholder",
    "exponent": "more decimals than the currency has (ISO 4217), or than two",
    "own_id": "the refund's own id",
    "check_digit": "the last digit is not the check digit (Luhn)",
    "unknown": "not in the code list",
    "label_differs": "there is one although `is_fraud` is false, or none although it is true",
    "type_differs": "there is one although the type is not REFUND",
}
_MEANINGS_OF_ROWS: Final = {
    UNREADABLE_ROW: "a row that could not be read; it has no other reason",
    DUPLICATE_FIELD_ROW: (
        "a row with two fields of one name, at any depth: its columns have the last value, and"
        " `extra_fields` begins with a list of one text, the row as sent"
    ),
}
_MEANINGS_OF_WINDOWS: Final = {
    OUTSIDE_WINDOW: "a time, but not of the window that the row was sent for",
    DUPLICATE: "an identical copy of an earlier row of the window",
    CONFLICT: "another row of the window has the same id and other contents",
}


def reason_of(column: str, rule: str) -> str:
    """The reason of rows that break a rule of a column."""
    return f"{column}.{_PROBLEMS.get(rule, rule.removeprefix('check__'))}"


def _reasons_of(name: str, column: Column) -> Iterator[tuple[str, str]]:
    """The reasons of one column, with their meanings; a reason may repeat."""
    rules = list(column.validation_rules(pl.col(name)))
    if name in TEXT_PATTERNS:
        rules += ["nullability", "text"]
    pattern = TEXT_PATTERNS.get(name) or getattr(column, "regex", None) or ""
    for rule in rules:
        reason = reason_of(name, rule)
        problem = reason.partition(".")[2]
        meaning = _MEANINGS[problem].format(
            pattern=pattern.replace("|", "\\|"),
            holds="text that holds" if name in FREE_TEXTS else "as a whole",
        )
        if problem == "format" and isinstance(column, dy.Datetime):
            meaning += ", or no such moment (30 February)"
        yield reason, meaning


# By name, in the order in which a row's reasons are listed.
REASONS: Final[dict[str, str]] = (
    _MEANINGS_OF_ROWS
    | {
        reason: meaning
        for name, column in SentTransaction.columns().items()
        for reason, meaning in _reasons_of(name, column)
    }
    | _MEANINGS_OF_WINDOWS
)
