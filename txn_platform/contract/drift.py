"""The source's own description of its rows (OpenAPI), compared with the contract.

Pure. `rows/validation` checks the rows themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import polars as pl

from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from txn_platform.contract.model import Contract

# Python's type of a parsed value, and JSON Schema's name for it.
_KINDS: Final[dict[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}
_MOST_REFERENCES: Final = 10
# Unknown fields that a message names.
_NAMED: Final = 20
# Of columns that are parsed as JSON writes them. The others are text.
_JSON_TYPES: Final[dict[pl.DataType, str]] = {
    pl.Boolean(): "boolean",
    **dict.fromkeys(
        [pl.Float32(), pl.Float64(), pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64()], "number"
    ),
}


@dataclass(frozen=True)
class Drift:
    """One field that differs from the contract.

    Attributes:
        breaking: whether rows can no longer conform; an added field breaks nothing.
        message: which field, how, and since when if the source says so.
    """

    breaking: bool
    message: str


def find_drift(
    openapi: Any,
    route: str,
    items: Sequence[str],
    before: datetime,
    contract: Contract = TRANSACTIONS,
) -> list[Drift] | None:
    """How the rows that a source declares differ from the contract.

    Args:
        openapi: the source's description of itself, parsed.
        route: the path of its rows.
        items: the names on the way to the rows in a page.
        before: differences that begin at this time or later are left out.
        contract: to compare with.

    Returns:
        The differences, by field; None if the description does not describe rows.
    """
    answer = _at(openapi, "paths", route, "get", "responses", "200", "content", "application/json")
    schema = _resolved(openapi, _at(answer, "schema"))
    for name in items:
        schema = _resolved(openapi, _at(schema, "properties", name))
    row = _resolved(openapi, _at(schema, "items"))
    fields = _at(row, "properties")
    if not isinstance(fields, dict):
        return None
    return list(_differences(openapi, fields, _at(row, "x-dropped") or {}, before, contract))


def _differences(
    openapi: Any, fields: dict[str, Any], dropped: Any, before: datetime, contract: Contract
) -> Iterator[Drift]:
    for name, column in contract.fields.items():
        sent = _declared(openapi, fields, name)
        if sent is None:
            since = _at(dropped, name)
            if _in_effect(since, before):
                yield Drift(
                    breaking=True, message=f"field {name!r} is no longer sent{_since(since)}"
                )
            continue
        declared = _json_type(openapi, sent)
        expected = _JSON_TYPES.get(contract.columns[column].dtype, "string")
        # The contract says how it reads the text of such a column, whatever its type is in JSON.
        any_type = contract.option(column, "parse") is not None
        since = _at(sent, "x-since")
        if not any_type and declared not in {"", expected} and _in_effect(since, before):
            yield Drift(
                breaking=True,
                message=f"field {name!r} is {declared}, the contract has {expected}{_since(since)}",
            )
    unknown = [
        name
        for name in sorted(set(fields) - {path.partition(".")[0] for path in contract.fields})
        if _in_effect(_at(fields[name], "x-since"), before)
    ]
    for name in unknown[:_NAMED]:
        since = _since(_at(fields[name], "x-since"))
        yield Drift(breaking=False, message=f"field {shown(name)} is not in the contract{since}")
    if len(unknown) > _NAMED:
        more = f"{len(unknown) - _NAMED:,} more fields are not in the contract"
        yield Drift(breaking=False, message=more)


def _declared(openapi: Any, fields: Any, path: str) -> Any:
    """The schema of a field, or of one within others; None if it is not declared."""
    if path in fields:
        return fields[path] or {}
    names = path.split(".")
    field: Any = fields.get(names[0]) if len(names) > 1 else None
    for name in names[1:]:
        field = _at(_resolved(openapi, field), "properties", name)
    return field


def _json_type(openapi: Any, field: Any) -> str:
    """The JSON types of a field, without null; empty if its schema does not say."""
    types = _types(openapi, field, set()) - {"null"}
    if "number" in types:
        types.discard("integer")
    return " or ".join(sorted("number" if types == {"integer"} else kind for kind in types))


def _types(openapi: Any, field: Any, seen: set[int]) -> set[str]:
    """The types that a schema allows (JSON Schema 2020-12): by name, by choice or by value.

    Args:
        openapi: the description.
        field: the schema.
        seen: the schemas on the way here, because a schema may refer to itself.
    """
    schema = _resolved(openapi, field)
    if not isinstance(schema, dict) or id(cast("Any", schema)) in seen:
        return set()
    seen.add(id(cast("Any", schema)))
    types = {kind for kind in _KINDS.values() if kind in _as_list(_at(schema, "type"))}
    for name in ("anyOf", "oneOf", "allOf"):
        for choice in _as_list(_at(schema, name)):
            types |= _types(openapi, choice, seen)
    if not types:
        values = [*_as_list(_at(schema, "enum")), *_as_list(_at(schema, "const"))]
        types = {_KINDS[type(value)] for value in values}
    return types


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return cast("list[Any]", value)
    return [] if value is None else [value]


def _resolved(openapi: Any, schema: Any) -> Any:
    """A schema, or the schema that a chain of references leads to."""
    for _ in range(_MOST_REFERENCES):
        reference = _at(schema, "$ref")
        if not isinstance(reference, str):
            return schema
        names = reference.removeprefix("#/").split("/")
        # RFC 6901: how a slash and a tilde are written in a pointer.
        schema = _at(openapi, *(name.replace("~1", "/").replace("~0", "~") for name in names))
    return None


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _in_effect(since: Any, before: datetime) -> bool:
    moment = _moment(since)
    return moment is None or moment < before


def _since(since: Any) -> str:
    return "" if _moment(since) is None else f" since {since}"


def _moment(text: Any) -> datetime | None:
    """A time in a description, in UTC if it has no zone; None for other text."""
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError):
        return None
