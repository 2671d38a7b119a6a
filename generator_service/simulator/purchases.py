"""Who pays whom, how much and where: each purchase is drawn from one hash.

Draws customers, merchants and amounts, for ordinary rows and for fraud.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import numpy as np

from generator_service.simulator.identities import Population, activity_quantiles
from generator_service.simulator.kinds import KINDS, Ending
from generator_service.simulator.randomness import (
    NORMAL_BITS,
    Floats,
    Hashes,
    Integers,
    below,
    bits,
    exponential,
    table_of_shares,
)
from generator_service.simulator.rates import HOUR_CLASSES
from generator_service.simulator.schema import CHANNELS, TRANSACTION_TYPES
from generator_service.simulator.slots import Deal, Details, Draft

if TYPE_CHECKING:
    from generator_service.simulator.configuration import Configuration
    from generator_service.simulator.pools import Pools
    from generator_service.simulator.rates import Calendar

_ACTIVITY_BITS = 12

_SMALLEST = 50
"""Cents of the smallest amount."""

_NOTE = 2_000
_MOST_NOTES = 50
"""Cents of a bank note, and the largest amount at a machine or a counter."""


class Purchases:
    """The purchases of a configuration's population."""

    def __init__(self, configuration: Configuration, pools: Pools, calendar: Calendar) -> None:
        """Draw the population and make its tables."""
        self.population = Population(configuration, pools)
        self.types = np.array([TRANSACTION_TYPES.index(kind.transaction_type) for kind in KINDS])
        self._calendar = calendar
        self._activity = activity_quantiles(1 << _ACTIVITY_BITS)
        channels = [
            np.array([kind.channels.get(channel, 0.0) for channel in CHANNELS]) for kind in KINDS
        ]
        self._channel_table = np.stack([table_of_shares(shares, 8) for shares in channels])
        in_person = ("CHIP", "CONTACTLESS", "MAGSTRIPE", "ATM", "BRANCH")
        self._in_person = np.isin(CHANNELS, in_person)
        self._medians = np.array([math.log(kind.median * 100.0) for kind in KINDS])
        endings: tuple[Ending, ...] = get_args(Ending.__value__)
        self._ends = {
            ending: np.array([kind.ending == ending for kind in KINDS]) for ending in endings
        }
        self._chained = np.array([round(kind.chains * 1024) for kind in KINDS])
        self._group_logs = np.log(self.population.group_sizes + 1.0)

    def customer_of(self, hashes: Hashes, cells: Integers) -> Integers:
        """Draw customers who are active in cells: by hour class, then by how active they are."""
        edges = self._calendar.class_edges[self._calendar.minute_of_week(cells)]
        chosen = bits(hashes, 0, 16)
        classes = np.zeros(hashes.size, dtype=np.int64)
        for edge in range(len(HOUR_CLASSES) - 1):
            classes += chosen >= edges[:, edge]
        draw = (hashes >> 32).view(np.int64)
        segment = draw >> (32 - _ACTIVITY_BITS)
        start = self._activity[segment]
        part = (draw & ((1 << (32 - _ACTIVITY_BITS)) - 1)) * 2.0 ** (_ACTIVITY_BITS - 32)
        rank = start + part * (self._activity[segment + 1] - start)
        sizes = self.population.class_sizes[classes]
        within = np.minimum((rank * sizes).astype(np.int64), sizes - 1)
        return self.population.class_starts[classes] + within

    def merchant_of(self, hashes: Hashes, kinds: Integers, regions: Integers) -> Integers:
        """Draw merchants of kinds, everywhere or in regions, by popularity.

        A uniform u makes a local merchant's rank floor((n + 1) ** u), which is Zipf's law with
        exponent 1 (rank k has the share log(1 + 1/k) / log(n + 1)); chains take u squared, which
        is steeper at the top. Together they keep Zipf's exponent near 1 over all ranks.
        """
        population = self.population
        chained = bits(hashes, 16, 10) < self._chained[kinds]
        groups = population.chain_group[kinds]
        groups += np.where(chained, 0, regions + 1)
        part = (hashes >> 32).astype(np.float64)
        part *= 2.0**-32
        np.multiply(part, part, out=part, where=chained)
        part *= self._group_logs[groups]
        ranks = exponential(part).astype(np.int64) - 1
        # The table's e to the log of n + 1 may come out as n + 1 itself.
        np.minimum(ranks, population.group_sizes[groups] - 1, out=ranks)
        return population.group_starts[groups] + ranks

    def lesser_merchant_of(self, hashes: Hashes, kinds: Integers, regions: Integers) -> Integers:
        """Draw local merchants of kinds in regions, from the less popular half."""
        groups = self.population.chain_group[kinds] + 1 + regions
        sizes = self.population.group_sizes[groups]
        return self.population.group_starts[groups] + sizes // 2 + below(hashes, sizes - sizes // 2)

    def usual_logs(self, deal: Deal) -> Floats:
        """Return the logarithm of the cents that are usual for deals."""
        logs = self._medians[deal.kinds]
        logs += self.population.merchant_level[deal.merchants]
        logs += self.population.customer_level[deal.customers]
        return logs

    def draft(
        self, deal: Deal, logs: Floats, hashes: Hashes, noise: Hashes, *, details: bool
    ) -> Draft:
        """Return the drafts of deals, with the logarithms of their cents.

        The first hash of a row decides its channel, the second the ending of its amount.
        """
        return Draft(
            customers=deal.customers,
            merchants=deal.merchants,
            types=self.types[deal.kinds],
            cents=self._rounded(np.rint(exponential(logs)).astype(np.int64), deal.kinds, noise),
            details=self._details(deal, hashes) if details else None,
            fraud=np.zeros(hashes.size, dtype=np.int64),
        )

    def _rounded(self, cents: Integers, kinds: Integers, noise: Hashes) -> Integers:
        """Return amounts with the endings of their kinds."""
        mostly = bits(noise, NORMAL_BITS, 8) < 150
        whole = cents // 100
        whole *= 100
        nines = (self._ends["99"][kinds] & mostly) | self._ends["fixed"][kinds]
        cents = np.where(nines, whole + 99, cents)
        cents = np.where(self._ends["00"][kinds] & mostly, whole, cents)
        notes = np.flatnonzero(self._ends["note"][kinds])
        cents[notes] = np.clip((cents[notes] + _NOTE // 2) // _NOTE, 1, _MOST_NOTES) * _NOTE
        return np.maximum(cents, _SMALLEST, out=cents)

    def _details(self, deal: Deal, hashes: Hashes) -> Details:
        population = self.population
        channels = self._channel_table[deal.kinds, bits(hashes, 12, 8)].astype(np.int64)
        # Three quarters of the purchases use the first card, also of customers with others.
        other = (bits(deal.cards, 20, 8) < 64) * (1 + bits(deal.cards, 28, 1))
        cards = population.card_starts[deal.customers]
        cards += np.minimum(other, population.card_counts[deal.customers] - 1)
        sites = population.site_steps[deal.merchants]
        sites *= deal.regions
        sites += population.site_starts[deal.merchants]
        in_person = self._in_person[channels]
        homes = population.site_latitude.size + deal.customers
        return Details(cards, channels, locations=np.where(in_person, sites, homes))
