"""The metadata of a window's materializations: figures, tables and the picture, for people.

Numbers are numbers, which Dagster plots over the windows. Nothing here holds data of a row.
"""

from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import Any, Final

import dagster as dg

from txn_platform.contract.model import Contract
from txn_platform.contract.reasons import reasons as reasons_of_contract
from txn_platform.defs.picture import markdown_picture
from txn_platform.lake.footers import CARD_KEY, CARD_MASK, CARD_POLICY, NO_CARDS
from txn_platform.rows.figures import WindowFigures

_REASONS: Final = "reasons"
_AMOUNTS: Final = "amounts"
# A longer form makes the table wider than Dagster's page, which then clips the message.
_FORM_CHARACTERS: Final = 30
# Currencies, or groups, that have a number of their own; the table has all of them.
_PLOTTED: Final = 8

_REASON_COLUMNS: Final = [
    dg.TableColumn("reason", "string", "Column and problem, see docs/contract.md"),
    dg.TableColumn("rows", "int", "How many rows it holds for; a row can have several reasons"),
    dg.TableColumn("share", "string", "Of the rows that were sent"),
    dg.TableColumn("meaning", "string", "The value, as the contract sees it"),
]
_FORM_COLUMN: Final = dg.TableColumn(
    "form", "string", "Of one such value: A, a and 9 stand for letters and digits"
)
# The table of contracts without currencies has their group under the same name.
_GROUP: Final = "currency"
_AMOUNT_COLUMNS: Final = [
    dg.TableColumn(_GROUP, "string", "ISO 4217, or the group by which amounts are summed"),
    dg.TableColumn("rows", "int", "Published rows of it"),
    dg.TableColumn("amount", "string", "Sum of their amounts, exact, as the contract has them"),
]


def step_metadata(rows: int, seconds: float) -> dict[str, Any]:
    """How long a step took, and how many rows it handled in a second.

    Args:
        rows: that the step handled.
        seconds: until its file was complete and checked; storing it comes on top.
    """
    return {"seconds": round(seconds, 3), "rows_per_second": round(rows / max(seconds, 1e-9))}


def quarantine_metadata(
    contract: Contract, reasons: Mapping[str, int], quarantined: int, sent: int
) -> dict[str, Any]:
    """How many rows of a window are quarantined, and why.

    Args:
        contract: that the rows were held against.
        reasons: rows by reason, the most frequent first.
        quarantined: rows with a reason.
        sent: all rows of the window.
    """
    return {
        "rows_sent": sent,
        "rows_quarantined": quarantined,
        "quarantine_rate": quarantined / (sent or 1),
        _REASONS: reasons_table(contract, reasons, sent),
    }


def card_metadata(policy: str, key_fingerprint: str, mask: str) -> dict[str, Any]:
    """How the card numbers of a window are protected, as its object's footer says."""
    if policy == NO_CARDS:
        return {}
    return {CARD_POLICY: policy, CARD_KEY: key_fingerprint, CARD_MASK: mask}


def figures_metadata(figures: WindowFigures, reasons: Mapping[str, int]) -> dict[str, Any]:
    """The picture of a published window, the share of fraud, and amounts by currency.

    Args:
        figures: of the published rows.
        reasons: quarantined rows by reason, the most frequent first.
    """
    by_group = figures.by_group
    labelled = figures.contract.fraud is not None
    return {
        "picture": dg.MetadataValue.md(markdown_picture(figures, reasons)),
        **({"fraud_share": figures.fraud_rows / (figures.rows or 1)} if labelled else {}),
        **{
            # A float, because Dagster plots these and no decimals. The table has the exact sums.
            f"amount_{group}".removesuffix("_"): float(total.amount)
            for group, total in islice(by_group.items(), _PLOTTED)
        },
        _AMOUNTS: dg.MetadataValue.table(
            [
                dg.TableRecord({_GROUP: group, "rows": total.rows, "amount": f"{total.amount:,}"})
                for group, total in by_group.items()
            ],
            dg.TableSchema(_AMOUNT_COLUMNS),
        ),
    }


def reasons_table(
    contract: Contract,
    reasons: Mapping[str, int],
    sent: int,
    forms: Mapping[str, str] | None = None,
) -> dg.TableMetadataValue:
    """Rows by reason as a table.

    Args:
        contract: that the rows were held against.
        reasons: rows by reason, the most frequent first.
        sent: all rows of the window.
        forms: the form of a value by reason, if it is to be shown. It is never a value.
    """
    meanings = reasons_of_contract(contract) if reasons else {}
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "reason": reason,
                    "rows": rows,
                    "share": f"{rows / (sent or 1):.2%}",
                    "meaning": meanings.get(reason, "").replace("\\|", "|"),
                    **({} if forms is None else {"form": _shortened(forms[reason])}),
                }
            )
            for reason, rows in reasons.items()
        ],
        dg.TableSchema(_REASON_COLUMNS + ([] if forms is None else [_FORM_COLUMN])),
    )


def _shortened(form: str) -> str:
    return form if len(form) <= _FORM_CHARACTERS else f"{form[: _FORM_CHARACTERS - 1]}…"


def reasons_of(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, int]:
    """Rows by reason, from the metadata of a quarantined or a published window."""
    return {
        str(row.data["reason"]): int(str(row.data["rows"])) for row in _records(metadata, _REASONS)
    }


def amounts_of(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Decimal]:
    """The exact sums of amounts by currency, from the metadata of a published window."""
    return {
        str(row.data[_GROUP]): Decimal(str(row.data["amount"]).replace(",", ""))
        for row in _records(metadata, _AMOUNTS)
    }


def _records(metadata: Mapping[str, dg.MetadataValue[Any]], name: str) -> list[dg.TableRecord]:
    table = metadata[name]
    return list(table.records) if isinstance(table, dg.TableMetadataValue) else []
