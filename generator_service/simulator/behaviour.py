"""The preset `realistic`: how many rows each minute has, and of which sort they are.

`ordinary` makes the rows, `fraud` changes some of them, and `refunds` replaces some by refunds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from generator_service.simulator import arrow, fraud
from generator_service.simulator.ordinary import LOOK_BACK, OrdinaryRows
from generator_service.simulator.purchases import Purchases
from generator_service.simulator.randomness import Integers, below, hashed, key_of, poisson, uniform
from generator_service.simulator.rates import Calendar
from generator_service.simulator.refunds import Refunds
from generator_service.simulator.slots import CellFacts, Draft, Locations, Slots
from generator_service.simulator.standing import StandingOrders

if TYPE_CHECKING:
    from generator_service.simulator.configuration import Configuration
    from generator_service.simulator.pools import Pools


class Behaviour:
    """The realistic model of a configuration."""

    def __init__(self, configuration: Configuration, pools: Pools) -> None:
        """Draw the population and make its tables."""
        seed = configuration.seed
        self._calendar = Calendar(pools.utc_offset)
        self._purchases = Purchases(configuration, pools, self._calendar)
        self.population = self._purchases.population
        self.scenarios = arrow.strings([scenario.name for scenario in fraud.SCENARIOS])
        self.look_back = LOOK_BACK
        self._standing = StandingOrders(seed, configuration.customers, configuration.tps)
        self._rows_a_minute = configuration.tps * 60.0 - self._standing.rows_a_minute
        self._fraud = fraud.Fraud(configuration, self._calendar)
        self._ordinary = OrdinaryRows(seed, self._purchases, self._standing, self._calendar)
        self._refunds = Refunds(seed, self, self._ordinary, self._fraud)
        self._cell_key = key_of("cells", seed)
        self._count_key = key_of("counts", seed)
        self._phase_key = key_of("phases", seed)

    @property
    def locations(self) -> Locations:
        """The coordinates of its rows: those of the sites, then of the customers' homes."""
        population = self.population
        return Locations(
            np.concatenate([population.site_latitude, population.customer_latitude]),
            np.concatenate([population.site_longitude, population.customer_longitude]),
        )

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
        draft = self._ordinary.draft(slots, roots, details=details)
        abuse = self._fraud.overlay(self._purchases, slots, roots, draft)
        if abuse is not None:
            self._refunds.refund_again(abuse, draft)
        self._refunds.replace_purchases(slots, roots, draft)
        return draft
