"""Card numbers in text: found in every spelling, and numbers that are none are left alone."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import txn_platform
from txn_platform.contract.card_numbers import (
    ISSUER_RANGES,
    LENGTHS,
    card_number_spans,
    false_share,
    holds_card_number,
    luhn_is_valid,
)
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.rows.reason_tally import ReasonTally, rows_by_reason
from txn_platform_tests.rows.test_validation import reasons_of, validate
from txn_platform_tests.support.card_spellings import SPELLINGS
from txn_platform_tests.support.served_source import sent_row

_FREE_TEXTS = [name for name in TRANSACTIONS.names if TRANSACTIONS.card_search(name) == "within"]
_IDENTIFIERS = [name for name in TRANSACTIONS.names if TRANSACTIONS.card_search(name) == "whole"]
_TEST_NUMBERS = {
    "Visa": "4111111111111111",
    "Visa of 13": "4222222222222",
    "Visa of 19": "4000000000000000006",
    "Mastercard": "5555555555554444",
    "Mastercard of 2016": "2223003122003222",
    "American Express": "378282246310005",
    "Discover": "6011111111111117",
    "Diners Club": "30569309025904",
    "Diners Club of 36": "36227206271667",
    "JCB": "3530111333300000",
    "UnionPay": "6200000000000005",
    "UnionPay of 19": "6205500000000000004",
    "Maestro": "6759649826438453",
    "Maestro of 13": "6759649826430",
    "Mir": "2200000000000004",
    "Troy": "9792000000000003",
}


def _holds(text: str | None, *, whole: bool = False) -> bool:
    return holds_card_number(pl.Series([text], dtype=pl.String), whole=whole).item()


@pytest.mark.parametrize("network", _TEST_NUMBERS)
def test_every_networks_numbers_are_known(network: str) -> None:
    number = _TEST_NUMBERS[network]
    assert _holds(number)
    assert _holds(number, whole=True)
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert not _holds(wrong)


def test_both_ends_of_every_range_are_known_and_other_lengths_are_not() -> None:
    for issuer in ISSUER_RANGES:
        for prefix in (issuer.low, issuer.high):
            for length in issuer.lengths:
                body = f"{prefix:04}".ljust(length - 1, "7")
                numbers = pl.Series([f"{body}{digit}" for digit in range(10)])
                assert holds_card_number(numbers).to_list() == luhn_is_valid(numbers).to_list()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_number_is_found_in_every_spelling(spelling: str) -> None:
    text = SPELLINGS[spelling]
    assert _holds(text)
    assert _holds(f"Bar {text} 5")
    for start, end in card_number_spans(text):
        assert _holds(text[start:end])


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "Café & Söhne",
        "411111111111",
        "4111111111111112",
        "4111 1111 1111 and 1111",
        "41111111111111110000",
        "9111111111111111",
        "Order 2026-11-01 12:30:45.123456",
        "+44 20 7946 0958, +44 20 7946 0959",
        "0000 0000 0000 0000",
        "4111xx1111xx1111xx1111",
        "41x1111x1111x1111x11",
        "Ⅳ \u3192 \u0bf0 411111111111",
        "\u7b2c\u4e00\u5e97\u4e8c\u5341\u4e94",
    ],
)
def test_other_text_holds_none(text: str | None) -> None:
    assert not _holds(text)


@pytest.mark.parametrize(
    ("identifier", "is_one"),
    [
        ("4111111111111111", True),
        ("4111-1111-1111-1111", True),
        ("_4111111111111111", True),
        ("C4111111111111111", False),
        ("4111111111111111-12", False),
        ("12-4111111111111111", False),
        ("4111-1111-1111-1111-A", False),
        ("4111x1111x1111x1111", True),
        ("0004111111111111111", False),
        ("123456789012347", False),
    ],
)
def test_an_identifier_is_compared_as_a_whole(identifier: str, is_one: bool) -> None:
    assert _holds(identifier, whole=True) is is_one


def _found_slowly(text: str) -> bool:
    """A second opinion: every sequence of groups, one by one, in ASCII."""
    groups = re.findall(r"\d+", text)
    gaps = re.split(r"\d+", text)[1:]
    for first in range(len(groups)):
        digits, starts, letters = groups[first].lstrip("0"), set[int](), [""]
        for last in range(first, len(groups)):
            if last > first:
                starts.add(len(digits))
                digits += groups[last]
                letters.append(re.sub(r"[^a-z]", "", gaps[last - 1]) and gaps[last - 1])
            # One letter between the groups that are printed on a card.
            apart = any(letters) and (
                max(map(len, letters)) > 1 or not _PRINTED.get(len(digits), {0}) <= starts
            )
            known = len(digits) in LENGTHS and any(
                issuer.low <= int(digits[:4]) <= issuer.high and len(digits) in issuer.lengths
                for issuer in ISSUER_RANGES
            )
            if known and not apart and luhn_is_valid(pl.Series([digits])).item():
                return True
    return False


_PRINTED = {14: {4, 10}, 15: {4, 10}, 16: {4, 8, 12}, 19: {4, 8, 12, 16}}


@given(
    st.lists(
        st.lists(
            st.sampled_from(
                ["4111111111111111", "41", "11", "1111", "4111", "36", "0", "6759", "7", "x", "-"]
            ),
            max_size=14,
        ).map("".join),
        max_size=6,
    )
)
def test_a_search_group_by_group_finds_the_same(texts: list[str]) -> None:
    expected = list(map(_found_slowly, texts))
    assert holds_card_number(pl.Series(texts, dtype=pl.String)).to_list() == expected
    assert [bool(card_number_spans(text)) for text in texts] == expected


def test_few_random_ids_of_15_digits_pass_for_card_numbers() -> None:
    assert false_share(15) < 0.005
    numbers = np.random.default_rng(15).integers(10**15, size=200_000)
    ids = pl.Series([f"{number:015}" for number in numbers])
    found = holds_card_number(ids, whole=True).mean()
    assert found == pytest.approx(false_share(15), rel=0.15)
    page = Path(txn_platform.__file__).parents[1] / "docs" / "contract.md"
    assert f"{false_share(15):.2%} of random ids of 15 digits" in page.read_text(encoding="utf-8")


_TEXTS = [
    field.name
    for field in TRANSACTIONS.published_schema
    if str(field.type) == "string" and field.name in sent_row(1) and field.name != "card_number"
]


@pytest.mark.parametrize("column", _TEXTS)
def test_no_spelling_is_published_in_any_column_of_text(column: str) -> None:
    """Free text is looked through; of every other column the form or the code list refuses it.

    No message shows more than a mask of it.
    """
    fraud = {"is_fraud": "true"} if column == "fraud_scenario" else {}
    rows = [sent_row(at, **{column: text, **fraud}) for at, text in enumerate(SPELLINGS.values())]
    quarantined = validate(*rows).quarantined
    kept = quarantined["position"].to_pylist()
    published = {spelling for at, spelling in enumerate(SPELLINGS) if at not in kept}
    # Identifiers are compared as whole values.
    assert published == (
        {"glued to letters", "with zeros before"} if column in _IDENTIFIERS else set()
    )
    for number in range(quarantined.num_rows):
        row = quarantined.slice(number, 1)
        sent = row[column][0].as_py()
        tally = ReasonTally()
        tally.add(row, rows_by_reason(row))
        shown = [
            reason for name, reason in tally.most_common().items() if name.startswith(f"{column}.")
        ]
        assert shown
        for reason in shown:
            assert set(re.findall(r"\d", re.sub(r"\\(x..|u....)", "", reason.form))) <= {"9"}
            (example,) = reason.examples
            assert not card_number_spans(example)
            assert example.count("*") - sent.count("*") >= 6, "of 16 digits"


def test_free_text_is_quarantined_for_the_card_number_in_it() -> None:
    assert _FREE_TEXTS == ["merchant_name", "fraud_scenario"]
    assert _IDENTIFIERS == ["customer_id", "merchant_id"]
    rows = [
        sent_row(at, merchant_name=f"Shop {text}") for at, text in enumerate(SPELLINGS.values())
    ]
    reasons = validate(*rows).quarantined["reasons"].to_pylist()
    assert reasons == [["merchant_name.card_number"]] * len(SPELLINGS)
    # The reason is also given for a text that does not have the right form.
    assert reasons_of(merchant_name="4111\u200b1111\t1111\n1111") == [
        "merchant_name.card_number",
        "merchant_name.format",
    ]
    assert reasons_of(is_fraud="true", fraud_scenario="a_4111_1111_1111_1111_b") == [
        "fraud_scenario.card_number"
    ]
    for name in _IDENTIFIERS:
        assert reasons_of(**{name: "4111-1111-1111-1111"}) == [f"{name}.card_number"]
        assert reasons_of(**{name: "123456789012347"}) == []


@pytest.mark.parametrize("other", [":", "/", "A", " ", "-", "٣"])
def test_a_number_with_another_character_is_not_valid(other: str) -> None:
    """Also where the character's code, counted from that of zero, would make the sum right."""
    number = "4111111111111111"
    changed = [
        number[:index] + other + number[index + 1 : -1] + str(digit)
        for index in range(len(number) - 1)
        for digit in range(10)
    ]
    assert not luhn_is_valid(pl.Series(changed)).any()
