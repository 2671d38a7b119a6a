"""A schema that drifts: columns that are renamed, added, dropped or retyped from a moment on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from generator_service.defects.columns import Columns, Field, in_json, replaced, text_field
from generator_service.defects.kinds import KINDS
from generator_service.models import moment_text, nearest, parse_moment
from generator_service.simulator import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from generator_service.wire import Column

type Change = Literal["rename", "add", "drop", "retype"]


@dataclass(frozen=True)
class Drift:
    """A change of the rows' schema.

    Attributes:
        change: the kind of change.
        column: the column that changes.
        since: when it begins, in microseconds since the epoch.
        name: the column's name from then on.
    """

    change: Change
    column: str
    since: int
    name: str


_CHANGES: tuple[str, ...] = get_args(Change.__value__)
_ADDED_TEXT = "new"
_JSON_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
# Columns whose values JSON can write with quotes and without.
_RETYPED = ("card_number", "amount", "latitude", "longitude", "is_fraud")


def parse_drifts(text: str) -> tuple[Drift, ...]:
    """Read `rename:COLUMN:NAME:FROM`, `add:COLUMN:FROM`, `drop:COLUMN:FROM`, `retype:COLUMN:FROM`.

    Several are separated by commas.

    Raises:
        ValueError: the text cannot be read; the message says what to write instead.
    """
    drifts: list[Drift] = []
    names_in_use = {*SCHEMA.names, *(kind.adds for kind in KINDS.values())}
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
            if new in names_in_use or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", new):
                raise ValueError(f"a name that is no other column's instead of {new!r}")
            names_in_use.add(new)
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


def apply_drifts(columns: Columns, drifts: tuple[Drift, ...], *, retyped: bool = False) -> Columns:
    """Return the columns after the drifts; `retyped` is for JSON, which alone has types."""
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
                columns = columns | {drift.name: (text_field(drift.name), new)}
            case "retype":
                if retyped and drift.column in columns:
                    columns = columns | {drift.column: _retyped(*columns[drift.column])}
    return columns


def _retyped(field: Field, column: Column) -> tuple[Field, Column]:
    """Swap the quotes in JSON: numbers in quotes become bare, and bare values become strings."""
    if (field.metadata or {}).get(b"json") == b"bare":
        return in_json(field, "string"), column
    number = pc.match_substring_regex(column, _JSON_NUMBER).fill_null(True).to_numpy(False)
    others = np.flatnonzero(~number)
    texts = cast("list[str]", column.take(others).to_pylist())
    written = [json.dumps(text, ensure_ascii=False) for text in texts]
    return in_json(field, "bare"), replaced(column, [(others, written)])


def describe(schema: dict[str, Any], drifts: Iterable[Drift], now: int) -> None:
    """Update the JSON schema of a transaction with the drifts that have begun by now.

    A changed property has its moment under `x-since`. `x-dropped` has the moments of the names
    that are gone.
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
