"""A window has the same rows for every way, time and process in which it is requested."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator_service import wire
from generator_service.simulator import (
    COORDINATES_ENCODED_SCHEMA,
    DICTIONARY_ENCODED_SCHEMA,
    SCHEMA,
    Configuration,
    Simulator,
    Window,
)
from generator_service.simulator.randomness import mix_one
from generator_service.simulator.windows import BLOCK_ROWS
from txn_platform_tests.generator_service.simulator.conftest import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    SMALL,
    moment,
    rows_of,
)

STARTS = st.integers(moment(1971, 1, 2), moment(2099, 1, 1))
LENGTHS = st.one_of(st.integers(1, 3 * MINUTE), st.integers(1, 8 * HOUR))

PRINT_DIGEST = """
import hashlib, sys
from generator_service.simulator import Configuration, Simulator, Window
seed, tps, customers, merchants, start, end = map(int, sys.argv[1:])
simulator = Simulator(Configuration(seed=seed, tps=tps, customers=customers, merchants=merchants))
whole = hashlib.sha256()
for batch in simulator.batches(Window(start, end)):
    whole.update(repr(batch.to_pydict()).encode())
print(simulator.configuration_hash, whole.hexdigest())
"""


def digest_of(simulator: Simulator, window: Window) -> str:
    whole = hashlib.sha256()
    for batch in simulator.batches(window):
        whole.update(repr(batch.to_pydict()).encode())
    return whole.hexdigest()


@settings(max_examples=30)
@given(st.data(), STARTS, LENGTHS)
def test_windows_put_together_are_the_window_around_them(
    source: Simulator, data: st.DataObject, start: int, length: int
):
    end = start + length
    inside = data.draw(st.lists(st.integers(start, end), max_size=6))
    cuts = sorted({start, end, *inside})
    parts = [Window(one, other) for one, other in itertools.pairwise(cuts)]
    # The same in any order of requests.
    order = data.draw(st.permutations(range(len(parts))))
    found = {at: rows_of(source, parts[at]) for at in order}
    whole = rows_of(source, Window(start, end))
    assert pa.concat_tables([found[at] for at in range(len(parts))]).equals(whole)


@settings(max_examples=20)
@given(st.data(), STARTS)
def test_positions_cut_a_window_anywhere(source: Simulator, data: st.DataObject, start: int):
    window = Window(start, start + 2 * HOUR)
    whole = rows_of(source, window)
    inside = data.draw(st.lists(st.integers(0, whole.num_rows), max_size=5))
    cuts = sorted({0, whole.num_rows, *inside})
    parts = [
        rows_of(source, window, position=one, stop=other) for one, other in itertools.pairwise(cuts)
    ]
    assert pa.concat_tables([whole.slice(0, 0), *parts]).equals(whole)


def test_a_window_cut_at_the_very_time_of_a_row_has_the_row_once(small: Simulator):
    window = Window(NOON, NOON + MINUTE)
    whole = rows_of(small, window)
    for at in whole["transaction_at"].cast(pa.int64()).to_pylist()[1:20]:
        before = rows_of(small, Window(NOON, at))
        after = rows_of(small, Window(at, NOON + MINUTE))
        assert pa.concat_tables([before, after]).equals(whole)
        assert after["transaction_at"].cast(pa.int64())[0].as_py() == at


def test_another_process_makes_the_same_bytes(small: Simulator):
    window = Window(NOON + 17, NOON + 10 * MINUTE)
    settings_of = (SMALL.seed, int(SMALL.tps), SMALL.customers, SMALL.merchants)
    numbers = [str(number) for number in (*settings_of, window.start, window.end)]
    answer = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST, *numbers], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [small.configuration_hash, digest_of(small, window)]


def test_threads_that_share_a_simulator_get_what_one_alone_gets(small: Simulator):
    windows = [Window(NOON + at * HOUR, NOON + (at + 2) * HOUR) for at in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda window: rows_of(small, window), windows))
    assert all(
        table.equals(rows_of(small, window)) for table, window in zip(found, windows, strict=True)
    )


def test_any_output_that_moves_is_noticed():
    """When this fails on purpose, VERSION must change with it."""
    # The morning of a payday, so that every type occurs.
    morning = moment(2026, 12, 1, 14)
    window = Window(morning, morning + 15 * MINUTE)
    expected = {
        "realistic": "47010225eaff2b618bef8a617eda23cdf71b67b6abad4df0152c92b92aab4ffc",
        "handbook": "87ffde171005c507e9134129c153daf3f4710ee0c8c2d8ac7ab3ce6f5f3445f1",
    }
    found = {
        preset: digest_of(
            Simulator(Configuration(tps=20.0, customers=1_000, merchants=400, preset=preset)),
            window,
        )
        for preset in expected
    }
    assert found == expected


def test_batches_have_the_schema_and_are_never_empty(small: Simulator):
    batches = list(small.batches(Window(NOON, NOON + 12 * HOUR)))
    assert len(batches) > 1
    for batch in batches:
        assert batch.schema.equals(SCHEMA)
        assert 0 < batch.num_rows <= BLOCK_ROWS
        batch.validate(full=True)


@pytest.mark.parametrize(
    ("schema", "more"),
    [
        (DICTIONARY_ENCODED_SCHEMA, {"customer_id", "card_number"}),
        (COORDINATES_ENCODED_SCHEMA, {"customer_id", "card_number", "latitude", "longitude"}),
    ],
)
def test_encoded_columns_hold_the_same_values(small: Simulator, schema: pa.Schema, more: set[str]):
    window = Window(NOON, NOON + HOUR)
    plain = pa.Table.from_batches(list(small.batches(window)))
    encoded = pa.Table.from_batches(list(small.batches(window, schema=schema)), schema)
    assert {field.name for field in schema if field.type != SCHEMA.field(field.name).type} == more
    assert all(pa.types.is_dictionary(schema.field(name).type) for name in more)
    assert encoded.to_pylist() == plain.to_pylist()


def test_encoded_coordinates_are_written_as_plain_ones_are(small: Simulator):
    window = Window(NOON, NOON + HOUR)
    texts = [
        pa.Table.from_batches(wire.text_batches(small.batches(window, schema=schema)))
        for schema in (SCHEMA, COORDINATES_ENCODED_SCHEMA)
    ]
    assert texts[0].to_pylist() == texts[1].to_pylist()


def test_encoded_columns_share_one_dictionary(small: Simulator):
    first, second = (
        next(small.batches(Window(start, start + HOUR))) for start in (NOON, NOON + DAY)
    )
    for name in ("merchant_id", "merchant_name", "channel", "fraud_scenario"):
        one, other = (batch[name].dictionary.buffers()[2] for batch in (first, second))
        assert one.address == other.address


@settings(max_examples=20)
@given(STARTS, LENGTHS, st.one_of(st.none(), st.integers(-HOUR, 50 * HOUR)))
def test_counts_and_totals_are_those_of_the_rows(
    source: Simulator, start: int, length: int, later: int | None
):
    window = Window(start, start + length)
    as_of = None if later is None else start + later
    rows = rows_of(source, window, as_of=as_of)
    totals = source.control_totals(window, as_of=as_of)
    assert source.count(window, as_of=as_of) == totals.rows == rows.num_rows
    amounts: dict[str, Decimal] = {}
    for name, amount in zip(
        rows["transaction_type"].to_pylist(), rows["amount"].to_pylist(), strict=True
    ):
        amounts[name] = amounts.get(name, Decimal("0.00")) + amount
    assert totals.amount_by_type == amounts
    assert list(totals.amount_by_type) == sorted(amounts)
    assert all(amount.as_tuple().exponent == -2 for amount in totals.amount_by_type.values())
    assert (
        totals.ids_digest == f"{sum(map(hash_of, rows['transaction_id'].to_pylist())) % 2**64:016x}"
    )


def hash_of(text: str) -> int:
    state = mix_one(len(text))
    padded = text.encode().ljust(40, b"\0")
    for at in range(0, 40, 8):
        state = mix_one(state ^ int.from_bytes(padded[at : at + 8], "little"))
    return state


def test_digests_of_parts_add_up(small: Simulator):
    middle = NOON + 20 * MINUTE + 3
    parts = [
        small.control_totals(window)
        for window in (Window(NOON, middle), Window(middle, NOON + HOUR))
    ]
    whole = small.control_totals(Window(NOON, NOON + HOUR))
    assert sum(int(part.ids_digest, 16) for part in parts) % 2**64 == int(whole.ids_digest, 16)


def test_rows_arrive_once_and_at_the_latest_after_48_hours(small: Simulator):
    window = Window(NOON, NOON + 6 * HOUR)
    complete = rows_of(small, window)
    seen: set[str] = set()
    for hours in (0, 1, 3, 6, 7, 20):
        now = rows_of(small, window, as_of=window.start + hours * HOUR)
        arrived = set(now["transaction_id"].to_pylist())
        assert seen <= arrived
        assert now.equals(
            complete.filter(pc.is_in(complete["transaction_id"], now["transaction_id"]))
        )
        times = now["transaction_at"].cast(pa.int64()).to_pylist()
        assert all(time <= window.start + hours * HOUR for time in times)
        seen = arrived
    assert len(seen) < complete.num_rows
    assert rows_of(small, window, as_of=window.end + 48 * HOUR).equals(complete)


def test_a_share_of_rows_is_late(small: Simulator):
    window = Window(NOON, NOON + 12 * HOUR)
    rows = small.count(window)
    assert 0.97 < small.count(window, as_of=window.end) / rows < 0.999
    assert small.count(window, as_of=window.end + 48 * HOUR) == rows
    assert small.count(window, as_of=window.start - 1) == 0


@settings(max_examples=20)
@given(
    start=STARTS,
    page=st.integers(500, 3_000),
    later=st.one_of(st.none(), st.integers(0, 49 * HOUR)),
)
def test_pages_of_arrived_rows_are_full_and_make_the_window(
    source: Simulator, start: int, page: int, later: int | None
):
    window = Window(start, start + HOUR)
    as_of = None if later is None else start + later
    end = source.count(window)
    pages: list[pa.Table] = []
    position = 0
    while position < end:
        behind = source.advance(window, position, page, as_of=as_of)
        pages.append(rows_of(source, window, position=position, stop=behind, as_of=as_of))
        assert behind == end or pages[-1].num_rows == page
        position = behind
    assert pa.concat_tables([SCHEMA.empty_table(), *pages]).equals(
        rows_of(source, window, as_of=as_of)
    )
    assert source.advance(window, end, page, as_of=as_of) == end


def test_an_advance_by_nothing_stays_where_it_is(small: Simulator):
    window = Window(NOON, NOON + HOUR)
    assert small.advance(window, 5, 0) == 5
    assert small.advance(window, 5, 0, as_of=NOON) == 5


def test_fraud_becomes_known_days_later(calm: Simulator):
    start = moment(2026, 11, 1)
    window = Window(start, start + 10 * DAY)
    frauds = pc.sum(rows_of(calm, window)["is_fraud"]).as_py()
    known: list[int] = []
    for days in (0, 3, 20, 60):
        rows = rows_of(calm, window, as_of=window.end + days * DAY, labels="delayed")
        assert rows["is_fraud"].equals(pc.is_valid(rows["fraud_scenario"]))
        known.append(pc.sum(rows["is_fraud"]).as_py())
    assert 0 < known[0] < known[1] < known[2] < known[3] == frauds
    # Without `as_of`, everything is known.
    assert pc.sum(rows_of(calm, window, labels="delayed")["is_fraud"]).as_py() == frauds


def test_fraud_of_the_last_day_is_not_known_yet(calm: Simulator):
    start = moment(2026, 11, 10)
    window = Window(start, start + DAY)
    assert pc.any(rows_of(calm, window)["is_fraud"]).as_py()
    rows = rows_of(calm, window, as_of=window.end, labels="delayed")
    assert not pc.any(rows["is_fraud"]).as_py()


@pytest.mark.parametrize("year", [1971, 2026, 2031, 2400, 9998])
def test_every_year_has_rows_at_the_rate_that_was_set(small: Simulator, year: int):
    start = moment(year, 1, 1)
    rows = small.count(Window(start, start + 364 * DAY))
    assert rows == pytest.approx(SMALL.tps * 364 * 86_400, rel=0.02)
