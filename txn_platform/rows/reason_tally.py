"""Quarantined rows counted by reason, with masked examples.

Pure. Which rows are quarantined is decided in `validation`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import polars as pl

from txn_platform.contract.card_numbers import card_number_spans, kinds_of
from txn_platform.contract.reasons import DUPLICATE_FIELD_ROW
from txn_platform.contract.schema import DUPLICATE_FIELD, UNREADABLE
from txn_platform.rows.protection import CLEAR_PREFIX_DIGITS, CLEAR_SUFFIX_DIGITS

if TYPE_CHECKING:
    import pyarrow as pa

_EXAMPLES: Final = 3
_LONGEST: Final = 60
_LONGEST_FORM: Final = 40
# Digits that may be a card number with a fault, as people and forms write them.
_NUMBER: Final = re.compile(
    r"\d(?:[\s_\-\u00ad\u200b-\u2015\u2060\u2212\ufe58\ufe63\ufeff\uff0d]*\d){11,}"
)


@dataclass
class Reason:
    """One reason for quarantine.

    Attributes:
        rows: how many rows it holds for.
        form: of the first value met; see `form_of`.
        examples: up to three values of the field, as sent, with card numbers masked.
    """

    rows: int = 0
    form: str = ""
    examples: list[str] = field(default_factory=list[str])


class ReasonTally:
    """Counts the reasons of quarantined rows as they pass by, and keeps a few examples."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._found: dict[str, Reason] = {}

    def add(self, quarantined: pa.RecordBatch) -> None:
        """Count rows of `QUARANTINE_SCHEMA`."""
        reasons = pl.Series("reason", quarantined.column("reasons"), dtype=pl.List(pl.String))
        each = reasons.to_frame().with_row_index("row").explode("reason").drop_nulls("reason")
        counts = Counter(each["reason"].to_list())
        self._rows += counts
        for reason in counts:
            entry = self._found.setdefault(reason, Reason())
            if (room := _EXAMPLES - len(entry.examples)) <= 0:
                continue
            rows = each.filter(pl.col("reason") == reason)["row"].head(room).to_list()
            values = [_accused(reason, quarantined.slice(row, 1)) for row in rows]
            entry.form = entry.form or form_of(values[0])
            entry.examples += map(masked, values)

    def most_common(self) -> dict[str, Reason]:
        """The reasons, the most frequent first."""
        return {
            reason: Reason(rows, self._found[reason].form, self._found[reason].examples)
            for reason, rows in self._rows.most_common()
        }


def _accused(reason: str, row: pa.RecordBatch) -> str | None:
    """The value that a reason speaks of: of one row, a field or what could not be read."""
    name = reason.partition(".")[0]
    if name in row.schema.names:
        return row.column(name)[0].as_py()
    extra = row.column("extra_fields")[0].as_py()
    fields = {} if extra is None else json.loads(extra)
    if reason == DUPLICATE_FIELD_ROW:
        return fields[DUPLICATE_FIELD][0]
    return fields.get(UNREADABLE)


def masked(value: str | None) -> str:
    """A value as it may be shown: printable, short, and without a card number."""
    if value is None:
        return "(absent)"
    hidden = list(value)
    spans = [*(found.span() for found in _NUMBER.finditer(value)), *card_number_spans(value)]
    for start, end in spans:
        digits = [
            start + place for place, kind in enumerate(kinds_of(value[start:end])) if kind >= 0
        ]
        for place in digits[CLEAR_PREFIX_DIGITS:-CLEAR_SUFFIX_DIGITS]:
            hidden[place] = "*"
    short = "".join(hidden[:_LONGEST])
    if len(value) > _LONGEST:
        short += f"… ({len(value):,} characters)"
    return short if short.isprintable() else short.encode("unicode_escape").decode()


def form_of(value: str | None) -> str:
    """The form of a value, which shows what is wrong with it but not the value itself.

    Letters become A or a, digits 9; what is beyond 40 characters is left out.
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
