"""The quarantine as a person reads it: how many rows for which reason, with masked examples.

What goes there is decided in `validation.py`.
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
from txn_platform.contract.schema import CODED_COLUMNS, DUPLICATE_FIELD, UNREADABLE
from txn_platform.lake.layout import object_key, window_of_key
from txn_platform.lake.parquet import read_batches
from txn_platform.rows.protection import CLEAR_PREFIX_DIGITS, CLEAR_SUFFIX_DIGITS
from txn_platform.rows.validation import Validator, find_repeats

if TYPE_CHECKING:
    import pyarrow as pa

    from txn_platform.lake.base import Lake
    from txn_platform.windows import Window

# In a quarantine's footer: the digest of the landed object that its rows are of.
LANDED_DIGEST: Final = "landed_sha256"
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


@dataclass(frozen=True)
class Quarantine:
    """The quarantine of one window, or of all.

    Attributes:
        reasons: the most frequent first.
        judged: windows that were landed and whose quarantine is absent or of an earlier landing;
            their landed rows were judged now.
    """

    reasons: dict[str, Reason]
    judged: list[Window]


def look_into(lake: Lake, raw: str, quarantined: str, window: Window | None) -> Quarantine:
    """Count what is quarantined; nothing is written.

    Args:
        lake: where.
        raw: the asset of the landed rows.
        quarantined: the asset of the quarantined ones.
        window: which; None for all.

    Raises:
        UserError: the window was never landed, or the store can't be reached.
    """
    windows = [window] if window else _windows(lake, raw, quarantined)
    tally = ReasonTally()
    judged: list[Window] = []
    for each in windows:
        landed = lake.digest(object_key(raw, each))
        key = object_key(quarantined, each)
        if landed and not (lake.find(key) and _is_of(lake, key, landed)):
            judged.append(each)
            _judge(lake, object_key(raw, each), each, tally)
        else:
            with lake.open(key) as file:
                for rows in read_batches(file):
                    tally.add(rows)
    return Quarantine(tally.most_common(), judged)


def _is_of(lake: Lake, key: str, landed: str) -> bool:
    """Whether a quarantine is of the landed object of this digest; yes where it does not say."""
    with lake.open(key) as file:
        notes = file.metadata.metadata or {}
    return notes.get(LANDED_DIGEST.encode(), landed.encode()) == landed.encode()


def _windows(lake: Lake, *assets: str) -> list[Window]:
    """Those of which an asset has an object, oldest first."""
    found = {window_of_key(key) for asset in assets for key in lake.keys(asset)}
    return sorted(found, key=lambda window: window.start)


def _judge(lake: Lake, key: str, window: Window, tally: ReasonTally) -> None:
    """Count the rows of a landed window that break the contract."""
    with lake.open(key, CODED_COLUMNS) as raw:
        validator = Validator(window, find_repeats(lambda columns: read_batches(raw, columns)))
        for rows in read_batches(raw):
            tally.add(validator.judge(rows).quarantined)


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
