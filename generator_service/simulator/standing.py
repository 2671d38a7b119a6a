"""Standing orders: salaries, rents and bills, due once a month.

This module decides when each is due, and which rows of a cell they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from generator_service.simulator.kinds import CODE, STANDING_ORDERS
from generator_service.simulator.randomness import (
    Flags,
    Integers,
    below,
    bits,
    hashed,
    key_of,
    mix,
    table_of_shares,
    uniform,
)
from generator_service.simulator.rates import MINUTES_OF_DAY, STANDING_DAYS

if TYPE_CHECKING:
    from generator_service.simulator.slots import CellFacts, Slots

_MINUTES_OF_MONTH = 365.2425 / 12 * MINUTES_OF_DAY
_LARGEST_SHARE = 0.05
"""The largest share of standing orders among all rows."""


class StandingOrders:
    """Every customer's standing orders, in order of their minute of the month."""

    def __init__(self, seed: int, customers: int, tps: float) -> None:
        """Draw the standing orders of customers, for a source of tps rows a second."""
        wanted = sum(order.share for order in STANDING_ORDERS) * customers
        scale = min(1.0, _LARGEST_SHARE * tps * 60.0 * _MINUTES_OF_MONTH / wanted)
        everyone = np.arange(customers)
        due: list[Integers] = []
        owners: list[Integers] = []
        for order in STANDING_ORDERS:
            hashes = hashed(key_of("standing orders", seed, order.kind), everyone)
            has = np.flatnonzero(uniform(hashes) < order.share * scale)
            hashes = mix(hashes[has])
            weights = np.array(list(order.days.values()))
            days = np.array(list(order.days))[table_of_shares(weights, 10)[bits(hashes, 0, 10)]]
            opens, closes = (hour * 60 for hour in order.hours)
            due.append((days - 1) * MINUTES_OF_DAY + opens + below(hashes, closes - opens))
            owners.append(has)
        minutes = np.concatenate(due)
        # The minutes of a month fit into 16 bits, which numpy sorts by radix.
        turn = np.argsort(minutes.astype(np.uint16), kind="stable")
        sizes = [has.size for has in owners]
        codes = [CODE[order.kind] for order in STANDING_ORDERS]
        self.owners = np.concatenate(owners)[turn].astype(np.int32)
        self.kinds = np.repeat(np.array(codes, dtype=np.int8), sizes)[turn]
        # One minute more than a month has, for the days after the 28th.
        self._counts = np.bincount(minutes, minlength=STANDING_DAYS * MINUTES_OF_DAY + 1)
        self._starts = np.cumsum(self._counts) - self._counts
        self.rows_a_minute = minutes.size / _MINUTES_OF_MONTH

    def due(self, minutes: Integers) -> tuple[Integers, Integers]:
        """Return how many are due at minutes of the month, and the table index of the first."""
        return self._counts[minutes], self._starts[minutes]


def standing_rows(slots: Slots) -> tuple[npt.NDArray[np.intp], Integers]:
    """Return which rows are standing orders, and the index of each in the table.

    Those of a cell are spread evenly over its rows, as points on a line are over pixels.
    """
    standing = slots.facts.standing[slots.at]
    phases = slots.facts.phases[slots.at]
    counts = slots.facts.counts[slots.at]
    before = (slots.indices * standing + phases) // counts
    rows = np.flatnonzero(((slots.indices + 1) * standing + phases) // counts > before)
    return rows, slots.facts.entries[slots.at[rows]] + before[rows]


def is_standing(facts: CellFacts, indices: Integers) -> Flags:
    """Return whether the row of an index is a standing order, one row for each cell."""
    counts = np.maximum(facts.counts, 1)
    before = (indices * facts.standing + facts.phases) // counts
    return ((indices + 1) * facts.standing + facts.phases) // counts > before
