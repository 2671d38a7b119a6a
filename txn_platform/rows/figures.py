"""Figures that describe a published window: amounts by currency, fraud, and distributions.

Control totals (`reconciliation`) prove a window. These figures only show it to people. They are
counts and sums, and hold no value of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import indices_of, numbers
from txn_platform.contract.codes import CURRENCY_EXPONENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import DictionaryEncoded

FIGURE_COLUMNS: Final = ("transaction_at", "amount", "currency", "is_fraud")
"""The columns that `WindowFigures.add` reads."""

AMOUNT_BOUNDS: Final = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
"""Where the ranges of amounts end, in the unit of a row's own currency: 1, 2, 5, 10 to 500,000."""

_BOUNDS: Final = np.array(AMOUNT_BOUNDS, np.float64)
_MINUTES: Final = 60
_MICROSECONDS: Final = 60_000_000
# Python's own context rounds to 28 digits.
_EXACT: Final = Context(prec=60)


@dataclass(frozen=True)
class CurrencyTotal:
    """The rows of one currency.

    Attributes:
        rows: how many.
        amount: the sum of their amounts, with the decimals that ISO 4217 gives the currency.
    """

    rows: int
    amount: Decimal


class WindowFigures:
    """Sums up batches of published rows.

    Attributes:
        rows: how many.
        fraud_rows: how many of them are labelled as fraud.
        by_minute: rows by the minute of the hour, 60 counts.
        by_amount: rows by range of amount, one count more than `AMOUNT_BOUNDS`. Range i is at least
            bound i - 1 and below bound i.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.fraud_rows = 0
        self.by_minute: NDArray[np.int64] = np.zeros(_MINUTES, np.int64)
        self.by_amount: NDArray[np.int64] = np.zeros(len(AMOUNT_BOUNDS) + 1, np.int64)
        self._by_currency: dict[str, tuple[int, Decimal]] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        """Add rows with `FIGURE_COLUMNS` of `PUBLISHED_SCHEMA`, currencies as dictionaries."""
        self.rows += rows.num_rows
        self.fraud_rows += int(pl.Series(rows.column("is_fraud")).sum())
        moments = numbers(rows.column("transaction_at").view(pa.int64()))
        minutes = moments // _MICROSECONDS % _MINUTES
        self.by_minute += np.bincount(minutes, minlength=_MINUTES)
        amounts = pl.Series("amount", rows.column("amount"))
        ranges = np.searchsorted(_BOUNDS, amounts.cast(pl.Float64).to_numpy(), side="right")
        self.by_amount += np.bincount(ranges, minlength=len(self.by_amount))
        currencies = cast("DictionaryEncoded", rows.column("currency"))
        for index, count, amount in _sums_by_index(indices_of(currencies), amounts):
            currency = currencies.dictionary[index].as_py()
            before, total = self._by_currency.get(currency, (0, Decimal(0)))
            self._by_currency[currency] = before + count, _EXACT.add(total, amount)

    @property
    def by_currency(self) -> dict[str, CurrencyTotal]:
        """Rows and amounts by currency, the currency of most rows first."""
        most_common = sorted(self._by_currency.items(), key=lambda found: (-found[1][0], found[0]))
        return {
            currency: CurrencyTotal(rows, _in_units(amount, currency))
            for currency, (rows, amount) in most_common
        }


def _sums_by_index(
    indices: NDArray[np.int32], amounts: pl.Series
) -> Iterator[tuple[int, int, Decimal]]:
    """Each index that occurs, with its rows and the sum of their amounts."""
    rows = pl.LazyFrame([pl.Series("index", indices), amounts.cast(pl.Decimal(38, 2))])
    sums = rows.group_by("index").agg(pl.len(), pl.col("amount").sum())
    yield from sums.collect().iter_rows()


def _in_units(amount: Decimal, currency: str) -> Decimal:
    """The same amount with the decimals of its currency, or with more if it has more."""
    unit = Decimal(1).scaleb(-CURRENCY_EXPONENTS.get(currency, 2))
    exact = _EXACT.quantize(amount, unit)
    return exact if exact == amount else amount
