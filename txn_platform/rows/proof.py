"""The proof of a file before it is published: its rows are read back and compared with totals.

`defs/checks` turns these findings into check results.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import DictionaryEncoded, PerDictionary, indices_of
from txn_platform.arrow.prefetch import prefetch
from txn_platform.contract.card_forms import CARD_MASKS, CARD_TOKEN, DEFAULT_MASK, TOKEN_COLUMN
from txn_platform.contract.card_numbers import shows_card_number
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.rows.duplicates import RepeatedIds
from txn_platform.rows.figures import WindowFigures
from txn_platform.rows.reconciliation import ControlTotals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import Column
    from txn_platform.contract.card_forms import CardMask
    from txn_platform.contract.model import Contract
    from txn_platform.rows.duplicates import Batches

# Positions that a message names for each column with a card number in clear.
_NAMED: Final = 10


@dataclass(frozen=True)
class Proof:
    """The findings on a file before it is published.

    Attributes:
        totals: the control totals of its rows.
        schema_faults: how its schema differs from the contract's. If it does, all other attributes
            are empty.
        repeated_ids: how many rows share their id with another row.
        differences: how its totals differ from the expected totals.
        cards_in_clear: a phrase for each column that shows card numbers.
        figures: that describe its rows.
    """

    totals: ControlTotals = field(default_factory=ControlTotals)
    schema_faults: list[str] = field(default_factory=list[str])
    repeated_ids: int = 0
    differences: list[str] = field(default_factory=list[str])
    cards_in_clear: list[str] = field(default_factory=list[str])
    figures: WindowFigures = field(default_factory=WindowFigures)


def prove_published(
    schema: pa.Schema,
    batches: Batches,
    expected: ControlTotals,
    *,
    clear_cards: bool,
    card_mask: CardMask = DEFAULT_MASK,
    contract: Contract = TRANSACTIONS,
) -> Proof:
    """Read a file back, and compare it with the contract and with totals.

    Args:
        schema: the file's schema.
        batches: gives its rows, the contract's `dictionary_encoded` columns as dictionaries.
        expected: the totals of the landed rows less those of the quarantined rows. The totals of
            the landed rows are known to equal the source's.
        clear_cards: whether card numbers are published as sent; if so, none is looked for.
        card_mask: the mask that every card number must have otherwise.
        contract: of the rows.
    """
    wanted = contract.published_schema
    if not schema.equals(wanted):
        return Proof(schema_faults=[f"not as in the contract: {_differing(schema, wanted)}"])
    totals = ControlTotals()
    figures = WindowFigures(contract)
    repeated = RepeatedIds(contract)
    in_clear = _Positions()
    shows_card = {
        field.name: PerDictionary(_shows_card(field.name, card_mask, contract))
        if field.name in contract.dictionary_encoded
        else _shows_card(field.name, card_mask, contract)
        for field in wanted
        if field.type == pa.string()
    }
    columns = [*shows_card, *contract.total_columns, *contract.figure_columns]
    before = 0
    for rows in prefetch(batches(list(dict.fromkeys(columns)))):
        totals += ControlTotals.of(rows, repeated.add(rows.column(contract.id)), contract)
        figures.add(rows)
        if not clear_cards:
            for name, shows in shows_card.items():
                in_clear.add(name, before + _rows_with(rows.column(name), shows))
        before += rows.num_rows
    return Proof(
        totals=totals,
        repeated_ids=repeated.rows(batches).height if repeated.suspected else 0,
        differences=totals.differences(expected),
        cards_in_clear=in_clear.faults(),
        figures=figures,
    )


def _differing(schema: pa.Schema, wanted: pa.Schema) -> str:
    differing = [
        name
        for name in {*schema.names, *wanted.names}
        if name not in schema.names
        or name not in wanted.names
        or not schema.field(name).equals(wanted.field(name))
    ]
    return ", ".join(sorted(differing)) or "the order of columns"


class _Positions:
    """The positions of card numbers: how many by column, and the first of them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[int]] = {}

    def add(self, column: str, rows: NDArray[np.int64]) -> None:
        """Add rows whose value in a column holds a card number, by their position in the file."""
        if len(rows):
            self._counts[column] += len(rows)
            first = self._first.setdefault(column, [])
            first += rows[: _NAMED - len(first)].tolist()

    def faults(self) -> list[str]:
        """A phrase for each column, with the number of rows and their first positions."""
        return [
            f"{count:,} rows show a card number in {column}, at the positions"
            f" {', '.join(map(str, self._first[column]))}{' ...' if count > _NAMED else ''} of the"
            " file, counted from 0"
            for column, count in self._counts.items()
        ]


def _rows_with(
    column: Column, condition: Callable[[Column], NDArray[np.bool_]]
) -> NDArray[np.int64]:
    """The indices of the rows whose value meets a condition; null never does."""
    if not isinstance(column, pa.DictionaryArray):
        there = pl.Series(column).is_not_null().arg_true().to_numpy().astype(np.int64)
        return there[condition(column.drop_null())]
    encoded = cast("DictionaryEncoded", column)
    holds = condition(encoded.dictionary)
    if not holds.any():
        return np.empty(0, np.int64)
    return np.flatnonzero(np.append(holds, [False])[indices_of(encoded)])


def _shows_card(
    name: str, card_mask: CardMask, contract: Contract
) -> Callable[[Column], NDArray[np.bool_]]:
    """Tells which values of a column of text show a card number."""
    # Of a card: neither may have another form than its own.
    if name == contract.card:
        return partial(_differs, CARD_MASKS[card_mask].pattern)
    if name == TOKEN_COLUMN:
        return partial(_differs, CARD_TOKEN)
    return partial(_shows, contract.card_search(name) == "whole")


def _differs(pattern: str, values: Column) -> NDArray[np.bool_]:
    texts = pl.Series("text", values, dtype=pl.String)
    return ~texts.str.contains(pattern).to_numpy()


def _shows(whole: bool, values: Column) -> NDArray[np.bool_]:
    return shows_card_number(values, whole=whole).to_numpy()
