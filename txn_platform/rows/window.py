"""Validation of a landed window: each row is published protected, or quarantined with reasons.

One function gives the rows, another takes the results. No file is opened here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from txn_platform.arrow.prefetch import prefetch
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.rows.ordering import Order
from txn_platform.rows.protection import protected
from txn_platform.rows.reason_tally import ReasonTally
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.validation import NO_REPEATS, Validator, find_repeats

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from txn_platform.contract.model import Contract
    from txn_platform.rows.duplicates import Batches
    from txn_platform.rows.protection import CardProtector
    from txn_platform.rows.reason_tally import Reason
    from txn_platform.windows import Window


@dataclass(frozen=True)
class ValidatedWindow:
    """The totals of a validated window.

    Attributes:
        validated: control totals of the conforming rows.
        quarantined: control totals of the other rows.
        reasons: why rows were quarantined, the most frequent reason first.
        in_order: whether the conforming rows came in the order of publication.
    """

    validated: ControlTotals
    quarantined: ControlTotals
    reasons: dict[str, Reason]
    in_order: bool


def validate_window(
    batches: Batches,
    window: Window,
    protector: CardProtector | None,
    write: Callable[[pa.RecordBatch, pa.RecordBatch], None],
    *,
    card_policy: Literal["token", "clear"],
    may_repeat: bool,
    contract: Contract = TRANSACTIONS,
) -> ValidatedWindow:
    """Validate every row of a landed window, batch by batch, in one pass.

    Args:
        batches: gives the landed rows, columns of the contract's `landed_schema`. With
            `may_repeat` it is called again for the ids.
        window: the window that the rows were requested for.
        protector: replaces card numbers by token and mask; None for a contract without a card.
        write: takes the conforming rows (`published_schema`) and the quarantined rows
            (`quarantine_schema`) of each batch, in the order sent.
        card_policy: `token`, or `clear` to publish card numbers as sent.
        may_repeat: whether an id may occur twice; if not, nothing looks for duplicates.
        contract: to hold the rows against.
    """
    validated = quarantined = ControlTotals()
    reasons = ReasonTally()
    order = Order(contract)
    repeats = find_repeats(batches, contract) if may_repeat else NO_REPEATS
    validator = Validator(window, repeats, contract)
    for batch in prefetch(map(validator.validate, batches(None))):
        conforming = protected(batch.conforming, protector, card_policy, contract)
        validated += ControlTotals.of(conforming, contract=contract)
        quarantined += ControlTotals.of(batch.quarantined, contract=contract)
        reasons.add(batch.quarantined, batch.rows_by_reason)
        order.add(conforming)
        write(conforming, batch.quarantined)
    return ValidatedWindow(validated, quarantined, reasons.most_common(), order.holds)
