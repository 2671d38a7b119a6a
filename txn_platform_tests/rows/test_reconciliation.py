"""Control totals: additive, independent of order, and the same as a calculation by hand."""

from decimal import Decimal
from uuid import UUID

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.rows import reconciliation
from txn_platform.rows.reconciliation import ControlTotals, Repeats, id_hashes, repeated_ids
from txn_platform.source.json_objects import without_repeats
from txn_platform_tests.support.served_source import in_batches

_MASK = (1 << 64) - 1
_IDS = st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=50)


def _mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def _hash_by_hand(text: str | None) -> int:
    data = (text or "").encode()
    state = _mix(len(data))
    padded = data + b"\0" * (-len(data) % 8)
    for index in range(0, len(padded), 8):
        state = _mix(state ^ int.from_bytes(padded[index : index + 8], "little"))
    return state


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


@given(_IDS)
def test_hashes_agree_with_the_definition(ids: list[str | None]) -> None:
    expected = [_hash_by_hand(text) for text in ids]
    assert id_hashes(pl.Series(ids, dtype=pl.String)).tolist() == expected


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
def test_what_is_no_statement_is_refused(text: str) -> None:
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


_START = 0x019A_0B1C_2D3E


def _uuid7(age: int, tail: int) -> str:
    return str(UUID(int=(_START + age << 80) + (0x7 << 76) + (0b10 << 62) + tail))


# Few moments, some of them hours away, and few ids of each; and what is no id.
_SOME_IDS = st.one_of(
    st.builds(_uuid7, st.sampled_from([0, 1, 2, 60_000, 10**8]), st.integers(0, 3)),
    st.sampled_from("ab"),
)


@given(
    st.lists(_SOME_IDS, max_size=16),
    st.booleans(),
    st.integers(1, 5),
    st.sampled_from([0, 2, reconciliation.FEW_STRAYS]),
)
def test_repeated_ids_are_found_across_batches(
    ids: list[str], in_order: bool, size: int, few_strays: int
) -> None:
    if in_order:
        ids.sort()
    batch = pa.record_batch({"transaction_id": pa.array(ids, pa.string())})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reconciliation, "FEW_STRAYS", few_strays)
        found = repeated_ids(in_batches(batch, size))
    assert found["transaction_id"].to_list() == [text for text in ids if ids.count(text) > 1]


@given(st.lists(_SOME_IDS, max_size=16), st.booleans(), st.integers(1, 5))
def test_no_repeat_goes_by_without_suspicion(ids: list[str], in_order: bool, size: int) -> None:
    if in_order:
        ids.sort()
    assert _suspected(ids, size) or len(set(ids)) == len(ids)


@given(st.lists(st.integers(0, 1_000_000), unique=True), st.integers(1, 5))
def test_ids_in_order_of_time_are_above_suspicion(ages: list[int], size: int) -> None:
    assert not _suspected([_uuid7(age, 0) for age in sorted(ages)], size)


def _suspected(ids: list[str], size: int) -> bool:
    repeats = Repeats()
    for start in range(0, len(ids), size):
        repeats.add(pa.array(ids[start : start + size], pa.string()))
    return repeats.suspected


@pytest.mark.parametrize(
    "amount", ["1e30", "-1e30", '"1e30"', "123456789012345678901234567890.12", "0.001", "0e9999"]
)
def test_totals_of_any_size_add_up_to_the_last_digit(amount: str) -> None:
    sent = f'{{"rows":1,"amount_by_type":{{"PURCHASE":{amount}}},"ids_digest":"{0:016x}"}}'
    totals = ControlTotals.parse(sent)
    assert totals.amount == Decimal(amount.strip('"'))
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
    assert found[-1] == "amounts of 80 more types"
    assert "4111111111111111" not in "".join(found)
    assert "".join(found).isprintable()
