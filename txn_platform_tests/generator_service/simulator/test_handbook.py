"""The preset `handbook` follows the Handbook's formulas."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from generator_service.simulator import Simulator, Window
from txn_platform_tests.generator_service.simulator.conftest import DAY, moment, rows_of

START = moment(2026, 4, 1)
DAYS = 120


@pytest.fixture(scope="module")
def frame(handbook: Simulator) -> pl.DataFrame:
    rows = rows_of(handbook, Window(START, START + DAYS * DAY))
    return pl.from_arrow(rows).with_columns(  # type: ignore[union-attr, return-value]
        pl.col(pl.Categorical).cast(pl.String), amount=pl.col("amount").cast(pl.Float64)
    )


def test_a_day_has_the_handbooks_rows(frame: pl.DataFrame):
    assert frame.height / DAYS == pytest.approx(1_754_155 / 183, rel=0.01)
    assert frame["customer_id"].n_unique() > 4_950
    assert set(frame["transaction_type"]) == {"PURCHASE"}


def test_daily_counts_of_customers_are_uniform_up_to_four(frame: pl.DataFrame):
    counts = np.sort(frame.group_by("customer_id").len()["len"].to_numpy() / DAYS)
    quantiles = np.quantile(counts, [0.1, 0.25, 0.5, 0.75, 0.9])
    # Of the N(12 h, 20,000 s) times of day, 97 in 100 fall within the day.
    assert quantiles == pytest.approx(np.array([0.4, 1.0, 2.0, 3.0, 3.6]) * 0.97, abs=0.12)


def test_the_time_of_day_is_normal_around_noon(frame: pl.DataFrame):
    seconds = (frame["transaction_at"].dt.timestamp("us") // 1_000_000 % 86_400).to_numpy()
    assert seconds.mean() == pytest.approx(43_200, abs=200)
    # 20,000 s, cut at the day's ends.
    assert seconds.std() == pytest.approx(18_180, abs=200)


def test_amounts_follow_their_customer(frame: pl.DataFrame):
    honest = frame.filter(~pl.col("is_fraud"))
    by_customer = (
        honest.group_by("customer_id")
        .agg(mean=pl.col("amount").mean(), spread=pl.col("amount").std(), rows=pl.len())
        .filter(pl.col("rows") >= 100)
    )
    means = by_customer["mean"].to_numpy()
    assert np.quantile(means, [0.1, 0.5, 0.9]) == pytest.approx([14.5, 52.5, 90.5], abs=3.0)
    ratio = (by_customer["spread"] / by_customer["mean"]).to_numpy()
    # Half the mean, and less for what is cut off: .4707 / 1.0276 for N(1, 1/2) above zero.
    assert ratio.mean() == pytest.approx(0.458, abs=0.012)


def test_terminals_are_within_reach_of_their_customers(handbook: Simulator, frame: pl.DataFrame):
    homes = pl.from_arrow(pa.Table.from_batches(list(handbook.customers()))).select(  # type: ignore[union-attr]
        "customer_id", home_latitude="latitude", home_longitude="longitude"
    )
    joined = frame.join(homes, on="customer_id")
    away = (
        (joined["latitude"] - joined["home_latitude"]) ** 2
        + (joined["longitude"] - joined["home_longitude"]) ** 2
    ) ** 0.5
    # A radius of 5 of the square's 100, the square being one degree.
    assert (away <= 0.05 + 2e-5).mean() > 0.999
    assert away.mean() == pytest.approx(0.05 * 2 / 3, rel=0.03)


def test_every_large_amount_is_fraud(frame: pl.DataFrame):
    assert frame.filter(pl.col("amount") > 220)["is_fraud"].all()
    named = frame.filter(pl.col("fraud_scenario") == "amount_over_220")
    assert named["amount"].min() > 220  # type: ignore[operator]
    assert named.height / frame.height == pytest.approx(973 / 1_754_155, rel=0.3)


def test_a_compromised_terminal_is_so_for_28_days(frame: pl.DataFrame):
    bad = frame.filter(pl.col("fraud_scenario") == "compromised_terminal")
    assert bad.height / frame.height == pytest.approx(9_077 / 1_754_155, rel=0.2)
    spans = bad.group_by("merchant_id").agg(
        first=pl.col("transaction_at").min(), last=pl.col("transaction_at").max()
    )
    once = spans.filter(pl.col("last") - pl.col("first") <= pl.duration(days=28))
    assert once.height > 0.9 * spans.height
    # While it lasts, all its transactions are fraud.
    inside = frame.join(once, on="merchant_id").filter(
        pl.col("transaction_at").is_between(pl.col("first"), pl.col("last"))
    )
    assert inside["is_fraud"].all()


def test_a_compromised_customer_spends_fivefold_for_14_days(frame: pl.DataFrame):
    bad = frame.filter(pl.col("fraud_scenario") == "compromised_customer")
    assert bad.height / frame.height == pytest.approx(4_631 / 1_754_155, rel=0.2)
    usual = (
        frame.filter(~pl.col("is_fraud")).group_by("customer_id").agg(usual=pl.col("amount").mean())
    )
    joined = bad.join(usual, on="customer_id")
    assert (joined["amount"] / joined["usual"]).mean() == pytest.approx(5.0, rel=0.1)


def test_the_share_of_fraud_is_the_handbooks(frame: pl.DataFrame):
    assert frame["is_fraud"].mean() == pytest.approx(0.00837, rel=0.15)
