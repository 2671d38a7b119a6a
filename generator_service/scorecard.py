"""How realistic the data is, measured on the data itself and held against published figures.

The measures, their targets and their two renderings (JSON and a page) belong here; changing the
data does not. It uses nothing but what any user of the simulator gets, and no more rows than told.
"""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import batched, combinations
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from generator_service.simulator import VERSION, Window
from generator_service.simulator.pools import WITHOUT_DECIMALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from generator_service.simulator import Simulator

type Floats = npt.NDArray[np.float64]
type Integers = npt.NDArray[np.int64]
type Flags = npt.NDArray[np.bool_]
type Codes = npt.NDArray[np.int32]
type Degrees = npt.NDArray[np.float32]

DEFAULT_ROWS = 3_000_000
"""Rows that are looked at unless told otherwise: a few seconds' worth."""

_FEWEST = 1_000

_SECOND = 1_000_000
_HOUR = 3_600 * _SECOND
_DAY = 24 * _HOUR
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_REFUNDS = 100
"""Refunds whose purchase is looked up."""

_CODED = (
    "merchant_id",
    "merchant_category_code",
    "transaction_type",
    "channel",
    "currency",
    "country",
)

_BINS = 200
"""Parts into which numbers are cut to see whether they give fraud away."""

_GAPS = 10
"""Gaps a customer must have to say how bursty they are."""

_RANGES = (
    ("VISA", 4000, 4999, 16),
    ("MASTERCARD", 5100, 5599, 16),
    ("MASTERCARD", 2221, 2720, 16),
    ("AMEX", 3400, 3499, 15),
    ("AMEX", 3700, 3799, 15),
    ("DISCOVER", 6011, 6011, 16),
    ("DISCOVER", 6440, 6599, 16),
)
"""Networks with the first and last four digits, and the length, that their numbers have."""


@dataclass(frozen=True)
class Line:
    """One property: its value, the range it should be in, and where that range is from.

    value is None when the sample is too small to tell; low or high where there is no such bound.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    source: str
    note: str = ""

    @property
    def in_range(self) -> bool:
        """Whether the value lies within low and high, both included."""
        return (
            self.value is not None
            and (self.low is None or self.value >= self.low)
            and (self.high is None or self.value <= self.high)
        )

    def content(self) -> dict[str, object]:
        """Return the line as it stands in JSON."""
        return {
            "property": self.name,
            "value": self.value,
            "target": {"low": self.low, "high": self.high},
            "in_range": self.in_range,
            "source": self.source,
            "note": self.note,
        }


@dataclass(frozen=True)
class Pictures:
    """What is drawn: amounts by tenth of a power of ten, rows by hour of the week, merchants' rows.

    amounts pairs the lower edge in currency units with purchases; hours has 168 counts from Monday
    00 h UTC; ranks pairs a merchant's rank with its purchases.
    """

    amounts: list[tuple[float, int]]
    hours: list[int]
    ranks: list[tuple[int, int]]


@dataclass(frozen=True)
class Scorecard:
    """The measured lines of a window, with what they were measured on."""

    configuration: dict[str, object]
    configuration_hash: str
    window: Window
    rows: int
    lines: list[Line]
    pictures: Pictures

    @property
    def in_range(self) -> bool:
        """Whether every line is."""
        return all(line.in_range for line in self.lines)

    def to_json(self) -> str:
        """Return the scorecard as a JSON text."""
        content = {
            "generator_version": VERSION,
            "configuration_hash": self.configuration_hash,
            "configuration": self.configuration,
            "window": {"start": _iso(self.window.start), "end": _iso(self.window.end)},
            "rows": self.rows,
            "in_range": self.in_range,
            "lines": [line.content() for line in self.lines],
            "pictures": asdict(self.pictures),
        }
        return json.dumps(content, indent=2)

    def to_html(self) -> str:
        """Return the scorecard as one page that needs nothing else."""
        return _page(self)


def measure(simulator: Simulator, window: Window, max_rows: int = DEFAULT_ROWS) -> Scorecard:
    """Measure the first max_rows rows of a window (hours of the week on up to four of its weeks).

    Raises ValueError when that is fewer than a thousand rows or the window has no whole hour.
    """
    sample = _collected(simulator, window, max_rows)
    hours = _rows_by_hour(simulator, window)
    lines = [
        *_amount_lines(sample),
        _card_line(simulator, sample),
        *_concentration_lines(sample),
        *_time_lines(sample, hours),
        *_fraud_lines(simulator, sample),
        _orphan_line(simulator, sample),
    ]
    return Scorecard(
        configuration=asdict(simulator.configuration),
        configuration_hash=simulator.configuration_hash,
        window=window,
        rows=sample.times.size,
        lines=lines,
        pictures=_pictures(sample, hours),
    )


# What the lines are measured on


@dataclass
class _Sample:
    """The columns the lines need: texts as codes, -1 for a customer or card nobody knows."""

    times: Integers
    cents: Integers
    customers: Codes
    cards: Codes
    fraud: Flags
    latitudes: Degrees
    longitudes: Degrees
    coded: dict[str, Codes]
    dictionaries: dict[str, pa.StringArray]
    known_customers: pa.StringArray
    known_cards: pa.Table
    refunds: list[dict[str, Any]]

    @property
    def purchases(self) -> Flags:
        """Which rows are purchases."""
        types = self.dictionaries["transaction_type"].to_pylist()
        return self.coded["transaction_type"] == types.index("PURCHASE")


def _smallest_units(table: pa.Table) -> Integers:
    """Amounts in the currency's smallest unit: cents, or yen."""
    # Exact: a hundred times the amount is a whole number.
    hundredths = _whole(pc.multiply(table["amount"], pa.scalar(100)).cast(pa.int64()))
    whole = pc.is_in(table["currency"].cast(pa.string()), pa.array(sorted(WITHOUT_DECIMALS)))
    return np.where(whole.to_numpy(), hundredths // 100, hundredths)


def _collected(simulator: Simulator, window: Window, max_rows: int) -> _Sample:
    customers = _column(pa.Table.from_batches(list(simulator.customers())), "customer_id")
    cards = pa.Table.from_batches(list(simulator.cards()))
    numbers = _column(cards, "card_number")
    parts: list[_Sample] = []
    refunds: list[dict[str, Any]] = []
    # Each look-up in the reference data hashes it anew, so many batches share one.
    for batches in batched(simulator.batches(window, stop=max_rows), 64):
        table = pa.Table.from_batches(batches)
        refunded = batches[0].filter(pc.is_valid(batches[0]["original_transaction_id"]))
        refunds += refunded.slice(0, _REFUNDS).to_pylist()
        parts.append(
            _Sample(
                times=_whole(table["transaction_at"].cast(pa.int64())),
                cents=_smallest_units(table),
                customers=_positions(table["customer_id"], customers),
                cards=_positions(table["card_number"], numbers),
                fraud=table["is_fraud"].to_numpy(),
                latitudes=table["latitude"].to_numpy().astype(np.float32),
                longitudes=table["longitude"].to_numpy().astype(np.float32),
                coded={name: _codes(batches, name) for name in _CODED},
                dictionaries={
                    name: cast("pa.StringArray", _coded(batches[0], name).dictionary)
                    for name in _CODED
                },
                known_customers=customers,
                known_cards=cards,
                refunds=refunds,
            )
        )
    rows = sum(part.times.size for part in parts)
    if rows < _FEWEST or -(-window.start // _HOUR) >= window.end // _HOUR:
        raise ValueError(
            f"A scorecard needs {_FEWEST:,} rows and a whole hour, and has {rows:,} rows from "
            f"{_iso(window.start)} to {_iso(window.end)}: ask for a longer window or more rows."
        )
    return _Sample(
        times=np.concatenate([part.times for part in parts]),
        cents=np.concatenate([part.cents for part in parts]),
        customers=np.concatenate([part.customers for part in parts]),
        cards=np.concatenate([part.cards for part in parts]),
        fraud=np.concatenate([part.fraud for part in parts]),
        latitudes=np.concatenate([part.latitudes for part in parts]),
        longitudes=np.concatenate([part.longitudes for part in parts]),
        coded={name: np.concatenate([part.coded[name] for part in parts]) for name in _CODED},
        dictionaries=parts[0].dictionaries,
        known_customers=customers,
        known_cards=cards,
        refunds=refunds[:_REFUNDS],
    )


def _column(table: pa.Table, name: str) -> pa.StringArray:
    return cast("pa.StringArray", table[name].combine_chunks())


def _coded(batch: pa.RecordBatch, name: str) -> pa.DictionaryArray[Any, Any]:
    return cast("pa.DictionaryArray[Any, Any]", batch[name])


def _codes(batches: tuple[pa.RecordBatch, ...], name: str) -> Codes:
    # A simulator's batches share their dictionaries, so codes mean the same in all of them.
    indices = [_coded(batch, name).indices.to_numpy() for batch in batches]
    return np.concatenate(indices).astype(np.int32, copy=False)


def _whole(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> Integers:
    return column.to_numpy().astype(np.int64)


def _positions(values: pa.Array[Any] | pa.ChunkedArray[Any], known: pa.Array[Any]) -> Codes:
    """Return where values are among the known ones, -1 for nowhere."""
    found = pc.index_in(values, value_set=known).fill_null(-1)
    return found.to_numpy().astype(np.int32, copy=False)


def _rows_by_hour(simulator: Simulator, window: Window) -> Floats:
    """Return the mean rows of each hour of the week from Monday 00 h UTC, nan for none seen."""
    first = -(-window.start // _HOUR)
    last = min(window.end // _HOUR, first + 4 * 168)
    total, seen = np.zeros(168), np.zeros(168)
    for hour in range(first, last):
        # The epoch was a Thursday.
        place = (hour + 3 * 24) % 168
        total[place] += simulator.count(Window(hour * _HOUR, (hour + 1) * _HOUR))
        seen[place] += 1
    return np.divide(total, seen, out=np.full(168, np.nan), where=seen > 0)


# The lines


def _amount_lines(sample: _Sample) -> Iterator[Line]:
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


def _card_line(simulator: Simulator, sample: _Sample) -> Line:
    seen = np.flatnonzero(np.bincount(sample.cards[sample.cards >= 0]))
    used = sample.known_cards.take(cast("pa.Int64Array", pa.array(seen)))
    numbers = used["card_number"].to_numpy().astype(np.str_)
    lengths = np.strings.str_len(numbers)
    # Zeros on the left do not change Luhn's sum.
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


def _concentration_lines(sample: _Sample) -> Iterator[Line]:
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


def _merchant_counts(sample: _Sample) -> Integers:
    """Return the purchases of merchants with ten or more, the most popular first."""
    counts = np.sort(np.bincount(sample.coded["merchant_id"][sample.purchases]))[::-1]
    return counts[: max(2, int((counts >= 10).sum()))]


def _spaced_ranks(last: int) -> Integers:
    return np.unique(np.geomspace(1, last, 60).astype(np.int64))


def _time_lines(sample: _Sample, hours: Floats) -> Iterator[Line]:
    busiest, quietest = int(np.nanargmax(hours)), int(np.nanargmin(hours))
    source = "Paymark, New Zealand: Saturday noon to Monday 3 h"
    names = [f"{_WEEKDAYS[hour // 24]} {hour % 24} h UTC" for hour in (busiest, quietest)]
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
    gaps = np.diff(sample.times[order])[same] / _SECOND
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


def _fraud_lines(simulator: Simulator, sample: _Sample) -> Iterator[Line]:
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
        yield from _leak_lines(sample)


def _months_line(sample: _Sample, rate: float) -> Line:
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


def _leak_lines(sample: _Sample) -> Iterator[Line]:
    """Score rows by each column alone, and by pairs of columns: no rule may give fraud away.

    A value scores by the share of fraud it had in the first half of the rows, and is judged on the
    second half.
    """
    columns: dict[str, Integers | Codes] = {
        **sample.coded,
        "customer_id": sample.customers + 1,
        "card_number": sample.cards + 1,
        "amount": _binned(sample.cents),
        "latitude": _binned(sample.latitudes),
        "longitude": _binned(sample.longitudes),
        "hour": sample.times // _HOUR % 24,
        "weekday": (sample.times // _DAY + 3) % 7,
    }
    alone = {name: _judged(codes, sample.fraud) for name, codes in columns.items()}
    best = max(alone, key=lambda name: alone[name][0])
    source = "PaySim, issue 13: one rule finds the fraud"
    yield Line(
        "fraud from the best single column, ROC AUC", alone[best][0], None, 0.8, source, best
    )
    rules = {name: precision for name, (_, precision) in alone.items()}
    small = ("transaction_type", "channel", "merchant_category_code", "amount", "hour", "country")
    for one, other in combinations(small, 2):
        codes = columns[one] * (int(columns[other].max()) + 1) + columns[other]
        rules[f"{one} and {other}"] = _judged(codes, sample.fraud)[1]
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


def _judged(codes: Integers | Codes, fraud: Flags) -> tuple[float, float]:
    """Return (ROC AUC, average precision) on the second half of scores learnt on the first."""
    half = codes.size // 2
    size = int(codes.max()) + 1
    seen = np.bincount(codes[:half], minlength=size)
    caught = np.bincount(codes[:half], weights=fraud[:half], minlength=size)
    base = float(fraud[:half].mean())
    # Rare values are drawn to the mean, as if each had been seen twenty times more.
    order = np.argsort(-(caught + 20.0 * base) / (seen + 20.0), kind="stable")
    bad = np.bincount(codes[half:], weights=fraud[half:], minlength=size)[order]
    good = np.bincount(codes[half:], minlength=size)[order] - bad
    if not bad.sum() or not good.sum():
        return 0.5, base
    worse = good.sum() - np.cumsum(good)
    area = float((bad * (worse + 0.5 * good)).sum() / (bad.sum() * good.sum()))
    precision = np.cumsum(bad) / np.maximum(np.cumsum(bad + good), 1)
    return area, float((precision * bad).sum() / bad.sum())


def _orphan_line(simulator: Simulator, sample: _Sample) -> Line:
    merchants = _column(pa.Table.from_batches(list(simulator.merchants())), "merchant_id")
    known = _positions(sample.dictionaries["merchant_id"], merchants)
    owners = _positions(_column(sample.known_cards, "customer_id"), sample.known_customers)
    orphans = (
        int((sample.customers < 0).sum()),
        int(((sample.cards < 0) | (owners[sample.cards] != sample.customers)).sum()),
        int((known[sample.coded["merchant_id"]] < 0).sum()),
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


# Pictures


def _pictures(sample: _Sample, hours: Floats) -> Pictures:
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


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a2e; --paper: #fff; --line: #8884; --mark: #2a6fdb;
  --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6ef; --paper: #15151d; --mark: #7fb0ff;
  --good: #5ac878; --bad: #ff7b72; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { opacity: .75; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
figure { display: inline-block; margin: 1rem 1.5rem 1rem 0; }
svg { background: transparent; } svg text { fill: currentColor; font-size: 10px; }
"""


def _page(card: Scorecard) -> str:
    rows = "\n".join(_table_row(line) for line in card.lines)
    settings = ", ".join(f"{name} {value}" for name, value in card.configuration.items())
    verdict = "Every line is in its range." if card.in_range else "Some lines are out of range."
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Scorecard of the synthetic transactions</title>
<style>{_STYLE}</style>
<h1>Scorecard</h1>
<p>{card.rows:,} transactions from {_iso(card.window.start)} (window to {_iso(card.window.end)}).
{verdict}</p>
<p><small>Generator {html.escape(VERSION)}, configuration
{html.escape(card.configuration_hash)}: {html.escape(settings)}.</small></p>
<table>
<thead><tr><th>Property</th><th>Value</th><th>Target</th><th></th><th>Source</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<figure><figcaption>Purchases by amount (logarithmic)</figcaption>{_bars(card.pictures)}</figure>
<figure><figcaption>Rows by hour of the week (UTC)</figcaption>{_heat(card.pictures)}</figure>
<figure><figcaption>Purchases by merchant's rank (both logarithmic)</figcaption>
{_ranks(card.pictures)}</figure>
</html>
"""


def _table_row(line: Line) -> str:
    verdict, style = ("in range", "good") if line.in_range else ("out of range", "bad")
    value = "too few rows" if line.value is None else f"{line.value:.4g}"
    note = f"<br><small>{html.escape(line.note)}</small>" if line.note else ""
    return (
        f'<tr><td>{html.escape(line.name)}{note}</td><td class="number">{value}</td>'
        f'<td class="number">{_target(line)}</td><td class="{style}">{verdict}</td>'
        f"<td><small>{html.escape(line.source)}</small></td></tr>"
    )


def _target(line: Line) -> str:
    if line.low is None:
        return f"up to {line.high:.4g}"
    if line.high is None:
        return f"at least {line.low:.4g}"
    return f"{line.low:.4g}" if line.low == line.high else f"{line.low:.4g} to {line.high:.4g}"


def _bars(pictures: Pictures) -> str:
    highest = max(count for _, count in pictures.amounts)
    width = 320 / len(pictures.amounts)
    bars = "".join(
        f'<rect x="{at * width:.1f}" y="{120 - 110 * count / highest:.1f}" '
        f'width="{width - 0.6:.1f}" height="{110 * count / highest:.1f}" fill="var(--mark)">'
        f"<title>from {edge:g}: {count:,}</title></rect>"
        for at, (edge, count) in enumerate(pictures.amounts)
    )
    labels = "".join(
        f'<text x="{at * width:.1f}" y="133">{edge:g}</text>'
        for at, (edge, _) in enumerate(pictures.amounts)
        if abs(math.log10(edge) - round(math.log10(edge))) < 0.01
    )
    return f'<svg width="330" height="140" role="img">{bars}{labels}</svg>'


def _heat(pictures: Pictures) -> str:
    highest = max(*pictures.hours, 1)
    cells = "".join(
        f'<rect x="{30 + 12 * (hour % 24)}" y="{16 * (hour // 24)}" width="11" height="15" '
        f'fill="var(--mark)" fill-opacity="{count / highest:.3f}">'
        f"<title>{_WEEKDAYS[hour // 24]} {hour % 24} h: {count:,}</title></rect>"
        for hour, count in enumerate(pictures.hours)
    )
    days = "".join(
        f'<text x="0" y="{16 * day + 11}">{name[:3]}</text>' for day, name in enumerate(_WEEKDAYS)
    )
    hours = "".join(f'<text x="{30 + 12 * hour}" y="126">{hour}</text>' for hour in range(0, 24, 6))
    return f'<svg width="330" height="140" role="img">{cells}{days}{hours}</svg>'


def _ranks(pictures: Pictures) -> str:
    across = max(math.log10(pictures.ranks[-1][0]), 1e-9)
    top = max(math.log10(max(count for _, count in pictures.ranks)), 1e-9)
    points = " ".join(
        f"{300 * math.log10(rank) / across + 10:.1f},{120 - 110 * math.log10(count) / top:.1f}"
        for rank, count in pictures.ranks
        if count > 0
    )
    labels = "".join(
        f'<text x="{300 * power / across + 8:.1f}" y="133">{10**power}</text>'
        for power in range(int(across) + 1)
    )
    return (
        f'<svg width="330" height="140" role="img"><polyline points="{points}" fill="none" '
        f'stroke="var(--mark)" stroke-width="2"/>{labels}</svg>'
    )


def _iso(moment: int) -> str:
    return datetime.fromtimestamp(moment // _SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
