"""A landed window, validated: every row is conforming and protected, or quarantined with reasons.

Pure: rows come from one function and go to another, and files are no matter of this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from txn_platform.arrow.prefetch import prefetch
from txn_platform.rows.ordering import Order
from txn_platform.rows.protection import protected
from txn_platform.rows.reason_tally import ReasonTally
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.validation import NO_REPEATS, Validator, find_repeats

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from txn_platform.rows.protection import CardProtector
    from txn_platform.rows.reason_tally import Reason
    from txn_platform.rows.reconciliation import Batches
    from txn_platform.windows import Window


@dataclass(frozen=True)
class ValidatedWindow:
    """The account of a window that was validated.

    Attributes:
        validated: control totals of the rows that conform.
        quarantined: control totals of the others.
        reasons: of the quarantine, the most frequent first.
        in_order: the rows that conform came in the order in which they are published.
    """

    validated: ControlTotals
    quarantined: ControlTotals
    reasons: dict[str, Reason]
    in_order: bool


def validate_window(
    batches: Batches,
    window: Window,
    protector: CardProtector,
    write: Callable[[pa.RecordBatch, pa.RecordBatch], None],
    *,
    card_policy: Literal["token", "clear"],
    may_repeat: bool,
) -> ValidatedWindow:
    """Validate every row of a landed window, batch by batch, in one pass.

    Args:
        batches: gives the landed rows, columns of `LANDED_SCHEMA`; asked once more for the ids
            when `may_repeat`.
        window: what the rows were sent for.
        protector: replaces card numbers by token and mask.
        write: takes, of each batch, the conforming rows (`PUBLISHED_SCHEMA`) and the quarantined
            ones (`QUARANTINE_SCHEMA`), in the order sent.
        card_policy: `token`, or `clear` where card numbers are published as they are.
        may_repeat: an id may occur twice; otherwise repeats are not looked for.
    """
    validated = quarantined = ControlTotals()
    reasons = ReasonTally()
    order = Order()
    validator = Validator(window, find_repeats(batches) if may_repeat else NO_REPEATS)
    for batch in prefetch(map(validator.validate, batches(None))):
        conforming = protected(batch.conforming, protector, card_policy)
        validated += ControlTotals.of(conforming)
        quarantined += ControlTotals.of(batch.quarantined)
        reasons.add(batch.quarantined)
        order.add(conforming)
        write(conforming, batch.quarantined)
    return ValidatedWindow(validated, quarantined, reasons.most_common(), order.holds)
