"""Customers, cards and merchants: distinct, valid, frozen, and joined by every row."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from generator_service.simulator import Configuration, Simulator, Window, pools
from generator_service.simulator.identities import numbered
from generator_service.simulator.kinds import KINDS, STANDING_ORDERS
from generator_service.simulator.schema import CHANNELS
from txn_platform_tests.generator_service.simulator.conftest import HOUR, NOON, SMALL, rows_of

FROZEN = ("de_DE", "en_GB", "en_US", "es_ES", "fr_FR", "pt_BR")
RANGES = {
    "VISA": ({16}, lambda number: number[0] == "4"),
    "MASTERCARD": (
        {16},
        lambda number: 51 <= int(number[:2]) <= 55 or 2221 <= int(number[:4]) <= 2720,
    ),
    "AMEX": ({15}, lambda number: number[:2] in {"34", "37"}),
    "DISCOVER": (
        {16},
        lambda number: number[:4] == "6011" or number[:2] == "65" or 644 <= int(number[:3]) <= 649,
    ),
}


def table(batches: object) -> pa.Table:
    return pa.Table.from_batches(list(batches))  # type: ignore[call-overload]


def luhn(number: str) -> int:
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])


def test_every_card_passes_luhn_and_looks_like_its_network(small: Simulator):
    cards = table(small.cards()).to_pylist()
    assert {card["network"] for card in cards} == set(RANGES)
    for card in cards:
        lengths, has_prefix = RANGES[card["network"]]
        assert len(card["card_number"]) in lengths
        assert has_prefix(card["card_number"])
        assert luhn(card["card_number"]) % 10 == 0


def test_reference_data_has_each_key_once(small: Simulator):
    customers, cards, merchants = map(table, (small.customers(), small.cards(), small.merchants()))
    for rows, key, count in (
        (customers, "customer_id", SMALL.customers),
        (merchants, "merchant_id", SMALL.merchants),
        (merchants, "merchant_name", SMALL.merchants),
        (cards, "card_number", cards.num_rows),
    ):
        assert rows.num_rows == pc.count_distinct(rows[key]).as_py() == count
    assert pc.all(pc.is_in(cards["customer_id"], customers["customer_id"])).as_py()
    assert pc.count_distinct(cards["customer_id"]).as_py() == SMALL.customers


def test_every_row_joins_the_reference_data(source: Simulator):
    rows = rows_of(source, Window(NOON, NOON + 30 * HOUR))
    owners = {
        card["card_number"]: card["customer_id"] for card in table(source.cards()).to_pylist()
    }
    assert [owners[number] for number in rows["card_number"].to_pylist()] == rows[
        "customer_id"
    ].to_pylist()
    merchants = {
        merchant["merchant_id"]: merchant for merchant in table(source.merchants()).to_pylist()
    }
    names = ("merchant_name", "merchant_category_code", "currency", "country")
    for row in rows.select(["merchant_id", *names]).to_pylist():
        assert {name: merchants[row["merchant_id"]][name] for name in row} == row


def test_customers_have_names_and_addresses_of_the_locale():
    simulator = Simulator(Configuration(tps=1, customers=200, merchants=200, locale="de_DE"))
    customer = table(simulator.customers()).to_pylist()[0]
    known = pools.load("de_DE")
    first, _, last = customer["name"].partition(" ")
    assert first in known.first_names or customer["name"].startswith(known.first_names)
    assert customer["name"].endswith(known.last_names)
    assert last
    assert customer["city"] in {town.name for town in known.places}
    assert customer["country"] == "DE"
    assert customer["email"].endswith("@example.com")
    rows = rows_of(simulator, Window(NOON, NOON + HOUR))
    assert rows["currency"].to_pylist().count("EUR") > 0.9 * rows.num_rows


def test_a_locale_that_is_not_frozen_is_made_by_faker():
    simulator = Simulator(Configuration(tps=1, customers=200, merchants=200, locale="ja_JP"))
    rows = rows_of(simulator, Window(NOON, NOON + HOUR))
    assert "JPY" in rows["currency"].to_pylist()
    assert "JP" in rows["country"].to_pylist()


@pytest.mark.parametrize("locale", FROZEN)
def test_frozen_pools_are_small_and_full(locale: str):
    data = files("generator_service.simulator").joinpath("data", f"{locale}.json").read_bytes()
    assert len(data) < 300_000
    assert json.loads(data)["locale"] == locale
    found = pools.load(locale)
    for pool in (found.first_names, found.last_names, found.companies, found.streets, found.places):
        assert len(pool) == len(set(pool)) >= 20


def test_every_frozen_locale_is_tested():
    names = [
        entry.name for entry in files("generator_service.simulator").joinpath("data").iterdir()
    ]
    assert sorted(names) == [f"{locale}.json" for locale in FROZEN]


def test_the_catalogue_uses_the_values_of_the_schema():
    for kind in KINDS:
        assert set(kind.channels) <= set(CHANNELS)
        assert len(kind.category) == 4
        assert kind.category.isdigit()
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names)
    assert {order.kind for order in STANDING_ORDERS} <= set(names)


@pytest.mark.parametrize(("customers", "merchants"), [(10, 100), (11, 137), (50_000, 100)])
def test_small_and_lopsided_populations_work(customers: int, merchants: int):
    simulator = Simulator(Configuration(tps=5, customers=customers, merchants=merchants))
    rows = rows_of(simulator, Window(NOON, NOON + HOUR))
    rows.validate(full=True)
    assert rows.num_rows > 10_000
    assert table(simulator.merchants()).num_rows == merchants
    assert table(simulator.customers()).num_rows == customers


def test_above_ten_million_the_ids_of_customers_use_the_next_letter():
    ids = numbered("C", 10_400_000, key=7)
    digits = ids[:, 1:] - ord("0")
    assert digits.max() == 9
    numbers = (ids[:, 0] - ord("C")) * np.int64(10_000_000)
    for place in range(7):
        numbers += digits[:, place] * np.int64(10 ** (6 - place))
    seen = np.zeros(20_000_000, dtype=np.bool_)
    seen[numbers] = True
    assert np.count_nonzero(seen) == 10_400_000, "no two are equal"
    assert seen[10_000_000:].any()


@pytest.mark.long
def test_twenty_million_customers_fit_into_two_gigabytes_and_half_a_minute():
    program = """
import resource, sys, time
from generator_service.simulator import Configuration, Simulator, Window
simulator = Simulator(Configuration(customers=20_000_000))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
assert peak < 2_100, peak
assert time.process_time() < 60, time.process_time()
window = Window(1_793_491_200_000_000, 1_793_494_800_000_000)
customers = {row for b in simulator.batches(window) for row in b["customer_id"].to_pylist()}
assert {name[0] for name in customers} == {"C", "D"}, "both halves take part"
owners = sum(batch.num_rows for batch in simulator.cards())
assert 25_000_000 < owners < 28_000_000, owners
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
