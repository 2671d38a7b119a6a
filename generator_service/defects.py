"""Rows spoiled on request with the account of what was spoiled, and a schema that drifts.

Here: the kinds of defects, which rows get them, what is sent then, and what it sums to. Not here:
how a value is written (`wire.py`), and what can be asked for (`models.py`, `app.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from generator_service import wire
from generator_service.models import moment_text, nearest, parse_moment
from generator_service.simulator import SCHEMA, ControlTotals, Window
from generator_service.simulator.randomness import Flags, Integers, key_of, mix
from generator_service.tally import Tally, id_hashes
from generator_service.wire import Column, Format, Mixed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

type _Field = pa.Field[Any]
type _Columns = dict[str, tuple[_Field, Column]]

# Kinds.


@dataclass(frozen=True)
class Kind:
    """A way to spoil a row.

    Attributes:
        name: as `defects=` and the account name it.
        field: the field that is spoiled, or added.
        spoil: the true text to what is sent for it, or what is sent whatever the text; None is
            null.
        reasons: why the platform must quarantine the row, `column.problem`, several with a space
            between; empty when the row still holds the contract.
        reasons_of_refund: likewise for a row that has an `original_transaction_id`.
        absent: whether JSON lacks the field altogether.
        adds: a field that is sent besides: it gets what is sent for `field` when that is new, and
            else the true text, which then moved there.
        json: what is sent to what stands for it in JSON, or what always does, quotes included;
            without it, a string.
        repeats: the row is sent as it is, and a copy right behind it is spoiled.
        accuses_both: the row that was repeated is quarantined too.
    """

    name: str
    field: str
    spoil: Callable[[str], str] | str | None
    reasons: str = ""
    reasons_of_refund: str | None = None
    absent: bool = False
    adds: str | None = None
    json: Callable[[str], str] | str | None = None
    repeats: bool = False
    accuses_both: bool = False

    @property
    def has_shape(self) -> bool:
        """Whether a row of JSON has other fields, or types, than a clean one."""
        return self.absent or self.adds is not None or self.json is not None


def _each(change: Callable[[str], str] | str | None, texts: Sequence[str]) -> Sequence[str | None]:
    """Return what becomes of texts, by a function, or one thing for all."""
    return [change(text) for text in texts] if callable(change) else [change] * len(texts)


def _as_it_is(text: str) -> str:
    return text


def _exponent(amount: str) -> str:
    return f"{int(amount.replace('.', ''))}e-2"


def _thousands(amount: str) -> str:
    whole, cents = amount.split(".")
    whole = whole.zfill(4)
    return f"{whole[:-3]},{whole[-3:]}.{cents}"


def _nineteen_digits(amount: str) -> str:
    return "9" + amount.zfill(19)


def _month_first(moment: str) -> str:
    return f"{moment[5:7]}/{moment[8:10]}/{moment[:4]} {moment[11:19]}"


def _year_before(moment: str) -> str:
    return (date.fromisoformat(moment[:10]) - timedelta(days=365)).isoformat() + moment[10:]


def _epoch(moment: str) -> str:
    return str(parse_moment(moment) // 1_000_000)


def _wrong_check_digit(number: str) -> str:
    return f"{number[:-1]}{(int(number[-1]) + 1) % 10}"


_HALF = "Half \x1a\\ud83d Moon"
_HALF_IN_JSON = '"Half \\ud83d Moon"'

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("missing_field", "customer_id", None, "customer_id.missing", absent=True),
        Kind("null_field", "transaction_type", None, "transaction_type.missing"),
        Kind("extra_field", "loyalty_points", "250", adds="loyalty_points"),
        Kind(
            "renamed_field",
            "merchant_name",
            None,
            "merchant_name.missing",
            absent=True,
            adds="merchantName",
        ),
        Kind("wrong_type_number", "amount", _as_it_is, json=_as_it_is),
        Kind(
            "wrong_type_boolean",
            "is_fraud",
            lambda truth: "1" if truth == "true" else "0",
            "is_fraud.format",
        ),
        Kind("amount_scale", "amount", lambda amount: amount + "5", "amount.format"),
        Kind("amount_exponent", "amount", _exponent, "amount.format"),
        Kind("amount_thousands", "amount", _thousands, "amount.format"),
        Kind("amount_nan", "amount", "NaN", "amount.format"),
        Kind("amount_infinity", "amount", "Infinity", "amount.format"),
        Kind("amount_negative", "amount", lambda amount: "-" + amount, "amount.range"),
        Kind("amount_zero", "amount", "0.00", "amount.range"),
        Kind("amount_19_digits", "amount", _nineteen_digits, "amount.format"),
        Kind("amount_leading_space", "amount", lambda amount: " " + amount, "amount.format"),
        Kind("amount_trailing_space", "amount", lambda amount: amount + " ", "amount.format"),
        Kind("time_naive", "transaction_at", lambda at: at[:-1], "transaction_at.format"),
        Kind("time_format", "transaction_at", _month_first, "transaction_at.format"),
        Kind(
            "time_future",
            "transaction_at",
            lambda at: "9999-12-31" + at[10:],
            "transaction_at.outside_window",
        ),
        Kind(
            "time_outside_window",
            "transaction_at",
            _year_before,
            "transaction_at.outside_window",
        ),
        Kind(
            "time_30_february",
            "transaction_at",
            lambda at: f"{at[:4]}-02-30{at[10:]}",
            "transaction_at.format",
        ),
        Kind(
            "time_leap_second",
            "transaction_at",
            lambda at: f"{at[:10]}T23:59:60{at[19:]}",
            "transaction_at.format",
        ),
        Kind("time_epoch", "transaction_at", _epoch, "transaction_at.format", json=_as_it_is),
        Kind("card_check_digit", "card_number", _wrong_check_digit, "card_number.check_digit"),
        Kind(
            "card_letters", "card_number", lambda number: number[:-4] + "ABCD", "card_number.format"
        ),
        Kind("card_12_digits", "card_number", lambda number: number[:12], "card_number.format"),
        Kind(
            "card_20_digits",
            "card_number",
            lambda number: number.ljust(20, "0"),
            "card_number.format",
        ),
        Kind(
            "type_unknown",
            "transaction_type",
            "GIFT",
            "transaction_type.unknown",
            reasons_of_refund="transaction_type.unknown original_transaction_id.type_differs",
        ),
        Kind("currency_unknown", "currency", "ZZZ", "currency.unknown"),
        Kind("country_unknown", "country", "ZZ", "country.unknown"),
        Kind(
            "category_unknown",
            "merchant_category_code",
            "0000",
            "merchant_category_code.unknown",
        ),
        Kind(
            "id_malformed",
            "transaction_id",
            lambda text: text.replace("-", ""),
            "transaction_id.format",
        ),
        Kind("id_empty", "transaction_id", "", "transaction_id.format"),
        Kind(
            "duplicate_id_same",
            "transaction_id",
            _as_it_is,
            "transaction_id.duplicate",
            repeats=True,
        ),
        Kind(
            "duplicate_id_other",
            "amount",
            lambda amount: "1" + amount,
            "transaction_id.conflict",
            repeats=True,
            accuses_both=True,
        ),
        Kind("control_character", "merchant_name", "Bell \x07 Co", "merchant_name.format"),
        Kind(
            "lone_surrogate",
            "merchant_name",
            _HALF,
            "merchant_name.format",
            json=_HALF_IN_JSON,
        ),
        Kind(
            "right_to_left_mark",
            "merchant_name",
            "Right \u200f Left",
            "merchant_name.format",
        ),
        Kind("huge_string", "merchant_name", "A" * 1_000_000, "merchant_name.format"),
        Kind("latitude_91", "latitude", "91.000000", "latitude.range"),
    )
}
"""All kinds, by name.

- A field that is missing or renamed in JSON is null in the other formats, and one that is added is
  a column of its own, null in all other rows.
- A wrong type is one in JSON only; elsewhere the same text is sent. `wrong_type_number` and
  `extra_field` leave rows that still hold the contract.
- In CSV null is nothing and empty text is `""`; for a reader that does not tell them apart,
  `missing_field`, `null_field` and `renamed_field` become empty text.
- `lone_surrogate` is half of a surrogate pair, escaped, in JSON. UTF-8 cannot hold one: the other
  formats send the six characters of the escape behind a SUBSTITUTE (U+001A).
- `time_outside_window` is the same moment 365 days before.
"""


def page_of_kinds() -> str:
    """Return the account's description, Markdown, with the table of all kinds."""

    def why(kind: Kind) -> str:
        of_refund = f"; of a refund {kind.reasons_of_refund}" if kind.reasons_of_refund else ""
        return f"{kind.reasons or 'none: the row holds the contract'}{of_refund}"

    rows = "\n".join(f"| `{kind.name}` | `{kind.field}` | {why(kind)} |" for kind in KINDS.values())
    return f"""\
Answer with the account of what was spoiled in the rows that /v1/transactions sends for the same
parameters: an entry for each row that is spoiled, and for each that an unlike copy of it spoils.
`limit` counts rows of the window here too.

| kind | field | reason for quarantine |
| --- | --- | --- |
{rows}
"""


# What is asked for.


@dataclass(frozen=True)
class Defects:
    """Which share of the rows is spoiled how: rates by kind, none of them zero."""

    rates: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Defects:
        """Read `kind:rate,...`; nothing asks for no defects.

        A rate is a share of the rows, from 0 to 1. `all`, or the beginning of several names, such
        as `amount` or `duplicate_id`, spreads its rate evenly over them. Raises ValueError, saying
        what to send instead.
        """
        rates = dict.fromkeys(KINDS, 0.0)
        for part in filter(None, text.split(",")):
            name, colon, written = (piece.strip() for piece in part.partition(":"))
            meant = [kind for kind in KINDS if name in {"all", kind} or kind.startswith(f"{name}_")]
            if not meant:
                otherwise = f"all or one of {', '.join(KINDS)},"
                raise ValueError(f"{nearest(name, KINDS, otherwise)} instead of {name!r}")
            if not colon or not re.fullmatch(r"[0-9]*\.?[0-9]+", written) or float(written) > 1:
                raise ValueError(
                    f"{name} with the share of rows to spoil, from 0 to 1, as in {name}:0.01"
                )
            for kind in meant:
                rates[kind] += float(written) / len(meant)
        total = sum(rates.values())
        if total > 1 + 1e-9:
            raise ValueError(f"rates that add up to 1 at most, not to {total:g}")
        return cls(tuple((kind, rate) for kind, rate in rates.items() if rate))


type Change = Literal["rename", "add", "drop", "retype"]


@dataclass(frozen=True)
class Drift:
    """What changes about the rows from a moment on, in microseconds since the epoch.

    `name` is what the column is called from then on.
    """

    change: Change
    column: str
    since: int
    name: str


_CHANGES: tuple[str, ...] = get_args(Change.__value__)
_ADDED_TEXT = "new"
# What JSON can write both as a string and not as one.
_RETYPED = ("card_number", "amount", "latitude", "longitude", "is_fraud")


def parse_drifts(text: str) -> tuple[Drift, ...]:
    """Read `rename:COLUMN:NAME:FROM`, `add:COLUMN:FROM`, `drop:COLUMN:FROM`, `retype:COLUMN:FROM`.

    Several have commas between. Raises ValueError, saying what to write instead.
    """
    drifts: list[Drift] = []
    taken = {*SCHEMA.names, *(kind.adds for kind in KINDS.values())}
    for part in filter(None, text.split(",")):
        change, *rest = part.strip().split(":")
        if change not in _CHANGES:
            raise ValueError(f"one of {', '.join(_CHANGES)} instead of {change!r}")
        names = 2 if change == "rename" else 1
        if len(rest) <= names:
            form = "COLUMN:NAME" if change == "rename" else "COLUMN"
            raise ValueError(f"{change}:{form}:FROM instead of {part.strip()!r}")
        column, new = rest[0], rest[names - 1]
        if change in {"rename", "add"}:
            if new in taken or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", new):
                raise ValueError(f"a name that is no other column's instead of {new!r}")
            taken.add(new)
        if change != "add":
            known = _RETYPED if change == "retype" else SCHEMA.names
            if column not in known:
                instead = nearest(column, known, f"one of {', '.join(known)}")
                raise ValueError(f"{instead} instead of {column!r}")
            if any(drift.column == column for drift in drifts):
                raise ValueError(f"one change of {column} only")
        since = parse_moment(":".join(rest[names:]))
        drifts.append(Drift(cast("Change", change), column, since, new))
    return tuple(drifts)


# The account.

ACCOUNT_SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("kind", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("field", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("before", pa.string()),
        pa.field("reasons", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ]
)
"""The account of what was spoiled; see `models.Defect`."""


@dataclass(frozen=True)
class Sent:
    """What rows as sent sum to, and how many entries their account has."""

    totals: ControlTotals
    entries: int


# Rows.

_TEXT_SCHEMA = wire.text_schema(SCHEMA)
_CLEAN = -1
# Huge strings in one batch: what is written at a time must stay small.
_HUGE_AT_A_TIME = 32
_JSON_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class _Rows:
    """Rows as true text, copies included, with what is to be done to each.

    `codes` has the kind of each row, `copies` whether it is a copy; `drifts` hold for all of them.
    """

    batch: pa.RecordBatch
    codes: npt.NDArray[np.int16]
    copies: Flags
    drifts: tuple[Drift, ...]

    def slice(self, start: int, stop: int) -> _Rows:
        part = slice(start, stop)
        batch = self.batch.slice(start, stop - start)
        return replace(self, batch=batch, codes=self.codes[part], copies=self.copies[part])


class Spoiler:
    """Spoils the rows of a window as asked, and lets their schema drift.

    Which rows it spoils is a hash of their ids and the seed: it does not depend on the format, the
    page, the slice of the window or the process. It takes the simulator's batches, of the given
    schema, and gives text.
    """

    def __init__(
        self,
        defects: Defects,
        drifts: tuple[Drift, ...],
        seed: int,
        window: Window,
        schema: pa.Schema = SCHEMA,
    ) -> None:
        self._kinds = [KINDS[name] for name, _ in defects.rates]
        rates = np.array([rate for _, rate in defects.rates])
        self._key = np.uint64(key_of("defects", seed))
        self._limit = round(float(rates.sum()) * 2**32)
        self._shares = np.cumsum(rates) / rates.sum() if self._kinds else rates
        self._drifts = drifts
        self._words: dict[str, _Words] = {}
        # The words of a dictionary are spoiled all at once, whether a row has them or not. Where
        # each becomes another, only the short dictionaries that `SCHEMA` has too are kept.
        own_words = {kind.field for kind in self._kinds if callable(kind.spoil)}
        self._fields = {
            field.name: (field if field.name in own_words else coded).with_nullable(True)
            for field, coded in zip(_TEXT_SCHEMA, wire.text_schema(schema), strict=True)
        }
        touched = {kind.field for kind in self._kinds} & self._fields.keys()
        self._coded = [name for name in touched if _is_coded(self._fields[name])]
        self._extra = sorted({kind.adds for kind in self._kinds if kind.adds})
        self._fields |= {name: _new_field(name) for name in self._extra}
        self.schema = self._schema(window)
        """Of what `batches` gives for CSV, Arrow and Parquet."""

    @property
    def alters(self) -> bool:
        """Whether any row is sent otherwise than it is."""
        return self.spoils or bool(self._drifts)

    @property
    def spoils(self) -> bool:
        """Whether there are kinds of defects to spoil rows with."""
        return bool(self._kinds)

    @property
    def repeats(self) -> bool:
        """Whether more rows are sent than there are."""
        return any(kind.repeats for kind in self._kinds)

    def batches(
        self, batches: Iterable[pa.RecordBatch], form: Format
    ) -> Iterator[pa.RecordBatch | Mixed]:
        """Yield typed batches as the text that a format sends.

        JSON and NDJSON get rows of several shapes, the other formats all columns of `schema`.
        """
        write = self._shapes if form in {Format.JSON, Format.NDJSON} else self._columns
        return map(write, self._chosen(batches))

    def account(self, batches: Iterable[pa.RecordBatch], first: int) -> Iterator[pa.RecordBatch]:
        """Yield what is spoiled in typed batches: batches of `ACCOUNT_SCHEMA`.

        `first` is the position, among all rows as sent, of the first row.
        """
        for rows in self._chosen(batches):
            yield self._entries(rows, first)
            first += rows.batch.num_rows

    def sent(self, batches: Iterable[pa.RecordBatch]) -> Sent:
        """Return what typed batches sum to when they are sent.

        How is said by `Tally`.
        """
        tally = Tally()
        entries = 0
        for rows in self._chosen(batches):
            tally.add(self._columns(rows))
            entries += int(np.count_nonzero(self._accused(rows)))
        return Sent(tally.totals, entries)

    def copies(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Return how many copies are sent besides typed batches."""
        return sum(int(np.count_nonzero(rows.copies)) for rows in self._chosen(batches))

    # Which rows

    def _chosen(self, batches: Iterable[pa.RecordBatch]) -> Iterator[_Rows]:
        for part, drifts in self._by_drift(batches):
            for batch in wire.text_batches([part]):
                yield from self._light(self._choose(self._decoded(batch), drifts))

    def _decoded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return text as the fields have it: some dictionaries are too large to be spoiled."""
        columns: dict[str, Column] = {
            name: column if _is_coded(self._fields[name]) else column.cast(pa.string())
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        return _batch(self._with_fields(columns))

    def _by_drift(
        self, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[tuple[pa.RecordBatch, tuple[Drift, ...]]]:
        """Cut batches where a drift begins."""
        moments = np.unique([drift.since for drift in self._drifts])
        for batch in batches:
            times = batch.column("transaction_at").cast(pa.int64()).to_numpy()
            begun = np.searchsorted(moments, times, side="right")
            edges = [0, *(np.flatnonzero(np.diff(begun)) + 1).tolist(), batch.num_rows]
            for start, stop in pairwise(edges):
                if start < stop:
                    now = int(times[start])
                    drifts = tuple(drift for drift in self._drifts if drift.since <= now)
                    yield batch.slice(start, stop - start), drifts

    def _choose(self, batch: pa.RecordBatch, drifts: tuple[Drift, ...]) -> _Rows:
        """Give every row its kind, and put copies behind the rows that get one."""
        words = mix(id_hashes(batch.column("transaction_id")) ^ self._key)
        codes = np.full(batch.num_rows, _CLEAN, np.int16)
        spoiled = np.flatnonzero((words >> 32) < self._limit)
        # The same hash spoils a row and says how, so that a rate that grows keeps what it spoiled.
        places = (words[spoiled] & 0xFFFFFFFF).astype(np.float64) * 2.0**-32
        kinds = np.searchsorted(self._shares, places, side="right")
        codes[spoiled] = np.minimum(kinds, len(self._kinds) - 1)
        repeating = [code for code, kind in enumerate(self._kinds) if kind.repeats]
        twice = np.isin(codes, repeating)
        copies = np.zeros(batch.num_rows, np.bool_)
        if twice.any():
            order = np.repeat(np.arange(batch.num_rows), 1 + twice)
            copies = np.append(False, order[1:] == order[:-1])
            batch, codes = batch.take(order), codes[order]
        return _Rows(batch, codes, copies, drifts)

    def _light(self, rows: _Rows) -> Iterator[_Rows]:
        """Cut rows so that none of the parts has too many huge strings."""
        huge = [code for code, kind in enumerate(self._kinds) if kind.name == "huge_string"]
        heavy = np.flatnonzero(np.isin(rows.codes, huge))[_HUGE_AT_A_TIME::_HUGE_AT_A_TIME]
        if not heavy.size:
            yield rows
            return
        edges = [0, *heavy.tolist(), len(rows.codes)]
        for start, stop in pairwise(edges):
            yield rows.slice(start, stop)

    def _present(self, rows: _Rows) -> Iterator[tuple[int, Kind, Integers]]:
        """Yield each kind that some rows have, with its code and the rows it spoils."""
        spoiled = np.flatnonzero(rows.codes != _CLEAN)
        codes = rows.codes[spoiled]
        for code in np.unique(codes).tolist():
            kind, places = self._kinds[code], spoiled[codes == code]
            yield code, kind, places[rows.copies[places]] if kind.repeats else places

    # What is sent for them

    def _spoiled(self, rows: _Rows) -> dict[str, Column]:
        """Return the columns of rows, spoiled, then those that are added."""
        names = rows.batch.schema.names
        columns: dict[str, Column] = dict(zip(names, rows.batch.columns, strict=True))
        changes: dict[str, list[tuple[Integers, Sequence[str | None]]]] = {}
        words: dict[str, npt.NDArray[np.int32]] = {}
        for code, kind, places in self._present(rows):
            if kind.adds is not None:
                before = _texts(columns, kind.field, places)
                moved = [
                    new or old for new, old in zip(_each(kind.spoil, before), before, strict=True)
                ]
                changes.setdefault(kind.adds, []).append((places, moved))
            column = columns.get(kind.field)
            if isinstance(column, pa.DictionaryArray):
                if kind.field not in words:
                    words[kind.field] = column.indices.fill_null(-1).to_numpy().copy()
                indices = words[kind.field]
                indices[places] = self._extended(kind.field, column).spoiled[code][indices[places]]
            elif column is not None:
                after = _each(kind.spoil, _texts(columns, kind.field, places))
                changes.setdefault(kind.field, []).append((places, after))
        for name in self._coded:
            column = cast("pa.DictionaryArray[Any, Any]", columns[name])
            indices = column.indices
            if name in words:
                indices = pa.array(words[name], mask=words[name] < 0)
            columns[name] = pa.DictionaryArray.from_arrays(
                indices, self._extended(name, column).all, safe=False
            )
        for name in self._extra:
            columns[name] = pa.nulls(rows.batch.num_rows, pa.string())
        for name, pieces in changes.items():
            columns[name] = _replaced(columns[name], pieces)
        return columns

    def _extended(self, name: str, column: pa.DictionaryArray[Any, Any]) -> _Words:
        """Return the words of a column with those that its kinds make of them."""
        known = self._words.get(name)
        if known is None or not wire.is_same(known.true, column.dictionary):
            kinds = [(code, kind) for code, kind in enumerate(self._kinds) if kind.field == name]
            known = self._words[name] = _Words.of(column.dictionary, kinds)
        return known

    def _columns(self, rows: _Rows) -> pa.RecordBatch:
        """Return rows as batches of `schema`: a field that a row lacks is null."""
        found = _drifted(self._with_fields(self._spoiled(rows)), rows.drifts)
        count = rows.batch.num_rows
        arrays = [
            found[field.name][1] if field.name in found else pa.nulls(count, field.type)
            for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _shapes(self, rows: _Rows) -> pa.RecordBatch | Mixed:
        """Return rows as JSON has them: each with the fields, and the types, of its own."""
        columns = self._with_fields(self._spoiled(rows))
        parts = [{name: columns[name] for name in SCHEMA.names}]
        order = np.arange(rows.batch.num_rows)
        end = order.size
        for _, kind, places in self._present(rows):
            if not kind.has_shape:
                continue
            names = [name for name in SCHEMA.names if not (kind.absent and name == kind.field)]
            names += [kind.adds] if kind.adds else []
            part = {name: (columns[name][0], columns[name][1].take(places)) for name in names}
            if kind.json is not None:
                field, column = part[kind.field]
                texts = cast("list[str]", column.to_pylist())
                written = pa.array(_each(kind.json, texts), pa.string())
                part[kind.field] = (_in_json(pa.field(field.name, pa.string()), "bare"), written)
            parts.append(part)
            order[places] = np.arange(end, end + places.size)
            end += places.size
        batches = [_batch(_drifted(part, rows.drifts, retyped=True)) for part in parts]
        return batches[0] if len(batches) == 1 else Mixed(batches, order)

    def _with_fields(self, columns: dict[str, Column]) -> _Columns:
        return {name: (self._fields[name], column) for name, column in columns.items()}

    def _schema(self, window: Window) -> pa.Schema:
        """Return the columns that rows of a window have, before and after each drift within."""
        fields: list[_Field] = []
        for name in SCHEMA.names:
            field = self._fields[name]
            drift = next((drift for drift in self._drifts if drift.column == name), None)
            if drift is None or drift.change == "retype" or drift.since > window.start:
                fields.append(field)
            if drift is not None and drift.change == "rename" and drift.since < window.end:
                fields.append(field.with_name(drift.name))
        added = [
            drift.name
            for drift in self._drifts
            if drift.change == "add" and drift.since < window.end
        ]
        return pa.schema([*fields, *map(_new_field, [*added, *self._extra])])

    # The account

    def _accused(self, rows: _Rows) -> Flags:
        """Tell which rows the account names."""
        only_copies = [
            code for code, kind in enumerate(self._kinds) if kind.repeats and not kind.accuses_both
        ]
        return (rows.codes != _CLEAN) & (rows.copies | ~np.isin(rows.codes, only_copies))

    def _entries(self, rows: _Rows, first: int) -> pa.RecordBatch:
        places = np.flatnonzero(self._accused(rows))
        codes = rows.codes[places].astype(np.int32)
        columns = dict(zip(rows.batch.schema.names, rows.batch.columns, strict=True))
        before = pa.nulls(places.size, pa.string())
        for code in np.unique(codes).tolist():
            field = self._kinds[code].field
            if field in columns:
                here = np.flatnonzero(codes == code)
                texts = cast("list[str | None]", _texts(columns, field, places[here]))
                before = _replaced(before, [(here, texts)])
        refunds = columns["original_transaction_id"].take(places).is_valid()
        reasons = [kind.reasons for kind in self._kinds]
        reasons += [
            kind.reasons if kind.reasons_of_refund is None else kind.reasons_of_refund
            for kind in self._kinds
        ]
        which = codes + len(self._kinds) * refunds.cast(pa.int32()).to_numpy()

        def coded(indices: npt.NDArray[np.int32], words: list[str]) -> Column:
            return pa.DictionaryArray.from_arrays(
                pa.array(indices, pa.int32()), pa.array(words, pa.string())
            )

        return pa.RecordBatch.from_arrays(
            [
                columns["transaction_id"].take(places),
                pa.array(first + places),
                coded(codes, [kind.name for kind in self._kinds]),
                coded(codes, [kind.field for kind in self._kinds]),
                before,
                coded(which, reasons),
            ],
            schema=ACCOUNT_SCHEMA,
        )


# Columns.


@dataclass(frozen=True)
class _Words:
    """The words of a column: the true ones, and behind them those that spoiled rows get.

    `spoiled` has, for each code of a kind, the index of what becomes of each true word; -1 is null.
    """

    true: Column
    all: pa.StringArray
    spoiled: dict[int, npt.NDArray[np.int32]]

    @classmethod
    def of(cls, true: Column, kinds: list[tuple[int, Kind]]) -> _Words:
        new: dict[str, int] = {}

        def index_of(text: str | None) -> int:
            return -1 if text is None else new.setdefault(text, len(true) + len(new))

        spoiled: dict[int, npt.NDArray[np.int32]] = {}
        for code, kind in kinds:
            if callable(kind.spoil):
                texts = _each(kind.spoil, cast("list[str]", true.to_pylist()))
                spoiled[code] = np.array([index_of(text) for text in texts], np.int32)
            else:
                spoiled[code] = np.full(len(true), index_of(kind.spoil), np.int32)
        words = pa.concat_arrays([true, pa.array(list(new), pa.string())])
        return cls(true, cast("pa.StringArray", words), spoiled)


def _is_coded(field: _Field) -> bool:
    return pa.types.is_dictionary(field.type)


def _in_json(field: _Field, written: Literal["string", "bare"]) -> _Field:
    return field.with_metadata({"json": written})


def _new_field(name: str) -> _Field:
    return _in_json(pa.field(name, pa.string()), "string")


def _batch(columns: _Columns) -> pa.RecordBatch:
    schema = pa.schema([field for field, _ in columns.values()])
    return pa.RecordBatch.from_arrays([column for _, column in columns.values()], schema=schema)


def _texts(columns: dict[str, Column], name: str, places: Integers) -> list[str]:
    """Return the texts at some places of a column; of a column that is not there, empty ones."""
    if name not in columns:
        return [""] * places.size
    return cast("list[str]", columns[name].take(places).to_pylist())


def _replaced(column: Column, pieces: list[tuple[Integers, Sequence[str | None]]]) -> Column:
    """Return a column of text with others at some places."""
    places = np.concatenate([places for places, _ in pieces])
    texts = pa.array([text for _, texts in pieces for text in texts], pa.string())
    index = np.arange(len(column))
    index[places] = np.arange(len(column), len(column) + places.size)
    return pa.concat_arrays([column, texts]).take(index)


def _drifted(columns: _Columns, drifts: tuple[Drift, ...], *, retyped: bool = False) -> _Columns:
    """Return columns as drifts leave them; types are JSON's only, so only there they change."""
    for drift in drifts:
        match drift.change:
            case "rename":
                columns = {
                    drift.name if name == drift.column else name: (
                        (field.with_name(drift.name), column)
                        if name == drift.column
                        else (field, column)
                    )
                    for name, (field, column) in columns.items()
                }
            case "drop":
                columns = {name: pair for name, pair in columns.items() if name != drift.column}
            case "add":
                rows = len(next(iter(columns.values()))[1])
                new = pa.array([_ADDED_TEXT]).take(np.zeros(rows, np.int64))
                columns = columns | {drift.name: (_new_field(drift.name), new)}
            case "retype":
                if retyped and drift.column in columns:
                    columns = columns | {drift.column: _retyped(*columns[drift.column])}
    return columns


def _retyped(field: _Field, column: Column) -> tuple[_Field, Column]:
    """Return a string of JSON as what it reads as, if that is a number, and a bare one as text."""
    if (field.metadata or {}).get(b"json") == b"bare":
        return _in_json(field, "string"), column
    number = pc.match_substring_regex(column, _JSON_NUMBER).fill_null(True).to_numpy(False)
    others = np.flatnonzero(~number)
    texts = cast("list[str]", column.take(others).to_pylist())
    written = [json.dumps(text, ensure_ascii=False) for text in texts]
    return _in_json(field, "bare"), _replaced(column, [(others, written)])


# What OpenAPI says.


def describe(schema: dict[str, Any], drifts: Iterable[Drift], now: int) -> None:
    """Let the JSON schema of a transaction say what drifts have made of it by now.

    What changed has the moment under `x-since`; names that are gone are under `x-dropped`, with
    theirs.
    """
    properties: dict[str, Any] = schema["properties"]
    required: list[str] = schema["required"]
    dropped: dict[str, str] = {}
    for drift in drifts:
        if drift.since > now:
            continue
        since = moment_text(drift.since)
        if drift.change == "add":
            title = drift.name.replace("_", " ").title()
            properties[drift.name] = {"type": "string", "title": title, "x-since": since}
            required.append(drift.name)
        elif drift.change == "retype":
            old = properties[drift.column]
            text = old["type"] == "string"
            kept = {name: old[name] for name in ("title", "description") if name in old}
            properties[drift.column] = kept | {
                "type": "number" if text else "string",
                "x-since": since,
            }
        else:
            old = properties.pop(drift.column)
            required.remove(drift.column)
            dropped[drift.column] = since
            if drift.change == "rename":
                properties[drift.name] = old | {"x-since": since}
                required.append(drift.name)
    if dropped:
        schema["x-dropped"] = dropped
