"""The forms in which card numbers are sent and published: numbers, masks and tokens.

`card_numbers` finds card numbers in text. `rows/protection` makes tokens and masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

CARD_NUMBER: Final = r"^[0-9]{13,19}$"
CARD_TOKEN: Final = r"^[a-z2-7]{52}$"  # nosec B105 # noqa: S105 - the form of a token
TOKEN_COLUMN: Final = "card_token"  # nosec B105 # noqa: S105 - the name of a column
"""The published column beside that of the card, in every contract that has one."""


@dataclass(frozen=True)
class CardForm:
    """A form in which the column of the card is published.

    Attributes:
        pattern: a regular expression of its values.
        description: of the column.
        first: digits that a mask shows at the beginning of a number.
        last: digits that it shows at the end.
    """

    pattern: str
    description: str
    first: int = 0
    last: int = 0


type CardMask = Literal["first6last4", "last4", "none"]

DEFAULT_MASK: Final = "first6last4"
CARD_MASKS: Final[dict[CardMask, CardForm]] = {
    DEFAULT_MASK: CardForm(
        r"^[0-9]{6}\*{3,9}[0-9]{4}$", "The card's number, masked: first six, last four", 6, 4
    ),
    "last4": CardForm(r"^\*{9,15}[0-9]{4}$", "The card's number, masked: last four", last=4),
    "none": CardForm(r"^\*{4}$", "`****` for each card: no digit of its number is published"),
}
"""The values of `TXN_CARD_MASK`. No mask shows more than PCI DSS 4.0.1 allows (3.4.1)."""

CARD_IN_CLEAR: Final = CardForm(
    CARD_NUMBER, "The card's number, in clear: this lake is published with TXN_CARD_POLICY=clear"
)


def card_form(policy: str, mask: CardMask) -> CardForm:
    """The form of the column of the card under a `TXN_CARD_POLICY` and a `TXN_CARD_MASK`."""
    return CARD_IN_CLEAR if policy == "clear" else CARD_MASKS[mask]
