"""Control totals: additive, independent of order, and the same as a calculation by hand."""

import json
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.source.json_objects import without_repeats

_IDS = st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=50)


def _frame(ids: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "transaction_id": ids,
            "transaction_type": [
                "PURCHASE" if index % 3 else "REFUND" for index in range(len(ids))
            ],
            "amount": [f"{index}.25" if index % 5 else "1e3" for index in range(len(ids))],
        },
        schema=dict.fromkeys(["transaction_id", "transaction_type", "amount"], pl.String),
    )


@given(_IDS, st.integers(0, 50), st.randoms(use_true_random=False))
def test_totals_of_parts_add_up_in_any_order(
    ids: list[str | None], cut: int, random: "st.Random"
) -> None:
    frame = _frame(ids)
    order = list(range(frame.height))
    random.shuffle(order)
    shuffled = frame[order]
    whole = ControlTotals.of(frame)
    parts = ControlTotals.of(shuffled[:cut]) + ControlTotals.of(shuffled[cut:])
    assert parts.differences(whole) == []
    assert (whole - ControlTotals.of(shuffled[:cut])).differences(
        ControlTotals.of(shuffled[cut:])
    ) == []


def test_only_plain_decimals_count_and_every_row_counts() -> None:
    rows = pl.DataFrame(
        {
            "transaction_id": ["a", "b", "c", "d"],
            "transaction_type": ["PURCHASE", "PURCHASE", None, "PURCHASE"],
            "amount": ["1.10", "1.005", "2", "NaN"],
        }
    )
    totals = ControlTotals.of(rows)
    assert totals.rows == 4
    assert totals.amount_by_type == {"": Decimal("2.00"), "PURCHASE": Decimal("1.10")}


def test_text_and_typed_rows_have_the_same_totals() -> None:
    text = _frame(["a", "b", "c", "d"]).filter(pl.col("amount") != "1e3")
    typed = text.with_columns(pl.col("amount").cast(pl.Decimal(18, 2)))
    assert ControlTotals.of(text) == ControlTotals.of(typed)


def test_a_statement_survives_being_written_down() -> None:
    totals = ControlTotals.of(_frame(["a", "b", None]))
    assert ControlTotals.parse(totals.to_json()) == totals
    assert ControlTotals.parse(totals.to_json()).to_json() == totals.to_json()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"rows":-1,"amount_by_type":{},"ids_digest":"0"}', "[]"]
)
def test_text_that_is_no_statement_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ControlTotals.parse(text)


def test_differences_name_what_differs() -> None:
    one = ControlTotals(2, {"PURCHASE": Decimal("3.00")}, 7)
    other = ControlTotals(3, {"REFUND": Decimal("1.00")}, 7)
    assert one.differences(other) == [
        "rows: 2 against 3",
        "amount of PURCHASE: 3.00 against 0",
        "amount of REFUND: 0 against 1.00",
    ]
    assert one.differences(one) == []


@pytest.mark.parametrize(
    "amount", ["1e30", "-1e30", '"1e30"', "123456789012345678901234567890.12", "0.001", "0e9999"]
)
def test_totals_of_any_size_add_up_to_the_last_digit(amount: str) -> None:
    sent = f'{{"rows":1,"amount_by_type":{{"PURCHASE":{amount}}},"ids_digest":"{0:016x}"}}'
    totals = ControlTotals.parse(sent)
    assert totals.amount_by_type == {"PURCHASE": Decimal(amount.strip('"'))}
    cent = ControlTotals(1, {"PURCHASE": Decimal("0.01")})
    assert (totals + cent - cent).differences(totals) == []
    assert (totals + cent).differences(totals) != []
    assert ControlTotals.parse(totals.to_json()) == totals


@pytest.mark.parametrize(
    "amount",
    [
        "1e36",
        "-1e999999999",
        "1e-19",
        '"NaN"',
        '"Infinity"',
        "null",
        "[]",
        "9" * 5_000,
        "1e" + "9" * 20,
        f'"1e{10**20}"',
    ],
)
def test_totals_that_cannot_be_written_down_are_none(amount: str) -> None:
    sent = f'{{"rows":1,"amount_by_type":{{"PURCHASE":{amount}}},"ids_digest":"{0:016x}"}}'
    with pytest.raises(ValueError):  # noqa: PT011 - of several libraries
        ControlTotals.parse(sent)


@pytest.mark.parametrize("kind", [b"\\ud800", b"\xed\xa0\x80", b"\xff"])
def test_a_type_that_is_no_text_is_in_no_totals(kind: bytes) -> None:
    sent = b'{"rows":1,"amount_by_type":{"%b":"1.00"},"ids_digest":"%016x"}' % (kind, 0)
    with pytest.raises(ValueError):  # noqa: PT011 - of several libraries
        ControlTotals.parse(sent)


@pytest.mark.parametrize(
    "rows", ["1e999999999", "1e" + "9" * 20, "-1", "1.5", "null", "9" * 5_000, str(2**63)]
)
def test_numbers_of_rows_that_cannot_be_are_no_totals(rows: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several libraries
        ControlTotals.parse(f'{{"rows":{rows},"amount_by_type":{{}},"ids_digest":"{0:016x}"}}')


def test_totals_that_state_a_thing_twice_are_none() -> None:
    digest = f'"ids_digest":"{0:016x}"'
    for sent in (
        f'{{"rows":1,"rows":2,"amount_by_type":{{}},{digest}}}',
        f'{{"rows":1,"amount_by_type":{{"REFUND":1,"REFUND":2}},{digest}}}',
    ):
        with pytest.raises(ValueError, match="two fields of one name"):
            ControlTotals.parse(sent, without_repeats)


def test_differences_are_few_and_show_no_card_number() -> None:
    types = {f"4111111111111111\x1b{number}": Decimal(1) for number in range(100)}
    found = ControlTotals(1, types).differences(ControlTotals(1))
    assert len(found) == 21
    assert found[-1] == "amounts of 80 more groups"
    assert "4111111111111111" not in "".join(found)
    assert "".join(found).isprintable()


def test_totals_have_no_card_number_in_the_name_of_a_group() -> None:
    card, other = "4111 1111 1111 1111", "378282246310005"
    kinds = [card, f"paid by {other}", "5555 5555 5555 4444", "PURCHASE", None]
    rows = _frame(["a", "b", "c", "d", "e"]).with_columns(transaction_type=pl.Series(kinds))
    totals = ControlTotals.of(rows)
    assert totals.amount_by_type == {
        "": Decimal("4.25"),
        "*" * 19: Decimal("2.25"),
        "PURCHASE": Decimal("3.25"),
        f"paid by {'*' * 15}": Decimal("1.25"),
    }
    stated = {card: 0.25, "5555 5555 5555 4444": 2, "PURCHASE": 3.25, f"paid by {other}": 1.25}
    digest = f"{totals.ids_digest:016x}"
    text = json.dumps({"rows": 5, "amount_by_type": {**stated, "": 4.25}, "ids_digest": digest})
    assert totals.differences(ControlTotals.parse(text)) == []
    assert ControlTotals.of_display(totals.to_display()) == ControlTotals.parse(totals.to_json())
