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
    from collections.abc import Callable, Iterator

    from generator_service.simulator.configuration import Configuration
    from generator_service.simulator.pools import Pools

type Coordinates = npt.NDArray[np.int32]
"""Latitudes or longitudes in hundred-thousandths of a degree (about a metre)."""

BATCH_ROWS = 32_768
"""Rows in a batch of reference data."""

_PART_ROWS = 1 << 17
"""Customers or cards that are drawn at a time: more would need gigabytes for what lies between."""

_NUMBERS = 10_000_000
"""How many ids of a letter and seven digits there are."""

_REGIONS = 24
_MERCHANTS_OF_A_REGION = 400
_SPREAD = 6_000
"""Standard deviation of homes and shops around their town, as coordinates (about 6 km)."""

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


def numbered(letter: str, count: int, key: int) -> npt.NDArray[np.uint8]:
    """Return `count` ids of a letter and seven digits, distinct and in random order.

    The (count, 8) bytes of their text. Above ten million the letters that follow are used too.
    """
    space = -(-count // _NUMBERS) * _NUMBERS
    text = np.empty((count, 8), dtype=np.uint8)
    for rows in _parts(count):
        # The multiplier is a prime, and no factor of the space: no two numbers fall together.
        numbers = (rows * 7_368_787 + key % space) % space
        letters = numbers // _NUMBERS
        part = text[rows[0] : rows[-1] + 1]
        part[:, 0] = ord(letter) + letters
        write_digits(part[:, 1:], numbers - letters * _NUMBERS)
    return text


def write_digits(into: npt.NDArray[np.uint8], numbers: Integers) -> None:
    """Write numbers as decimal digits, zero-padded, into the (n, width) bytes given."""
    rest = numbers
    for end in range(into.shape[1], 0, -4):
        above = rest // 10_000
        start = max(end - 4, 0)
        into[:, start:end] = arrow.FOUR_DIGITS[rest - above * 10_000, 4 - (end - start) :]
        rest = above


def _card_numbers(count: int, key: int) -> tuple[pa.StringArray, npt.NDArray[np.uint8]]:
    """Return distinct card numbers that pass Luhn's check, and the range each is from."""
    weights = np.array([card_range.weight for card_range in _RANGES])
    edges = np.cumsum(weights) / weights.sum()
    ranges = _drawn(
        count, np.uint8, lambda cards: np.searchsorted(edges, uniform(hashed(key, cards)))
    )
    lengths = np.array([card_range.length for card_range in _RANGES], dtype=np.uint8)[ranges]
    offsets = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    content = np.empty(offsets[-1], dtype=np.uint8)
    for cards in _parts(count):
        part = slice(int(cards[0]), int(cards[-1]) + 1)
        text = _card_text(cards, ranges[part], lengths[part], key)
        present = np.arange(text.shape[1]) < lengths[part, None]
        content[offsets[part.start] : offsets[part.stop]] = text[present]
    return arrow.from_offsets(offsets, content), ranges


def _card_text(
    cards: Integers, ranges: npt.NDArray[np.uint8], lengths: npt.NDArray[np.uint8], key: int
) -> npt.NDArray[np.uint8]:
    """Return the digits of cards, (n, 16) bytes of which the first `lengths` count."""
    text = np.empty((cards.size, 16), dtype=np.uint8)
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
    return text


def _parts(size: int) -> Iterator[Integers]:
    for start in range(0, size, _PART_ROWS):
        yield np.arange(start, min(start + _PART_ROWS, size))


def _drawn[T: np.generic](
    size: int, kind: type[T], draw: Callable[[Integers], npt.NDArray[Any]]
) -> npt.NDArray[T]:
    """Draw a column of values, each from its row's number alone, part by part."""
    column = np.empty(size, dtype=kind)
    for rows in _parts(size):
        column[rows[0] : rows[-1] + 1] = draw(rows)
    return column


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

    def _around(
        self, regions: npt.NDArray[np.integer[Any]], key: int, spread: float
    ) -> tuple[Coordinates, Coordinates]:
        """Return coordinates scattered around the towns of regions."""
        return (
            self._scattered("latitude", regions, key, spread),
            self._scattered("longitude", regions, key, spread),
        )

    def _scattered(
        self, axis: str, regions: npt.NDArray[np.integer[Any]], key: int, spread: float
    ) -> Coordinates:
        centres = np.array([getattr(town, axis) for town in self._towns]) * 1e5
        own_key = key_of(key, axis)

        def draw(rows: Integers) -> Floats:
            scatter = normal_quantile(uniform(hashed(own_key, rows))) * spread
            return np.rint(centres[regions[rows]] + scatter)

        return _drawn(regions.size, np.int32, draw)

    def _draw_customers(self) -> None:
        shares = np.array([hour_class.share for hour_class in HOUR_CLASSES])
        sizes = _apportioned(shares, self.customers)
        self.class_sizes: Integers = sizes
        self.class_starts: Integers = np.cumsum(sizes) - sizes
        text = numbered("C", self.customers, self._key_for("customer numbers"))
        self._packed_customer_ids: Hashes = text.view(np.uint64).reshape(-1)
        home_key, ends = self._key_for("home region"), np.cumsum(self._region_shares)

        def region(rows: Integers) -> Integers:
            chosen = np.searchsorted(ends, uniform(hashed(home_key, rows)))
            return np.minimum(chosen, self.regions - 1)

        self._customer_regions = _drawn(self.customers, np.uint8, region)
        self.customer_latitude, self.customer_longitude = self._around(
            self._customer_regions, self._key_for("homes"), _SPREAD
        )
        self.customer_level: Floats = _drawn(self.customers, np.float64, self._level)

    def _level(self, rows: Integers) -> Floats:
        """Return the logarithm of the level of customers' amounts."""
        classes = np.searchsorted(self.class_starts, rows, side="right") - 1
        ranks = rows - self.class_starts[classes]
        activity = normal_quantile((ranks + 0.5) / self.class_sizes[classes])
        # Centred on the transactions' mean level, not the customers'.
        return _LEVEL_SPREAD * (
            _LEVEL_WITH_ACTIVITY * (activity - _ACTIVITY_SPREAD)
            + math.sqrt(1.0 - _LEVEL_WITH_ACTIVITY**2)
            * normal_quantile(uniform(hashed(self._key_for("level"), rows)))
        )

    def _draw_cards(self) -> None:
        key = self._key_for("cards")

        def counts(rows: Integers) -> Integers:
            # Seven in ten have one card, a quarter two, the rest three.
            drawn = bits(hashed(key, rows), 0, 10)
            return 1 + (drawn >= 717) + (drawn >= 973)

        self.card_counts = _drawn(self.customers, np.int8, counts)
        self.card_starts: Integers = np.cumsum(self.card_counts, dtype=np.int64) - self.card_counts
        self.cards = int(self.card_starts[-1] + self.card_counts[-1])
        self.card_numbers, self._card_ranges = _card_numbers(
            self.cards, self._key_for("card numbers")
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
        self.merchant_latitude[leaves] = _coordinates([seat[3] for seat in abroad])[chosen]
        self.merchant_longitude[leaves] = _coordinates([seat[4] for seat in abroad])[chosen]

    def move_into_square(
        self, customers: tuple[Floats, Floats], merchants: tuple[Floats, Floats]
    ) -> None:
        """Move everybody into one square degree around the first town, all in the home country.

        Coordinates are given as parts of the square's side, 0 to 1.
        """
        home = self._towns[0]

        def there(parts: tuple[Floats, Floats]) -> tuple[Coordinates, Coordinates]:
            return (
                _coordinates(home.latitude - 0.5 + parts[1]),
                _coordinates(home.longitude - 0.5 + parts[0]),
            )

        self.customer_latitude, self.customer_longitude = there(customers)
        self.merchant_latitude, self.merchant_longitude = there(merchants)
        for column in (
            self._customer_regions,
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

    def regions_of(self, customers: Integers) -> Integers:
        """Return the home regions of customers, as an array of the caller's own."""
        return self._customer_regions[customers].astype(np.int64)

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
                arrow.take(self._cities, self._customer_regions[rows]),
                arrow.strings([pools.country] * count),
                arrow.degrees(self.customer_latitude[rows]),
                arrow.degrees(self.customer_longitude[rows]),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=CUSTOMERS_SCHEMA)

    def card_batches(self, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the cards: number, owner and network."""
        networks = arrow.strings([card_range.network for card_range in _RANGES])
        for rows in _runs(self.cards, start, stop):
            owners = np.searchsorted(self.card_starts, rows, side="right") - 1
            columns = [
                arrow.take(self.card_numbers, rows),
                self.customer_ids(owners),
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
                arrow.degrees(self.merchant_latitude[rows]),
                arrow.degrees(self.merchant_longitude[rows]),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=MERCHANTS_SCHEMA)


def _coordinates(degrees: npt.ArrayLike) -> Coordinates:
    return np.rint(np.asarray(degrees) * 1e5).astype(np.int32)


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
