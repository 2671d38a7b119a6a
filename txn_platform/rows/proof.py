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

from txn_platform.arrow.dictionaries import DictionaryEncoded, PerDictionary, boolean, indices_of
from txn_platform.arrow.prefetch import prefetch
from txn_platform.arrow.text import by_length
from txn_platform.contract.card_numbers import holds_card_number
from txn_platform.contract.schema import (
    CARD_MASKS,
    CARD_TOKEN,
    DEFAULT_MASK,
    DICTIONARY_ENCODED_COLUMNS,
    IDENTIFIERS,
    PUBLISHED_SCHEMA,
)
from txn_platform.rows.duplicates import RepeatedIds
from txn_platform.rows.figures import FIGURE_COLUMNS, WindowFigures
from txn_platform.rows.reconciliation import ControlTotals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import Column
    from txn_platform.contract.schema import CardMask
    from txn_platform.rows.duplicates import Batches

_TEXTS: Final = [field.name for field in PUBLISHED_SCHEMA if field.type == pa.string()]
_COLUMNS: Final = list(dict.fromkeys([*_TEXTS, *FIGURE_COLUMNS]))
# Of a card: neither may have another form than its own.
_PROTECTED: Final = ("card_number", "card_token")
# The length of a UUID in bytes, and where it has hyphens (RFC 9562).
_UUID_LENGTH: Final = 36
_HYPHENS: Final = [8, 13, 18, 23]
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
) -> Proof:
    """Read a file back, and compare it with the contract and with totals.

    Args:
        schema: the file's schema.
        batches: gives its rows, columns of `DICTIONARY_ENCODED_COLUMNS` as dictionaries.
        expected: the totals of the landed rows less those of the quarantined rows. The totals of
            the landed rows are known to equal the source's.
        clear_cards: whether card numbers are published as sent; if so, none is looked for.
        card_mask: the mask that every card number must have otherwise.
    """
    if not schema.equals(PUBLISHED_SCHEMA):
        return Proof(schema_faults=[f"not as in the contract: {_differing(schema)}"])
    totals = ControlTotals()
    figures = WindowFigures()
    repeated = RepeatedIds()
    in_clear = _Positions()
    shows_card = {name: _shows_card(name, card_mask) for name in _TEXTS}
    before = 0
    for rows in prefetch(batches(_COLUMNS)):
        totals += ControlTotals.of(rows, repeated.add(rows.column("transaction_id")))
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


def _differing(schema: pa.Schema) -> str:
    differing = [
        name
        for name in {*schema.names, *PUBLISHED_SCHEMA.names}
        if name not in schema.names
        or name not in PUBLISHED_SCHEMA.names
        or not schema.field(name).equals(PUBLISHED_SCHEMA.field(name))
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


def _shows_card(name: str, card_mask: CardMask) -> Callable[[Column], NDArray[np.bool_]]:
    """Tells which values of a column of text show a card number."""
    if name not in DICTIONARY_ENCODED_COLUMNS:
        return _is_no_uuid_and_holds_card_number
    if name in _PROTECTED:
        pattern = CARD_TOKEN if name == "card_token" else CARD_MASKS[card_mask].pattern
        return PerDictionary(partial(_differs, pattern))
    return PerDictionary(_is_card_number if name in IDENTIFIERS else _holds_card_number)


def _differs(pattern: str, values: Column) -> NDArray[np.bool_]:
    texts = pl.Series("text", values, dtype=pl.String)
    return ~texts.str.contains(pattern).to_numpy()


def _holds_card_number(values: Column) -> NDArray[np.bool_]:
    return holds_card_number(values).to_numpy()


def _is_no_uuid_and_holds_card_number(values: Column) -> NDArray[np.bool_]:
    """In a UUID the digits of a card number are there by chance."""
    holds = np.ones(len(values), np.bool_)
    for rows, texts in by_length(values):
        if texts.shape[1] == _UUID_LENGTH:
            holds[rows] = (texts[:, _HYPHENS] != ord("-")).any(axis=1)
    if holds.any():
        holds[holds] = _holds_card_number(values.filter(boolean(holds)))
    return holds


def _is_card_number(values: Column) -> NDArray[np.bool_]:
    return holds_card_number(values, whole=True).to_numpy()
