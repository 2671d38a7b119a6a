"""The preset `handbook`: the Fraud Detection Handbook's simulator, from its published formulas.

Source: Le Borgne, Siblini, Lebichot and Bontempi,
Reproducible Machine Learning for Credit Card Fraud Detection - Practical Handbook, chapter 3. Its
own data has 5,000 customers, 10,000 terminals and 0.111 transactions a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from generator_service.simulator import arrow
from generator_service.simulator.identities import Population
from generator_service.simulator.randomness import (
    Flags,
    Floats,
    Hashes,
    Integers,
    below,
    bits,
    hashed,
    key_of,
    mix,
    normal_distribution,
    normal_quantile,
    poisson,
    uniform,
)
from generator_service.simulator.rates import MINUTES_OF_DAY
from generator_service.simulator.schema import CHANNELS, TRANSACTION_TYPES
from generator_service.simulator.slots import CellFacts, Details, Draft, Locations

if TYPE_CHECKING:
    from generator_service.simulator.configuration import Configuration
    from generator_service.simulator.pools import Pools
    from generator_service.simulator.slots import Slots

SCENARIOS = ("amount_over_220", "compromised_terminal", "compromised_customer")

_SIDE = 100.0
_RADIUS = 5.0
_SQUARES = int(_SIDE / _RADIUS)
"""Squares of the radius' size along a side: all terminals in reach are in nine squares."""

_TRIES = 40
"""A third of the nine squares' terminals are in reach, so forty draws miss once in 30 million."""

_NORMAL_BITS = 16
_TIME_SPREAD = 20_000.0
"""Seconds of standard deviation of the time of day, around noon."""


class Handbook:
    """The Handbook's model of a configuration."""

    def __init__(self, configuration: Configuration, pools: Pools) -> None:
        """Draw customers and terminals in the square."""
        seed = configuration.seed
        self.population = Population(configuration, pools)
        self.scenarios = arrow.strings(SCENARIOS)
        self.look_back = 0
        self._cell_key = key_of("cells", seed)
        self._count_key = key_of("counts", seed)
        self._customer_key = np.uint64(key_of("customers", seed))
        self._merchant_key = np.uint64(key_of("merchants", seed))
        self._amount_key = np.uint64(key_of("amounts", seed))
        minutes = (np.arange(MINUTES_OF_DAY + 1, dtype=np.float64) * 60.0 - 43_200.0) / _TIME_SPREAD
        shares = np.diff(normal_distribution(minutes))
        self._means: Floats = configuration.tps * 86_400.0 * shares / shares.sum()
        steps = np.arange(1 << _NORMAL_BITS, dtype=np.float64)
        self._normal = normal_quantile((steps + 0.5) * 2.0**-_NORMAL_BITS)
        self._draw_square(key_of("square", seed))
        self.locations = Locations(
            self.population.merchant_latitude, self.population.merchant_longitude
        )
        # Two terminals of 10,000 and three customers of 5,000 are compromised a day.
        self._compromised_terminals = _Draws(
            key=key_of("compromised terminals", seed),
            size=configuration.merchants,
            a_day=max(1, round(configuration.merchants * 2 / 10_000)),
            days=28,
        )
        self._compromised_customers = _Draws(
            key=key_of("compromised customers", seed),
            size=configuration.customers,
            a_day=max(1, round(configuration.customers * 3 / 5_000)),
            days=14,
        )

    def _draw_square(self, key: int) -> None:
        population = self.population
        self._customer_x, self._customer_y = _points(key_of(key, "customers"), population.customers)
        self._terminal_x, self._terminal_y = _points(key_of(key, "terminals"), population.merchants)
        population.move_into_square(
            (self._customer_x / _SIDE, self._customer_y / _SIDE),
            (self._terminal_x / _SIDE, self._terminal_y / _SIDE),
        )
        chosen = uniform(hashed(key_of(key, "amounts"), np.arange(population.customers)))
        self._mean_cents: Floats = 500.0 + 9_500.0 * chosen
        squares = _square_of(self._terminal_x) * _SQUARES + _square_of(self._terminal_y)
        self._by_square = np.argsort(squares, kind="stable")
        counts = np.bincount(squares, minlength=_SQUARES * _SQUARES)
        starts = np.cumsum(counts) - counts
        # For each square, the first terminal of the nine around it and how many came before.
        across, along = np.divmod(np.arange(_SQUARES * _SQUARES), _SQUARES)
        nearby_starts: list[Integers] = []
        nearby_counts: list[Integers] = []
        for right in (-1, 0, 1):
            for up in (-1, 0, 1):
                there = (across + right, along + up)
                inside = np.logical_and.reduce([(at >= 0) & (at < _SQUARES) for at in there])
                square = np.where(inside, there[0] * _SQUARES + there[1], 0)
                nearby_starts.append(starts[square])
                nearby_counts.append(np.where(inside, counts[square], 0))
        self._nearby_starts = np.stack(nearby_starts, axis=1)
        self._nearby_ends = np.cumsum(np.stack(nearby_counts, axis=1), axis=1)

    def facts(self, cells: Integers) -> CellFacts:
        """Return the facts of cells; there are no standing orders."""
        means = self._means[cells % MINUTES_OF_DAY]
        none = np.zeros(cells.size, dtype=np.int64)
        return CellFacts(
            keys=hashed(self._cell_key, cells),
            counts=poisson(uniform(hashed(self._count_key, cells)), means),
            standing=none,
            entries=none,
            phases=none,
        )

    def draft(self, slots: Slots, *, details: bool) -> Draft:
        """Return the drafts of rows; without details, only the columns that control totals need."""
        roots = slots.roots()
        customers = self._customers(roots)
        terminals = self._terminals(roots, customers)
        cents, fraud = self._amounts_and_fraud(slots, roots, customers, terminals)
        return Draft(
            customers=customers,
            merchants=terminals,
            types=np.full(slots.size, TRANSACTION_TYPES.index("PURCHASE")),
            cents=cents,
            details=self._details(customers, terminals) if details else None,
            fraud=fraud,
        )

    def _details(self, customers: Integers, terminals: Integers) -> Details:
        population = self.population
        return Details(
            cards=population.card_starts[customers],
            channels=np.full(customers.size, CHANNELS.index("CHIP")),
            locations=terminals,
        )

    def _customers(self, roots: Hashes) -> Integers:
        """Draw customers by their daily counts, which are U(0, 4): the more active, the later.

        The sum of independent Poisson counts is a Poisson count whose events fall to each customer
        in proportion to its mean, so drawing rows first and customers second is the same model.
        """
        size = self.population.customers
        part = np.sqrt(uniform(mix(roots ^ self._customer_key)))
        return np.minimum((part * size).astype(np.int64), size - 1)

    def _terminals(self, roots: Hashes, customers: Integers) -> Integers:
        """Draw terminals evenly from those within the radius; from any when there is none."""
        hashes = mix(roots ^ self._merchant_key)
        terminals = below(hashes, self.population.merchants)
        x, y = self._customer_x[customers], self._customer_y[customers]
        squares = _square_of(x) * _SQUARES + _square_of(y)
        rows = np.flatnonzero(self._nearby_ends[squares, 8] > 0)
        hashes = hashes[rows]
        for _ in range(_TRIES):
            if not rows.size:
                break
            mix(hashes)
            ends = self._nearby_ends[squares[rows]]
            chosen = below(hashes, ends[:, 8])
            which = (chosen[:, None] >= ends).sum(axis=1)
            before = np.where(which > 0, ends[np.arange(rows.size), which - 1], 0)
            start = self._nearby_starts[squares[rows], which]
            candidates = self._by_square[start + chosen - before]
            right = self._terminal_x[candidates] - x[rows]
            up = self._terminal_y[candidates] - y[rows]
            good = right * right + up * up < _RADIUS * _RADIUS
            terminals[rows[good]] = candidates[good]
            rows, hashes = rows[~good], hashes[~good]
        return terminals

    def _amounts_and_fraud(
        self, slots: Slots, roots: Hashes, customers: Integers, terminals: Integers
    ) -> tuple[Integers, Integers]:
        hashes = mix(roots ^ self._amount_key)
        means = self._mean_cents[customers]
        amounts = means + 0.5 * means * self._normal[bits(hashes, 0, _NORMAL_BITS)]
        again = np.flatnonzero(amounts < 0.0)
        amounts[again] = 2.0 * means[again] * ((hashes[again] >> 32).astype(np.float64) * 2.0**-32)
        cents = np.maximum(np.rint(amounts).astype(np.int64), 1)
        days = (slots.cells // MINUTES_OF_DAY)[slots.at]
        fraud = (cents > 22_000).astype(np.int64)
        fraud[_compromised(days, terminals, self._compromised_terminals)] = 2
        # A third of a compromised customer's rows are fraud, with five times the amount.
        hit = _compromised(days, customers, self._compromised_customers)
        hit &= below(mix(hashes), 3) == 0
        cents[hit] *= 5
        fraud[hit] = 3
        return cents, fraud


@dataclass(frozen=True)
class _Draws:
    """`a_day` of `size` customers or terminals are drawn each day, and stay so for `days`."""

    key: int
    size: int
    a_day: int
    days: int


def _compromised(days: Integers, drawable: Integers, draws: _Draws) -> Flags:
    """Return the rows whose customer or terminal is compromised on their day."""
    today = np.unique(days)
    earlier = np.arange(draws.days)[:, None] + np.zeros(draws.a_day, dtype=np.int64)
    drawn = today[:, None, None] - earlier
    which = np.broadcast_to(np.arange(draws.a_day), drawn.shape)
    found = below(hashed(draws.key, drawn.reshape(-1), which.reshape(-1)), draws.size)
    active = np.repeat(today, earlier.size) * draws.size + found
    return np.isin(days * draws.size + drawable, active)


def _points(key: int, count: int) -> tuple[Floats, Floats]:
    rows = np.arange(count)
    across = uniform(hashed(key_of(key, "x"), rows))
    along = uniform(hashed(key_of(key, "y"), rows))
    return across * _SIDE, along * _SIDE


def _square_of(coordinates: Floats) -> npt.NDArray[np.int64]:
    return np.minimum((coordinates / _RADIUS).astype(np.int64), _SQUARES - 1)
