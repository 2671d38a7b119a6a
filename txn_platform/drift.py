"""What a source says its rows look like, held against the contract.

Pure. Only what the source declares (OpenAPI) is looked at here; the rows themselves are judged in
`validation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from txn_platform.contract import SentTransaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_JSON_TYPES: Final[dict[pl.DataType, str]] = {pl.Boolean(): "boolean", pl.Float64(): "number"}


@dataclass(frozen=True)
class Drift:
    """One field that is not as in the contract.

    Attributes:
        breaking: whether rows can no longer hold the contract; an added field does not break it.
        message: which field, how, and since when, where the source says it.
    """

    breaking: bool
    message: str


def find_drift(
    openapi: Any, route: str, items: Sequence[str], before: datetime
) -> list[Drift] | None:
    """How the rows that a source declares differ from the contract.

    Args:
        openapi: the source's description of itself, parsed.
        route: where its rows are.
        items: the names under which they stand in a page.
        before: what begins to differ at this moment or later is left out.

    Returns:
        The differences, by field; None when the description does not say what the rows are.
    """
    answer = _at(openapi, "paths", route, "get", "responses", "200", "content", "application/json")
    schema = _resolved(openapi, _at(answer, "schema"))
    for name in items:
        schema = _resolved(openapi, _at(schema, "properties", name))
    row = _resolved(openapi, _at(schema, "items"))
    fields = _at(row, "properties")
    if not isinstance(fields, dict):
        return None
    return list(_differences(openapi, fields, _at(row, "x-dropped") or {}, before))


def _differences(
    openapi: Any, fields: dict[str, Any], dropped: Any, before: datetime
) -> Iterator[Drift]:
    for name, column in SentTransaction.columns().items():
        if name not in fields:
            since = _at(dropped, name)
            if _in_effect(since, before):
                yield Drift(
                    breaking=True, message=f"field {name!r} is no longer sent{_since(since)}"
                )
            continue
        declared = _json_type(openapi, fields[name])
        expected = _JSON_TYPES.get(column.dtype, "string")
        since = _at(fields[name], "x-since")
        if declared != expected and _in_effect(since, before):
            yield Drift(
                breaking=True,
                message=f"field {name!r} is {declared}, the contract has {expected}{_since(since)}",
            )
    for name in sorted(set(fields) - set(SentTransaction.columns())):
        since = _at(fields[name], "x-since")
        if _in_effect(since, before):
            yield Drift(
                breaking=False, message=f"field {name!r} is not in the contract{_since(since)}"
            )


def _json_type(openapi: Any, field: Any) -> str:
    """The JSON type of a field, null apart."""
    schema = _resolved(openapi, field)
    choices = _at(schema, "anyOf") or [schema]
    types = {_at(_resolved(openapi, choice), "type") for choice in choices} - {"null"}
    return " or ".join(sorted(map(str, types)))


def _resolved(openapi: Any, schema: Any) -> Any:
    """A schema, or the one that it refers to."""
    reference = _at(schema, "$ref")
    return _at(openapi, *reference.removeprefix("#/").split("/")) if reference else schema


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _in_effect(since: Any, before: datetime) -> bool:
    try:
        return since is None or datetime.fromisoformat(since) < before
    except (TypeError, ValueError):
        return True


def _since(since: Any) -> str:
    return f" since {since}" if since else ""
