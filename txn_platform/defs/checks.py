"""The asset checks: what is promised of every window, and the verdicts on it.

A check's name, asset and meaning are here; the figures it is judged by come from the assets. All
but `source_states_totals` block: a window that fails one of them is not published.

A check that cannot be judged has no result. Dagster shows it as skipped, or as failed to execute
where the step failed, and never as passed.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import dagster as dg

from txn_platform.contract.drift import Drift
from txn_platform.defs.failures import failure
from txn_platform.defs.partitions import HOURS
from txn_platform.rows.proof import Proof
from txn_platform.rows.reason_tally import Reason
from txn_platform.rows.reconciliation import ControlTotals

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


def check_result(
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
    """The result on how a source describes its rows; None when it does not."""
    breaking = any(difference.breaking for difference in found or [])
    return check_result(
        DRIFT,
        [difference.message for difference in found or []],
        {"described_by_source": found is not None},
        dg.AssetCheckSeverity.ERROR if breaking else dg.AssetCheckSeverity.WARN,
    )


def totals_stated(stated: ControlTotals | None) -> dg.AssetCheckResult:
    """The result on whether a source states control totals; a warning when it does not."""
    return check_result(
        TOTALS_STATED,
        []
        if stated
        else [
            "the source states no control totals: that all of its rows were landed is not checked"
        ],
        severity=dg.AssetCheckSeverity.WARN,
    )


def every_row_kept(
    landed: ControlTotals, validated: ControlTotals, quarantined: ControlTotals
) -> dg.AssetCheckResult:
    """The result on whether each landed row is in exactly one of validated and quarantined."""
    return check_result(
        EVERY_ROW_KEPT,
        (validated + quarantined).differences(landed),
        {"validated": validated.rows, "quarantined": quarantined.rows},
    )


def quarantine_share(
    rows: int,
    quarantined: int,
    reasons: Mapping[str, Reason],
    *,
    allowed: float,
    allowed_by_reason: Mapping[str, float],
) -> dg.AssetCheckResult:
    """The result on a window's quarantine.

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
    return check_result(QUARANTINE_SHARE, faults, metadata)


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


def published(
    proof: Proof, card_policy: str, *, totals_stated: bool = True
) -> list[dg.AssetCheckResult]:
    """The results on a file that is to be published.

    Args:
        proof: what the file was found to hold.
        card_policy: `token`, or `clear` where card numbers are published as they are.
        totals_stated: whether the source states totals; without them that check has no result.

    Returns:
        Of a file with another schema the result on the schema alone.
    """
    schema = check_result(SCHEMA, proof.schema_faults)
    if proof.schema_faults:
        return [schema]
    doubled = proof.repeated_ids
    held_against = [EVERY_ROW_PUBLISHED, *([PUBLISHED_TOTALS] if totals_stated else [])]
    return [
        schema,
        check_result(
            UNIQUE_IDS, [f"{doubled:,} rows share their id with another"] if doubled else []
        ),
        *(
            check_result(spec, proof.differences, totals_metadata(proof.totals))
            for spec in held_against
        ),
        check_result(NO_CLEAR_CARDS, proof.cards_in_clear, {"card_policy": card_policy}),
    ]


def totals_metadata(totals: ControlTotals) -> dict[str, Any]:
    """Control totals as Dagster shows them; no row is in them."""
    return {
        "rows": totals.rows,
        "amount": str(totals.amount),
        "ids_digest": totals.digest,
    }
