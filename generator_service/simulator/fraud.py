"""Fraud by scenarios: which rows are fraud, and how their scenario changes them.

A campaign is a hash of its scenario, lane and epoch, so a row finds its campaign without any other
row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from generator_service.simulator.kinds import CODE
from generator_service.simulator.randomness import (
    NORMAL,
    NORMAL_BITS,
    Floats,
    Hashes,
    Integers,
    below,
    bits,
    hashed,
    key_of,
    mix,
)
from generator_service.simulator.slots import Deal

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from generator_service.simulator.configuration import Configuration
    from generator_service.simulator.purchases import Purchases
    from generator_service.simulator.rates import Calendar
    from generator_service.simulator.slots import Draft, Slots


@dataclass(frozen=True)
class Scenario:
    """A mechanism of fraud.

    weight is its share of the fraudulent rows, minutes how long a campaign lasts and rows how many
    it has on average. shift is how far the logarithm of its amounts lies above what is usual for
    the victim at the default difficulty, spread its standard deviation.
    """

    name: str
    weight: float
    minutes: int
    rows: float
    shift: float
    spread: float


_DAY = 1440

SCENARIOS = (
    Scenario("card_testing", 0.13, 20, 18, 1.5, 0.7),
    Scenario("stolen_card", 0.30, _DAY, 12, 1.25, 0.8),
    Scenario("account_takeover", 0.13, 6 * 60, 5, 1.9, 0.8),
    Scenario("merchant_compromise", 0.27, 28 * _DAY, 75, 0.5, 0.7),
    Scenario("push_payment", 0.07, 3 * 60, 2, 1.9, 0.7),
    Scenario("refund_abuse", 0.02, 5 * _DAY, 6, 0.0, 0.0),
    Scenario("bust_out", 0.08, 21 * _DAY, 90, 1.6, 0.8),
)

_DENSEST = 40.0
"""The largest ratio of a campaign's share of fraud to the mean, when rows are few."""

_LARGEST_CHANCE = 0.5
"""The largest share of a minute's rows that one scenario takes."""

_TESTED_CARDS = 2
_CASH_OUT = 0.65
"""The part of a card-testing campaign that tries cards; the rest spends with them."""

_TRIED_LOG = math.log(250.0)
"""The logarithm of the median cents of a try."""

_REFUND_DAYS = 5
REFUNDED_BEFORE = (2, 9)
"""Days of the refunded purchase before the period of its refund-abuse campaign."""


def _codes(**shares: int) -> Integers:
    return np.repeat(np.array([CODE[name] for name in shares]), list(shares.values()))


# Categories of fraud: similar to those of all rows, so that no category reveals it.
_ONLINE = _codes(
    marketplace=6, fashion_online=2, games=2, apps=1, food_delivery=2, electronics_online=1,
    gift_cards=1,
)  # fmt: skip
_IN_TOWN = _codes(
    grocery=5, fast_food=2, convenience=2, fuel=2, restaurant=2, clothing=1, department_store=1,
    pharmacy=1, home_improvement=1, electronics=1, cash_machine=2,
)  # fmt: skip
_TILLS = _codes(
    restaurant=3, fast_food=3, convenience=2, grocery=1, clothing=1, bar=1, pharmacy=1,
)  # fmt: skip


@dataclass(frozen=True)
class _Lanes:
    """The schedule of a scenario's campaigns.

    Each of `count` lanes holds one campaign an epoch of `epoch` minutes, and the campaign is on
    for `active` minutes of it; while it is, `chance` of all rows belong to the scenario.
    """

    key: int
    count: int
    epoch: int
    active: int
    chance: float

    def campaigns(self, cells: Integers, lane: Integers) -> tuple[Hashes, Integers, Floats]:
        """Return the campaign on a lane at cells: its hash, the cell it began in, its progress.

        A progress outside [0, 1) means that the lane pauses. Each lane has its own change-over
        times, so that campaigns do not begin together.
        """
        shifted = cells + below(hashed(self.key ^ 1, lane), self.epoch)
        epoch = shifted // self.epoch
        hashes = hashed(self.key, lane, epoch)
        pause = below(hashes, self.epoch - self.active + 1)
        within = shifted - epoch * self.epoch - pause
        return hashes, cells - within, within / self.active


def _lanes(scenario: Scenario, configuration: Configuration) -> _Lanes:
    key = key_of("fraud", configuration.seed, scenario.name)
    share = configuration.fraud_rate * scenario.weight
    a_minute = configuration.tps * 60.0 * share
    at_once = a_minute * scenario.minutes / scenario.rows
    if at_once >= 1.0 or share == 0.0:
        return _Lanes(key, max(1, round(at_once)), scenario.minutes, scenario.minutes, share)
    # Too few rows for one campaign at a time: long campaigns then last longer, and short ones are
    # denser, with pauses between them.
    epoch = math.ceil(scenario.rows / a_minute)
    active = max(scenario.minutes, math.ceil(epoch / _DENSEST))
    if scenario.minutes > _DAY:
        active = epoch
    return _Lanes(key, 1, epoch, active, share * epoch / active)


@dataclass(frozen=True)
class RefundAbuse:
    """Rows that become refunds of a purchase that was refunded before.

    cells and hashes decide where the purchase is searched, the same for all rows of a campaign.
    """

    rows: npt.NDArray[np.intp]
    cells: Integers
    hashes: Hashes


class Fraud:
    """The fraud of a configuration."""

    def __init__(self, configuration: Configuration, calendar: Calendar) -> None:
        """Make the lanes of every scenario."""
        self._calendar = calendar
        self._key = np.uint64(key_of("fraud", configuration.seed))
        # Deviation of fraud from habits: 1 at the default difficulty, 0 at the highest.
        self._departure = 2.0 * (1.0 - configuration.difficulty)
        self._lanes = [_lanes(scenario, configuration) for scenario in SCENARIOS]

    def _edges(self, cells: Integers) -> Hashes:
        """Return the cumulative shares of the scenarios, 0 to 2**32: (cells, scenarios)."""
        chances = np.empty((cells.size, len(SCENARIOS)))
        for column, lanes in enumerate(self._lanes):
            chances[:, column] = lanes.chance
            if lanes.active < lanes.epoch:
                # Campaigns that come one at a time have as many rows by night as by day; else
                # months would differ by the hours their campaigns happened to fall in.
                _, _, progress = lanes.campaigns(cells, np.zeros_like(cells))
                on = (progress >= 0.0) & (progress < 1.0)
                hourly = self._calendar.week[self._calendar.minute_of_week(cells)]
                even = np.minimum(lanes.chance / hourly, _LARGEST_CHANCE)
                chances[:, column] = np.where(on, even, 0.0)
        return (np.cumsum(chances, axis=1) * 2.0**32).astype(np.uint64)

    def scenarios(self, slots: Slots, roots: Hashes) -> Integers:
        """Return for each row 0, or 1 plus the index of its scenario."""
        edges = self._edges(slots.cells)
        hashes = mix(roots ^ self._key) >> 32
        found = np.zeros(slots.size, dtype=np.int64)
        rows = np.flatnonzero(hashes < edges[slots.at, -1])
        found[rows] = 1 + (hashes[rows, None] >= edges[slots.at[rows]]).sum(axis=1)
        return found

    def overlay(
        self, purchases: Purchases, slots: Slots, roots: Hashes, draft: Draft
    ) -> RefundAbuse | None:
        """Change the rows that are fraud as their scenarios do.

        Returns the rows that become refunds; the caller finds the purchases that they refund.
        """
        abuse = None
        draft.fraud = self.scenarios(slots, roots)
        for code in np.unique(draft.fraud[draft.fraud > 0]).tolist():
            rows = np.flatnonzero(draft.fraud == code)
            case = self._case(code - 1, purchases, slots.select(rows), roots[rows])
            if case.scenario.name == "refund_abuse":
                # A long campaign refunds several purchases in turn: each refund is of a recent one.
                anchors = case.cells - (case.cells - case.starts) % (_REFUND_DAYS * _DAY)
                abuse = RefundAbuse(rows, anchors, case.campaigns)
            else:
                details = draft.details is not None
                draft.put(rows, case.play(details=details))
        return abuse

    def _case(self, index: int, purchases: Purchases, slots: Slots, roots: Hashes) -> _Case:
        scenario, lanes = SCENARIOS[index], self._lanes[index]
        cells = slots.row_cells()
        hashes = hashed(lanes.key, roots)
        campaigns, starts, progress = lanes.campaigns(cells, below(hashes, lanes.count))
        shift = scenario.shift * self._departure
        return _Case(scenario, purchases, cells, mix(hashes), campaigns, starts, progress, shift)


@dataclass
class _Case:
    """Rows of one scenario: cell and hash; hash, first cell and progress (0..1) of their campaign.

    shift is how far the logarithms of the scenario's amounts are above the usual ones.
    """

    scenario: Scenario
    purchases: Purchases
    cells: Integers
    hashes: Hashes
    campaigns: Hashes
    starts: Integers
    progress: Floats
    shift: float

    def play(self, *, details: bool) -> Draft:
        """Return the deals and amounts that the scenario makes of the rows."""
        deal, logs = _PLAYS[self.scenario.name](self)
        noise = self.draw_row(1)
        logs += self.scenario.spread * NORMAL[bits(noise, 0, NORMAL_BITS)]
        return self.purchases.draft(deal, logs, self.draw_row(2), noise, details=details)

    def draw(self, purpose: int) -> Hashes:
        """Return a hash of each row's campaign for a purpose."""
        return hashed(purpose, self.campaigns)

    def draw_row(self, purpose: int) -> Hashes:
        """Return a hash of each row for a purpose."""
        return hashed(purpose, self.hashes)

    def victims(self) -> Integers:
        """Return the victim of each campaign: any customer, with equal probability."""
        return below(self.draw(1), self.purchases.population.customers)

    def deal(self, customers: Integers, kinds: Integers, hashes: Hashes) -> Deal:
        """Pay merchants of kinds, drawn by hashes, with one card each and where its owner lives."""
        regions = self.purchases.population.regions_of(customers)
        merchants = self.purchases.merchant_of(hashes, kinds, regions)
        return Deal(customers, kinds, merchants, regions, cards=self.draw(4))

    def dearer(self, deal: Deal) -> Floats:
        """Return logarithms of cents, above the usual ones of a deal."""
        return self.purchases.usual_logs(deal) + self.shift


# The scenarios. Each returns the deals, and the logarithms of the usual cents.


def _card_testing(case: _Case) -> tuple[Deal, Floats]:
    """Try stolen cards with small amounts at one online shop, then spend with them at others."""
    card = bits(case.hashes, 0, 20) % _TESTED_CARDS
    customers = below(hashed(1, case.campaigns, card), case.purchases.population.customers)
    tried = _ONLINE[below(case.draw(2), _ONLINE.size)]
    spent = _ONLINE[below(case.hashes, _ONLINE.size)]
    later = case.progress >= _CASH_OUT
    hashes = np.where(later, case.draw_row(3), case.draw(3))
    deal = case.deal(customers, np.where(later, spent, tried), hashes)
    return deal, np.where(later, case.dearer(deal), _TRIED_LOG)


def _stolen_card(case: _Case) -> tuple[Deal, Floats]:
    """Spend with a lost card near its owner's home for a day: faster and dearer than usual."""
    kinds = _IN_TOWN[below(case.hashes, _IN_TOWN.size)]
    deal = case.deal(case.victims(), kinds, case.draw_row(3))
    return deal, case.dearer(deal)


def _account_takeover(case: _Case) -> tuple[Deal, Floats]:
    """Take over an account for some hours: transfers and online shops."""
    transfer = bits(case.hashes, 0, 8) < 64
    kinds = np.where(transfer, CODE["person_to_person"], _ONLINE[below(case.hashes, _ONLINE.size)])
    deal = case.deal(case.victims(), kinds, case.draw_row(3))
    return deal, case.dearer(deal)


def _merchant_compromise(case: _Case) -> tuple[Deal, Floats]:
    """Copy cards at a small merchant's till for four weeks, and charge the copies there."""
    kinds = _TILLS[below(case.draw(1), _TILLS.size)]
    regions = below(case.draw(2), case.purchases.population.regions)
    merchants = case.purchases.lesser_merchant_of(case.draw(3), kinds, regions)
    customers = case.purchases.customer_of(case.draw_row(3), case.cells)
    deal = Deal(customers, kinds, merchants, regions, cards=case.draw_row(4))
    return deal, case.dearer(deal)


def _push_payment(case: _Case) -> tuple[Deal, Floats]:
    """Talk customers into transfers to a stranger: their own device, an unusual amount."""
    customers = case.victims()
    kinds = np.full(customers.size, CODE["person_to_person"])
    deal = case.deal(customers, kinds, case.draw(2))
    return deal, case.dearer(deal)


def _bust_out(case: _Case) -> tuple[Deal, Floats]:
    """Buy without ever paying, at ordinary shops, with amounts that climb for three weeks."""
    kinds = _IN_TOWN[below(case.hashes, _IN_TOWN.size)]
    deal = case.deal(case.victims(), kinds, case.draw_row(3))
    return deal, case.dearer(deal) + (case.progress - 0.5) * case.shift


_PLAYS: dict[str, Callable[[_Case], tuple[Deal, Floats]]] = {
    "card_testing": _card_testing,
    "stolen_card": _stolen_card,
    "account_takeover": _account_takeover,
    "merchant_compromise": _merchant_compromise,
    "push_payment": _push_payment,
    "bust_out": _bust_out,
}
