"""Fraud has a rate, a mechanism and a name, and nothing in a row reveals it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from generator_service.simulator import Configuration, Simulator, Window
from generator_service.simulator.fraud import SCENARIOS
from txn_platform_tests.generator_service.simulator.conftest import DAY, HOUR, moment, rows_of

START = moment(2026, 11, 1)


@pytest.fixture(scope="module")
def busy() -> Simulator:
    """Ten times the usual fraud, so that little data tells much."""
    return Simulator(
        Configuration(seed=1, tps=3.0, customers=60_000, merchants=3_000, fraud_rate=0.02)
    )


@pytest.fixture(scope="module")
def frame(busy: Simulator) -> pl.DataFrame:
    return pl.from_arrow(rows_of(busy, Window(START, START + 2 * DAY)))  # type: ignore[return-value]


def test_the_share_of_fraud_is_the_one_that_was_set(frame: pl.DataFrame):
    expected = 0.02 * frame.height
    assert abs(frame["is_fraud"].sum() - expected) < 5 * expected**0.5


def test_months_have_their_share_too(calm: Simulator):
    for month in (3, 8):
        rows = rows_of(calm, Window(moment(2026, month, 1), moment(2026, month + 1, 1)))
        expected = 0.002 * rows.num_rows
        assert abs(pc.sum(rows["is_fraud"]).as_py() - expected) < 3.3 * expected**0.5


def test_every_scenario_has_its_share(frame: pl.DataFrame):
    counts = Counter(frame["fraud_scenario"].drop_nulls().cast(pl.String).to_list())
    frauds = sum(counts.values())
    assert {scenario.name for scenario in SCENARIOS} == set(counts)
    for scenario in SCENARIOS:
        assert counts[scenario.name] / frauds == pytest.approx(scenario.weight, abs=0.05)
    assert sum(scenario.weight for scenario in SCENARIOS) == pytest.approx(1.0)


def test_no_rate_is_no_fraud():
    clean = Simulator(Configuration(tps=2, customers=500, merchants=200, fraud_rate=0.0))
    rows = rows_of(clean, Window(START, START + DAY))
    assert not pc.any(rows["is_fraud"]).as_py()
    assert rows["fraud_scenario"].null_count == rows.num_rows


def of(frame: pl.DataFrame, scenario: str) -> pl.DataFrame:
    return frame.filter(pl.col("fraud_scenario").cast(pl.String) == scenario).with_columns(
        pl.col(pl.Categorical).cast(pl.String)
    )


def test_card_testing_tries_small_amounts_on_cards_that_it_then_spends_with(frame: pl.DataFrame):
    rows = of(frame, "card_testing")
    assert set(rows["channel"]) <= {"ECOMMERCE", "MOBILE"}
    cards = rows.group_by("card_number").agg(
        rows=pl.len(), least=pl.col("amount").min(), most=pl.col("amount").max()
    )
    often = cards.filter(pl.col("rows") >= 4)
    assert often.height > 20
    assert often.select((pl.col("most") > 4 * pl.col("least")).mean()).item() > 0.6


def test_a_stolen_card_is_spent_within_a_day(frame: pl.DataFrame):
    spans = (
        of(frame, "stolen_card")
        .group_by("customer_id")
        .agg(rows=pl.len(), span=pl.col("transaction_at").max() - pl.col("transaction_at").min())
        .filter(pl.col("rows") >= 3)
    )
    assert spans.height > 20
    assert spans.select((pl.col("span") <= pl.duration(days=1)).mean()).item() > 0.95


def test_a_takeover_lasts_hours(frame: pl.DataFrame):
    spans = (
        of(frame, "account_takeover")
        .group_by("customer_id")
        .agg(rows=pl.len(), span=pl.col("transaction_at").max() - pl.col("transaction_at").min())
        .filter(pl.col("rows") >= 2)
    )
    assert spans.height > 20
    assert spans.select((pl.col("span") <= pl.duration(hours=6)).mean()).item() > 0.95


def test_a_compromised_merchant_has_many_victims(frame: pl.DataFrame):
    shops = (
        of(frame, "merchant_compromise")
        .group_by("merchant_id")
        .agg(rows=pl.len(), victims=pl.col("customer_id").n_unique())
        .filter(pl.col("rows") >= 5)
    )
    assert shops.height > 20
    assert shops.select((pl.col("victims") > 0.8 * pl.col("rows")).mean()).item() > 0.9


def test_push_payments_are_transfers_by_the_customer(frame: pl.DataFrame):
    rows = of(frame, "push_payment")
    assert set(rows["transaction_type"]) == {"TRANSFER"}


def test_refund_abuse_refunds_one_purchase_again_and_again(frame: pl.DataFrame):
    rows = of(frame, "refund_abuse")
    assert set(rows["transaction_type"]) == {"REFUND"}
    assert rows["original_transaction_id"].null_count() == 0
    assert rows["original_transaction_id"].n_unique() < 0.8 * rows.height


def test_bust_outs_are_of_few_customers(frame: pl.DataFrame):
    rows = of(frame, "bust_out")
    assert rows["customer_id"].n_unique() < 0.3 * rows.height


def test_difficulty_takes_the_amounts_back_to_habit():
    means: list[float] = []
    for difficulty in (0.0, 0.5, 1.0):
        simulator = Simulator(
            Configuration(
                tps=3.0, customers=2_000, merchants=500, fraud_rate=0.02, difficulty=difficulty
            )
        )
        rows = rows_of(simulator, Window(START, START + 12 * HOUR))
        stolen = rows.filter(pc.equal(pc.cast(rows["fraud_scenario"], pa.string()), "stolen_card"))
        means.append(float(np.median(stolen["amount"].cast(pa.float64()).to_numpy())))
    assert means[0] > 1.8 * means[1] > 3.0 * means[2]


@pytest.mark.parametrize("bit", range(0, 128, 3))
def test_no_bit_of_an_id_tells_fraud(frame: pl.DataFrame, bit: int):
    fraud = frame["is_fraud"].to_numpy()
    digits = frame["transaction_id"].str.replace_all("-", "")
    digit = digits.str.slice(31 - bit // 4, 1).str.to_integer(base=16).to_numpy()
    ones = (digit >> (bit % 4)) & 1
    share, all_share = ones[fraud].mean(), ones.mean()
    # The time's upper bits are constants of so short a window, and so are version and variant.
    assert abs(share - all_share) < 5 * np.sqrt(0.25 / fraud.sum())


def test_no_digit_of_the_time_reveals_fraud(frame: pl.DataFrame):
    micros = frame["transaction_at"].dt.microsecond().to_numpy()
    fraud = frame["is_fraud"].to_numpy()
    spread = 1e6 / np.sqrt(12 * fraud.sum())
    assert abs(micros[fraud].mean() - micros[~fraud].mean()) < 5 * spread


def test_fraud_in_a_small_source_comes_in_campaigns_as_well():
    thin = Simulator(Configuration(tps=0.05, customers=500, merchants=100, fraud_rate=0.01))
    rows = rows_of(thin, Window(START, START + 60 * DAY))
    frauds = rows.filter(rows["is_fraud"])
    expected = 0.01 * rows.num_rows
    assert abs(frauds.num_rows - expected) < 6 * expected**0.5
    assert pc.count_distinct(frauds["customer_id"]).as_py() < 0.8 * frauds.num_rows
