"""The asset checks: their specifications, and their results from the figures of an asset.

A new check is a specification in `CHECKS`, and a result in `drift`, `landed`, `validated` or
`published`. All checks but `source_states_totals` block: a window that fails one is not published.

A check that cannot be evaluated has no result. Dagster then shows it as skipped, or as failed to
execute if the step failed, and never as passed.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import dagster as dg

from txn_platform.contract import schema
from txn_platform.contract.drift import Drift
from txn_platform.defs.failures import failure
from txn_platform.defs.partitions import HOURS
from txn_platform.rows.proof import Proof
from txn_platform.rows.reason_tally import Reason
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.window import ValidatedWindow

RAW: Final = schema.RAW
VALIDATED: Final = schema.VALIDATED
QUARANTINED: Final = schema.QUARANTINED
PUBLISHED: Final = schema.PUBLISHED


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
    "Published and quarantined rows add up to the source's own control totals; no result"
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

CHECKS: Final = (
    DRIFT,
    TOTALS_STATED,
    LANDED_TOTALS,
    EVERY_ROW_KEPT,
    QUARANTINE_SHARE,
    SCHEMA,
    UNIQUE_IDS,
    EVERY_ROW_PUBLISHED,
    PUBLISHED_TOTALS,
    NO_CLEAR_CARDS,
)


def specs_of(asset: str) -> list[dg.AssetCheckSpec]:
    """The specifications of an asset's checks, as its decorator takes them."""
    return [check for check in CHECKS if check.asset_key == dg.AssetKey(asset)]


def check_result(
    check: dg.AssetCheckSpec,
    faults: Iterable[str],
    metadata: Mapping[str, Any] | None = None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """The result of a check: it has passed if there is no fault. A warning blocks nothing."""
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
    """Fail the step if a check has failed, so that its outputs are never written.

    Dagster's own blocking stops the assets downstream, not the asset that is checked.

    Args:
        results: the results of all evaluated checks.
        selected: the checks that the run records. The other checks block too.

    Yields:
        If a check has failed, the results of all recorded checks. Otherwise nothing, because
        Dagster takes results after the outputs that they are about.
    """
    found = list(results)
    failed = [
        result
        for result in found
        if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR
    ]
    if failed:
        yield from recorded(found, selected)
        failures = "; ".join(f"{result.check_name}: {result.description}" for result in failed)
        raise failure(
            f"the window is not published, because checks failed. {failures}",
            *(str(result.check_name) for result in failed),
        )


def recorded(
    results: Iterable[dg.AssetCheckResult], selected: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    """Those results whose check the run records."""
    keys = {(key.asset_key, key.name) for key in selected}
    for result in results:
        if (result.asset_key, result.check_name) in keys:
            yield result


def drift(found: list[Drift] | None) -> dg.AssetCheckResult:
    """The result of comparing the source's description with the contract; None without one."""
    breaking = any(difference.breaking for difference in found or [])
    return check_result(
        DRIFT,
        [difference.message for difference in found or []],
        {"described_by_source": found is not None},
        dg.AssetCheckSeverity.ERROR if breaking else dg.AssetCheckSeverity.WARN,
    )


def landed(totals: ControlTotals, stated: ControlTotals | None) -> list[dg.AssetCheckResult]:
    """The results on landed rows.

    Args:
        totals: counted from the rows.
        stated: by the source, if it states totals. Without them `LANDED_TOTALS` has no result.
    """
    results = [_totals_stated(stated)]
    if stated is not None:
        results.append(
            check_result(LANDED_TOTALS, totals.differences(stated), totals_metadata(totals))
        )
    return results


def _totals_stated(stated: ControlTotals | None) -> dg.AssetCheckResult:
    return check_result(
        TOTALS_STATED,
        []
        if stated
        else [
            "the source states no control totals: that all of its rows were landed is not checked"
        ],
        severity=dg.AssetCheckSeverity.WARN,
    )


def validated(
    landed: ControlTotals,
    found: ValidatedWindow,
    *,
    allowed: float,
    allowed_by_reason: Mapping[str, float],
) -> list[dg.AssetCheckResult]:
    """The results on a validated window.

    Args:
        landed: the totals of its landed rows.
        found: the result of validation.
        allowed: the largest share of quarantined rows.
        allowed_by_reason: the largest share for single reasons, where one is set.
    """
    return [
        check_result(
            EVERY_ROW_KEPT,
            (found.validated + found.quarantined).differences(landed),
            {"validated": found.validated.rows, "quarantined": found.quarantined.rows},
        ),
        _quarantine_share(
            landed.rows,
            found.quarantined.rows,
            found.reasons,
            allowed=allowed,
            allowed_by_reason=allowed_by_reason,
        ),
    ]


def _quarantine_share(
    rows: int,
    quarantined: int,
    reasons: Mapping[str, Reason],
    *,
    allowed: float,
    allowed_by_reason: Mapping[str, float],
) -> dg.AssetCheckResult:
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
    """Reasons as Dagster shows them, with the form of a value and never a value."""
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
    """The results on a file before it is published.

    Args:
        proof: the findings on the file.
        card_policy: `token`, or `clear` to publish card numbers as sent.
        totals_stated: whether the source states totals. If not, `PUBLISHED_TOTALS` has no result.

    Returns:
        Only the result of `SCHEMA` for a file whose schema is not the contract's.
    """
    schema = check_result(SCHEMA, proof.schema_faults)
    if proof.schema_faults:
        return [schema]
    doubled = proof.repeated_ids
    comparisons = [EVERY_ROW_PUBLISHED, *([PUBLISHED_TOTALS] if totals_stated else [])]
    return [
        schema,
        check_result(
            UNIQUE_IDS, [f"{doubled:,} rows share their id with another"] if doubled else []
        ),
        *(
            check_result(spec, proof.differences, totals_metadata(proof.totals))
            for spec in comparisons
        ),
        check_result(NO_CLEAR_CARDS, proof.cards_in_clear, {"card_policy": card_policy}),
    ]


def totals_metadata(totals: ControlTotals) -> dict[str, Any]:
    """Control totals as Dagster shows them."""
    return {
        "rows": totals.rows,
        "amount": str(totals.amount),
        "ids_digest": totals.digest,
    }
