"""The asset checks: what is promised of every window, and the verdicts on it.

A check's name, asset and meaning are here; the figures it is judged by come from the assets. All
but `source_states_totals` block: a window that fails one of them is not published.

A check that cannot be judged has no result. Dagster shows it as skipped, or as failed to execute
where the step failed, and never as passed.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, cast

import dagster as dg
import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from txn_platform.arrow.dictionaries import Coded, Column, PerDictionary, places_of
from txn_platform.arrow.prefetch import ahead
from txn_platform.contract.card_numbers import holds_card_number
from txn_platform.contract.drift import Drift
from txn_platform.contract.schema import (
    FREE_TEXTS,
    IDENTIFIERS,
    MASKED_CARD_NUMBER,
    PUBLISHED_SCHEMA,
)
from txn_platform.defs.failures import failure
from txn_platform.defs.partitions import HOURS
from txn_platform.lake.parquet import read_batches
from txn_platform.lake.quarantine import Reason
from txn_platform.rows.reconciliation import ControlTotals, Repeats

RAW: Final = "raw_transactions"
VALIDATED: Final = "validated_transactions"
QUARANTINED: Final = "quarantined_transactions"
PUBLISHED: Final = "s3_parquet_transactions"


def _check(asset: str, name: str, description: str, *, blocking: bool = True) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message="Specifying a partitions_def on an AssetCheckSpec is currently in preview",
        )
        return dg.AssetCheckSpec(
            name, asset=asset, description=description, blocking=blocking, partitions_def=HOURS
        )


LANDED_TOTALS: Final = _check(
    RAW,
    "totals_equal_source",
    "Rows, amounts and ids equal the source's own control totals; no result when it states none",
)
TOTALS_STATED: Final = _check(
    RAW,
    "source_states_totals",
    "The source states control totals, without which no check can see that rows are missing",
    blocking=False,
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
    "What is published and what is quarantined add up to the source's own control totals; no result"
    " when it states none",
)
EVERY_ROW_PUBLISHED: Final = _check(
    PUBLISHED,
    "raw_is_published_plus_quarantined",
    "Every row that was landed is in exactly one of published and quarantined",
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


def require(
    results: Iterable[dg.AssetCheckResult], selected: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    """Fail the step when a check has failed, so that its outputs are never written.

    A blocking check of Dagster's holds back what is downstream, not the asset that it checks.

    Args:
        results: of every check that was evaluated.
        selected: the checks that the run records; the others hold the window back as well.

    Yields:
        Before the step fails, the result of every recorded check, also of those that passed.
        Nothing when none has failed: results then follow the outputs that they are about.
    """
    found = list(results)
    failed = [
        result
        for result in found
        if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR
    ]
    if failed:
        yield from recorded(found, selected)
        said = "; ".join(f"{result.check_name}: {result.description}" for result in failed)
        raise failure(f"the window is not published, because checks failed. {said}")


def recorded(
    results: Iterable[dg.AssetCheckResult], selected: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    """The results of the checks that a run records."""
    keys = {(key.asset_key, key.name) for key in selected}
    for result in results:
        if (result.asset_key, result.check_name) in keys:
            yield result


def drift(found: list[Drift] | None) -> dg.AssetCheckResult:
    """The verdict on how a source describes its rows; None when it does not."""
    breaking = any(difference.breaking for difference in found or [])
    return verdict(
        DRIFT,
        [difference.message for difference in found or []],
        {"described_by_source": found is not None},
        dg.AssetCheckSeverity.ERROR if breaking else dg.AssetCheckSeverity.WARN,
    )


def totals_stated(stated: ControlTotals | None) -> dg.AssetCheckResult:
    """The verdict on whether a source states control totals; a warning when it does not."""
    return verdict(
        TOTALS_STATED,
        []
        if stated
        else [
            "the source states no control totals: that all of its rows were landed is not checked"
        ],
        severity=dg.AssetCheckSeverity.WARN,
    )


def quarantine_share(
    rows: int,
    quarantined: int,
    reasons: Mapping[str, Reason],
    *,
    allowed: float,
    allowed_by_reason: Mapping[str, float],
) -> dg.AssetCheckResult:
    """The verdict on a window's quarantine.

    Args:
        rows: sent in all.
        quarantined: of these.
        reasons: what they are quarantined for, the commonest first.
        allowed: the largest share of quarantined rows.
        allowed_by_reason: the largest share of single reasons, where one is set.
    """
    limits = [("", quarantined, allowed)] + [
        (f" for {reason}", reasons[reason].rows if reason in reasons else 0, limit)
        for reason, limit in allowed_by_reason.items()
    ]
    faults = [
        f"{count:,} of {rows:,} rows are quarantined{what}, {count / rows:.2%}, and {limit:.2%} is"
        " allowed: fix the source, or raise the limit (TXN_MAX_QUARANTINE, or the run's"
        " configuration)"
        for what, count, limit in limits
        if count > limit * rows
    ]
    if faults:
        commonest = ", ".join(
            f"{name} ({reason.rows:,} rows, of a form like {reason.form!r})"
            for name, reason in islice(reasons.items(), _COMMONEST)
        )
        faults.append(f"the commonest reasons are {commonest}")
    metadata = {
        "share": quarantined / (rows or 1),
        "allowed": allowed,
        "quarantined": quarantined,
        "reasons": _table_of(reasons, rows),
    }
    return verdict(QUARANTINE_SHARE, faults, metadata)


_COMMONEST: Final = 3


def _table_of(reasons: Mapping[str, Reason], rows: int) -> dg.TableMetadataValue:
    """Reasons as Dagster shows them; of the rows' values only a form is in it."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "reason": name,
                    "rows": reason.rows,
                    "share": f"{reason.rows / (rows or 1):.2%}",
                    "form": reason.form,
                }
            )
            for name, reason in reasons.items()
        ],
        dg.TableSchema(
            [
                dg.TableColumn("reason", "string", "Column and problem, see docs/contract.md"),
                dg.TableColumn("rows", "int", "How many rows it holds for"),
                dg.TableColumn("share", "string", "Of the rows that were sent"),
                dg.TableColumn(
                    "form", "string", "Of one such value: A, a and 9 stand for letters and digits"
                ),
            ]
        ),
    )


def prove_published(
    file: pq.ParquetFile, expected: ControlTotals, card_policy: str, *, totals_stated: bool = True
) -> tuple[ControlTotals, list[dg.AssetCheckResult]]:
    """Read back a file that is to be published, and judge it.

    Args:
        file: the file, staged; columns of `CODED_COLUMNS` as dictionaries.
        expected: the landed rows' totals, which equal those that the source states, less the
            quarantine's.
        card_policy: `token`, or `clear` where card numbers are published as they are.
        totals_stated: whether the source states totals; without them nothing is held against it.

    Returns:
        The totals of what the file holds, and the verdicts. Of a file with another schema nothing
        but that is judged.
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
    in_clear = _Places()
    shows_card = {
        "card_number": PerDictionary(_is_not_masked),
        **{name: PerDictionary(_holds_card_number) for name in FREE_TEXTS},
        **{name: PerDictionary(_is_card_number) for name in IDENTIFIERS},
    }
    before = 0
    for rows in ahead(read_batches(file, _PROOF_COLUMNS)):
        totals += ControlTotals.of(rows, repeats.add(rows.column("transaction_id")))
        if card_policy != "clear":
            for name, shows in shows_card.items():
                in_clear.add(name, before + _rows_with(rows.column(name), shows))
        before += rows.num_rows
    doubled = (
        repeats.rows(lambda columns: read_batches(file, columns)).height if repeats.suspected else 0
    )
    differences = totals.differences(expected)
    held_against = [EVERY_ROW_PUBLISHED, *([PUBLISHED_TOTALS] if totals_stated else [])]
    return totals, [
        verdict(SCHEMA, []),
        verdict(UNIQUE_IDS, [f"{doubled:,} rows share their id with another"] if doubled else []),
        *(verdict(spec, differences, totals_metadata(totals)) for spec in held_against),
        verdict(
            NO_CLEAR_CARDS,
            in_clear.faults(),
            {"card_policy": card_policy},
        ),
    ]


_PROOF_COLUMNS: Final = [
    "transaction_id",
    "transaction_type",
    "amount",
    "card_number",
    *FREE_TEXTS,
    *IDENTIFIERS,
]
# So many rows are named of each column.
_NAMED: Final = 10


class _Places:
    """Where card numbers were found: how many by column, and the first rows."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[int]] = {}

    def add(self, column: str, rows: NDArray[np.int64]) -> None:
        """Rows of the file, counted from 0, whose value in a column holds a card number."""
        if len(rows):
            self._counts[column] += len(rows)
            first = self._first.setdefault(column, [])
            first += rows[: _NAMED - len(first)].tolist()

    def faults(self) -> list[str]:
        """A phrase for each column: how many rows, and at which positions of the file."""
        return [
            f"{count:,} rows show a card number in {column}, at the positions"
            f" {', '.join(map(str, self._first[column]))}{' ...' if count > _NAMED else ''} of the"
            " file, counted from 0"
            for column, count in self._counts.items()
        ]


def _rows_with(
    column: Column, condition: Callable[[Column], NDArray[np.bool_]]
) -> NDArray[np.int64]:
    """Which of n rows have a value of which a condition holds."""
    coded = cast("Coded", column)
    holds = condition(coded.dictionary)
    if not holds.any():
        return np.empty(0, np.int64)
    return np.flatnonzero(np.append(holds, [False])[places_of(coded)])


def _is_not_masked(values: Column) -> NDArray[np.bool_]:
    return ~_texts(values).str.contains(MASKED_CARD_NUMBER).to_numpy()


def _holds_card_number(values: Column) -> NDArray[np.bool_]:
    return holds_card_number(values).to_numpy()


def _is_card_number(values: Column) -> NDArray[np.bool_]:
    return holds_card_number(values, whole=True).to_numpy()


def _texts(values: Column) -> pl.Series:
    return pl.Series("text", values, dtype=pl.String)


def totals_metadata(totals: ControlTotals) -> dict[str, Any]:
    """Control totals as Dagster shows them; no row is in them."""
    return {
        "rows": totals.rows,
        "amount": str(totals.amount),
        "ids_digest": totals.digest,
    }
