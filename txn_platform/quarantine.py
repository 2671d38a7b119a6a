"""The quarantine as a person reads it: how many rows for which reason, with masked examples.

What goes there is decided in `validation.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import polars as pl

from txn_platform.columns import as_frame
from txn_platform.lake import object_key, read_batches
from txn_platform.protection import CLEAR_PREFIX_DIGITS, CLEAR_SUFFIX_DIGITS

if TYPE_CHECKING:
    from txn_platform.lake import Lake
    from txn_platform.windows import Window

_EXAMPLES: Final = 3
_LONGEST: Final = 60
_NUMBER: Final = re.compile(r"[0-9](?:[ -]*[0-9]){11,}")


@dataclass
class Reason:
    """One reason for quarantine.

    Attributes:
        rows: how many rows it holds for.
        examples: up to three values of the field, as sent, with card numbers masked.
    """

    rows: int = 0
    examples: list[str] = field(default_factory=list[str])


def reasons_in(lake: Lake, asset: str, window: Window | None) -> dict[str, Reason]:
    """What is quarantined in one window, or in all; most frequent first.

    Raises:
        UserError: the window was never validated, or the store can't be reached.
    """
    keys = lake.keys(asset) if window is None else [object_key(asset, window)]
    counts: Counter[str] = Counter()
    found: dict[str, Reason] = {}
    for key in keys:
        with lake.open(key) as file:
            for rows in read_batches(file):
                for reason, part in (
                    as_frame(rows).explode("reasons").drop_nulls("reasons").group_by("reasons")
                ):
                    name = str(reason[0])
                    counts[name] += part.height
                    entry = found.setdefault(name, Reason())
                    room = _EXAMPLES - len(entry.examples)
                    values = part[name.partition(".")[0]].cast(pl.String).head(room)
                    entry.examples += [masked(value) for value in values]
    return {reason: Reason(rows, found[reason].examples) for reason, rows in counts.most_common()}


def masked(value: str | None) -> str:
    """A value as it may be shown: printable, short, and without a card number."""
    if value is None:
        return "(absent)"
    hidden = _NUMBER.sub(_mask, value)
    short = (
        hidden if len(hidden) <= _LONGEST else f"{hidden[:_LONGEST]}… ({len(value):,} characters)"
    )
    return short.encode("unicode_escape").decode() if not short.isprintable() else short


def _mask(number: re.Match[str]) -> str:
    text = number[0]
    hidden = len(text) - CLEAR_PREFIX_DIGITS - CLEAR_SUFFIX_DIGITS
    return text[:CLEAR_PREFIX_DIGITS] + "*" * hidden + text[-CLEAR_SUFFIX_DIGITS:]
