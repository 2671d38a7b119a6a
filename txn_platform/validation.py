"""Rows as sent, held against the contract: conforming and typed, or quarantined with every reason.

Pure. The rules are `contract.py`'s; here is only how they are applied. Uniqueness is judged over a
whole window, everything else row by row, so that a window can be streamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from txn_platform.contract import (
    CONTRACT_VERSION,
    QUARANTINE_SCHEMA,
    SENT_COLUMNS,
    TEXT_PATTERNS,
    SentTransaction,
)
from txn_platform.reconciliation import repeated_ids
from txn_platform.timestamps import parse_timestamps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from txn_platform.windows import Window

OUTSIDE_WINDOW: Final = "transaction_at.outside_window"
DUPLICATE: Final = "transaction_id.duplicate"
CONFLICT: Final = "transaction_id.conflict"

# What the library calls its rules, in the words of the reasons.
_PROBLEMS: Final = {
    "nullability": "missing",
    "regex": "format",
    "max_length": "format",
    "text": "format",
    "min": "range",
    "max": "range",
    "min_exclusive": "range",
    "max_exclusive": "range",
    "inf": "range",
    "nan": "range",
}


@dataclass(frozen=True)
class Judgement:
    """What became of a batch: every row of it is in exactly one of the two.

    Attributes:
        conforming: columns of `SentTransaction`, typed, in the order sent.
        quarantined: columns of `QUARANTINE_SCHEMA`, as sent, in the order sent.
    """

    conforming: pl.DataFrame
    quarantined: pl.DataFrame


def _parsers() -> list[pl.Expr]:
    """Text to values, null where the text does not have the form that the contract asks for."""
    expressions: list[pl.Expr] = []
    for name, pattern in TEXT_PATTERNS.items():
        text = pl.col(name)
        well_formed = pl.when(text.str.contains(pattern)).then(text)
        dtype = SentTransaction.columns()[name].dtype
        if dtype == pl.Boolean():
            value = well_formed == "true"
        elif isinstance(dtype, pl.Datetime):
            value = well_formed.map_batches(parse_timestamps, return_dtype=dtype)
        else:
            value = well_formed.cast(dtype, strict=False)
        expressions += [value.alias(name), text.alias(f"sent.{name}")]
    return expressions


def _rules() -> dict[str, list[pl.Expr]]:
    """For every reason, the expressions that must all be true; never null."""
    rules: dict[str, list[pl.Expr]] = {}
    for name, column in SentTransaction.columns().items():
        value = pl.col(name)
        found = dict(column.validation_rules(value))
        if name in TEXT_PATTERNS:
            # A value that did not parse is malformed, not missing: only absent text is missing.
            text = pl.col(f"sent.{name}")
            found["nullability"] = text.is_not_null()
            found["text"] = value.is_not_null() | text.is_null()
        # Of a value without the right form nothing else can be said.
        well_formed = found.get("regex", pl.lit(value=True)).fill_null(value=True)
        for rule, expression in found.items():
            if rule.startswith("check__"):
                expression |= ~well_formed  # noqa: PLW2901
            problem = _PROBLEMS.get(rule, rule.removeprefix("check__"))
            rules.setdefault(f"{name}.{problem}", []).append(expression.fill_null(value=True))
    return rules


_PARSERS: Final = _parsers()
_RULES: Final = {reason: pl.all_horizontal(tests) for reason, tests in _rules().items()}
REASONS: Final = (*_RULES, OUTSIDE_WINDOW, DUPLICATE, CONFLICT)


def validate(sent: pl.DataFrame, window: Window, repeats: pl.DataFrame) -> Judgement:
    """Judge a batch of a window.

    Args:
        sent: columns of `RAW_SCHEMA`, all text but the position.
        window: the one the rows were sent for.
        repeats: what `find_repeats` found in the whole window.
    """
    in_window = (
        pl.col("transaction_at")
        .is_between(window.start, window.end, closed="left")
        .fill_null(value=True)
    )
    kept = pl.col("repeat").is_null()
    judged = (
        sent.lazy()
        .join(repeats.lazy(), on="position", how="left", maintain_order="left")
        .with_columns(_PARSERS)
        .with_columns(
            *(rule.alias(f"rule.{reason}") for reason, rule in _RULES.items()),
            in_window.alias(f"rule.{OUTSIDE_WINDOW}"),
        )
        .with_columns(conforms=pl.all_horizontal(pl.col("^rule\\..*$"), kept))
        .collect()
    )
    reasons = pl.concat_list(
        *(
            pl.when(~pl.col(f"rule.{reason}")).then(pl.lit(reason))
            for reason in (*_RULES, OUTSIDE_WINDOW)
        ),
        pl.col("repeat"),
    ).list.drop_nulls()
    return Judgement(
        conforming=judged.filter("conforms").select(SENT_COLUMNS),
        quarantined=judged.filter(~pl.col("conforms")).select(
            "position",
            reasons.alias("reasons"),
            pl.lit(window.start).dt.cast_time_unit("us").alias("window_start"),
            pl.lit(CONTRACT_VERSION).alias("contract_version"),
            *(
                pl.col(f"sent.{name}").alias(name) if name in TEXT_PATTERNS else pl.col(name)
                for name in QUARANTINE_SCHEMA.names[4:]
            ),
        ),
    )


def find_repeats(batches: Callable[[], Iterator[pl.DataFrame]]) -> pl.DataFrame:
    """Well-formed ids that a window holds more than once.

    Identical copies, in every field, keep the first; an id with differing contents keeps none.

    Args:
        batches: yields the window's rows as sent, columns of `RAW_SCHEMA`; see `repeated_ids`.

    Returns:
        `position` and `repeat`, the reason, of every row that must not be published.
    """
    well_formed = SentTransaction.columns()["transaction_id"].validation_rules(
        pl.col("transaction_id")
    )
    copies = (
        repeated_ids(batches)
        .filter(pl.all_horizontal(*well_formed.values()).fill_null(value=False))
        .select(
            "position", "transaction_id", content=pl.struct(pl.exclude("position")).hash(seed=0)
        )
    )
    same_id = pl.col("content").n_unique().over("transaction_id") == 1
    return copies.select(
        "position",
        repeat=pl.when(~same_id)
        .then(pl.lit(CONFLICT))
        .when(pl.col("position") != pl.col("position").min().over("transaction_id"))
        .then(pl.lit(DUPLICATE)),
    ).drop_nulls("repeat")
