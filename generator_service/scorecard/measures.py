"""How realistic the rows are: measures of a sample, each with a published target range."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from generator_service.scorecard.card import WEEKDAYS, Line, Pictures, Scorecard
from generator_service.scorecard.sample import (
    HOUR,
    SECOND,
    collect,
    positions,
    rows_by_hour,
    text_column,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from generator_service.scorecard.sample import Codes, Degrees, Flags, Floats, Integers, Sample
    from generator_service.simulator import Simulator, Window

DEFAULT_ROWS = 3_000_000
"""Rows that are measured by default: a few seconds' work."""

_DAY = 24 * HOUR
# Bins of a numeric column, when its values are tested as signs of fraud.
_BINS = 200
# Gaps that a customer needs for a burstiness.
_GAPS = 10
# Networks with the first and last four digits, and the length, of their numbers.
_RANGES = (
    ("VISA", 4000, 4999, 16),
    ("MASTERCARD", 5100, 5599, 16),
    ("MASTERCARD", 2221, 2720, 16),
    ("AMEX", 3400, 3499, 15),
    ("AMEX", 3700, 3799, 15),
    ("DISCOVER", 6011, 6011, 16),
    ("DISCOVER", 6440, 6599, 16),
)


def measure(simulator: Simulator, window: Window, max_rows: int = DEFAULT_ROWS) -> Scorecard:
    """Measure the first rows of a window; the hours of the week are of up to four whole weeks.

    Raises:
        ValueError: there are fewer than a thousand rows, or the window has no whole hour.
    """
    sample = collect(simulator, window, max_rows)
    hours = rows_by_hour(simulator, window)
    lines: list[Line] = []
    for line in _lines(simulator, sample, hours):
        simulator.checkpoint()
        lines.append(line)
    return Scorecard(
        configuration=asdict(simulator.configuration),
        configuration_hash=simulator.configuration_hash,
        window=window,
        rows=sample.times.size,
        lines=lines,
        pictures=_pictures(sample, hours),
    )


def _lines(simulator: Simulator, sample: Sample, hours: Floats) -> Iterator[Line]:
    yield from _amount_lines(sample)
    yield _card_line(simulator, sample)
    yield from _concentration_lines(sample)
    yield from _time_lines(sample, hours)
    yield from _fraud_lines(simulator, sample)
    yield _orphan_line(simulator, sample)


def _amount_lines(sample: Sample) -> Iterator[Line]:
    cents = sample.cents[sample.purchases]
    lead = cents / 10.0 ** np.floor(np.log10(cents))
    shares = np.bincount(lead.astype(np.int64), minlength=10)[1:10] / cents.size
    deviation = float(np.abs(shares - np.log10(1.0 + 1.0 / np.arange(1, 10))).mean())
    yield Line(
        "first digit of purchases, mean absolute deviation from Benford",
        deviation,
        None,
        0.006,
        "Nigrini, Benford's Law, 2012: close conformity",
    )
    yield Line("purchases, mean amount", float(cents.mean()) / 100, 35.0, 55.0, "TabFormer: 43.63")
    yield Line(
        "purchases, median amount", float(np.median(cents)) / 100, 22.0, 35.0, "TabFormer: 30.14"
    )


def _card_line(simulator: Simulator, sample: Sample) -> Line:
    seen = np.flatnonzero(np.bincount(sample.cards[sample.cards >= 0]))
    used = sample.known_cards.take(cast("pa.Int64Array", pa.array(seen)))
    numbers = used["card_number"].to_numpy().astype(np.str_)
    lengths = np.strings.str_len(numbers)
    # Leading zeros do not change Luhn's sum.
    padded = np.strings.zfill(numbers, 19).astype("S19")
    digits = padded.view(np.uint8).reshape(-1, 19) - ord("0")
    doubled = digits[:, -2::-2].astype(np.int64) * 2
    luhn = (doubled - 9 * (doubled > 9)).sum(axis=1) + digits[:, ::-2].sum(axis=1)
    starts = numbers.astype("U4").astype(np.int64)
    networks = used["network"].to_numpy()
    sound = luhn % 10 == 0
    sound &= np.logical_or.reduce(
        [
            (networks == name) & (lengths == length) & (low <= starts) & (starts <= high)
            for name, low, high, length in _RANGES
        ]
    )
    return Line(
        "cards whose Luhn digit, network, prefix and length agree, share",
        float(sound.mean()),
        1.0,
        1.0,
        "ISO/IEC 7812",
        f"{sound.size:,} cards of {simulator.configuration.customers:,} customers",
    )


def _concentration_lines(sample: Sample) -> Iterator[Line]:
    purchases = sample.purchases
    counts = _merchant_counts(sample)
    ranks = _spaced_ranks(counts.size)
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)[0]
    yield Line(
        "merchants' popularity, Zipf exponent",
        float(-slope),
        0.8,
        1.2,
        "Krumme et al., 2013: .8 in North America, 1.13 in Europe",
        f"over the first {counts.size:,} ranks, evenly spaced by their logarithm",
    )
    known = purchases & (sample.customers >= 0)
    spend = np.bincount(sample.customers[known], weights=sample.cents[known])
    spend = np.sort(spend[spend > 0])
    size = spend.size
    gini = float((2 * np.arange(1, size + 1) - size - 1) @ spend / (size * spend.sum()))
    top = float(spend[-max(1, round(0.02 * size)) :].sum() / spend.sum())
    source = "Mizuno et al., 2008: Gini .70, top 2 % hold 25 %"
    yield Line("customers' spend, Gini coefficient", gini, 0.6, 0.8, source)
    yield Line("customers' spend, share of the top 2 %", top, 0.15, 0.30, source)


def _merchant_counts(sample: Sample) -> Integers:
    """Return the purchases by merchant, most first, of the merchants with ten or more."""
    counts = np.sort(np.bincount(sample.codes["merchant_id"][sample.purchases]))[::-1]
    return counts[: max(2, int((counts >= 10).sum()))]


def _spaced_ranks(last: int) -> Integers:
    return np.unique(np.geomspace(1, last, 60).astype(np.int64))


def _time_lines(sample: Sample, hours: Floats) -> Iterator[Line]:
    busiest, quietest = int(np.nanargmax(hours)), int(np.nanargmin(hours))
    source = "Paymark, New Zealand: Saturday noon to Monday 3 h"
    names = [f"{WEEKDAYS[hour // 24]} {hour % 24} h UTC" for hour in (busiest, quietest)]
    yield Line(
        "busiest to quietest hour of the week, by count",
        float(hours[busiest] / max(hours[quietest], 1.0)),
        20.0,
        None,
        source,
        f"{names[0]} to {names[1]}",
    )
    yield Line("weekday of the busiest hour (Monday is 0)", busiest // 24, 4, 6, source, names[0])
    order = np.lexsort((sample.times, sample.customers))
    customers = sample.customers[order]
    same = customers[1:] == customers[:-1]
    gaps = np.diff(sample.times[order])[same] / SECOND
    owner = customers[1:][same]
    count = np.bincount(owner)
    enough = count >= _GAPS
    mean = np.bincount(owner, weights=gaps)[enough] / count[enough]
    square = np.bincount(owner, weights=gaps * gaps)[enough] / count[enough]
    deviation = np.sqrt(np.maximum(square - mean * mean, 0.0))
    bursts = (deviation - mean) / (deviation + mean)
    yield Line(
        "burstiness of a customer's gaps, B",
        float(bursts.mean()) if bursts.size else None,
        0.15,
        0.40,
        "Goh and Barabasi, 2008; a Poisson process scores 0",
        f"mean over {bursts.size:,} customers with {_GAPS} gaps or more",
    )


def _fraud_lines(simulator: Simulator, sample: Sample) -> Iterator[Line]:
    configuration = simulator.configuration
    share = float(sample.fraud.mean())
    if configuration.preset == "handbook":
        yield Line("fraud, share of rows", share, 0.007, 0.010, "Handbook, chapter 3: .00837")
    else:
        rate = configuration.fraud_rate
        yield Line(
            "fraud, share of rows",
            share,
            0.75 * rate,
            1.25 * rate,
            "as set; ULB .00172, TabFormer .00122",
        )
        yield _months_line(sample, rate)
    if 0 < np.count_nonzero(sample.fraud) < sample.fraud.size:
        yield from _leak_lines(sample, simulator.checkpoint)


def _months_line(sample: Sample, rate: float) -> Line:
    months = sample.times.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    months -= months.min()
    rows = np.bincount(months)
    expected = rows[rows > 0] * rate
    frauds = np.bincount(months, weights=sample.fraud)[rows > 0]
    distance = np.abs(frauds - expected) / np.sqrt(np.maximum(expected, 1e-9))
    return Line(
        "fraud by month, furthest from its rate in Poisson standard deviations",
        float(distance.max()) if rate else 0.0,
        None,
        3.3,
        "TabFormer, issue 39: months without any fraud",
        f"{expected.size} month(s)",
    )


def _leak_lines(sample: Sample, checkpoint: Callable[[], None]) -> Iterator[Line]:
    """Score rows by single columns and by pairs of columns: no simple rule may reveal the fraud.

    The score of a value is its share of fraud in the first half of the rows. It is evaluated on
    the second half.
    """
    columns: dict[str, Integers | Codes] = {
        **sample.codes,
        "customer_id": sample.customers + 1,
        "card_number": sample.cards + 1,
        "amount": _binned(sample.cents),
        "latitude": _binned(sample.latitudes),
        "longitude": _binned(sample.longitudes),
        "hour": sample.times // HOUR % 24,
        "weekday": (sample.times // _DAY + 3) % 7,
    }
    alone: dict[str, tuple[float, float]] = {}
    for name, codes in columns.items():
        checkpoint()
        alone[name] = _evaluated(codes, sample.fraud)
    best = max(alone, key=lambda name: alone[name][0])
    source = "PaySim, issue 13: one rule finds the fraud"
    yield Line(
        "fraud from the best single column, ROC AUC", alone[best][0], None, 0.8, source, best
    )
    rules = {name: precision for name, (_, precision) in alone.items()}
    small = ("transaction_type", "channel", "merchant_category_code", "amount", "hour", "country")
    for one, other in combinations(small, 2):
        checkpoint()
        codes = columns[one] * (int(columns[other].max()) + 1) + columns[other]
        rules[f"{one} and {other}"] = _evaluated(codes, sample.fraud)[1]
    rule = max(rules, key=lambda name: rules[name])
    yield Line(
        "fraud from the best rule of one or two columns, average precision",
        rules[rule],
        None,
        0.2,
        source,
        rule,
    )


def _binned(values: Integers | Degrees) -> Integers:
    edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
    return np.searchsorted(edges, values).astype(np.int64)


def _evaluated(codes: Integers | Codes, fraud: Flags) -> tuple[float, float]:
    """Return ROC AUC and average precision, on the second half, of scores learnt on the first."""
    half = codes.size // 2
    size = int(codes.max()) + 1
    seen = np.bincount(codes[:half], minlength=size)
    caught = np.bincount(codes[:half], weights=fraud[:half], minlength=size)
    base = float(fraud[:half].mean())
    # Smoothing: rare values are drawn to the mean, as with twenty more rows of the mean each.
    order = np.argsort(-(caught + 20.0 * base) / (seen + 20.0), kind="stable")
    bad = np.bincount(codes[half:], weights=fraud[half:], minlength=size)[order]
    good = np.bincount(codes[half:], minlength=size)[order] - bad
    if not bad.sum() or not good.sum():
        return 0.5, base
    worse = good.sum() - np.cumsum(good)
    area = float((bad * (worse + 0.5 * good)).sum() / (bad.sum() * good.sum()))
    precision = np.cumsum(bad) / np.maximum(np.cumsum(bad + good), 1)
    return area, float((precision * bad).sum() / bad.sum())


def _orphan_line(simulator: Simulator, sample: Sample) -> Line:
    merchants = text_column(pa.Table.from_batches(list(simulator.merchants())), "merchant_id")
    known = positions(sample.dictionaries["merchant_id"], merchants)
    owners = positions(text_column(sample.known_cards, "customer_id"), sample.known_customers)
    orphans = (
        int((sample.customers < 0).sum()),
        int(((sample.cards < 0) | (owners[sample.cards] != sample.customers)).sum()),
        int((known[sample.codes["merchant_id"]] < 0).sum()),
        sum(not _has_purchase(simulator, refund) for refund in sample.refunds),
    )
    return Line(
        "orphans: customers, cards of other customers, merchants, refunds",
        float(sum(orphans)),
        0.0,
        0.0,
        "referential integrity",
        f"with {len(sample.refunds)} refunds looked up",
    )


def _has_purchase(simulator: Simulator, refund: dict[str, Any]) -> bool:
    found = simulator.transaction(refund["original_transaction_id"])
    if found is None:
        return False
    parent = found.to_pylist()[0]
    same = ("customer_id", "card_number", "merchant_id", "currency")
    return (
        parent["transaction_type"] == "PURCHASE"
        and parent["transaction_at"] < refund["transaction_at"]
        and parent["amount"] >= refund["amount"]
        and all(parent[name] == refund[name] for name in same)
    )


def _pictures(sample: Sample, hours: Floats) -> Pictures:
    tenths = np.floor(np.log10(sample.cents[sample.purchases]) * 10.0).astype(np.int64)
    first = int(tenths.min())
    amounts = np.bincount(tenths - first)
    counts = _merchant_counts(sample)
    return Pictures(
        amounts=[
            (round(10.0 ** ((first + at) / 10.0) / 100.0, 4), count)
            for at, count in enumerate(amounts.tolist())
        ],
        hours=np.rint(np.nan_to_num(hours)).astype(np.int64).tolist(),
        ranks=[(rank, int(counts[rank - 1])) for rank in _spaced_ranks(counts.size).tolist()],
    )
