"""The asset checks: what is promised of every window, and the verdicts on it.

A check's name, asset and meaning are here; the figures it is judged by come from the assets. All
block: a window that fails one is not published.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, cast

import dagster as dg
import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from txn_platform.ahead import ahead
from txn_platform.columns import Coded, Column, PerDictionary, numbers
from txn_platform.contract import MASKED_CARD_NUMBER, PUBLISHED_SCHEMA, luhn_is_valid
from txn_platform.defs.failures import failure
from txn_platform.defs.partitions import HOURS
from txn_platform.drift import Drift
from txn_platform.lake import read_batches
from txn_platform.reconciliation import ControlTotals, Repeats

RAW: Final = "raw_transactions"
VALIDATED: Final = "validated_transactions"
QUARANTINED: Final = "quarantined_transactions"
PUBLISHED: Final = "s3_parquet_transactions"


def _check(asset: str, name: str, description: str) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message="Specifying a partitions_def on an AssetCheckSpec is currently in preview",
        )
        return dg.AssetCheckSpec(
            name, asset=asset, description=description, blocking=True, partitions_def=HOURS
        )


LANDED_TOTALS: Final = _check(
    RAW, "totals_equal_source", "Rows, amounts and ids equal the source's own control totals"
)
DRIFT: Final = _check(
    RAW,
    "schema_has_not_drifted",
    "The source's own description of its rows has every field of the contract, with its type; a"
    " field more is a warning",
)
EVERY_ROW_KEPT: Final = _check(
    VALIDATED,
    "raw_is_validated_plus_quarantined",
    "Every row that was landed is in exactly one of validated and quarantined",
)
QUARANTINE_SHARE: Final = _check(
    VALIDATED, "quarantine_share", "The share of quarantined rows is not above TXN_MAX_QUARANTINE"
)
SCHEMA: Final = _check(PUBLISHED, "schema_is_contract", "The file's schema is the contract's")
UNIQUE_IDS: Final = _check(PUBLISHED, "ids_are_unique", "No transaction_id occurs twice")
PUBLISHED_TOTALS: Final = _check(
    PUBLISHED,
    "totals_equal_source",
    "What is published and what is quarantined add up to the source's own control totals",
)
NO_CLEAR_CARDS: Final = _check(
    PUBLISHED, "no_card_number_in_clear", "Every card number is masked, and no text holds one"
)


def verdict(
    check: dg.AssetCheckSpec,
    faults: Iterable[str],
    metadata: Mapping[str, Any] | None = None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """The result of a check: passed when there is no fault; a warning holds nothing back."""
    found = list(faults)
    return dg.AssetCheckResult(
        passed=not found,
        asset_key=check.asset_key,
        check_name=check.name,
        severity=severity,
        description="; ".join(found) or None,
        metadata=metadata or {},
    )


def require(results: Iterable[dg.AssetCheckResult]) -> Iterator[dg.AssetCheckResult]:
    """Record failed results and fail the step, so that its outputs are never written.

    A blocking check of Dagster's holds back what is downstream, not the asset that it checks.
    Yields nothing when all have passed.
    """
    failed = [
        result
        for result in results
        if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR
    ]
    yield from failed
    if failed:
        said = "; ".join(f"{result.check_name}: {result.description}" for result in failed)
        raise failure(f"the window is not published, because checks failed. {said}")


def drift(found: list[Drift] | None) -> dg.AssetCheckResult:
    """The verdict on how a source describes its rows; None when it does not."""
    breaking = any(difference.breaking for difference in found or [])
    return verdict(
        DRIFT,
        [difference.message for difference in found or []],
        {"described_by_source": found is not None},
        dg.AssetCheckSeverity.ERROR if breaking else dg.AssetCheckSeverity.WARN,
    )


def quarantine_share(
    rows: int,
    quarantined: int,
    reasons: Mapping[str, int],
    *,
    allowed: float,
    allowed_by_reason: Mapping[str, float],
) -> dg.AssetCheckResult:
    """The verdict on a window's quarantine.

    Args:
        rows: sent in all.
        quarantined: of these.
        reasons: how many rows each reason holds for.
        allowed: the largest share of quarantined rows.
        allowed_by_reason: the largest share of single reasons, where one is set.
    """
    limits = [("", quarantined, allowed)] + [
        (f" for {reason}", reasons.get(reason, 0), limit)
        for reason, limit in allowed_by_reason.items()
    ]
    return verdict(
        QUARANTINE_SHARE,
        [
            f"{count:,} of {rows:,} rows are quarantined{what}, {count / rows:.2%}, and"
            f" {limit:.2%} is allowed: mend the source, or raise the limit (TXN_MAX_QUARANTINE,"
            " or the run's configuration)"
            for what, count, limit in limits
            if count > limit * rows
        ],
        {"share": quarantined / (rows or 1), "allowed": allowed, "quarantined": quarantined},
    )


def prove_published(
    file: pq.ParquetFile, expected: ControlTotals, card_policy: str
) -> tuple[ControlTotals, list[dg.AssetCheckResult]]:
    """Read back a file that is to be published, and judge it.

    Args:
        file: the file, staged; columns of `CODED_COLUMNS` as dictionaries.
        expected: the source's totals less the quarantine's.
        card_policy: `token`, or `clear` where card numbers are published as they are.

    Returns:
        The totals of what the file holds, and the verdicts.
    """
    schema = file.metadata.schema.to_arrow_schema()
    if not schema.equals(PUBLISHED_SCHEMA):
        differing = [
            name
            for name in {*schema.names, *PUBLISHED_SCHEMA.names}
            if name not in schema.names
            or name not in PUBLISHED_SCHEMA.names
            or not schema.field(name).equals(PUBLISHED_SCHEMA.field(name))
        ]
        wrong = ", ".join(sorted(differing)) or "the order of columns"
        return ControlTotals(), [verdict(SCHEMA, [f"not as in the contract: {wrong}"])]
    totals = ControlTotals()
    repeats = Repeats()
    in_clear = 0
    shows_card = {
        "card_number": PerDictionary(_is_not_masked),
        **{name: PerDictionary(_holds_card_number) for name in _FREE_TEXT},
    }
    for rows in ahead(read_batches(file, _PROOF_COLUMNS)):
        totals += ControlTotals.of(rows, repeats.add(rows.column("transaction_id")))
        if card_policy == "clear":
            continue
        in_clear += sum(_rows_with(rows.column(name), shows) for name, shows in shows_card.items())
    doubled = (
        repeats.rows(lambda columns: read_batches(file, columns)).height if repeats.suspected else 0
    )
    return totals, [
        verdict(SCHEMA, []),
        verdict(UNIQUE_IDS, [f"{doubled:,} rows share their id with another"] if doubled else []),
        verdict(PUBLISHED_TOTALS, totals.differences(expected), totals_metadata(totals)),
        verdict(
            NO_CLEAR_CARDS,
            [f"{in_clear:,} rows show a card number"] if in_clear else [],
            {"card_policy": card_policy},
        ),
    ]


_FREE_TEXT: Final = ["customer_id", "merchant_id", "merchant_name"]
_PROOF_COLUMNS: Final = ["transaction_id", "transaction_type", "amount", "card_number", *_FREE_TEXT]


def _rows_with(column: Column, condition: Callable[[Column], NDArray[np.bool_]]) -> int:
    """How many rows have a value of which a condition holds."""
    coded = cast("Coded", column)
    holds = condition(coded.dictionary)
    return int(holds[numbers(coded.indices.drop_null())].sum()) if holds.any() else 0


def _is_not_masked(values: Column) -> NDArray[np.bool_]:
    return ~_texts(values).str.contains(MASKED_CARD_NUMBER).to_numpy()


def _holds_card_number(values: Column) -> NDArray[np.bool_]:
    """Whether a text holds 13 to 19 digits on end with a valid check digit."""
    runs = _texts(values).to_frame().with_row_index("place")
    suspects = runs.filter(pl.col("text").str.contains("[0-9]{13}"))
    found = suspects.with_columns(pl.col("text").str.extract_all("[0-9]{13,19}")).explode("text")
    shown = found.filter(luhn_is_valid(found["text"]))["place"].implode()
    return runs["place"].is_in(shown).to_numpy()


def _texts(values: Column) -> pl.Series:
    return pl.Series("text", values, dtype=pl.String)


def totals_metadata(totals: ControlTotals) -> dict[str, Any]:
    """Control totals as Dagster shows them; no row is in them."""
    return {
        "rows": totals.rows,
        "amount": str(totals.amount.quantize(Decimal("0.01"))),
        "ids_digest": totals.digest,
    }
