"""Notes in the footer of a published object: what it was made from, and under which rules.

The assets write them. `window_states` compares them with the current source, contract and key, also
where no instance of Dagster remembers the window.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa

from txn_platform.contract.card_forms import CARD_MASKS, DEFAULT_MASK
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.lake.base import explained_reads
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow.parquet as pq

    from txn_platform.contract.card_forms import CardMask
    from txn_platform.lake.base import Lake

CARD_POLICY: Final = "card_policy"
NO_CARDS: Final = "none"
"""The card policy of rows whose contract has no card."""
_TOTALS: Final = "source_totals"
_CONTRACT: Final = "contract_version"
CARD_KEY: Final = "card_key_fingerprint"
CARD_MASK: Final = "card_mask"


@dataclass(frozen=True)
class PublishedNotes:
    """The notes of one published window.

    Attributes:
        totals: of all its rows, published and quarantined: the source's statement, or counted.
        card_policy: `token` or `clear`, or `NO_CARDS`.
        card_key: the fingerprint of the key of its card tokens, the key's id; empty without cards.
        card_mask: a name in `CARD_MASKS`. A footer without it has the default.
        contract_version: of the contract that it was validated against.
    """

    totals: ControlTotals
    card_policy: str
    card_key: str
    card_mask: CardMask = DEFAULT_MASK
    contract_version: str = TRANSACTIONS.version

    def to_footer(self) -> dict[str, str]:
        """The notes as key-value metadata of a Parquet file."""
        return {
            _TOTALS: json.dumps(self.totals.to_display(), sort_keys=True),
            CARD_POLICY: self.card_policy,
            **({} if self.card_policy == NO_CARDS else {CARD_KEY: self.card_key}),
            **({} if self.card_mask == DEFAULT_MASK else {CARD_MASK: self.card_mask}),
            _CONTRACT: self.contract_version,
        }

    @classmethod
    def of_footer(cls, metadata: Mapping[bytes, bytes] | None) -> Self | None:
        """The notes in a footer; None if an earlier version wrote it, or another program."""
        notes = metadata or {}
        try:
            policy = notes[CARD_POLICY.encode()].decode()
            return cls(
                ControlTotals.of_display(json.loads(notes[_TOTALS.encode()])),
                policy,
                "" if policy == NO_CARDS else notes[CARD_KEY.encode()].decode(),
                mask_of_footer(metadata),
                notes[_CONTRACT.encode()].decode(),
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            return None


def read_footer(lake: Lake, key: str) -> pq.FileMetaData:
    """The footer of an object.

    Raises:
        UserError: the object is missing or damaged, or can't be read.
    """
    try:
        with explained_reads(lake.uri(key)), lake.open(key) as file:
            return file.metadata
    except pa.ArrowException:
        raise UserError(
            f"{lake.uri(key)} is no whole Parquet file: run the window again",
            Section.INPUT_MISSING,
        ) from None


def mask_of_footer(metadata: Mapping[bytes, bytes] | None) -> CardMask:
    """The mask that the card numbers of a published object have.

    Raises:
        ValueError: its footer names one that is not known.
    """
    named = (metadata or {}).get(CARD_MASK.encode(), DEFAULT_MASK.encode()).decode()
    for mask in CARD_MASKS:
        if mask == named:
            return mask
    raise ValueError(f"the card mask {named!r} is not known")
