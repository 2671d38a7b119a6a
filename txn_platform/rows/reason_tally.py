"""Quarantined rows by reason: how many, the form of a value, and masked examples.

`validation` decides which rows are quarantined.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from txn_platform.contract.card_forms import CARD_MASKS, DEFAULT_MASK
from txn_platform.contract.card_numbers import card_number_spans, digit_runs
from txn_platform.contract.model import DUPLICATE_FIELD, UNREADABLE
from txn_platform.contract.reasons import DUPLICATE_FIELD_ROW

if TYPE_CHECKING:
    import pyarrow as pa

    from txn_platform.contract.card_forms import CardMask
    from txn_platform.rows.validation import RowsByReason

_EXAMPLES: Final = 3
_LONGEST: Final = 60
_LONGEST_FORM: Final = 40
# A value may have megabytes.
_LONGEST_SEARCHED: Final = 2000
# So many digits, with at most one letter between two, may be a card number that was mistyped.
_FEWEST_DIGITS: Final = 12
# No network's numbers begin with a year of these centuries.
_TIME: Final = re.compile(
    r"(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]{1,9})?)?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})?"
)


@dataclass
class Reason:
    """One reason for quarantine.

    Attributes:
        rows: how many rows have it.
        form: the form of the first value; see `form_of`.
        examples: up to three values of the field, as sent, with card numbers masked.
    """

    rows: int = 0
    form: str = ""
    examples: list[str] = field(default_factory=list[str])


class ReasonTally:
    """Sums up the reasons of batches of quarantined rows, and keeps a few examples.

    Args:
        mask: of the card numbers in the examples; a name in `CARD_MASKS`.
    """

    def __init__(self, mask: CardMask = DEFAULT_MASK) -> None:
        self._mask: CardMask = mask
        self._found: dict[str, Reason] = {}

    def add(self, quarantined: pa.RecordBatch, rows_by_reason: RowsByReason) -> None:
        """Add rows of a contract's `quarantine_schema`.

        Args:
            quarantined: the rows.
            rows_by_reason: as `validation` returns it, or `rows_by_reason` reads it.
        """
        in_order_met = sorted(rows_by_reason.items(), key=lambda found: found[1][0])
        for reason, rows in in_order_met:
            entry = self._found.setdefault(reason, Reason())
            entry.rows += len(rows)
            for row in rows[: _EXAMPLES - len(entry.examples)].tolist():
                value = _value_of(reason, quarantined.slice(row, 1))
                entry.form = entry.form or form_of(value)
                entry.examples.append(masked(value, self._mask))

    def most_common(self) -> dict[str, Reason]:
        """The reasons, the most frequent first; of equally frequent ones the one met first."""
        return dict(sorted(self._found.items(), key=lambda found: -found[1].rows))


def rows_by_reason(quarantined: pa.RecordBatch) -> RowsByReason:
    """The indices of the rows by reason, from stored rows of a `quarantine_schema`."""
    reasons = pl.Series("reason", quarantined.column("reasons"), dtype=pl.List(pl.String))
    each = reasons.to_frame().with_row_index("row").explode("reason").drop_nulls("reason")
    by_reason = each.group_by("reason", maintain_order=True).agg("row")
    return {
        reason: rows.to_numpy().astype(np.int64)
        for reason, rows in zip(by_reason["reason"], by_reason["row"], strict=True)
    }


def _value_of(reason: str, row: pa.RecordBatch) -> str | None:
    """The value that a reason is about: a field of one row, or the text that could not be read."""
    name = reason.partition(".")[0]
    if name in row.schema.names:
        return row.column(name)[0].as_py()
    extra = row.column("extra_fields")[0].as_py()
    fields = {} if extra is None else json.loads(extra)
    if reason == DUPLICATE_FIELD_ROW:
        return fields[DUPLICATE_FIELD][0]
    return fields.get(UNREADABLE)


def masked(value: str | None, mask: CardMask = DEFAULT_MASK) -> str:
    """A value made safe to show: printable, short, and without a card number.

    Args:
        value: of a field; None if it is absent.
        mask: says which digits of a card number stay; a name in `CARD_MASKS`.
    """
    if value is None:
        return "(absent)"
    hidden, form = list(value), CARD_MASKS[mask]
    for digits in _numbers(value[:_LONGEST_SEARCHED]):
        for index in digits[form.first : len(digits) - form.last]:
            hidden[index] = "*"
    short = "".join(hidden[:_LONGEST])
    if len(value) > _LONGEST:
        short += f"… ({len(value):,} characters)"
    return short if short.isprintable() else short.encode("unicode_escape").decode()


def _numbers(value: str) -> list[list[int]]:
    """The indices of the digits of each card number, and of each that may be a mistyped one."""
    if _TIME.fullmatch(value):
        return []
    runs = digit_runs(value)
    digits = np.concatenate(runs)
    numbers = [
        digits[(digits >= start) & (digits < end)] for start, end in card_number_spans(value)
    ]
    numbers += [run for run in runs if len(run) >= _FEWEST_DIGITS]
    return [number.tolist() for number in numbers]


def form_of(value: str | None) -> str:
    """The form of a value, which shows a fault but not the value.

    Letters become A or a, and digits 9. Only the first 40 characters are shown.
    """
    if value is None:
        return "(absent)"
    form = "".join(map(_form_of_character, value[:_LONGEST_FORM]))
    return form if len(value) <= _LONGEST_FORM else f"{form}… ({len(value):,} characters)"


def _form_of_character(character: str) -> str:
    category = unicodedata.category(character)[0]
    if category == "N":
        return "9"
    if category in "LM":
        return "A" if character.isupper() else "a"
    return character if character.isprintable() else ascii(character)[1:-1]
