"""The realistic preset: hours, sessions, habits, and the rules of each type."""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from generator_service.simulator import TRANSACTION_TYPES, Configuration, Simulator, Window
from txn_platform_tests.generator_service.simulator.conftest import DAY, HOUR, moment


@pytest.fixture(scope="module")
def frame(month: pa.Table) -> pl.DataFrame:
    return pl.from_arrow(month)  # type: ignore[return-value]


def honest(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    return frame.filter(pl.col("transaction_type").cast(pl.String) == kind, ~pl.col("is_fraud"))


def test_every_type_occurs_and_most_rows_are_purchases(frame: pl.DataFrame):
    counts = Counter(frame["transaction_type"].cast(pl.String).to_list())
    assert set(counts) == set(TRANSACTION_TYPES)
    assert 0.8 < counts["PURCHASE"] / frame.height < 0.92


def test_amounts_are_positive_and_have_two_decimals(month: pa.Table):
    assert month["amount"].type == pa.decimal128(18, 2)
    assert pc.min(month["amount"]).as_py() > 0


def test_a_refund_gives_back_an_earlier_purchase_of_the_same_card(calm: Simulator, month: pa.Table):
    refunds = month.filter(pc.is_valid(month["original_transaction_id"])).to_pylist()
    types = {row["transaction_type"] for row in refunds}
    assert types == {"REFUND"}
    assert len(refunds) == month["transaction_type"].to_pylist().count("REFUND")
    for refund in refunds[::40]:
        found = calm.transaction(refund["original_transaction_id"])
        assert found is not None
        purchase = found.to_pylist()[0]
        assert purchase["transaction_type"] == "PURCHASE"
        for name in ("customer_id", "card_number", "merchant_id", "currency", "country"):
            assert purchase[name] == refund[name]
        assert purchase["amount"] >= refund["amount"]
        days = (refund["transaction_at"] - purchase["transaction_at"]).total_seconds() / 86_400
        assert 1 <= days <= 14.01


def test_cash_machines_give_whole_notes(frame: pl.DataFrame):
    withdrawals = honest(frame, "CASH_OUT")
    assert set(withdrawals["channel"].cast(pl.String)) == {"ATM"}
    assert all(amount % 20 == 0 for amount in withdrawals["amount"].to_list())


def test_a_salary_comes_once_a_month_on_a_payday(calm: Simulator):
    start = moment(2026, 10, 1)
    months = pl.from_arrow(
        pa.Table.from_batches(
            batch.filter(
                pc.and_(
                    pc.equal(pc.cast(batch["transaction_type"], pa.string()), "CASH_IN"),
                    pc.equal(pc.cast(batch["channel"], pa.string()), "STANDING_ORDER"),
                )
            )
            for batch in calm.batches(Window(start, moment(2026, 12, 1)))
        )
    )
    paid: dict[tuple[str, int], list[tuple[int, Decimal, str]]] = defaultdict(list)
    for row in months.filter(~pl.col("is_fraud")).to_dicts():  # type: ignore[union-attr]
        at = row["transaction_at"]
        paid[row["customer_id"], at.month].append((at.day, row["amount"], row["merchant_id"]))
    customers = {customer for customer, _ in paid}
    assert len(customers) > 500
    assert all(len(salaries) == 1 for salaries in paid.values())
    twice = [
        customer for customer in customers if (customer, 10) in paid and (customer, 11) in paid
    ]
    assert len(twice) > 0.95 * len(customers)
    # The same day, amount and employer each month.
    assert all(paid[customer, 10] == paid[customer, 11] for customer in twice)
    days = {salaries[0][0] for salaries in paid.values()}
    assert days == {1, 15, 25, 28}
    assert all(Decimal(200) < salaries[0][1] < Decimal(30_000) for salaries in paid.values())


def test_people_buy_in_sessions(frame: pl.DataFrame):
    """A customer's gaps are bursty: many of minutes, some of days; a Poisson process scores 0."""
    gaps = (
        frame.sort("customer_id", "transaction_at")
        .with_columns(gap=pl.col("transaction_at").diff().over("customer_id").dt.total_seconds())
        .group_by("customer_id")
        .agg(mean=pl.col("gap").mean(), spread=pl.col("gap").std(), rows=pl.len())
        .filter(pl.col("rows") >= 20)
    )
    bursts = (gaps["spread"] - gaps["mean"]) / (gaps["spread"] + gaps["mean"])
    assert 0.15 < bursts.mean() < 0.40  # type: ignore[operator]


def test_customers_have_favourite_merchants(frame: pl.DataFrame):
    groceries = frame.filter(pl.col("merchant_category_code").cast(pl.String) == "5411")
    visits = (
        groceries.group_by("customer_id", "merchant_id")
        .len()
        .group_by("customer_id")
        .agg(top=pl.col("len").max(), all=pl.col("len").sum())
        .filter(pl.col("all") >= 20)
    )
    assert visits.height > 100
    assert (visits["top"] / visits["all"]).mean() > 0.35  # type: ignore[operator]


def test_customers_shop_in_their_region_and_are_at_home_online(
    calm: Simulator, frame: pl.DataFrame
):
    homes = pl.from_arrow(pa.Table.from_batches(list(calm.customers()))).select(  # type: ignore[union-attr]
        "customer_id", home_latitude="latitude", home_longitude="longitude"
    )
    joined = (
        frame.filter(~pl.col("is_fraud"))
        .join(homes, on="customer_id")
        .with_columns(
            away=(pl.col("latitude") - pl.col("home_latitude")).abs()
            + (pl.col("longitude") - pl.col("home_longitude")).abs(),
            channel=pl.col("channel").cast(pl.String),
        )
    )
    online = joined.filter(pl.col("channel") == "ECOMMERCE")
    assert online["away"].max() == 0.0
    in_person = joined.filter(pl.col("channel").is_in(["CHIP", "CONTACTLESS", "ATM"]))
    assert 0.9 < (in_person["away"] < 1.0).mean() < 1.0  # type: ignore[operator]


def test_coordinates_have_at_most_six_decimals(month: pa.Table):
    for name in ("latitude", "longitude"):
        values = month[name].to_numpy()
        assert np.array_equal(np.round(values, 6), values)


def test_saturday_noon_is_busier_than_the_small_hours(calm: Simulator):
    # 2026-11-21 was a Saturday; the locale's clock is five hours behind UTC.
    noon = calm.count(Window(moment(2026, 11, 21, 17), moment(2026, 11, 21, 18)))
    night = np.mean(
        [
            calm.count(Window(moment(2026, 11, day, 8), moment(2026, 11, day, 9)))
            for day in (17, 18, 19, 24, 25)
        ]
    )
    assert noon > 20 * night


def test_december_is_busier_than_february(calm: Simulator):
    december = calm.count(Window(moment(2026, 12, 1), moment(2026, 12, 29)))
    february = calm.count(Window(moment(2026, 2, 1), moment(2026, 3, 1)))
    assert 1.3 < december / february < 1.7


def test_a_rate_too_low_for_standing_orders_keeps_its_mean():
    """Few rows for many customers: standing orders must not crowd out the rest."""
    thin = Simulator(Configuration(tps=0.01, customers=5_000, merchants=100))
    start = moment(2026, 1, 1)
    assert thin.count(Window(start, start + 365 * DAY)) == pytest.approx(
        0.01 * 365 * 86_400, rel=0.02
    )


def test_busy_sources_and_quiet_ones_make_rows(calm: Simulator):
    assert calm.count(Window(moment(2031, 5, 4), moment(2031, 5, 4) + HOUR)) > 0
