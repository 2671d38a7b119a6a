"""The ordinary rows of the preset `realistic`: sessions, kinds, regions, merchants and amounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from generator_service.simulator.kinds import KINDS, PARTS_OF_DAY
from generator_service.simulator.randomness import (
    NORMAL,
    NORMAL_BITS,
    Flags,
    Hashes,
    Integers,
    below,
    bits,
    hashed,
    key_of,
    mix,
    table_of_shares,
)
from generator_service.simulator.rates import MINUTES_OF_DAY, MINUTES_OF_WEEK
from generator_service.simulator.slots import Deal
from generator_service.simulator.standing import is_standing, standing_rows

if TYPE_CHECKING:
    import numpy.typing as npt

    from generator_service.simulator.purchases import Purchases
    from generator_service.simulator.rates import Calendar
    from generator_service.simulator.slots import Draft, Slots
    from generator_service.simulator.standing import StandingOrders

_FOLLOWING = 0.5
"""Share of rows that follow another of their customer: sessions have a mean of 1 / (1 - it)."""

_GENERATIONS = 8
"""The most steps from a row back to the first of its session."""

_LAG_BITS = 8
_LAGS = np.minimum(-4.5 * np.log1p(-(np.arange(256) + 0.5) / 256), 30.0).astype(np.int64)
"""Minutes between a row and the one it follows: geometric, mean about 4, at most 30."""

LOOK_BACK = _GENERATIONS * (int(_LAGS.max()) + 1)
"""The number of earlier cells that a row may look up: the longest session."""

_FAVOURED = 0.72
"""Share of rows that go to one of their customer's three favourite merchants of a kind."""

_TRAVELLING = 0.03
"""Share of weeks that a customer spends in another region."""

_OWN_SPREAD = 0.3
"""Standard deviation of the logarithm of customers' standing orders of a kind."""

_LEVELLED = 0.4
"""How much a standing order follows its customer's level of amounts, relative to other amounts."""


class OrdinaryRows:
    """Draws rows that are neither fraud nor refunds.

    Args:
        seed: the seed of the generator.
        purchases: draws customers, merchants and amounts.
        standing: the standing orders.
        calendar: the local time of cells.
    """

    def __init__(
        self, seed: int, purchases: Purchases, standing: StandingOrders, calendar: Calendar
    ) -> None:
        self._purchases = purchases
        self._population = purchases.population
        self._standing = standing
        self._calendar = calendar
        self._favourite_key = key_of("favourites", seed)
        self._trip_key = key_of("trips", seed)
        self._own_key = key_of("own standing amounts", seed)
        self._session_key = np.uint64(key_of("sessions", seed))
        self._customer_key = np.uint64(key_of("customers", seed))
        self._kind_key = np.uint64(key_of("kinds", seed))
        self._merchant_key = np.uint64(key_of("merchants", seed))
        self._amount_key = np.uint64(key_of("amounts", seed))
        self._spreads = np.array([kind.spread for kind in KINDS])
        self._kind_table = _kinds_by_hour()

    def draft(self, slots: Slots, roots: Hashes, *, details: bool) -> Draft:
        """Return the drafts of rows."""
        customers = self._customers(slots, roots)
        hashes = self._kind_hashes(roots)
        kinds = self._kinds(slots, hashes)
        standing, entries = standing_rows(slots)
        customers[standing] = self._standing.owners[entries]
        kinds[standing] = self._standing.kinds[entries]
        regions = self._regions(slots, customers)
        choices = mix(roots ^ self._merchant_key)
        chosen = bits(choices, 0, 8)
        favoured = chosen < int(_FAVOURED * 256)
        favoured[standing] = True
        # Of three favourites the first has six in ten of the visits, the second three.
        favourite = (chosen >= 110).astype(np.int64)
        favourite += chosen >= 165
        favourite[standing] = 0
        usual = hashed(self._favourite_key, (customers << 8) + (kinds << 2) + favourite)
        merchants = self._purchases.merchant_of(np.where(favoured, usual, choices), kinds, regions)
        deal = Deal(customers, kinds, merchants, regions, cards=hashes)
        logs = self._purchases.usual_logs(deal)
        noise = mix(roots ^ self._amount_key)
        logs += self._spreads[kinds] * NORMAL[bits(noise, 0, NORMAL_BITS)]
        own = hashed(self._own_key, (customers[standing] << 8) + kinds[standing])
        logs[standing] += _OWN_SPREAD * NORMAL[bits(own, 0, NORMAL_BITS)]
        logs[standing] -= _LEVELLED * self._population.customer_level[customers[standing]]
        return self._purchases.draft(deal, logs, hashes, noise, details=details)

    def types(self, slots: Slots, roots: Hashes) -> Integers:
        """Return the transaction types of rows that are not standing orders."""
        return self._purchases.types[self._kinds(slots, self._kind_hashes(roots))]

    def _kind_hashes(self, roots: Hashes) -> Hashes:
        return mix(roots ^ self._kind_key)

    def _kinds(self, slots: Slots, hashes: Hashes) -> Integers:
        """Draw the kinds of rows that are not standing orders, by the hour of the day."""
        hours = self._calendar.local(slots.cells) % MINUTES_OF_DAY // 60
        return self._kind_table[hours[slots.at], bits(hashes, 0, 12)].astype(np.int64)

    def _customers(self, slots: Slots, roots: Hashes) -> Integers:
        """Follow each row back to the first of its session, whose draw decides the customer.

        A row follows one of some minutes before it with a constant probability: a branching process
        (Hawkes, 1971) read backwards. A row that follows a standing order begins a session.
        """
        firsts = roots.copy()
        cells = slots.row_cells()
        hashes = mix(roots ^ self._session_key)
        rows = np.flatnonzero(_follows(hashes))
        hashes, indices = hashes[rows], slots.indices[rows]
        for _ in range(_GENERATIONS):
            if not rows.size:
                break
            lags = _LAGS[bits(hashes, 16, _LAG_BITS)]
            earlier = cells[rows] - lags
            facts = slots.lookup.facts(earlier)
            candidates = np.where(lags == 0, indices, facts.counts)
            leaders = below(hashes, candidates)
            known = (candidates > 0) & ~is_standing(facts, leaders)
            rows, indices = rows[known], leaders[known]
            found = facts.take(known).roots(indices)
            firsts[rows] = found
            cells[rows] = earlier[known]
            hashes = mix(found ^ self._session_key)
            further = _follows(hashes)
            rows, hashes, indices = rows[further], hashes[further], indices[further]
        return self._purchases.customer_of(mix(firsts ^ self._customer_key), cells)

    def _regions(self, slots: Slots, customers: Integers) -> Integers:
        """Return the region of customers in this week: their own, or another in some weeks."""
        weeks = self._calendar.local(slots.cells) // MINUTES_OF_WEEK
        trips = hashed(self._trip_key, (customers << 20) ^ weeks[slots.at])
        regions = self._population.regions_of(customers)
        away = np.flatnonzero(bits(trips, 0, 10) < int(_TRAVELLING * 1024))
        regions[away] = below(trips[away], self._population.regions)
        return regions


def _kinds_by_hour() -> npt.NDArray[np.uint8]:
    hours = np.arange(24)
    by_hour = np.empty((24, len(KINDS)))
    for part, (start, end) in enumerate(PARTS_OF_DAY):
        by_hour[(hours >= start) & (hours < end)] = [
            kind.weight * kind.by_part[part] for kind in KINDS
        ]
    return np.stack([table_of_shares(row, 12) for row in by_hour])


def _follows(hashes: Hashes) -> Flags:
    return bits(hashes, 0, 16) < int(_FOLLOWING * 65536)
