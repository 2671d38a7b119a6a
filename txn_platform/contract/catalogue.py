"""The contract as catalogues show it: the constraints of a column as phrases, and personal data.

The rules themselves are in `schema`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import polars as pl

from txn_platform.contract.schema import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable

PERSONAL_DATA: Final = {
    "customer_id": "pseudonym",
    "card_number": "masked",
    "card_token": "token",  # nosec B105 # a kind of data
    "latitude": "location",
    "longitude": "location",
}
"""How a published column relates to a person; the other columns do not."""

UNIQUE_COLUMN: Final = "transaction_id"

# A phrase for each rule of dataframely, from the column that has it.
_LIMITS: Final[dict[str, Callable[[Any], str]]] = {
    "regex": lambda column: f"matches {column.regex}",
    "max_length": lambda column: f"at most {column.max_length} bytes",
    "min": lambda column: f"at least {column.min}",
    "max": lambda column: f"at most {column.max}",
    "min_exclusive": lambda column: f"above {column.min_exclusive}",
    "max_exclusive": lambda column: f"below {column.max_exclusive}",
    "inf": lambda _: "finite",
    "nan": lambda _: "a number",
}
_CHECKS: Final = {
    "card_number": "holds no card number",
    "unknown": "in its code list",
    "exponent": "no more decimals than its currency has",
    "label_differs": "present exactly if is_fraud is true",
    "type_differs": "only for REFUND",
    "own_id": "not the row's own id",
}
# Shown by catalogues in a form of its own.
_NULLABILITY: Final = "nullability"


def constraints_of(name: str) -> list[str]:
    """A phrase for each rule of a published column but its nullability."""
    column = Transaction.columns()[name]
    rules = [rule for rule in column.validation_rules(pl.col(name)) if rule != _NULLABILITY]
    phrases: list[str] = []
    for rule in rules:
        if name == "card_number":
            phrases.append(f"matches {getattr(column, rule)}, unless TXN_CARD_MASK is set")
        elif rule in _LIMITS:
            phrases.append(_LIMITS[rule](column))
        else:
            check = rule.removeprefix("check__")
            phrases.append(_CHECKS.get(check, check.replace("_", " ")))
    return phrases
