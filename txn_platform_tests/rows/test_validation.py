"""Validation: each row conforms or is quarantined, with every reason and no wrong one."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from txn_platform.arrow.dictionaries import as_frame
from txn_platform.contract.card_numbers import holds_card_number
from txn_platform.contract.codes import (
    COUNTRIES,
    CURRENCIES,
    CURRENCY_EXPONENTS,
    MERCHANT_CATEGORY_RANGES,
)
from txn_platform.contract.reasons import reasons
from txn_platform.contract.schema import CHANNELS, TRANSACTIONS
from txn_platform.rows.validation import ValidatedBatch, Validator, find_repeats
from txn_platform.windows import Window
from txn_platform_tests.support.served_source import in_batches, landed_rows, sent_row

_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))


def validate(*rows: dict[str, str | None]) -> ValidatedBatch:
    """Validate the rows of a window."""
    batch = landed_rows(list(rows))
    return Validator(_WINDOW, find_repeats(in_batches(batch, len(rows)))).validate(batch)


def reasons_of(**changes: str | None) -> list[str]:
    """The reasons for which a row with these values is quarantined, sorted."""
    quarantined = validate(sent_row(1, **changes)).quarantined
    return sorted(quarantined["reasons"].to_pylist()[0]) if quarantined.num_rows else []


def test_a_good_row_is_typed_and_not_changed() -> None:
    result = validate(sent_row(1))
    assert result.quarantined.num_rows == 0
    row = as_frame(result.conforming).row(0, named=True)
    assert row["amount"] == Decimal("2.50")
    assert row["transaction_at"] == datetime(2026, 11, 1, 0, 0, 1, 1, tzinfo=UTC)
    assert row["latitude"] == 40.7128
    assert row["is_fraud"] is False
    assert row["merchant_name"] == "Café & Söhne"


_ITS_ID = sent_row(1)["transaction_id"]
_OTHER_ID = sent_row(2)["transaction_id"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        *(({"amount": text}, ["amount.format"]) for text in (
            "1.005", "1e3", "1,000.00", "NaN", "Infinity", " 1.00", "1.00 ", "", "01.00", "+1",
            "1234567890123456789", "0x10", "1.", ".5", "\u0661.\u0660\u0660", "1.00\n",
        )),
        ({"amount": "-1.00"}, ["amount.range"]),
        ({"amount": "0.00"}, ["amount.range"]),
        *(({"transaction_at": text}, ["transaction_at.format"]) for text in (
            "2026-11-01T00:00:00", "2026-11-01 00:00:00Z", "01/11/2026 00:00", "1793491200",
            "2026-02-30T00:00:00Z", "2026-11-01T00:59:60Z", "2026-11-01T00:00:00.1234567Z",
            "2026-11-01T00:00:00+99:99", "2026-11-01", "",
        )),
        *(({"transaction_at": text}, ["transaction_at.outside_window"]) for text in (
            "2026-11-01T01:00:00.000000Z", "2026-10-31T23:59:59.999999Z", "2126-11-01T00:00:00Z",
            "2026-11-01T00:30:00+01:00",
        )),
        ({"card_number": "4111111111111112"}, ["card_number.check_digit"]),
        ({"card_number": "411111111111111X"}, ["card_number.format"]),
        ({"card_number": "411111111118"}, ["card_number.format"]),
        ({"transaction_type": "GIFT"}, ["transaction_type.unknown"]),
        ({"channel": "chip"}, ["channel.unknown"]),
        ({"currency": "XXX"}, ["currency.unknown"]),
        ({"country": "ZZ"}, ["country.unknown"]),
        ({"merchant_category_code": "0000"}, ["merchant_category_code.unknown"]),
        ({"merchant_category_code": "58"}, ["merchant_category_code.format"]),
        ({"transaction_id": "not-an-id"}, ["transaction_id.format"]),
        ({"transaction_id": ""}, ["transaction_id.format"]),
        ({"merchant_name": "a\u0007b"}, ["merchant_name.format"]),
        ({"merchant_name": "a\u202eb"}, ["merchant_name.format"]),
        ({"merchant_name": "x" * 1_000_000}, ["merchant_name.format"]),
        ({"merchant_name": "é" * 101}, ["merchant_name.format"]),
        ({"latitude": "91"}, ["latitude.range"]),
        ({"latitude": "90.0000000000001"}, ["latitude.range"]),
        ({"latitude": "1e999"}, ["latitude.range"]),
        ({"latitude": "NaN"}, ["latitude.format"]),
        ({"latitude": ".5"}, ["latitude.format"]),
        ({"amount": "-0.00"}, ["amount.range"]),
        *(({"currency": currency, "amount": amount}, ["amount.exponent"]) for currency, amount in (
            ("JPY", "100.50"), ("KRW", "0.5"), ("CLP", "1.01"), ("XOF", "9999999999999999.99"),
            ("KWD", "12.345"), ("BHD", "12.340"), ("CLF", "1.2345"), ("UYW", "1.234"),
        )),
        *(({"currency": currency, "amount": amount}, ["amount.format"]) for currency, amount in (
            ("USD", "12.345"), ("KWD", "12.3456"), ("JPY", "12.345"), ("CLF", "1.23456"),
        )),
        ({"currency": "XXX", "amount": "100.50"}, ["currency.unknown"]),
        ({"currency": "JPY", "amount": "-0.5"}, ["amount.exponent", "amount.range"]),
        *(({"card_number": digit * 16}, ["card_number.repeated_digit"]) for digit in "08"),
        ({"card_number": "0" * 13}, ["card_number.repeated_digit"]),
        ({"card_number": "1" * 16}, ["card_number.check_digit", "card_number.repeated_digit"]),
        (
            {"transaction_type": "REFUND", "original_transaction_id": _ITS_ID},
            ["original_transaction_id.own_id"],
        ),
        ({"longitude": "-180.5"}, ["longitude.range"]),
        ({"is_fraud": "yes"}, ["is_fraud.format"]),
        ({"is_fraud": "true"}, ["fraud_scenario.label_differs"]),
        ({"fraud_scenario": "card_testing"}, ["fraud_scenario.label_differs"]),
        ({"original_transaction_id": _OTHER_ID}, ["original_transaction_id.type_differs"]),
        ({"amount": None, "currency": "XXX"}, ["amount.missing", "currency.unknown"]),
    ],
)  # fmt: skip
def test_a_bad_row_has_every_reason_and_no_other(
    changes: dict[str, str | None], expected: list[str]
) -> None:
    assert reasons_of(**changes) == expected
    assert set(expected) <= set(reasons(TRANSACTIONS))


@pytest.mark.parametrize(
    "name", sorted({*TRANSACTIONS.names} - {"fraud_scenario", "original_transaction_id"})
)
def test_every_required_field_can_be_missing(name: str) -> None:
    assert reasons_of(**{name: None}) == [f"{name}.missing"]


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "7"},
        {"amount": "9999999999999999.99"},
        {"transaction_at": "2026-11-01T02:30:00+02:00"},
        {"transaction_at": "2026-11-01T00:00:00Z"},
        {"card_number": "378282246310005"},
        *(
            {"currency": currency, "amount": amount}
            for currency, amount in (
                ("JPY", "100"),
                ("JPY", "100.0"),
                ("JPY", "100.00"),
                ("KWD", "12.34"),
                ("CLF", "1.23"),
                ("USD", "12.34"),
                ("MRU", "12.34"),
                ("XOF", "9999999999999999.00"),
            )
        ),
        {"latitude": "40.71280000000000143245", "longitude": "-0.12573999999999999"},
        {"latitude": "1e-05", "longitude": "-1.5E+2"},
        {"latitude": "90.0", "longitude": "-180"},
        {"merchant_id": "123456789012347", "customer_id": "123456789012347"},
        {"is_fraud": "true", "fraud_scenario": "stolen_card"},
        {"transaction_type": "REFUND", "original_transaction_id": _OTHER_ID},
    ],
)
def test_unusual_but_good_rows_pass(changes: dict[str, str]) -> None:
    assert reasons_of(**changes) == []


def test_a_row_that_could_not_be_read_has_one_reason() -> None:
    absent = dict.fromkeys(sent_row(1))
    unreadable = absent | {"extra_fields": '{"unreadable":"{\\"amount\\": 1"}'}
    empty = absent | {"extra_fields": '{"loyalty":"gold"}'}
    one_field = unreadable | {"currency": "USD"}
    rows = [*map(sent_row, range(3)), unreadable, empty, one_field]
    reasons = validate(*rows).quarantined["reasons"].to_pylist()
    assert reasons[0] == ["row.unreadable"]
    assert len(reasons[1]) == 15
    assert len(reasons[2]) == 14
    assert {reason.partition(".")[2] for reason in reasons[1] + reasons[2]} == {"missing"}


def test_amounts_are_held_against_each_rows_own_currency() -> None:
    """Also in a batch of which most currencies have decimals."""
    rows = [sent_row(number, amount="1.50") for number in range(40)]
    for number in (0, 20, 39):
        rows[number] = sent_row(number, amount="1.50", currency="JPY")
    result = validate(*rows)
    assert result.quarantined["position"].to_pylist() == [0, 20, 39]
    assert set(result.rows_by_reason) == {"amount.exponent"}
    assert result.conforming.num_rows == 37


def test_quarantine_keeps_the_row_as_sent() -> None:
    sent = sent_row(1, amount="1.005", transaction_at="yesterday") | {"extra_fields": '{"x":"1"}'}
    quarantined = validate(sent_row(0), sent).quarantined
    row = quarantined.to_pylist()[0]
    assert {name: row[name] for name in sent} == sent
    assert row["position"] == 1
    assert row["window_start"] == _WINDOW.start
    assert quarantined.schema.names == TRANSACTIONS.quarantine_schema.names


def test_identical_copies_keep_the_first() -> None:
    result = validate(sent_row(1), sent_row(2), sent_row(1), sent_row(1))
    assert result.conforming["transaction_id"].to_pylist() == [
        sent_row(1)["transaction_id"],
        sent_row(2)["transaction_id"],
    ]
    assert result.quarantined["position"].to_pylist() == [2, 3]
    assert result.quarantined["reasons"].to_pylist() == [["transaction_id.duplicate"]] * 2


def test_an_id_with_differing_contents_is_quarantined_whole() -> None:
    result = validate(sent_row(1), sent_row(2), sent_row(1, amount="9.99"))
    assert result.conforming["transaction_id"].to_pylist() == [sent_row(2)["transaction_id"]]
    assert result.quarantined["reasons"].to_pylist() == [["transaction_id.conflict"]] * 2


def test_copies_are_found_across_batches() -> None:
    batch = landed_rows([sent_row(number % 40) for number in range(50)])
    repeats = find_repeats(in_batches(batch, 7))
    assert repeats["position"].to_list() == list(range(40, 50))


def test_a_copy_that_differs_in_an_unknown_field_only_is_a_conflict() -> None:
    result = validate(sent_row(1), sent_row(1) | {"extra_fields": '{"x":"1"}'})
    assert not result.conforming.num_rows


# A second implementation, row by row, written from the contract's text with other tools.


def _timestamp(text: str) -> datetime:
    if not re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", text, re.ASCII
    ):
        raise ValueError(text)
    return datetime.fromisoformat(text)


def _decimal(text: str) -> Decimal:
    if not re.fullmatch(r"-?(0|[1-9]\d{0,15})(\.\d\d?)?", text, re.ASCII):
        raise ValueError(text)
    return Decimal(text)


def _degrees(text: str) -> float:
    if not re.fullmatch(r"-?(0|[1-9]\d{0,2})(\.\d+)?([eE][+-]?\d{1,3})?", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def _card(text: str) -> str:
    digits = [int(digit) for digit in reversed(text)]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    if total % 10 or len(set(digits)) == 1:
        raise ValueError(text)
    return text


def _no_card(text: str) -> str:
    digits = text.replace("-", "").replace("_", "")
    if digits.isdigit() and holds_card_number(pl.Series([digits])).item():
        raise ValueError(text)
    return text


def _name(text: str) -> str:
    if len(text.encode()) > 200 or holds_card_number(pl.Series([text])).item():
        raise ValueError(text)
    return text


def _category(text: str) -> str:
    if not any(low <= int(text) <= high for low, high in MERCHANT_CATEGORY_RANGES):
        raise ValueError(text)
    return text


def _known(codes: Any) -> Any:
    def check(text: str) -> str:
        if text not in codes:
            raise ValueError(text)
        return text

    return Annotated[str, AfterValidator(check)]


_Id = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
_Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$"), AfterValidator(_no_card)]


class _SecondOpinion(BaseModel, strict=True):
    transaction_id: _Id
    transaction_at: Annotated[str, AfterValidator(_timestamp)]
    customer_id: _Reference
    card_number: Annotated[str, Field(pattern=r"^[0-9]{13,19}$"), AfterValidator(_card)]
    merchant_id: _Reference
    merchant_name: Annotated[str, Field(pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$"), AfterValidator(_name)]
    merchant_category_code: Annotated[str, Field(pattern=r"^[0-9]{4}$"), AfterValidator(_category)]
    transaction_type: Literal[
        "PURCHASE", "CASH_OUT", "CASH_IN", "PAYMENT", "TRANSFER", "REFUND", "DEBIT"
    ]
    channel: _known(CHANNELS)  # type: ignore[valid-type]
    amount: Annotated[str, AfterValidator(_decimal), Field(gt=0)]
    currency: _known(CURRENCIES)  # type: ignore[valid-type]
    country: _known(COUNTRIES)  # type: ignore[valid-type]
    latitude: Annotated[str, AfterValidator(_degrees), Field(ge=-90, le=90)]
    longitude: Annotated[str, AfterValidator(_degrees), Field(ge=-180, le=180)]
    is_fraud: Literal["true", "false"]
    fraud_scenario: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")] | None
    original_transaction_id: _Id | None

    @model_validator(mode="after")
    def _agrees(self) -> "_SecondOpinion":
        moment: Any = self.transaction_at
        if not _WINDOW.start <= moment < _WINDOW.end:
            raise ValueError("outside")
        if (self.fraud_scenario is not None) != (self.is_fraud == "true"):
            raise ValueError("label")
        if self.original_transaction_id is not None and self.transaction_type != "REFUND":
            raise ValueError("type")
        if self.original_transaction_id == self.transaction_id:
            raise ValueError("own")
        amount: Any = self.amount
        if CURRENCY_EXPONENTS[self.currency] == 0 and amount != int(amount):
            raise ValueError("exponent")
        return self


_TEMPTING = st.sampled_from(
    # Each is right somewhere, or nearly.
    ["", " ", "0", "-0", "1.0", "1.00", "00", "1e5", "true", "false", "True", "null", "USD", "US",
     "JPY", "KWD", "REFUND", "ATM", "5812", "0742", "6304000000000000", "4222222222222",
     "a_b", "\x00", "é", "٣",
     "2026-11-01T00:59:59.9Z", "2026-11-01T00:00:00-00:00", "2026-11-01T24:00:00Z", "-90", "180",
     "2026-11-01T05:30:00+05:30", "card_testing", "90.000000000000001", _OTHER_ID, _ITS_ID,
     "4111-1111-1111-1111", "0000000000000000", "1e-05", "40.71280000000000143245"]
)  # fmt: skip
_DAMAGE = st.dictionaries(
    st.sampled_from(TRANSACTIONS.names),
    st.one_of(
        st.none(),
        _TEMPTING,
        st.text(max_size=12),
        st.from_regex(r"\A-?[0-9]{1,18}(\.[0-9]{1,3})?\Z"),
    ),
    max_size=3,
)


@settings(max_examples=150)
@given(st.lists(_DAMAGE, min_size=1, max_size=20))
@example([{"merchant_name": "4111-1111-1111-1111"}, {"merchant_id": "4111-1111-1111-1111"}])
def test_pydantic_row_by_row_accepts_and_refuses_the_same(
    damages: list[dict[str, str | None]],
) -> None:
    rows = [sent_row(number, **damage) for number, damage in enumerate(damages)]
    # Uniqueness is of the window, not of a row: the second opinion knows rows only.
    result = Validator(_WINDOW, _NO_REPEATS).validate(landed_rows(rows))
    accepted = {sent["transaction_id"] for sent in result.conforming.to_pylist()}
    positions = set(result.quarantined["position"].to_pylist())
    assert result.conforming.num_rows + result.quarantined.num_rows == len(rows)
    assert set(result.rows_by_reason) <= set(reasons(TRANSACTIONS))
    for position, row in enumerate(rows):
        try:
            _SecondOpinion.model_validate(row)
        except ValidationError:
            assert position in positions, row
        else:
            assert position not in positions, row
            assert row["transaction_id"] in accepted


_NO_REPEATS = find_repeats(in_batches(landed_rows([]), 1))
