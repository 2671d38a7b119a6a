"""Notes in the footer of a published object: what it was made from, and under which rules.

The assets write them. `window_states` compares them with the current source, contract and key, also
where no instance of Dagster remembers the window.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from txn_platform.contract.schema import CONTRACT_VERSION
from txn_platform.rows.reconciliation import ControlTotals

if TYPE_CHECKING:
    from collections.abc import Mapping

CARD_POLICY: Final = "card_policy"
_TOTALS: Final = "source_totals"
_CONTRACT: Final = "contract_version"
_CARD_KEY: Final = "card_key_fingerprint"


@dataclass(frozen=True)
class PublishedNotes:
    """The notes of one published window.

    Attributes:
        totals: of all its rows, published and quarantined: the source's statement, or counted.
        card_policy: `token` or `clear`.
        card_key: the fingerprint of the key of its card tokens.
        contract_version: of the contract that it was validated against.
    """

    totals: ControlTotals
    card_policy: str
    card_key: str
    contract_version: str = CONTRACT_VERSION

    def to_footer(self) -> dict[str, str]:
        """The notes as key-value metadata of a Parquet file."""
        return {
            _TOTALS: json.dumps(self.totals.to_display(), sort_keys=True),
            CARD_POLICY: self.card_policy,
            _CARD_KEY: self.card_key,
            _CONTRACT: self.contract_version,
        }

    @classmethod
    def of_footer(cls, metadata: Mapping[bytes, bytes] | None) -> Self | None:
        """The notes in a footer; None if an earlier version wrote it, or another program."""
        notes = metadata or {}
        try:
            return cls(
                ControlTotals.of_display(json.loads(notes[_TOTALS.encode()])),
                notes[CARD_POLICY.encode()].decode(),
                notes[_CARD_KEY.encode()].decode(),
                notes[_CONTRACT.encode()].decode(),
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            return None
