"""The preset `realistic`: who pays whom, how much, where and when.

This module has the sessions, kinds and refunds of rows. `purchases` draws customers, merchants and
amounts, `kinds` has the shares of kinds, and `fraud` the fraud.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from generator_service.simulator import arrow, fraud
from generator_service.simulator.kinds import KINDS, PARTS_OF_DAY
from generator_service.simulator.purchases import Purchases
from generator_service.simulator.randomness import (
    NORMAL,
    NORMAL_BITS,
    Flags,
    Floats,
    Integers,
    Words,
    below,
    bits,
    hashed,
    key_of,
    mix,
    poisson,
    table_of_shares,
    uniform,
)
from generator_service.simulator.rates import (
    MINUTES_OF_DAY,
    MINUTES_OF_WEEK,
    Calendar,
)
from generator_service.simulator.schema import TRANSACTION_TYPES
from generator_service.simulator.slots import CellFacts, Deal, Draft, Places, Slots, single
from generator_service.simulator.standing import StandingOrders, is_standing, standing_rows

if TYPE_CHECKING:
    from generator_service.simulator.configuration import Configuration
    from generator_service.simulator.pools import Pools

_FOLLOWING = 0.5
"""Share of rows that follow another of their customer: sessions have a mean of 1 / (1 - it)."""

_GENERATIONS = 8
"""The most steps from a row back to the first of its session."""

_LAG_BITS = 8
_LAGS = np.minimum(-4.5 * np.log1p(-(np.arange(256) + 0.5) / 256), 30.0).astype(np.int64)
"""Minutes between a row and the one it follows: geometric, mean about 4, at most 30."""

_FAVOURED = 0.72
"""Share of rows that go to one of their customer's three favourite merchants of a kind."""

_TRAVELLING = 0.03
"""Share of weeks that a customer spends in another region."""

_REFUNDED = 0.013
"""Share of purchases that are replaced by the refund of an earlier one."""

_REFUND_AFTER = (2, 14)
"""Days between a purchase and its refund."""

_REFUND_TRIES = 6

_OWN_SPREAD = 0.3
"""Standard deviation of the logarithm of customers' standing orders of a kind."""

_LEVELLED = 0.4
"""How much a standing order follows its customer's level of amounts, relative to other amounts."""

_PURCHASE = TRANSACTION_TYPES.index("PURCHASE")
_REFUND = TRANSACTION_TYPES.index("REFUND")


class Behaviour:
    """The realistic model of a configuration."""

    def __init__(self, configuration: Configuration, pools: Pools) -> None:
        """Draw the population and make its tables."""
        seed = configuration.seed
        self._calendar = Calendar(pools.utc_offset)
        self._purchases = Purchases(configuration, pools, self._calendar)
        self.population = self._purchases.population
        self.places = Places(
            np.concatenate([self.population.site_latitude, self.population.customer_latitude]),
            np.concatenate([self.population.site_longitude, self.population.customer_longitude]),
        )
        self.scenarios = arrow.strings([scenario.name for scenario in fraud.SCENARIOS])
        self.look_back = _GENERATIONS * (int(_LAGS.max()) + 1)
        self._standing = StandingOrders(seed, configuration.customers, configuration.tps)
        self._rows_a_minute = configuration.tps * 60.0 - self._standing.rows_a_minute
        self._fraud = fraud.Fraud(configuration, self._calendar)
        self._cell_key = key_of("cells", seed)
        self._count_key = key_of("counts", seed)
        self._phase_key = key_of("phases", seed)
        self._favourite_key = key_of("favourites", seed)
        self._trip_key = key_of("trips", seed)
        self._own_key = key_of("own standing amounts", seed)
        self._session_key = np.uint64(key_of("sessions", seed))
        self._customer_key = np.uint64(key_of("customers", seed))
        self._kind_key = np.uint64(key_of("kinds", seed))
        self._merchant_key = np.uint64(key_of("merchants", seed))
        self._amount_key = np.uint64(key_of("amounts", seed))
        self._refund_key = np.uint64(key_of("refunds", seed))
        self._spreads = np.array([kind.spread for kind in KINDS])
        self._kind_table = self._kinds_by_hour()

    @staticmethod
    def _kinds_by_hour() -> npt.NDArray[np.uint8]:
        hours = np.arange(24)
        by_hour = np.empty((24, len(KINDS)))
        for part, (start, end) in enumerate(PARTS_OF_DAY):
            by_hour[(hours >= start) & (hours < end)] = [
                kind.weight * kind.by_part[part] for kind in KINDS
            ]
        return np.stack([table_of_shares(row, 12) for row in by_hour])

    def facts(self, cells: Integers) -> CellFacts:
        """Return the facts of cells."""
        standing, entries = self._standing.due(self._calendar.minute_of_month(cells))
        means = self._calendar.activity(cells) * self._rows_a_minute
        counts = poisson(uniform(hashed(self._count_key, cells)), means) + standing
        phases = below(hashed(self._phase_key, cells), np.maximum(counts, 1))
        return CellFacts(hashed(self._cell_key, cells), counts, standing, entries, phases)

    def draft(self, slots: Slots, *, details: bool) -> Draft:
        """Return the drafts of rows; without details, only the columns that control totals need."""
        roots = slots.roots()
        draft = self._ordinary(slots, roots, details=details)
        abuse = self._fraud.overlay(self._purchases, slots, roots, draft)
        if abuse is not None:
            self._refund_again(abuse, draft)
        self._refund(slots, roots, draft)
        return draft

    # Ordinary rows

    def _ordinary(self, slots: Slots, roots: Words, *, details: bool) -> Draft:
        customers = self._customers(slots, roots)
        words = mix(roots ^ self._kind_key)
        kinds = self._kinds(slots, words)
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
        deal = Deal(customers, kinds, merchants, regions, cards=words)
        logs = self._purchases.usual_logs(deal)
        noise = mix(roots ^ self._amount_key)
        logs += self._spreads[kinds] * NORMAL[bits(noise, 0, NORMAL_BITS)]
        own = hashed(self._own_key, (customers[standing] << 8) + kinds[standing])
        logs[standing] += _OWN_SPREAD * NORMAL[bits(own, 0, NORMAL_BITS)]
        logs[standing] -= _LEVELLED * self.population.customer_level[customers[standing]]
        return self._purchases.settled(deal, logs, words, noise, details=details)

    def _kinds(self, slots: Slots, words: Words) -> Integers:
        """Draw the kinds of rows that are not standing orders, by the hour of the day."""
        hours = self._calendar.local(slots.cells) % MINUTES_OF_DAY // 60
        return self._kind_table[hours[slots.at], bits(words, 0, 12)].astype(np.int64)

    def _customers(self, slots: Slots, roots: Words) -> Integers:
        """Follow each row back to the first of its session, whose draw decides the customer.

        A row follows one of some minutes before it with a constant probability: a branching process
        (Hawkes, 1971) read backwards. A row that follows a standing order begins a session.
        """
        firsts = roots.copy()
        cells = slots.row_cells()
        words = mix(roots ^ self._session_key)
        rows = np.flatnonzero(_follows(words))
        words, indices = words[rows], slots.indices[rows]
        for _ in range(_GENERATIONS):
            if not rows.size:
                break
            lags = _LAGS[bits(words, 16, _LAG_BITS)]
            earlier = cells[rows] - lags
            facts = slots.near.facts(earlier)
            candidates = np.where(lags == 0, indices, facts.counts)
            leaders = below(words, candidates)
            known = (candidates > 0) & ~is_standing(facts, leaders)
            rows, indices = rows[known], leaders[known]
            found = facts.take(known).roots(indices)
            firsts[rows] = found
            cells[rows] = earlier[known]
            words = mix(found ^ self._session_key)
            further = _follows(words)
            rows, words, indices = rows[further], words[further], indices[further]
        return self._purchases.customer_of(mix(firsts ^ self._customer_key), cells)

    def _regions(self, slots: Slots, customers: Integers) -> Integers:
        """Return the region of customers in this week: their own, or another in some weeks."""
        weeks = self._calendar.local(slots.cells) // MINUTES_OF_WEEK
        trips = hashed(self._trip_key, (customers << 20) ^ weeks[slots.at])
        regions = self.population.customer_region[customers]
        away = np.flatnonzero(bits(trips, 0, 10) < int(_TRAVELLING * 1024))
        regions[away] = below(trips[away], self.population.regions)
        return regions

    # Refunds

    def _refund(self, slots: Slots, roots: Words, draft: Draft) -> None:
        """Turn some purchases into the refund of an earlier one."""
        words = mix(roots ^ self._refund_key)
        gives_way = (draft.types == _PURCHASE) & (draft.fraud == 0) & _is_refund(words)
        rows = np.flatnonzero(gives_way)
        if not rows.size:
            return
        words = words[rows]
        parents, found = self._purchases_before(slots.row_cells()[rows], words, _REFUND_AFTER)
        # Two thirds are full refunds.
        parts = np.where(bits(words, 20, 4) < 11, 1.0, uniform(mix(words.copy())))
        self._write_refunds(rows[found], parents.select(found), parts[found], draft)

    def _refund_again(self, abuse: fraud.RefundAbuse, draft: Draft) -> None:
        """Turn rows of fraud into full refunds of a purchase that was refunded before.

        Rows without such a purchase stay as they are, and are not fraud.
        """
        parents, found = self._purchases_before(abuse.cells, abuse.words, fraud.REFUNDED_BEFORE)
        rows = abuse.rows
        draft.fraud[rows[~found]] = 0
        self._write_refunds(rows[found], parents.select(found), np.ones(rows.size)[found], draft)

    def _write_refunds(
        self, rows: npt.NDArray[np.intp], parents: Slots, parts: Floats, draft: Draft
    ) -> None:
        refunded = self._ordinary(parents, parents.roots(), details=draft.details is not None)
        refunded.types[:] = _REFUND
        refunded.cents = np.maximum(np.rint(refunded.cents * parts).astype(np.int64), 1)
        draft.put(rows, refunded)
        draft.refunds.append((rows, parents))

    def _purchases_before(
        self, cells: Integers, words: Words, days: tuple[int, int]
    ) -> tuple[Slots, Flags]:
        """Find an ordinary purchase for each cell, in a range of days before it.

        Returns one slot for each cell, and whether it has a purchase that is neither a refund nor
        fraud.
        """
        first, last = (day * MINUTES_OF_DAY for day in days)
        earlier = np.empty(cells.size, dtype=np.int64)
        indices = np.zeros(cells.size, dtype=np.int64)
        found = np.zeros(cells.size, dtype=np.bool_)
        sought = np.arange(cells.size)
        words = words.copy()
        for _ in range(_REFUND_TRIES):
            mix(words)
            earlier[sought] = cells[sought] - first - below(words, last - first)
            mix(words)
            facts = self.facts(earlier[sought])
            indices[sought] = below(words, facts.counts)
            slots = Slots(earlier[sought], facts, np.arange(sought.size), indices[sought], self)
            found[sought] = self._are_purchases(slots)
            missing = ~found[sought]
            sought, words = sought[missing], words[missing]
        return single(earlier, indices, self), found

    def _are_purchases(self, slots: Slots) -> Flags:
        """Return whether slots have ordinary purchases, without making them."""
        roots = slots.roots()
        types = self._purchases.types[self._kinds(slots, mix(roots ^ self._kind_key))]
        good = (slots.facts.counts > 0) & (types == _PURCHASE)
        good &= ~_is_refund(mix(roots ^ self._refund_key))
        good &= ~is_standing(slots.facts, slots.indices)
        good &= self._fraud.scenarios(slots, roots) == 0
        return good


def _follows(words: Words) -> Flags:
    return bits(words, 0, 16) < int(_FOLLOWING * 65536)


def _is_refund(words: Words) -> Flags:
    return bits(words, 0, 16) < int(_REFUNDED * 65536)
