"""The quarantine as a person reads it: how many rows for which reason, with masked examples.

`rows/validation` decides which rows are quarantined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from txn_platform.contract.card_forms import DEFAULT_MASK
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.lake.auditing import audited_object
from txn_platform.lake.layout import object_key, window_of_key
from txn_platform.lake.parquet import read_batches
from txn_platform.rows.reason_tally import Reason, ReasonTally, rows_by_reason
from txn_platform.rows.validation import Validator, find_repeats

if TYPE_CHECKING:
    from txn_platform.contract.card_forms import CardMask
    from txn_platform.contract.model import Contract
    from txn_platform.lake.base import Lake
    from txn_platform.windows import Window

# The key in a quarantine's footer of the digest of the landed object.
LANDED_DIGEST: Final = "landed_sha256"


@dataclass(frozen=True)
class Quarantine:
    """The quarantine of one window, or of all.

    Attributes:
        reasons: the most frequent first.
        validated: landed windows whose quarantine is missing or older than the landed object; their
            landed rows were validated now.
    """

    reasons: dict[str, Reason]
    validated: list[Window]


def look_into(
    lake: Lake,
    raw: str,
    quarantined: str,
    window: Window | None,
    *,
    mask: CardMask = DEFAULT_MASK,
    contract: Contract = TRANSACTIONS,
) -> Quarantine:
    """Count the quarantined rows; nothing but a line of the audit log is written for each window.

    Args:
        lake: that has them.
        raw: the asset of the landed rows.
        quarantined: the asset of the quarantined rows.
        window: to count; None for all.
        mask: of the card numbers in the examples; a name in `CARD_MASKS`.
        contract: to hold landed rows against.

    Raises:
        UserError: the window was never landed, or the store can't be reached.
    """
    windows = [window] if window else _windows(lake, raw, quarantined)
    tally = ReasonTally(mask)
    validated: list[Window] = []
    for each in windows:
        landed = lake.digest(object_key(raw, each))
        key = object_key(quarantined, each)
        if landed and not (lake.find(key) and _is_of(lake, key, landed)):
            validated.append(each)
            key = object_key(raw, each)
            with audited_object("read", lake, key):
                _validate(lake, key, each, tally, contract)
        else:
            with audited_object("read", lake, key), lake.open(key) as file:
                for rows in read_batches(file):
                    tally.add(rows, rows_by_reason(rows))
    return Quarantine(tally.most_common(), validated)


def _is_of(lake: Lake, key: str, landed: str) -> bool:
    """Whether a quarantine is of the landed object with this digest; True if it states none."""
    with lake.open(key) as file:
        notes = file.metadata.metadata or {}
    return notes.get(LANDED_DIGEST.encode(), landed.encode()) == landed.encode()


def _windows(lake: Lake, *assets: str) -> list[Window]:
    """The windows of which an asset has an object, oldest first."""
    found = {window_of_key(key) for asset in assets for key in lake.keys(asset)}
    return sorted(found, key=lambda window: window.start)


def _validate(lake: Lake, key: str, window: Window, tally: ReasonTally, contract: Contract) -> None:
    """Count the rows of a landed window that break the contract."""
    with lake.open(key, contract.dictionary_encoded) as raw:
        repeats = find_repeats(lambda columns: read_batches(raw, columns), contract)
        validator = Validator(window, repeats, contract)
        for rows in read_batches(raw):
            found = validator.validate(rows)
            tally.add(found.quarantined, found.rows_by_reason)
