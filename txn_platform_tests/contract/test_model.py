"""Contracts of one's own: each type lands or is refused with a sentence, and so is each mistake."""

import datetime as dt
from decimal import Decimal
from typing import Any

import dataframely as dy
import polars as pl
import pyarrow as pa
import pytest

from txn_platform.arrow.dictionaries import as_batch, as_frame
from txn_platform.contract.catalogue import constraints_of
from txn_platform.contract.columns import (
    code,
    decimal,
    flag,
    rfc3339,
    text,
    unix_millis,
    unix_seconds,
    whole,
)
from txn_platform.contract.descriptors import data_contract, data_package
from txn_platform.contract.model import Contract
from txn_platform.contract.page import page
from txn_platform.contract.reasons import reasons
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.rows.validation import NO_REPEATS, ValidatedBatch, Validator, find_repeats
from txn_platform.source.json_values import printable
from txn_platform.windows import Window

_WINDOW = Window(dt.datetime(2026, 11, 1, tzinfo=dt.UTC))
_ROW = {"ref": "a1", "seen": "2026-11-01T00:00:00Z"}


def _contract(**columns: dy.Column) -> Contract:
    """A contract with an id, a time and these columns."""
    base = {"ref": text("The id", role="id"), "seen": rfc3339("The time", role="time")}
    return Contract("own row", "1", type("Own", (dy.Schema,), {**base, **columns}))


def _validated(contract: Contract, *rows: dict[str, str | None]) -> ValidatedBatch:
    kinds = {
        name: pl.Int64 if name == "position" else pl.String for name in contract.landed_schema.names
    }
    numbered = [
        {"extra_fields": None} | _ROW | row | {"position": at} for at, row in enumerate(rows)
    ]
    landed = as_batch(pl.DataFrame(numbered, schema=kinds), contract.landed_schema)
    return Validator(_WINDOW, NO_REPEATS, contract).validate(landed)


# Every type that lands, with texts that are values of it, these values, and texts that are none.
_LANDED: dict[str, tuple[dy.Column, list[str], list[Any], list[str]]] = {
    "String": (dy.String(), ["", " a ", "é"], ["", " a ", "é"], []),
    "Enum": (dy.Enum(["A", "b"]), ["A", "b"], ["A", "b"], ["a", "B", ""]),
    "Categorical": (dy.Categorical(), ["x", ""], ["x", ""], []),
    "Bool": (dy.Bool(), ["true", "false"], [True, False], ["True", "1", " true", ""]),
    "Int8": (dy.Int8(), ["-128", "127"], [-128, 127], ["128", "1.0", "+1", "01", "1e1", ""]),
    "Int16": (dy.Int16(), ["-32768"], [-32768], ["32768"]),
    "Int32": (dy.Int32(), ["2147483647"], [2147483647], ["2147483648"]),
    "Int64": (
        dy.Int64(),
        ["9223372036854775807", "-9223372036854775808", "0"],
        [2**63 - 1, -(2**63), 0],
        ["9223372036854775808", "99999999999999999999", "1_0", "٣"],
    ),
    "Integer": (dy.Integer(), ["7"], [7], ["7.0"]),
    "Float32": (dy.Float32(), ["0.5"], [0.5], ["1e39", "NaN", "inf", ".5", "5."]),
    "Float64": (dy.Float64(), ["-1.5e-3", "0"], [-1.5e-3, 0.0], ["1e999", "NaN", "1,5", "0x1"]),
    "Float": (dy.Float(), ["2.25"], [2.25], ["Infinity"]),
    "Decimal": (
        dy.Decimal(12, 4),
        ["12345678.1234", "-0.0001", "5"],
        [Decimal("12345678.1234"), Decimal("-0.0001"), Decimal(5)],
        ["123456789", "0.00001", "1e2", "1.", "01", "1,2"],
    ),
    "Date": (
        dy.Date(),
        ["2024-02-29"],
        [dt.date(2024, 2, 29)],
        ["2026-02-30", "2026-1-1", "20260101", "2026-01-01T00:00:00Z"],
    ),
    "Datetime": (
        dy.Datetime(time_zone="UTC"),
        ["2026-11-01T02:00:00.5+02:00"],
        [dt.datetime(2026, 11, 1, 0, 0, 0, 500_000, dt.UTC)],
        ["2026-11-01T02:00:00", "2026-11-01 02:00:00Z", "2026-02-30T00:00:00Z"],
    ),
}
_REFUSED: dict[str, dy.Column] = {
    "UInt8": dy.UInt8(),
    "UInt16": dy.UInt16(),
    "UInt32": dy.UInt32(),
    "UInt64": dy.UInt64(),
    "Time": dy.Time(),
    "Duration": dy.Duration(),
    "Binary": dy.Binary(),
    "List": dy.List(dy.String()),
    "Array": dy.Array(dy.Int64(), 2),
    "Struct": dy.Struct({"a": dy.Int64()}),
    "Object": dy.Object(),
    "Any": dy.Any(),
}


def test_every_type_of_dataframely_is_known_here() -> None:
    kinds = {
        name
        for name in dy.__all__
        if isinstance(kind := getattr(dy, name), type) and issubclass(kind, dy.Column)
    }
    assert kinds - {"Column"} == _LANDED.keys() | _REFUSED.keys()


@pytest.mark.parametrize("kind", _LANDED)
def test_a_type_lands_what_is_a_value_of_it_and_nothing_else(kind: str) -> None:
    column, good, values, bad = _LANDED[kind]
    contract = _contract(value=column)
    found = _validated(contract, *({"value": each} for each in good))
    assert as_frame(found.conforming)["value"].to_list() == values
    assert found.conforming.schema.field("value").nullable is False
    rest = _validated(contract, *({"value": each} for each in bad), {"value": None})
    assert rest.conforming.num_rows == 0
    problems = {reason.partition(".")[2] for [reason] in rest.quarantined["reasons"].to_pylist()}
    assert problems <= {"format", "unknown", "range", "missing"}
    assert rest.quarantined["value"].to_pylist() == [*bad, None]
    assert {*rest.rows_by_reason} <= reasons(contract).keys()


@pytest.mark.parametrize("kind", _LANDED)
def test_null_is_a_value_of_a_nullable_column(kind: str) -> None:
    nullable = _LANDED[kind][0].with_nullable(nullable=True)
    found = _validated(_contract(value=nullable), {"value": None})
    assert found.conforming["value"].to_pylist() == [None]


@pytest.mark.parametrize("kind", _REFUSED)
def test_another_type_is_refused_with_its_column_and_a_remedy(kind: str) -> None:
    with pytest.raises(UserError, match=rf"'own row'.*'value' is a dy\.{kind}.*: ") as refused:
        _contract(value=_REFUSED[kind])
    assert "make it" in str(refused.value) or "leave it out" in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ref": dy.String()}, "no column has the role id"),
        ({"seen": dy.String()}, "no column has the role time"),
        ({"other": text("", role="id")}, "several columns have the role id .ref, other."),
        ({"a": text("", role="card"), "b": text("", role="card")}, "the role card .a, b."),
        ({"ref": whole("", role="id")}, "'ref' has the role id and is a dy.Int64"),
        ({"ref": text("", role="id", nullable=True)}, "role id and is nullable"),
        ({"seen": dy.Date(metadata={"role": "time"})}, "'seen' has the role time"),
        ({"seen": dy.Datetime(metadata={"role": "time"})}, "no moment without a zone"),
        ({"a": dy.Datetime(time_zone="Europe/Berlin")}, "give it time_zone"),
        ({"a": dy.Datetime(time_zone="UTC", time_unit="ns")}, "time_unit us"),
        ({"a": dy.Float64(metadata={"role": "amount"})}, "dy.Decimal or a signed integer"),
        ({"a": dy.Int64(metadata={"role": "amount", "text": "^x$"})}, "form of its own"),
        ({"a": whole("", role="group")}, "'a' has the role group"),
        ({"a": dy.Decimal(metadata={"role": "amount"})}, "a precision of at most 28"),
        ({"a": dy.String(metadata={"role": "rule"})}, "the role 'rule': choose from id"),
        ({"a": dy.String(primary_key=True)}, "primary_key=True"),
        ({"a": dy.String(unique=True)}, "unique=True"),
        ({"position": dy.String()}, "a name that the lake uses itself"),
        ({"Event_Date": dy.String()}, "a name that the lake uses itself"),
        ({"card_token": dy.String()}, "a name that the lake uses itself"),
        ({"a": dy.String(alias="a.b")}, "rename it, and say where it is sent with path='a.b'"),
        ({"REF": dy.String()}, "but for capitals"),
        ({"a": text("", path="b..c")}, "the path 'b..c'"),
        ({"a": text("", path="b.c"), "d": text("", path="b.c")}, "the field 'b.c' of another"),
        ({"a": text("", path="ref")}, "the field 'ref' of another"),
    ],
)
def test_a_contract_that_cannot_work_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _contract(**columns)


def test_a_rule_of_the_whole_schema_is_refused() -> None:
    class Own(dy.Schema):
        ref = text("", role="id")
        seen = rfc3339("", role="time")

        @dy.rule()
        def one_a_day(cls) -> pl.Expr:  # noqa: N805 - dataframely's form
            return pl.col("ref").is_unique().over("seen")

    with pytest.raises(UserError, match=r"Own.one_a_day is a rule of the schema"):
        Contract("own", "1", Own)


def test_a_primary_key_of_the_id_means_the_id() -> None:
    contract = _contract(
        ref=dy.String(primary_key=True, unique=True, metadata={"role": "id"}),
    )
    assert contract.id == "ref"
    assert "ref.unique" not in reasons(contract)
    assert _validated(contract, {}, {"ref": "a2"}).conforming.num_rows == 2


def test_published_columns_are_the_sent_ones_and_the_token() -> None:
    class Sent(dy.Schema):
        ref = text("", role="id")
        seen = rfc3339("", role="time")
        pan = text("", role="card")

    class WithoutToken(Sent):
        pan = dy.String()

    derived = Contract("own", "1", Sent)
    assert list(derived.published_columns) == ["ref", "seen", "pan", "card_token"]
    with pytest.raises(UserError, match="published= lacks the column 'card_token'"):
        Contract("own", "1", Sent, WithoutToken)


def test_text_without_rules_is_searched_for_card_numbers() -> None:
    contract = _contract(memo=dy.String(nullable=True), other=text("", identifier=True))
    other = {"other": "o"}
    found = _validated(
        contract,
        {"memo": "paid by 4111-1111-1111-1111", **other},
        {"memo": "nothing\n\0\U0001f600" * 50, **other},
        {"memo": "123e4567-4111-1111-1111-111141111111", **other},
        {"memo": None, "other": "x4111111111111111"},
        {"memo": None, "other": "4111111111111111"},
        {"memo": None, "ref": "4111111111111111", **other},
    )
    assert found.conforming["other"].to_pylist() == ["o", "o", "x4111111111111111"]
    assert found.quarantined["position"].to_pylist() == [0, 4, 5]
    assert found.quarantined["reasons"].to_pylist() == [
        ["memo.card_number"],
        ["other.card_number"],
        ["ref.card_number"],
    ]


def test_a_card_is_validated_by_its_role() -> None:
    contract = _contract(pan=dy.String(metadata={"role": "card"}, nullable=True))
    cards = ["4111111111111111", "4111111111111112", "0" * 16, "4111", "4111 1111 1111 1111", None]
    found = _validated(contract, *({"pan": card} for card in cards))
    assert found.conforming.num_rows == 2
    assert found.quarantined["reasons"].to_pylist() == [
        ["pan.check_digit"],
        ["pan.repeated_digit"],
        ["pan.format"],
        ["pan.format"],
    ]


@pytest.mark.parametrize(
    ("column", "good", "value", "bad"),
    [
        (code("", ["a", "b"]), "a", "a", ["A", "c", ""]),
        (flag("", true="1", false="0"), "0", False, ["true", "", "2"]),
        (flag("", true="a|b", false="."), "a|b", True, ["a", "x"]),
        (unix_seconds(""), "1793491200", dt.datetime(2026, 11, 1, tzinfo=dt.UTC), ["1.5", "-1"]),
        (
            unix_seconds(""),
            "253402300799",
            dt.datetime(9999, 12, 31, 23, 59, 59, 0, dt.UTC),
            [
                "253402300800",
                "999999999999",
                "01",
            ],
        ),
        (
            unix_millis(""),
            "1793491200001",
            dt.datetime(2026, 11, 1, 0, 0, 0, 1000, dt.UTC),
            ["253402300800000", "1e12", ""],
        ),
        (whole("", min=0), "12", 12, ["12.0", "-1", "1e3"]),
        (decimal("", precision=6, scale=3), "1.234", Decimal("1.234"), ["1.2345", "1234.5"]),
    ],
)
def test_helpers_are_strict_about_the_text(
    column: dy.Column, good: str, value: object, bad: list[str]
) -> None:
    contract = _contract(value=column)
    assert _validated(contract, {"value": good}).conforming["value"].to_pylist() == [value]
    rest = _validated(contract, *({"value": each} for each in bad))
    assert rest.quarantined["value"].to_pylist() == bad


def test_a_decimal_without_a_precision_has_all_digits() -> None:
    contract = _contract(value=dy.Decimal(scale=2))
    found = _validated(contract, {"value": f"{10**35}.25"}, {"value": f"{10**36}.25"})
    assert found.conforming["value"].to_pylist() == [Decimal(f"{10**35}.25")]


def test_a_check_of_ones_own_is_a_reason() -> None:
    contract = _contract(
        low=whole(""), high=dy.Int64(check={"below_low": lambda high: high >= pl.col("low")})
    )
    found = _validated(contract, {"low": "2", "high": "1"}, {"low": "1", "high": "2"})
    assert found.quarantined["reasons"].to_pylist() == [["high.below_low"]]
    assert reasons(contract)["high.below_low"] == "breaks the rule `below_low`"
    assert constraints_of(contract, "high") == ["below low"]


def test_every_contract_has_a_page_and_descriptors() -> None:
    contract = _contract(
        **{f"c{at}": column for at, (column, *_) in enumerate(_LANDED.values())},
        sum=decimal("The sum", role="amount", scale=4, precision=12, min=Decimal("0.5")),
    )
    assert contract.published_schema.field("sum").type == pa.decimal128(12, 4)
    for made in (page(contract), data_package(contract), data_contract("/lake", contract)):
        assert "sum" in made
        assert not any(f"`{name}`" in made for name in TRANSACTIONS.names)
        assert "transaction_id" not in made


def test_a_form_of_ones_own_for_cards_does_not_let_other_text_pass() -> None:
    contract = _contract(pan=text("", role="card", regex="^[0-9 ]+$", max_length=19))
    cards = ["18", "018", "4111 1111 1111 1111", "4111111111111111"]
    found = _validated(contract, *({"pan": card} for card in cards))
    assert found.conforming["pan"].to_pylist() == cards[-1:]


def test_times_that_not_all_readers_have_break_the_contract() -> None:
    contract = _contract(at=rfc3339("", nullable=True), day=dy.Date(nullable=True))
    kept = [{"day": "0001-01-01", "at": None}, {"day": None, "at": "9999-12-31T23:59:59Z"}]
    lost = [
        {"day": "0000-02-29", "at": None},
        {"day": None, "at": "9999-12-31T23:59:59-01:00"},
        {"day": None, "at": "0001-01-01T00:00:00.000000+00:01"},
        {"day": None, "at": "0000-12-31T00:00:00.000000Z"},
    ]
    found = _validated(contract, *kept, *lost)
    assert found.conforming["day"].to_pylist() == [dt.date(1, 1, 1), None]
    assert found.quarantined["reasons"].to_pylist() == [["day.format"], *([["at.format"]] * 3)]


def test_digits_that_are_too_many_for_a_float_are_no_infinity() -> None:
    contract = _contract(value=dy.Float64(allow_inf=True, allow_nan=True))
    found = _validated(contract, {"value": "1e999"}, {"value": "1e308"})
    assert found.conforming["value"].to_pylist() == [1e308]
    assert found.quarantined["reasons"].to_pylist() == [["value.range"]]


def test_half_a_character_is_no_text_without_rules() -> None:
    halves = [printable(text) for text in ("\ud83d", "a\udc00b")]
    found = _validated(_contract(memo=text("")), *({"memo": each} for each in [*halves, "\x1a"]))
    assert found.conforming["memo"].to_pylist() == ["\x1a"]
    assert found.quarantined["reasons"].to_pylist() == [["memo.format"]] * 2


@pytest.mark.parametrize("where", ["alone", "among others"])
def test_a_check_that_raises_an_error_is_named_without_the_value(where: str) -> None:
    def one(values: pl.Series) -> pl.Series:
        if (values == 4242).any():
            raise ValueError(f"not {values.to_list()}")
        return values.is_not_null()

    def check(value: pl.Expr) -> pl.Expr:
        good = value.map_batches(one, return_dtype=pl.Boolean)
        return good if where == "alone" else good & pl.col("ref").is_not_null()

    contract = _contract(value=dy.Int64(check={"odd": check}))
    with pytest.raises(UserError, match=r"check of value\.odd raised \w+ for a value") as raised:
        _validated(contract, {"value": "4242"})
    assert "4242" not in str(raised.value)


def test_a_column_without_a_description_has_none() -> None:
    contract = _contract(value=dy.Int64())
    assert contract.raw_schema.field("value").metadata == {b"description": b"As sent."}


def test_an_id_may_have_the_name_of_any_column() -> None:
    for name in ("content", "id", "index", "value", "sent", "select"):
        columns = {name: text("", role="id"), "seen": rfc3339("", role="time")}
        contract = Contract("own", "1", type("Own", (dy.Schema,), columns))
        sent = [{"position": at, name: "a"} for at in range(2)]
        kinds = dict.fromkeys(contract.landed_schema.names, pl.String)
        landed = as_batch(
            pl.DataFrame(sent, schema={**kinds, "position": pl.Int64}), contract.landed_schema
        )
        assert find_repeats(lambda _, rows=landed: iter([rows]), contract).rows() == [
            (1, f"{name}.duplicate")
        ]


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (lambda texts: texts.str.to_integer(), "raised ComputeError for a value"),
        (lambda texts: texts.head(1), "gave 1 values for 2 texts"),
        (lambda texts: texts.to_list(), "raised AttributeError"),
    ],
)
def test_a_parser_that_does_not_work_is_named_without_the_value(parse: Any, message: str) -> None:
    contract = _contract(value=dy.Int64(metadata={"text": "^[a-z]+$", "parse": parse}))
    with pytest.raises(UserError, match=f"the parse of the column 'value' {message}") as raised:
        _validated(contract, {"value": "hunter"}, {"value": "other"})
    assert "hunter" not in str(raised.value)
