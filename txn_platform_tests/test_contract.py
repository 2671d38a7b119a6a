"""The contract: one object that the schemas, the codes and the reasons come from."""

import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.contract import (
    PUBLISHED_SCHEMA,
    QUARANTINE_SCHEMA,
    RAW_SCHEMA,
    SENT_COLUMNS,
    Transaction,
    luhn_is_valid,
)


def _luhn_by_hand(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def test_published_types_are_the_ones_that_were_promised() -> None:
    types = {field.name: (field.type, field.nullable) for field in PUBLISHED_SCHEMA}
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
    for schema in (PUBLISHED_SCHEMA, RAW_SCHEMA, QUARANTINE_SCHEMA):
        for field in schema:
            assert (field.metadata or {}).get(b"description"), field.name


def test_raw_and_quarantine_keep_every_sent_column_as_text() -> None:
    for schema in (RAW_SCHEMA, QUARANTINE_SCHEMA):
        assert all(schema.field(name).type == pa.string() for name in SENT_COLUMNS)
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


def test_luhn_knows_the_networks_test_numbers() -> None:
    valid = ["4111111111111111", "5555555555554444", "378282246310005", "6011111111111117"]
    assert luhn_is_valid(pl.Series(valid)).all()
    assert not luhn_is_valid(pl.Series([number[:-1] + "0" for number in valid])).any()
