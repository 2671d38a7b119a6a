"""The contract as catalogues show it: the constraints of a column as phrases, and personal data.

The rules themselves are in `schema`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl

from txn_platform.contract.card_forms import TOKEN_COLUMN
from txn_platform.contract.card_numbers import CARD_NUMBER_RULE
from txn_platform.contract.reasons import rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from txn_platform.contract.model import Contract

# A phrase for each rule of dataframely, from the column that has it.
_LIMITS: Final[dict[str, Callable[[Any], str]]] = {
    "regex": lambda column: f"matches {column.regex}",
    "min_length": lambda column: f"at least {column.min_length} bytes",
    "max_length": lambda column: f"at most {column.max_length} bytes",
    "min": lambda column: f"at least {column.min}",
    "max": lambda column: f"at most {column.max}",
    "min_exclusive": lambda column: f"above {column.min_exclusive}",
    "max_exclusive": lambda column: f"below {column.max_exclusive}",
    "resolution": lambda column: f"a multiple of {column.resolution}",
    "inf": lambda _: "finite",
    "nan": lambda _: "a number",
    "is_in": lambda _: "in its code list",
    CARD_NUMBER_RULE: lambda _: "holds no card number",
    "check__unknown": lambda _: "in its code list",
}
# Shown by catalogues in a form of its own.
_NULLABILITY: Final = "nullability"


def personal_data(contract: Contract, name: str) -> str | None:
    """How a published column relates to a person; None if it does not."""
    if name == contract.card:
        return "masked"
    if name == TOKEN_COLUMN:
        return "token"
    return contract.option(name, "personal")


def constraints_of(contract: Contract, name: str) -> list[str]:
    """A phrase for each rule of a published column but its nullability."""
    column = contract.published_columns[name]
    if name == contract.card:
        return [f"matches {getattr(column, 'regex', '')}, unless TXN_CARD_MASK is set"]
    if name not in contract.columns:
        return [_LIMITS["regex"](column)]
    texts = contract.option(name, "checks") or {}
    rules = [rule for rule in rules_of(contract, name, pl.col(name)) if rule != _NULLABILITY]
    phrases: list[str] = []
    for rule in rules:
        check = rule.removeprefix("check__")
        if rule in _LIMITS:
            phrases.append(_LIMITS[rule](column))
        else:
            phrases.append(texts[check].rule if check in texts else check.replace("_", " "))
    return phrases
