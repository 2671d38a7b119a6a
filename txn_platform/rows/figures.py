"""Figures that describe a published window: sums of amounts, fraud, and distributions.

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
from txn_platform.contract.schema import TRANSACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import DictionaryEncoded
    from txn_platform.contract.model import Contract

AMOUNT_BOUNDS: Final = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
"""Where the ranges of amounts end, in the unit of a row's own currency: 1, 2, 5, 10 to 500,000."""

_BOUNDS: Final = np.array(AMOUNT_BOUNDS, np.float64)
_MINUTES: Final = 60
_MICROSECONDS: Final = 60_000_000
# Python's own context rounds to 28 digits.
_EXACT: Final = Context(prec=60)


@dataclass(frozen=True)
class GroupTotal:
    """The rows of one currency, or of one group of a contract without currencies.

    Attributes:
        rows: how many.
        amount: the sum of their amounts, with the decimals that ISO 4217 gives the currency.
    """

    rows: int
    amount: Decimal


class WindowFigures:
    """Sums up batches of published rows.

    Attributes:
        contract: of the rows. Without amounts, or labels of fraud, their figures stay empty.
        rows: how many.
        fraud_rows: how many of them are labelled as fraud.
        by_minute: rows by the minute of the hour, 60 counts.
        by_amount: rows by range of amount, one count more than `AMOUNT_BOUNDS`. Range i is at least
            bound i - 1 and below bound i.
    """

    def __init__(self, contract: Contract = TRANSACTIONS) -> None:
        self.contract = contract
        self.rows = 0
        self.fraud_rows = 0
        self.by_minute: NDArray[np.int64] = np.zeros(_MINUTES, np.int64)
        self.by_amount: NDArray[np.int64] = np.zeros(len(AMOUNT_BOUNDS) + 1, np.int64)
        self._by_group: dict[str, tuple[int, Decimal]] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        """Add rows with the `figure_columns` of the contract, groups as dictionaries."""
        contract = self.contract
        self.rows += rows.num_rows
        if contract.fraud is not None:
            self.fraud_rows += int(pl.Series(rows.column(contract.fraud)).sum())
        moments = numbers(rows.column(contract.time).view(pa.int64()))
        minutes = moments // _MICROSECONDS % _MINUTES
        self.by_minute += np.bincount(minutes, minlength=_MINUTES)
        if contract.amount is None:
            return
        amounts = pl.Series("amount", rows.column(contract.amount))
        known = amounts.drop_nulls().cast(pl.Float64).to_numpy()
        ranges = np.searchsorted(_BOUNDS, known, side="right")
        self.by_amount += np.bincount(ranges, minlength=len(self.by_amount))
        groups: list[str] = [""]
        indices = np.zeros(rows.num_rows, np.int32)
        if contract.figure_group is not None:
            column = cast("DictionaryEncoded", rows.column(contract.figure_group))
            # Null has the index behind the last value.
            groups = [*pl.Series(column.dictionary, dtype=pl.String), ""]
            indices = indices_of(column)
        scaled = amounts.cast(pl.Decimal(38, contract.decimals))
        for index, count, amount in _sums_by_index(indices, scaled):
            before, total = self._by_group.get(groups[index], (0, Decimal(0)))
            self._by_group[groups[index]] = before + count, _EXACT.add(total, amount)

    @property
    def by_group(self) -> dict[str, GroupTotal]:
        """Rows and amounts by currency or group, that of most rows first; empty without amounts."""
        most_common = sorted(self._by_group.items(), key=lambda found: (-found[1][0], found[0]))
        return {
            group: GroupTotal(rows, self._in_units(amount, group))
            for group, (rows, amount) in most_common
        }

    def _in_units(self, amount: Decimal, group: str) -> Decimal:
        """The same amount with the decimals of its currency, or with more if it has more."""
        decimals = self.contract.decimals
        # Whole amounts are in the smallest unit of their currency.
        if self.contract.currency is not None and decimals:
            decimals = CURRENCY_EXPONENTS.get(group, decimals)
        exact = _EXACT.quantize(amount, Decimal(1).scaleb(-decimals))
        return exact if exact == amount else amount


def _sums_by_index(
    indices: NDArray[np.int32], amounts: pl.Series
) -> Iterator[tuple[int, int, Decimal]]:
    """Each index that occurs, with its rows and the sum of their amounts."""
    rows = pl.LazyFrame([pl.Series("index", indices), amounts])
    sums = rows.group_by("index").agg(pl.len(), pl.col("amount").sum())
    yield from sums.collect().iter_rows()
