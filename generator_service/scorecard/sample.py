"""The rows that a scorecard measures: columns of a sample, and the reference data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import batched
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from generator_service.scorecard.card import moment_text
from generator_service.simulator import Window
from generator_service.simulator.pools import WITHOUT_DECIMALS

if TYPE_CHECKING:
    from generator_service.simulator import Simulator

type Floats = npt.NDArray[np.float64]
type Integers = npt.NDArray[np.int64]
type Flags = npt.NDArray[np.bool_]
type Codes = npt.NDArray[np.int32]
type Degrees = npt.NDArray[np.float32]

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DICTIONARY_COLUMNS = (
    "merchant_id",
    "merchant_category_code",
    "transaction_type",
    "channel",
    "currency",
    "country",
)

FEWEST_ROWS = 1_000
# Refunds whose purchase is looked up.
_REFUNDS = 100


@dataclass
class Sample:
    """Columns of the sampled rows, and the reference data.

    Attributes:
        times: microseconds since the epoch.
        cents: amounts in the currency's smallest unit.
        customers: index of each row's customer in `known_customers`; -1 when it is not there.
        cards: index of each row's card in `known_cards`; -1 when it is not there.
        codes: dictionary indices by column, of the columns in `DICTIONARY_COLUMNS`.
        dictionaries: the values that these indices refer to.
        refunds: some refunds, as rows.
    """

    times: Integers
    cents: Integers
    customers: Codes
    cards: Codes
    fraud: Flags
    latitudes: Degrees
    longitudes: Degrees
    codes: dict[str, Codes]
    dictionaries: dict[str, pa.StringArray]
    known_customers: pa.StringArray
    known_cards: pa.Table
    refunds: list[dict[str, Any]]

    @property
    def purchases(self) -> Flags:
        """Which rows are purchases."""
        types = self.dictionaries["transaction_type"].to_pylist()
        return self.codes["transaction_type"] == types.index("PURCHASE")


def _smallest_units(table: pa.Table) -> Integers:
    """Return amounts in the currency's smallest unit: cents, or yen."""
    # Exact: a hundred times the amount is a whole number.
    hundredths = _whole(pc.multiply(table["amount"], pa.scalar(100)).cast(pa.int64()))
    whole = pc.is_in(table["currency"].cast(pa.string()), pa.array(sorted(WITHOUT_DECIMALS)))
    return np.where(whole.to_numpy(), hundredths // 100, hundredths)


def collect(simulator: Simulator, window: Window, max_rows: int) -> Sample:
    """Return the columns of the first rows of a window.

    Raises:
        ValueError: there are fewer than a thousand rows, or the window has no whole hour.
    """
    customers = text_column(pa.Table.from_batches(list(simulator.customers())), "customer_id")
    cards = pa.Table.from_batches(list(simulator.cards()))
    numbers = text_column(cards, "card_number")
    parts: list[Sample] = []
    refunds: list[dict[str, Any]] = []
    # A look-up hashes the reference data each time: one look-up for many batches.
    for batches in batched(simulator.batches(window, stop=max_rows), 64):
        table = pa.Table.from_batches(batches)
        refunded = batches[0].filter(pc.is_valid(batches[0]["original_transaction_id"]))
        refunds += refunded.slice(0, _REFUNDS).to_pylist()
        parts.append(
            Sample(
                times=_whole(table["transaction_at"].cast(pa.int64())),
                cents=_smallest_units(table),
                customers=positions(table["customer_id"], customers),
                cards=positions(table["card_number"], numbers),
                fraud=table["is_fraud"].to_numpy(),
                latitudes=table["latitude"].to_numpy().astype(np.float32),
                longitudes=table["longitude"].to_numpy().astype(np.float32),
                codes={name: _indices(batches, name) for name in DICTIONARY_COLUMNS},
                dictionaries={
                    name: cast("pa.StringArray", _dictionary_column(batches[0], name).dictionary)
                    for name in DICTIONARY_COLUMNS
                },
                known_customers=customers,
                known_cards=cards,
                refunds=refunds,
            )
        )
    rows = sum(part.times.size for part in parts)
    if rows < FEWEST_ROWS or -(-window.start // HOUR) >= window.end // HOUR:
        raise ValueError(
            f"A scorecard needs {FEWEST_ROWS:,} rows and a whole hour, and has {rows:,} rows from "
            f"{moment_text(window.start)} to {moment_text(window.end)}:"
            " ask for a longer window or more rows."
        )
    return Sample(
        times=np.concatenate([part.times for part in parts]),
        cents=np.concatenate([part.cents for part in parts]),
        customers=np.concatenate([part.customers for part in parts]),
        cards=np.concatenate([part.cards for part in parts]),
        fraud=np.concatenate([part.fraud for part in parts]),
        latitudes=np.concatenate([part.latitudes for part in parts]),
        longitudes=np.concatenate([part.longitudes for part in parts]),
        codes={
            name: np.concatenate([part.codes[name] for part in parts])
            for name in DICTIONARY_COLUMNS
        },
        dictionaries=parts[0].dictionaries,
        known_customers=customers,
        known_cards=cards,
        refunds=refunds[:_REFUNDS],
    )


def text_column(table: pa.Table, name: str) -> pa.StringArray:
    """Return a column of strings as one array."""
    return cast("pa.StringArray", table[name].combine_chunks())


def _dictionary_column(batch: pa.RecordBatch, name: str) -> pa.DictionaryArray[Any, Any]:
    return cast("pa.DictionaryArray[Any, Any]", batch[name])


def _indices(batches: tuple[pa.RecordBatch, ...], name: str) -> Codes:
    # All batches of a simulator have the same dictionaries, so indices can be concatenated.
    indices = [_dictionary_column(batch, name).indices.to_numpy() for batch in batches]
    return np.concatenate(indices).astype(np.int32, copy=False)


def _whole(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> Integers:
    return column.to_numpy().astype(np.int64)


def positions(values: pa.Array[Any] | pa.ChunkedArray[Any], known: pa.Array[Any]) -> Codes:
    """Return the index of each value among the known ones, -1 when it is not there."""
    found = pc.index_in(values, value_set=known).fill_null(-1)
    return found.to_numpy().astype(np.int32, copy=False)


def rows_by_hour(simulator: Simulator, window: Window) -> Floats:
    """Return the mean rows of the 168 hours of the week from Monday 00:00 UTC, up to four weeks.

    An hour of the week that is not in the window is nan.
    """
    first = -(-window.start // HOUR)
    last = min(window.end // HOUR, first + 4 * 168)
    total, seen = np.zeros(168), np.zeros(168)
    for hour in range(first, last):
        # The epoch was a Thursday.
        hour_of_week = (hour + 3 * 24) % 168
        total[hour_of_week] += simulator.count(Window(hour * HOUR, (hour + 1) * HOUR))
        seen[hour_of_week] += 1
    return np.divide(total, seen, out=np.full(168, np.nan), where=seen > 0)
