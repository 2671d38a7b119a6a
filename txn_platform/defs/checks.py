"""The asset checks: their specifications, and their results from the figures of an asset.

A new check is a specification in `CHECKS`, and a result in `drift`, `landed`, `validated` or
`published`. All checks but `source_states_totals` block: a window that fails one is not published.

A check that cannot be evaluated has no result. Dagster then shows it as skipped, or as failed to
execute if the step failed, and never as passed.

Every result has a message of one form: it says what was expected, what was found, and, if the check
failed, what to do.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import dagster as dg

from txn_platform.contract import schema
from txn_platform.contract.drift import Drift
from txn_platform.contract.model import Contract
from txn_platform.defs.beta import beta_allowed
from txn_platform.defs.failures import failure
from txn_platform.defs.feed_keys import key_of
from txn_platform.defs.partitions import HOURS
from txn_platform.defs.window_metadata import reasons_table
from txn_platform.feeds import Feed
from txn_platform.rows.proof import Proof
from txn_platform.rows.reason_tally import Reason
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.window import ValidatedWindow

RAW: Final = schema.RAW
VALIDATED: Final = schema.VALIDATED
QUARANTINED: Final = schema.QUARANTINED
PUBLISHED: Final = schema.PUBLISHED


def _check(asset: str, name: str, description: str, *, blocking: bool = True) -> dg.AssetCheckSpec:
    with beta_allowed():
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
UNIQUE_IDS: Final = _check(PUBLISHED, "ids_are_unique", "No id occurs twice")
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


def specs_of(asset: str, feed: Feed) -> list[dg.AssetCheckSpec]:
    """The specifications of the checks of a feed's asset, as its decorator takes them.

    A check that the feed's source can never give a result is left out.
    """
    never = {
        *([] if feed.api.totals else [LANDED_TOTALS.name]),
        *([] if feed.api.description else [DRIFT.name]),
    }
    with beta_allowed():
        return [
            check.replace_key(dg.AssetCheckKey(key_of(asset, feed), check.name))
            for check in CHECKS
            if check.asset_key == dg.AssetKey(asset) and check.name not in never
        ]


# The measure against a fault that no source can cause.
_RUN_AGAIN: Final = (
    "materialize the whole window again; if it fails again, report this message as an error of the"
    " platform"
)


def check_result(
    check: dg.AssetCheckSpec,
    faults: Iterable[str],
    *,
    expected: str,
    otherwise: str,
    to_do: str = _RUN_AGAIN,
    metadata: Mapping[str, Any] | None = None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """The result of a check: it has passed if there is no fault. A warning blocks nothing.

    Args:
        check: its specification.
        faults: a phrase for each fault.
        expected: a phrase for the state without fault.
        otherwise: a phrase for the state that was found, if there is no fault.
        to_do: a phrase for the measure against a fault.
        metadata: of the result.
        severity: of a fault.
    """
    found = list(faults)
    return dg.AssetCheckResult(
        passed=not found,
        asset_key=check.asset_key,
        check_name=check.name,
        severity=severity,
        description=message(expected, "; ".join(found) or otherwise, to_do if found else None),
        metadata=metadata or {},
    )


def message(expected: str, found: str, to_do: str | None = None) -> str:
    """The message of a result, in the form of all checks."""
    measure = f" To do: {to_do}." if to_do else ""
    return f"Expected: {expected}. Found: {found}.{measure}"


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
        failures = " ".join(f"{result.check_name}: {result.description}" for result in failed)
        raise failure(
            f"the window is not published, because checks failed. {failures.removesuffix('.')}",
            *(str(result.check_name) for result in failed),
        )


def recorded(
    results: Iterable[dg.AssetCheckResult], selected: Collection[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckResult]:
    """Those results whose check the run records, with the keys of the feed's assets."""
    keys = {(key.asset_key.path[-1], key.name): key.asset_key for key in selected}
    for result in results:
        name = result.asset_key.path[-1] if result.asset_key else ""
        key = keys.get((name, result.check_name or ""))
        if key is not None:
            yield result._replace(asset_key=key)


def drift(found: list[Drift] | None, contract: Contract) -> dg.AssetCheckResult:
    """The result of comparing the source's description with the contract; None without one."""
    breaking = any(difference.breaking for difference in found or [])
    return check_result(
        DRIFT,
        [difference.message for difference in found or []],
        expected="the source describes its rows as the contract does",
        otherwise="the source has no description of its rows to compare"
        if found is None
        else "each field of the contract, with its type",
        to_do="ask the source's owner; if the change is meant, change the contract"
        f" ({contract.origin})",
        metadata={"described_by_source": found is not None},
        severity=dg.AssetCheckSeverity.ERROR if breaking else dg.AssetCheckSeverity.WARN,
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
            check_result(
                LANDED_TOTALS,
                totals.differences(stated),
                expected=f"{stated.rows:,} rows, with the amounts and ids that the source states",
                otherwise=f"these {totals.rows:,} rows",
                to_do="run the window again; if it fails again, ask the source's owner which of"
                " the two is right",
                metadata=totals_metadata(totals),
            )
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
        expected="control totals from the source",
        otherwise=f"control totals of {stated.rows if stated else 0:,} rows",
        to_do="compare the number of rows with the source by other means; nothing is held back",
        severity=dg.AssetCheckSeverity.WARN,
    )


def validated(
    landed: ControlTotals,
    found: ValidatedWindow,
    contract: Contract,
    *,
    allowed: float,
    allowed_by_reason: Mapping[str, float],
) -> list[dg.AssetCheckResult]:
    """The results on a validated window.

    Args:
        landed: the totals of its landed rows.
        found: the result of validation.
        contract: that the rows were held against.
        allowed: the largest share of quarantined rows.
        allowed_by_reason: the largest share for single reasons, where one is set.
    """
    return [
        check_result(
            EVERY_ROW_KEPT,
            (found.validated + found.quarantined).differences(landed),
            expected=f"each of {landed.rows:,} landed rows once, validated or quarantined",
            otherwise=f"{found.validated.rows:,} validated and {found.quarantined.rows:,}"
            " quarantined rows, which add up",
            metadata={"validated": found.validated.rows, "quarantined": found.quarantined.rows},
        ),
        _quarantine_share(
            landed.rows,
            found.quarantined.rows,
            found.reasons,
            contract,
            allowed=allowed,
            allowed_by_reason=allowed_by_reason,
        ),
    ]


def _quarantine_share(
    rows: int,
    quarantined: int,
    reasons: Mapping[str, Reason],
    contract: Contract,
    *,
    allowed: float,
    allowed_by_reason: Mapping[str, float],
) -> dg.AssetCheckResult:
    limits = [("", quarantined, allowed)] + [
        (f" for {reason}", reasons[reason].rows if reason in reasons else 0, limit)
        for reason, limit in allowed_by_reason.items()
    ]
    faults = [
        f"{count:,} of {rows:,} rows are quarantined{what}, {count / (rows or 1):.2%}, and"
        f" {limit:.2%} is allowed"
        for what, count, limit in limits
        if count > limit * rows
    ]
    if faults:
        commonest = ", ".join(
            f"{name} ({_rows(reason.rows)}, of a form like {reason.form!r})"
            for name, reason in islice(reasons.items(), _COMMONEST)
        )
        faults.append(f"the commonest reasons are {commonest}")
    by_reason = {name: reason.rows for name, reason in reasons.items()}
    forms = {name: reason.form for name, reason in reasons.items()}
    return check_result(
        QUARANTINE_SHARE,
        faults,
        expected=f"at most {allowed:.2%} of the rows in quarantine",
        otherwise=f"{quarantined:,} of {rows:,} rows, {quarantined / (rows or 1):.2%}",
        to_do="look at the rows with txn quarantine, have the source fix them, and run the window"
        " again; or raise the limit (TXN_MAX_QUARANTINE, or the run's configuration)",
        metadata={
            "share": quarantined / (rows or 1),
            "allowed": allowed,
            "quarantined": quarantined,
            "reasons": reasons_table(contract, by_reason, rows, forms),
        },
    )


_COMMONEST: Final = 3


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def published(
    proof: Proof, card_policy: str, *, totals_stated: bool = True
) -> list[dg.AssetCheckResult]:
    """The results on a file before it is published.

    Args:
        proof: the findings on the file.
        card_policy: `token`, or `clear` to publish card numbers as sent, or `none` without a card.
        totals_stated: whether the source states totals. If not, `PUBLISHED_TOTALS` has no result.

    Returns:
        Only the result of `SCHEMA` for a file whose schema is not the contract's.
    """
    schema = check_result(
        SCHEMA,
        proof.schema_faults,
        expected="the columns of the contract, with its types, in its order",
        otherwise="these columns",
    )
    if proof.schema_faults:
        return [schema]
    doubled = proof.repeated_ids
    comparisons = [EVERY_ROW_PUBLISHED, *([PUBLISHED_TOTALS] if totals_stated else [])]
    return [
        schema,
        check_result(
            UNIQUE_IDS,
            [f"{doubled:,} rows share their id with another"] if doubled else [],
            expected="each id once",
            otherwise=f"{proof.totals.rows:,} rows with as many ids",
        ),
        *(
            check_result(
                spec,
                proof.differences,
                expected=_EXPECTED_TOTALS[spec.name],
                otherwise=f"{proof.totals.rows:,} rows with these totals",
                metadata=totals_metadata(proof.totals),
            )
            for spec in comparisons
        ),
        check_result(
            NO_CLEAR_CARDS,
            proof.cards_in_clear,
            expected="card numbers as they were sent, as TXN_CARD_POLICY=clear asks for"
            if card_policy == "clear"
            else "each card number masked, and no text with a card number",
            otherwise=f"{proof.totals.rows:,} rows"
            + (", not examined" if card_policy == "clear" else " without a card number in clear"),
            metadata={"card_policy": card_policy},
        ),
    ]


_EXPECTED_TOTALS: Final = {
    EVERY_ROW_PUBLISHED.name: "the totals of the landed rows less those of the quarantined rows",
    PUBLISHED_TOTALS.name: "the source's control totals less those of the quarantined rows",
}


def totals_metadata(totals: ControlTotals) -> dict[str, Any]:
    """Rows and ids as Dagster shows them. Sums of amounts are shown by currency instead."""
    return {"rows": totals.rows, "ids_digest": totals.digest}
