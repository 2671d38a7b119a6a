"""The outcome of a run: rows, reasons and amounts of its window, for people and for JSON.

`runs` fills it from a run of its own process, `run_queue` from the records of an instance.
"""

from __future__ import annotations

from decimal import Decimal  # noqa: TC003 - pydantic needs it

from pydantic import BaseModel


class Summary(BaseModel):
    """The outcome of one window.

    Attributes:
        partition: its key.
        sent: rows from the source: the validated and the quarantined ones.
        reasons: number of rows by reason for quarantine; a row can have several.
        published: rows in the published object.
        amounts: the sums of their amounts by currency, the currency of most rows first; by the
            group of a contract without currencies, and None without amounts.
        seconds: duration of the run.
        uri: the published object.
    """

    partition: str
    sent: int
    validated: int
    quarantined: int
    reasons: dict[str, int]
    published: int
    amounts: dict[str, Decimal] | None
    seconds: float
    uri: str

    @property
    def amount(self) -> str:
        """The sum of the most frequent currency, and how many more currencies there are."""
        if self.amounts is None:
            return ""
        if not self.amounts:
            return "0"
        currency, total = next(iter(self.amounts.items()))
        others = f" +{len(self.amounts) - 1}" if len(self.amounts) > 1 else ""
        return f"{total:,} {currency}".rstrip() + others
