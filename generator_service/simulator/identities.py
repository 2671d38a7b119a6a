"""The population: customers with homes and cards, merchants with categories, sites and prices.

Columns are indexed by customer, card or merchant. Everything is combined from the pools by hash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from generator_service.simulator import arrow
from generator_service.simulator.kinds import KINDS
from generator_service.simulator.pools import WITHOUT_DECIMALS
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
    mix_one,
    normal_distribution,
    normal_quantile,
    uniform,
)
from generator_service.simulator.rates import HOUR_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from generator_service.simulator.configuration import Configuration
    from generator_service.simulator.pools import Pools

BATCH_ROWS = 32_768
"""Rows in a batch of reference data."""

_REGIONS = 24
_MERCHANTS_OF_A_REGION = 400
_SPREAD = 6_000
"""Standard deviation of homes and shops around their town, in 1e-5 degrees (about 6 km)."""

_ABROAD = 0.06
"""Share of the merchants of online kinds that are in another country."""

_SEATS_ABROAD = (
    ("London", "GB", "GBP", 51.50853, -0.12574),
    ("Dublin", "IE", "EUR", 53.33306, -6.24889),
    ("Amsterdam", "NL", "EUR", 52.37403, 4.88969),
    ("Berlin", "DE", "EUR", 52.52437, 13.41053),
    ("Paris", "FR", "EUR", 48.85341, 2.3488),
    ("Madrid", "ES", "EUR", 40.4165, -3.70256),
    ("New York City", "US", "USD", 40.71427, -74.00597),
    ("Montreal", "CA", "CAD", 45.50884, -73.58781),
    ("Sydney", "AU", "AUD", -33.86785, 151.20732),
)
"""City, country, currency and coordinates."""


@dataclass(frozen=True)
class _Range:
    """A range of card numbers: a network's six-digit prefix that is published for testing."""

    network: str
    prefix: int
    length: int
    weight: int


_RANGES = (
    _Range("VISA", 411111, 16, 20),
    _Range("VISA", 424242, 16, 16),
    _Range("VISA", 401288, 16, 10),
    _Range("VISA", 400005, 16, 8),
    _Range("MASTERCARD", 555555, 16, 12),
    _Range("MASTERCARD", 510510, 16, 8),
    _Range("MASTERCARD", 520082, 16, 6),
    _Range("MASTERCARD", 222300, 16, 6),
    _Range("AMEX", 378282, 15, 4),
    _Range("AMEX", 371449, 15, 3),
    _Range("DISCOVER", 601111, 16, 4),
    _Range("DISCOVER", 601100, 16, 3),
)

_LEVEL_SPREAD = 0.78
"""Standard deviation of the logarithm of a customer's level of amounts."""

_ACTIVITY_SPREAD = 0.9
"""Standard deviation of the logarithm of a customer's number of transactions."""

_ACTIVITY_CUT = 2.5
"""Standard deviations above the mean of the logarithm at which activity ends."""

_LEVEL_WITH_ACTIVITY = 0.3
"""Correlation of the two: who pays more often also pays more at a time."""

_CHAINS = 0.04
"""Share of the merchants of a kind that are everywhere, where others are local."""

_PRICE_SPREAD = 0.22
"""Standard deviation of the logarithm of a merchant's prices."""


def _required(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


CUSTOMERS_SCHEMA = _required(
    customer_id=pa.string(),
    name=pa.string(),
    email=pa.string(),
    birth_date=pa.date32(),
    street=pa.string(),
    city=pa.string(),
    country=pa.string(),
    latitude=pa.float64(),
    longitude=pa.float64(),
)
CARDS_SCHEMA = _required(card_number=pa.string(), customer_id=pa.string(), network=pa.string())
MERCHANTS_SCHEMA = _required(
    merchant_id=pa.string(),
    merchant_name=pa.string(),
    merchant_category_code=pa.string(),
    city=pa.string(),
    country=pa.string(),
    currency=pa.string(),
    latitude=pa.float64(),
    longitude=pa.float64(),
)


def numbered(prefix: str, count: int, key: int) -> npt.NDArray[np.uint8]:
    """Return `count` ids of a letter and seven digits, distinct and in random order.

    The (count, 8) bytes of their text.
    """
    space = 10_000_000
    # The multiplier has no factor in common with the space, so no two numbers fall together.
    numbers = (np.arange(count) * 7_368_787 + key % space) % space
    text = np.empty((count, 8), dtype=np.uint8)
    text[:, 0] = ord(prefix)
    write_digits(text[:, 1:], numbers)
    return text


def write_digits(into: npt.NDArray[np.uint8], numbers: Integers) -> None:
    """Write numbers as decimal digits, zero-padded, into the (n, width) bytes given."""
    rest = numbers
    for end in range(into.shape[1], 0, -4):
        above = rest // 10_000
        start = max(end - 4, 0)
        into[:, start:end] = arrow.FOUR_DIGITS[rest - above * 10_000, 4 - (end - start) :]
        rest = above


def _card_numbers(count: int, key: int) -> tuple[pa.StringArray, npt.NDArray[np.int64]]:
    """Return distinct card numbers that pass Luhn's check, and the range each is from."""
    cards = np.arange(count)
    weights = np.array([card_range.weight for card_range in _RANGES])
    edges = np.cumsum(weights) / weights.sum()
    ranges = np.searchsorted(edges, uniform(hashed(key, cards))).astype(np.int64)
    text = np.empty((count, 16), dtype=np.uint8)
    lengths = np.array([card_range.length for card_range in _RANGES])[ranges]
    for length in sorted(set(lengths.tolist())):
        rows = np.flatnonzero(lengths == length)
        free = length - 7
        space = 10**free
        numbers = (cards[rows] * 61_803_399 + mix_one(key) % space) % space
        prefixes = np.array([card_range.prefix for card_range in _RANGES])[ranges[rows]]
        digits = np.empty((rows.size, length), dtype=np.uint8)
        write_digits(digits[:, :-1], prefixes * space + numbers)
        values = digits[:, :-1] - ord("0")
        # Luhn: from the right, the digit before the check digit is doubled, then every second.
        doubled = values[:, ::-1][:, ::2] * 2
        total = (doubled - 9 * (doubled > 9)).sum(axis=1) + values[:, ::-1][:, 1::2].sum(axis=1)
        digits[:, -1] = (10 - total % 10) % 10 + ord("0")
        text[rows, :length] = digits
    return arrow.ragged(text, lengths), ranges


def _apportioned(shares: Floats, total: int) -> Integers:
    """Split `total` by shares into whole numbers of at least one each."""
    sizes = np.maximum(np.floor(shares / shares.sum() * total), 1).astype(np.int64)
    while (excess := int(sizes.sum()) - total) > 0:
        largest = np.argsort(-sizes, kind="stable")[:excess]
        sizes[largest[sizes[largest] > 1]] -= 1
    sizes[np.argsort(-shares, kind="stable")[: total - int(sizes.sum())]] += 1
    return sizes


class Population:
    """The customers, cards and merchants of a configuration, as columns.

    Customers are ordered by hour class, and within one from the least to the most active; merchants
    by group (a kind in a region), and within one from the most to the least popular.
    """

    def __init__(self, configuration: Configuration, pools: Pools) -> None:
        """Draw the population."""
        self._pools = pools
        self._number_first = pools.locale.startswith(("en_", "fr_"))
        self._key = key_of("population", configuration.seed)
        self.customers = configuration.customers
        self.merchants = configuration.merchants
        self.regions = min(
            max(self.merchants // _MERCHANTS_OF_A_REGION, 1), _REGIONS, len(pools.places)
        )
        order = np.argsort(hashed(self._key_for("places"), np.arange(len(pools.places))))
        self._towns = [pools.places[town] for town in order[: self.regions].tolist()]
        sizes = 1.0 / (np.arange(self.regions) + 1.0)
        self._region_shares: Floats = sizes / sizes.sum()
        self._draw_customers()
        self._draw_cards()
        self._draw_merchants()

    def _key_for(self, name: str) -> int:
        return key_of(self._key, name)

    def _around(self, regions: Integers, key: int, spread: float) -> tuple[Floats, Floats]:
        """Return coordinates scattered around the towns of regions, in degrees."""
        rows = np.arange(regions.size)
        found: list[Floats] = []
        for axis in ("latitude", "longitude"):
            centres = np.array([getattr(town, axis) for town in self._towns]) * 1e5
            scatter = normal_quantile(uniform(hashed(key_of(key, axis), rows))) * spread
            found.append(np.rint(centres[regions] + scatter) / 1e5)
        return found[0], found[1]

    def _draw_customers(self) -> None:
        rows = np.arange(self.customers)
        shares = np.array([hour_class.share for hour_class in HOUR_CLASSES])
        sizes = _apportioned(shares, self.customers)
        self.class_sizes: Integers = sizes
        self.class_starts: Integers = np.cumsum(sizes) - sizes
        text = numbered("C", self.customers, self._key_for("customer numbers"))
        self._packed_customer_ids: Hashes = text.view(np.uint64).reshape(-1)
        chosen = uniform(hashed(self._key_for("home region"), rows))
        self.customer_region: Integers = np.minimum(
            np.searchsorted(np.cumsum(self._region_shares), chosen), self.regions - 1
        ).astype(np.int64)
        self.customer_latitude, self.customer_longitude = self._around(
            self.customer_region, self._key_for("homes"), _SPREAD
        )
        ranks = rows - np.repeat(self.class_starts, sizes)
        activity = normal_quantile((ranks + 0.5) / np.repeat(sizes, sizes))
        # Centred on the transactions' mean level, not the customers'.
        self.customer_level: Floats = _LEVEL_SPREAD * (
            _LEVEL_WITH_ACTIVITY * (activity - _ACTIVITY_SPREAD)
            + math.sqrt(1.0 - _LEVEL_WITH_ACTIVITY**2)
            * normal_quantile(uniform(hashed(self._key_for("level"), rows)))
        )

    def _draw_cards(self) -> None:
        hashes = hashed(self._key_for("cards"), np.arange(self.customers))
        # Seven in ten have one card, a quarter two, the rest three.
        counts = 1 + (bits(hashes, 0, 10) >= 717) + (bits(hashes, 0, 10) >= 973)
        self.card_counts: Integers = counts.astype(np.int64)
        self.card_starts: Integers = np.cumsum(self.card_counts) - self.card_counts
        self.card_owners: Integers = np.repeat(np.arange(self.customers), self.card_counts)
        self.card_numbers, self._card_ranges = _card_numbers(
            self.card_owners.size, self._key_for("card numbers")
        )

    def _draw_merchants(self) -> None:
        # Of each kind one group that is everywhere, and one in each region unless all is chains.
        groups = [
            (code, region)
            for code, kind in enumerate(KINDS)
            for region in range(-1, self.regions if kind.chains < 1.0 else 0)
        ]
        shares = np.array([self._merchant_share(code, region) for code, region in groups])
        sizes = _apportioned(shares, self.merchants)
        self.group_starts: Integers = np.cumsum(sizes) - sizes
        self.group_sizes: Integers = sizes
        self.chain_group: Integers = np.array(
            [groups.index((code, -1)) for code in range(len(KINDS))]
        )
        self.merchant_kind: Integers = np.repeat(np.array([code for code, _ in groups]), sizes)
        at = np.repeat(np.array([region for _, region in groups]), sizes)
        everywhere = at < 0
        rows = np.arange(self.merchants)
        seats = below(hashed(self._key_for("seat"), rows), self.regions)
        self.merchant_region: Integers = np.where(everywhere, seats, at)
        self.merchant_latitude, self.merchant_longitude = self._around(
            self.merchant_region, self._key_for("shops"), _SPREAD / 2
        )
        self.merchant_level: Floats = _PRICE_SPREAD * normal_quantile(
            uniform(hashed(self._key_for("prices"), rows))
        )
        self._open_sites(everywhere)
        self._move_abroad()
        categories = sorted({kind.category for kind in KINDS})
        self.categories = arrow.strings(categories)
        self.merchant_category = np.array(
            [categories.index(kind.category) for kind in KINDS], dtype=np.int32
        )[self.merchant_kind]
        text = numbered("M", self.merchants, self._key_for("merchant numbers"))
        self.merchant_ids = arrow.fixed_width(text)
        self.merchant_names = arrow.strings(self._merchant_names())

    def _merchant_share(self, code: int, region: int) -> float:
        kind = KINDS[code]
        if kind.chains == 1.0:
            return kind.merchants
        if region < 0:
            return kind.merchants * _CHAINS
        return kind.merchants * (1.0 - _CHAINS) * float(self._region_shares[region])

    def _open_sites(self, everywhere: Flags) -> None:
        """Give each local merchant one site, where it is, and the others one in each region.

        The site of merchant m in region r is site_starts[m] + r * site_steps[m].
        """
        counts = np.where(everywhere, self.regions, 1)
        self.site_starts: Integers = np.cumsum(counts) - counts
        self.site_steps: Integers = everywhere.astype(np.int64)
        owners = np.repeat(np.arange(self.merchants), counts)
        regions = np.where(
            everywhere[owners],
            np.arange(owners.size) - self.site_starts[owners],
            self.merchant_region[owners],
        )
        self.site_latitude, self.site_longitude = self._around(
            regions, self._key_for("sites"), _SPREAD / 2
        )
        local = ~everywhere[owners]
        self.site_latitude[local] = self.merchant_latitude[owners[local]]
        self.site_longitude[local] = self.merchant_longitude[owners[local]]

    def _move_abroad(self) -> None:
        """Give some merchants of online kinds a seat in another country, with its currency."""
        pools = self._pools
        abroad = [seat for seat in _SEATS_ABROAD if seat[1] != pools.country]
        countries = list(dict.fromkeys([pools.country, *(seat[1] for seat in abroad)]))
        currencies = list(dict.fromkeys([pools.currency, *(seat[2] for seat in abroad)]))
        self.countries = arrow.strings(countries)
        self.currencies = arrow.strings(currencies)
        self.merchant_country = np.zeros(self.merchants, dtype=np.int32)
        self.merchant_currency = np.zeros(self.merchants, dtype=np.int32)
        self._merchant_city = self.merchant_region.copy()
        self._cities = arrow.strings(
            [town.name for town in self._towns] + [seat[0] for seat in abroad]
        )
        online = np.array(
            [kind.transaction_type == "PURCHASE" and kind.chains == 1.0 for kind in KINDS]
        )
        hashes = hashed(self._key_for("abroad"), np.arange(self.merchants))
        leaves = np.flatnonzero(online[self.merchant_kind] & (uniform(hashes) < _ABROAD))
        chosen = below(mix(hashes[leaves]), len(abroad))
        self.merchant_country[leaves] = np.array([countries.index(s[1]) for s in abroad])[chosen]
        self.merchant_currency[leaves] = np.array([currencies.index(s[2]) for s in abroad])[chosen]
        self._merchant_city[leaves] = self.regions + chosen
        self.merchant_latitude[leaves] = np.array([seat[3] for seat in abroad])[chosen]
        self.merchant_longitude[leaves] = np.array([seat[4] for seat in abroad])[chosen]

    def move_into_square(
        self, customers: tuple[Floats, Floats], merchants: tuple[Floats, Floats]
    ) -> None:
        """Move everybody into one square degree around the first town, all in the home country.

        Coordinates are given as parts of the square's side, 0 to 1.
        """
        home = self._towns[0]

        def degrees(parts: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
            return (
                np.rint((home.latitude - 0.5 + parts[1]) * 1e5) / 1e5,
                np.rint((home.longitude - 0.5 + parts[0]) * 1e5) / 1e5,
            )

        self.customer_latitude, self.customer_longitude = degrees(customers)
        self.merchant_latitude, self.merchant_longitude = degrees(merchants)
        for column in (
            self.customer_region,
            self.merchant_region,
            self._merchant_city,
            self.merchant_country,
            self.merchant_currency,
        ):
            column[:] = 0

    def _merchant_names(self) -> list[str]:
        """Name every merchant after a company of the pools; branches carry their town."""
        companies = self._pools.companies
        chosen = below(hashed(self._key_for("names"), np.arange(self.merchants)), len(companies))
        branches: dict[str, int] = {}
        names: list[str] = []
        for company, region in zip(chosen.tolist(), self.merchant_region.tolist(), strict=True):
            name = companies[company]
            if name in branches:
                name = f"{name} {self._towns[region].name}"
            branch = branches[name] = branches.get(name, 0) + 1
            names.append(name if branch == 1 else f"{name} {branch}")
        return names

    def customer_ids(self, customers: Integers) -> pa.StringArray:
        """Return the ids of customers; their eight bytes are copied at once."""
        return arrow.fixed_width(self._packed_customer_ids[customers].view(np.uint8).reshape(-1, 8))

    @cached_property
    def hundredths(self) -> Integers | None:
        """How many hundredths each merchant's smallest unit is: 100 of a currency without decimals.

        None when all currencies have decimals.
        """
        units = [100 if code in WITHOUT_DECIMALS else 1 for code in self.currencies.to_pylist()]
        return np.array(units)[self.merchant_currency] if 100 in units else None

    @cached_property
    def all_customer_ids(self) -> pa.StringArray:
        """The ids of all customers, in order."""
        return self.customer_ids(np.arange(self.customers))

    def customer_batches(self, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the customers: id, name, address and home coordinates."""
        pools = self._pools
        for rows in _runs(self.customers, start, stop):
            hashes = hashed(self._key_for("people"), rows)
            names = [
                arrow.take(arrow.strings(pool), bits(hashes, shift, 20) % len(pool))
                for shift, pool in ((0, pools.first_names), (20, pools.last_names))
            ]
            streets = arrow.take(
                arrow.strings(pools.streets), bits(hashes, 40, 16) % len(pools.streets)
            )
            births = hashed(self._key_for("births"), rows)
            numbers = arrow.strings((1 + bits(births, 20, 8)).astype(str).tolist())
            address = (numbers, streets)
            ids = self.customer_ids(rows)
            count = rows.size
            columns = [
                ids,
                arrow.joined(" ", *names),
                arrow.joined("@", _lower(ids), arrow.strings(["example.com"] * count)),
                # Born between 1950 and 2010.
                arrow.buffered(pa.date32(), (bits(births, 0, 20) % 22_000 - 7_300).astype("<i4")),
                arrow.joined(" ", *(address if self._number_first else address[::-1])),
                arrow.take(self._cities, self.customer_region[rows]),
                arrow.strings([pools.country] * count),
                arrow.buffered(pa.float64(), self.customer_latitude[rows]),
                arrow.buffered(pa.float64(), self.customer_longitude[rows]),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=CUSTOMERS_SCHEMA)

    def card_batches(self, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cards: number, owner and network."""
        networks = arrow.strings([card_range.network for card_range in _RANGES])
        for rows in _runs(self.card_owners.size, start, stop):
            columns = [
                arrow.take(self.card_numbers, rows),
                self.customer_ids(self.card_owners[rows]),
                arrow.take(networks, self._card_ranges[rows]),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=CARDS_SCHEMA)

    def merchant_batches(self, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the merchants: id, name, category, and where they have their seat."""
        for rows in _runs(self.merchants, start, stop):
            columns = [
                arrow.take(self.merchant_ids, rows),
                arrow.take(self.merchant_names, rows),
                arrow.take(self.categories, self.merchant_category[rows]),
                arrow.take(self._cities, self._merchant_city[rows]),
                arrow.take(self.countries, self.merchant_country[rows]),
                arrow.take(self.currencies, self.merchant_currency[rows]),
                arrow.buffered(pa.float64(), self.merchant_latitude[rows]),
                arrow.buffered(pa.float64(), self.merchant_longitude[rows]),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=MERCHANTS_SCHEMA)


def _lower(texts: arrow.Column) -> arrow.Column:
    return cast("arrow.Column", cast("Any", pc.utf8_lower)(texts))


def _runs(size: int, start: int, stop: int | None) -> Iterator[Integers]:
    """Yield the numbers from start to stop, at most `size`, in the same batches for any start."""
    end = size if stop is None else min(stop, size)
    while start < end:
        upto = min(start // BATCH_ROWS * BATCH_ROWS + BATCH_ROWS, end)
        yield np.arange(start, upto)
        start = upto


def activity_quantiles(segments: int) -> Floats:
    """Return where equal parts of all activity end among customers, least active first.

    segments + 1 values from 0 to 1. Activity is lognormal and cut off some standard deviations
    above the mean; with Phi the normal distribution, s the spread and c the cut, a part u of all
    activity ends at the customer Phi(s + Phi^-1(u Phi(c - s))) / Phi(c).
    """
    cut = np.array([_ACTIVITY_CUT, _ACTIVITY_CUT - _ACTIVITY_SPREAD])
    whole, active = normal_distribution(cut)
    parts = np.arange(1, segments) / segments
    inner = normal_distribution(_ACTIVITY_SPREAD + normal_quantile(parts * active)) / whole
    return np.concatenate([[0.0], inner, [1.0]])
