"""Every reason for which a row is quarantined, with its meaning.

A reason is `column.problem`. Most reasons come from the rules of the contract's columns. The
reasons of whole rows and of uniqueness are defined here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import dataframely as dy
import polars as pl

from txn_platform.contract.card_forms import CARD_NUMBER
from txn_platform.contract.card_numbers import (
    CARD_NUMBER_RULE,
    is_card_number,
    shows_card_number,
)
from txn_platform.contract.model import HALF_A_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txn_platform.contract.model import Contract

UNREADABLE_ROW: Final = "row.unreadable"
DUPLICATE_FIELD_ROW: Final = "row.duplicate_field"

_HELD_NUMBER: Final = CARD_NUMBER_RULE.removeprefix("check__")

# The problem for each rule of dataframely.
_PROBLEMS: Final = {
    "nullability": "missing",
    "regex": "format",
    "min_length": "format",
    "max_length": "format",
    "resolution": "format",
    "text": "format",
    "half": "format",
    "is_in": "unknown",
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
    _HELD_NUMBER: "{holds} a card number: 13 to 19 digits of a known issuer's range and length,"
    " with a right check digit",
    "repeated_digit": "the same digit throughout: a placeholder",
    "check_digit": "the last digit is not the check digit (Luhn)",
    "unknown": "not in the code list",
}
_MEANINGS_OF_ROWS: Final = {
    UNREADABLE_ROW: "a row that could not be read; it has no other reason",
    DUPLICATE_FIELD_ROW: (
        "a row with two fields of one name, at any depth: its columns have the last value, and"
        " `extra_fields` begins with a list of one text, the row as sent"
    ),
}


def outside_window(contract: Contract) -> str:
    """The reason of a time that is not within the window."""
    return f"{contract.time}.outside_window"


def duplicate(contract: Contract) -> str:
    """The reason of an identical copy of an earlier row."""
    return f"{contract.id}.duplicate"


def conflict(contract: Contract) -> str:
    """The reason of rows with one id and different contents."""
    return f"{contract.id}.conflict"


def reason_of(column: str, rule: str) -> str:
    """The reason of rows that break a rule of a column."""
    return f"{column}.{_PROBLEMS.get(rule, rule.removeprefix('check__'))}"


def rules_of(contract: Contract, name: str, value: pl.Expr) -> dict[str, pl.Expr]:
    """The rules of a column, dataframely's and those that come with its role and its type.

    Args:
        contract: that has the column.
        name: of the column.
        value: its parsed values, or its texts if it is not parsed.

    Returns:
        Expressions that are true, or null, where the rule is obeyed. The rule of the text of parsed
        columns is not among them.
    """
    column = contract.columns[name]
    declared = dict(column.validation_rules(value))
    # Of the id alone, which `find_repeats` looks at over the whole window.
    declared.pop("unique", None)
    rules = {rule: declared.pop(rule) for rule in ["nullability"] if rule in declared}
    if name == contract.card:
        rules |= {f"check__{problem}": rule for problem, rule in is_card_number(value).items()}
        if getattr(column, "regex", None) != CARD_NUMBER:
            # A form of one's own may be narrower, but a token is made of digits.
            own = declared.get("regex", pl.lit(value=True))
            declared["regex"] = own & value.str.contains(CARD_NUMBER)
    search = contract.card_search(name)
    if search != "none":
        rules[CARD_NUMBER_RULE] = ~value.map_batches(
            partial(shows_card_number, whole=search == "whole"), return_dtype=pl.Boolean
        )
    if isinstance(column, dy.Enum):
        declared["is_in"] = value.is_in(column.categories)
    if isinstance(column, (dy.Float32, dy.Float64)):
        # Digits that are too many for the type, which were not sent as infinity.
        declared.setdefault("inf", ~value.is_infinite())
    if search != "none" and "regex" not in declared:
        # A text without rules would keep what stands for half a character.
        rules["half"] = ~value.str.contains(HALF_A_CHARACTER, literal=True)
    return rules | declared


def reasons(contract: Contract) -> dict[str, str]:
    """The reasons of a contract with their meanings, in the order of a row's reasons."""
    return (
        _MEANINGS_OF_ROWS
        | {
            reason: meaning
            for name in contract.names
            for reason, meaning in _reasons_of(contract, name)
        }
        | {
            outside_window(contract): "a time, but not of the window that the row was sent for",
            duplicate(contract): "an identical copy of an earlier row of the window",
            conflict(contract): "another row of the window has the same id and other contents",
        }
    )


def _reasons_of(contract: Contract, name: str) -> Iterator[tuple[str, str]]:
    """The reasons of one column, with their meanings; a reason may repeat."""
    column = contract.columns[name]
    rules = list(rules_of(contract, name, pl.col(name)))
    if name in contract.forms:
        rules += ["text"]
    pattern = contract.forms.get(name) or getattr(column, "regex", None) or CARD_NUMBER
    texts = contract.option(name, "checks") or {}
    for rule in rules:
        reason = reason_of(name, rule)
        problem = reason.partition(".")[2]
        if problem in texts:
            meaning = texts[problem].broken
        elif rule in {"min_length", "max_length"}:
            meaning = "not of the form, or of a length that is not allowed"
        elif problem in _MEANINGS:
            meaning = _MEANINGS[problem].format(
                pattern=pattern.replace("|", "\\|"),
                holds="as a whole" if contract.card_search(name) == "whole" else "text that holds",
            )
        else:
            meaning = f"breaks the rule `{problem}`"
        if problem == "format" and isinstance(column, (dy.Datetime, dy.Date)):
            meaning += ", or no such moment (30 February)"
        yield reason, meaning
