"""How learnable the fraud is: the Fraud Detection Handbook's protocol on both presets.

Seven days of training, seven of delay, seven of test; fifteen features; models with the settings
that were their defaults when the figures were published (Le Borgne et al., chapter 3, "Baseline
fraud detection system"). And the best single column, which must not give fraud away.

    python benchmarks/fraud_protocol.py [--preset PRESET] [--scale S] [--seed N] [--json]

Needs scikit-learn and xgboost. `realistic` runs at a part of the default size (--scale, a tenth),
customers, merchants and transactions alike, so that it fits a laptop: about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from generator_service.simulator import Configuration, Simulator, Window

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400_000_000
TRAIN_DAYS, DELAY_DAYS, TEST_DAYS = 7, 7, 7
WINDOWS = (1, 7, 30)
LOOK_BACK = max(WINDOWS) + DELAY_DAYS

HANDBOOK_SIZE = {"tps": 1_754_155 / 183 / 86_400, "customers": 5_000, "merchants": 10_000}
START = datetime(2018, 7, 25, tzinfo=UTC)
"""The first day of training, as in the Handbook."""

MODELS: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: LogisticRegression(random_state=0),
    "tree, depth 2": lambda: DecisionTreeClassifier(max_depth=2, random_state=0),
    "tree, unlimited": lambda: DecisionTreeClassifier(random_state=0),
    "random forest": lambda: RandomForestClassifier(random_state=0, n_jobs=-1),
    "random forest, depth 10": lambda: RandomForestClassifier(
        max_depth=10, random_state=0, n_jobs=-1
    ),
    # Newer releases build trees from histograms and start from the mean.
    "XGBoost": lambda: XGBClassifier(
        tree_method="exact", base_score=0.5, random_state=0, n_jobs=-1
    ),
}

type Range = tuple[float, float]
TARGETS: dict[str, dict[str, tuple[Range, Range]]] = {
    # The published figures, give or take .03 and .06.
    "handbook": {
        "logistic regression": ((0.841, 0.901), (0.546, 0.666)),
        "random forest": ((0.837, 0.897), (0.598, 0.718)),
        "XGBoost": ((0.832, 0.892), (0.579, 0.699)),
    },
    # Around the Handbook's real data: .928 and .095 for XGBoost, .912 and .080 for a tuned forest.
    "realistic": {
        "random forest, depth 10": ((0.87, 0.93), (0.05, 0.15)),
        "XGBoost": ((0.87, 0.93), (0.05, 0.15)),
    },
}
LEAK = ((0.0, 0.8), (0.0, 0.2))
"""Limits of any single column. In the Handbook's model the amount gives fraud away."""


@dataclass
class Rows:
    """The columns the protocol needs, in order of time; days count from the first training day."""

    time: npt.NDArray[np.int64]
    day: npt.NDArray[np.int64]
    customer: npt.NDArray[np.int64]
    merchant: npt.NDArray[np.int64]
    amount: npt.NDArray[np.float64]
    fraud: npt.NDArray[np.bool_]
    columns: dict[str, npt.NDArray[np.float64]]


class Scores(NamedTuple):
    """ROC AUC, average precision and, of models, the Handbook's card precision@100."""

    auc: float
    precision: float
    cards: float | None


def rows_of(configuration: Configuration, first_day: int) -> Rows:
    """Generate the protocol's days and the days its features look back on."""
    simulator = Simulator(configuration)
    start = first_day - LOOK_BACK * DAY
    end = first_day + (TRAIN_DAYS + DELAY_DAYS + TEST_DAYS) * DAY
    encoded = ("merchant_category_code", "transaction_type", "channel", "currency", "country")
    kept = ["transaction_at", "customer_id", "merchant_id", "amount", "latitude", "longitude"]
    table = pa.Table.from_batches(
        batch.select([*kept, *encoded, "is_fraud"])
        for batch in simulator.batches(Window(start, end))
    )
    times = table["transaction_at"].cast(pa.int64()).to_numpy()
    columns = {
        name: _codes(table[name]).astype(float) for name in (*encoded, "customer_id", "merchant_id")
    }
    columns["latitude"] = table["latitude"].to_numpy()
    columns["longitude"] = table["longitude"].to_numpy()
    columns["amount"] = table["amount"].cast(pa.float64()).to_numpy()
    columns["hour"] = (times // (DAY // 24) % 24).astype(float)
    columns["weekday"] = ((times // DAY + 3) % 7).astype(float)
    return Rows(
        time=times - start,
        day=(times - first_day) // DAY,
        customer=_codes(table["customer_id"]),
        merchant=_codes(table["merchant_id"]),
        amount=columns["amount"],
        fraud=table["is_fraud"].to_numpy(),
        columns=columns,
    )


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.combine_chunks()
    return pc.cast(whole.indices, pa.int64()).to_numpy()


def _windows(
    entity: npt.NDArray[np.int64], time: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> Callable[[float, float], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Return a function that counts and sums each row's entity over (t - upto, t - since] days."""
    order = np.lexsort((time, entity))
    room = 1 << 44
    keys = entity[order] * room + time[order]
    sums = np.concatenate([[0.0], np.cumsum(values[order])])
    back = np.empty_like(order)
    back[order] = np.arange(order.size)

    def window(
        upto: float, since: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        floor = entity[order] * room
        low = np.searchsorted(keys, np.maximum(keys - int(upto * DAY), floor - 1), side="right")
        high = np.searchsorted(keys, np.maximum(keys - int(since * DAY), floor - 1), side="right")
        return (high - low).astype(float)[back], (sums[high] - sums[low])[back]

    return window


def features_of(rows: Rows) -> npt.NDArray[np.float64]:
    """Return the protocol's fifteen features: (rows, 15)."""
    hour = rows.columns["hour"]
    columns = [rows.amount, (rows.columns["weekday"] >= 5).astype(float), (hour <= 6).astype(float)]
    spent = _windows(rows.customer, rows.time, rows.amount)
    for days in WINDOWS:
        count, total = spent(days, 0)
        columns += [count, total / np.maximum(count, 1)]
    known = _windows(rows.merchant, rows.time, rows.fraud.astype(float))
    for days in WINDOWS:
        count, frauds = known(days + DELAY_DAYS, DELAY_DAYS)
        columns += [count, frauds / np.maximum(count, 1)]
    return np.stack(columns, axis=1)


def split(rows: Rows) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the rows of training and of test, without customers known to be compromised."""
    train = np.flatnonzero((rows.day >= 0) & (rows.day < TRAIN_DAYS))
    known = set(rows.customer[train][rows.fraud[train]].tolist())
    test: list[npt.NDArray[np.intp]] = []
    for day in range(TRAIN_DAYS + DELAY_DAYS, TRAIN_DAYS + DELAY_DAYS + TEST_DAYS):
        reported = rows.fraud & (rows.day == day - DELAY_DAYS - 1)
        known |= set(rows.customer[reported].tolist())
        today = np.flatnonzero(rows.day == day)
        test.append(today[~np.isin(rows.customer[today], list(known))])
    return train, np.concatenate(test)


def card_precision(
    rows: Rows, test: npt.NDArray[np.intp], scores: npt.NDArray[np.float64], top: int = 100
) -> float:
    """Return the mean share of compromised customers among each day's `top` highest scored."""
    found: list[float] = []
    caught: set[int] = set()
    for day in np.unique(rows.day[test]):
        today = rows.day[test] == day
        customers, score, fraud = rows.customer[test][today], scores[today], rows.fraud[test][today]
        order = np.argsort(-score, kind="stable")
        seen = list(dict.fromkeys(customers[order].tolist()))
        bad = set(customers[fraud].tolist()) - caught
        chosen = [customer for customer in seen if customer not in caught][:top]
        hits = [customer for customer in chosen if customer in bad]
        caught |= set(hits)
        found.append(len(hits) / top)
    return float(np.mean(found))


def learn(rows: Rows) -> dict[str, Scores]:
    """Return what each model reaches on the test days."""
    features = features_of(rows)
    train, test = split(rows)
    scaler = StandardScaler().fit(features[train])
    learnt, scored = scaler.transform(features[train]), scaler.transform(features[test])
    found: dict[str, Scores] = {}
    for name, make in MODELS.items():
        scores = make().fit(learnt, rows.fraud[train]).predict_proba(scored)[:, 1]
        found[name] = Scores(
            float(roc_auc_score(rows.fraud[test], scores)),
            float(average_precision_score(rows.fraud[test], scores)),
            card_precision(rows, test, scores),
        )
    return found


def single_columns(rows: Rows) -> dict[str, Scores]:
    """Return what the best score made from one column alone reaches on the test days.

    Numbers score by value, either way round; every column also by the share of fraud that its
    values (or their hundredths) had in the training days.
    """
    train, test = split(rows)
    truth = rows.fraud[test]
    found: dict[str, Scores] = {}
    for name, column in rows.columns.items():
        numbers = name in {"amount", "latitude", "longitude"}
        codes = (
            np.searchsorted(np.quantile(column, np.arange(0.01, 1, 0.01)), column)
            if numbers
            else column.astype(np.int64)
        )
        size = int(codes.max()) + 1
        count = np.bincount(codes[train], minlength=size)
        frauds = np.bincount(codes[train], weights=rows.fraud[train], minlength=size)
        base = rows.fraud[train].mean()
        scores = [((frauds + 20 * base) / (count + 20))[codes[test]]]
        if numbers or name in {"hour", "weekday"}:
            scores += [column[test], -column[test]]
        found[name] = Scores(
            max(float(roc_auc_score(truth, score)) for score in scores),
            max(float(average_precision_score(truth, score)) for score in scores),
            None,
        )
    return found


def _line(name: str, scores: Scores, target: tuple[Range, Range] | None) -> str:
    cards = "" if scores.cards is None else f"{scores.cards:.3f}"
    text = f"  {name:<30}{scores.auc:>8.3f}{scores.precision:>8.3f}{cards:>8}"
    if target is None:
        return text
    inside = _inside(scores, target)
    (low, high), (least, most) = target
    ranges = f"{low:.3f}..{high:.3f} {least:.3f}..{most:.3f}"
    return f"{text}   {'in' if inside else 'OUT OF'} range {ranges}"


def _inside(scores: Scores, target: tuple[Range, Range]) -> bool:
    return all(
        low <= value <= high
        for value, (low, high) in zip((scores.auc, scores.precision), target, strict=True)
    )


def main() -> int:
    """Run the protocol; 0 when every figure that has a target is in its range."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(TARGETS), action="append")
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    default = Configuration()
    sizes: dict[str, dict[str, Any]] = {
        "handbook": HANDBOOK_SIZE,
        "realistic": {
            "tps": default.tps * options.scale,
            "customers": round(default.customers * options.scale),
            "merchants": round(default.merchants * options.scale),
        },
    }
    report: dict[str, Any] = {}
    good = True
    for preset in options.preset or TARGETS:
        configuration = Configuration(seed=options.seed, preset=preset, **sizes[preset])
        rows = rows_of(configuration, int(START.timestamp()) * 1_000_000)
        models, columns = learn(rows), single_columns(rows)
        best = max(columns, key=lambda name: columns[name].auc)
        leak = LEAK if preset == "realistic" else None
        targets = [TARGETS[preset].get(name) for name in models]
        lines = [*map(_line, models, models.values(), targets)]
        lines.append(_line(f"{best}, alone", columns[best], leak))
        scored = [*zip(models.values(), targets, strict=True), (columns[best], leak)]
        good &= all(_inside(scores, target) for scores, target in scored if target)
        report[preset] = {
            "rows": rows.time.size,
            "fraud": float(rows.fraud.mean()),
            "models": {name: scores._asdict() for name, scores in models.items()},
            "columns": {name: scores._asdict() for name, scores in columns.items()},
        }
        if not options.json:
            head = f"{preset}: {rows.time.size:,} rows, {rows.fraud.mean():.3%} fraud"
            titles = f"  {'':<30}{'AUC':>8}{'AP':>8}{'CP@100':>8}"
            sys.stdout.write("\n".join([head, titles, *lines, "", ""]))
    if options.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
