"""The contract: one object that the schemas, the codes and the reasons come from."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import txn_platform
from generator_service.simulator import Configuration, Simulator, Window
from generator_service.simulator import schema as simulator_schema
from generator_service.wire import text_batches
from txn_platform.contract import page as contract_page
from txn_platform.contract.card_numbers import luhn_is_valid
from txn_platform.contract.schema import CHANNELS, TRANSACTION_TYPES, TRANSACTIONS, Transaction
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.validation import Validator, find_repeats
from txn_platform.windows import Window as PlatformWindow
from txn_platform_tests.support.served_source import in_batches, landed_rows


def _luhn_by_hand(number: str) -> bool:
    total = 0
    for index, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def test_published_types_are_the_ones_that_were_promised() -> None:
    types = {field.name: (field.type, field.nullable) for field in TRANSACTIONS.published_schema}
    assert types["amount"] == (pa.decimal128(18, 2), False)
    assert types["transaction_at"] == (pa.timestamp("us", tz="UTC"), False)
    assert types["fraud_scenario"] == (pa.string(), True)
    assert types["original_transaction_id"] == (pa.string(), True)
    assert {name for name, (_, nullable) in types.items() if nullable} == {
        "fraud_scenario",
        "original_transaction_id",
    }
    assert set(types) == set(Transaction.columns())


def test_every_published_column_says_what_it_means() -> None:
    for schema in (
        TRANSACTIONS.published_schema,
        TRANSACTIONS.raw_schema,
        TRANSACTIONS.quarantine_schema,
    ):
        for field in schema:
            assert (field.metadata or {}).get(b"description"), field.name


def test_raw_and_quarantine_keep_every_sent_column_as_text() -> None:
    for schema in (TRANSACTIONS.raw_schema, TRANSACTIONS.quarantine_schema):
        assert all(schema.field(name).type == pa.string() for name in TRANSACTIONS.names)
        assert schema.field("extra_fields").type == pa.string()


@given(st.lists(st.one_of(st.none(), st.from_regex(r"\A[0-9]{1,19}\Z"), st.text(max_size=20))))
def test_luhn_agrees_with_the_sum_by_hand(numbers: list[str | None]) -> None:
    expected = [
        None
        if number is None
        else number.isascii() and number.isdigit() and len(number) < 20 and _luhn_by_hand(number)
        for number in numbers
    ]
    assert luhn_is_valid(pl.Series(numbers, dtype=pl.String)).to_list() == expected


@pytest.mark.parametrize("other", ["/", ":"])
def test_the_neighbours_of_the_digits_in_ascii_are_no_digits(other: str) -> None:
    texts = [
        f"{'4111111111111111'[:at]}{other}{'4111111111111111'[at + 1 : 15]}{last}"
        for at in range(15)
        for last in range(10)
    ]
    assert not luhn_is_valid(pl.Series(texts)).any()


def test_luhn_knows_the_networks_test_numbers() -> None:
    valid = ["4111111111111111", "5555555555554444", "378282246310005", "6011111111111117"]
    assert luhn_is_valid(pl.Series(valid)).all()
    assert not luhn_is_valid(pl.Series([number[:-1] + "0" for number in valid])).any()


def test_the_generators_codes_are_the_contracts() -> None:
    assert set(simulator_schema.TRANSACTION_TYPES) == set(TRANSACTION_TYPES)
    assert set(simulator_schema.CHANNELS) == set(CHANNELS)


@pytest.mark.parametrize("preset", ["realistic", "handbook"])
def test_every_row_of_the_generator_holds_the_contract(preset: str) -> None:
    """Four hours over a year, as text, validated as the platform does it."""
    simulator = Simulator(Configuration(preset=preset, customers=3000, merchants=600, tps=3))
    for start in ("2026-01-01", "2026-06-13", "2026-11-01", "2026-12-24"):
        window = PlatformWindow.of_partition(f"{start}-18:00")
        span = Window(*(int(moment.timestamp()) * 10**6 for moment in (window.start, window.end)))
        for batch in text_batches(simulator.batches(span)):
            raw = landed_rows(batch.to_pylist())
            validated = Validator(window, find_repeats(in_batches(raw, raw.num_rows))).validate(raw)
            assert validated.quarantined.num_rows == 0
            assert validated.conforming.num_rows == batch.num_rows > 0


@pytest.mark.parametrize("preset", ["realistic", "handbook"])
def test_amounts_of_a_currency_without_decimals_are_whole(preset: str) -> None:
    simulator = Simulator(
        Configuration(preset=preset, locale="ja_JP", customers=2000, merchants=600, tps=1)
    )
    window = PlatformWindow.of_partition("2026-06-13-18:00")
    span = Window(*(int(moment.timestamp()) * 10**6 for moment in (window.start, window.end)))
    rows = pl.concat(pl.DataFrame(batch) for batch in text_batches(simulator.batches(span)))
    raw = landed_rows(rows.to_dicts())
    validated = Validator(window, find_repeats(in_batches(raw, raw.num_rows))).validate(raw)
    assert validated.quarantined.num_rows == 0
    yen = rows.filter(pl.col("currency") == "JPY")
    assert yen.height > 0.9 * rows.height > 0
    assert yen["amount"].str.ends_with(".00").all()
    usual = yen.select(pl.col("amount").cast(pl.Float64).median()).item()
    assert usual > 1000, "a yen is worth about a cent"
    stated = simulator.control_totals(span)
    assert ControlTotals.of(raw).amount_by_type == dict(stated.amount_by_type)


def test_the_page_of_the_contract_is_current() -> None:
    page_of_checkout = Path(txn_platform.__file__).parents[1] / "docs" / "contract.md"
    assert page_of_checkout.read_text(encoding="utf-8") == contract_page.page()
