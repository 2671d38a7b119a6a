"""The contract for other tools: a Data Package (Frictionless) and an ODCS data contract.

Both are made from a contract and lie beside the tables in the lake, where `lake/descriptors` puts
them. `page` makes the page for people.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from txn_platform.contract.card_forms import CARD_MASKS, DEFAULT_MASK, CardForm
from txn_platform.contract.schema import PUBLISHED, QUARANTINED, RAW, TRANSACTIONS, VALIDATED

if TYPE_CHECKING:
    from dataframely.columns import Column

    from txn_platform.contract.model import Contract

PACKAGE_NAME: Final = "datapackage.json"
CONTRACT_NAME: Final = "contract.odcs.yaml"

# Of the objects of a table below the lake's root.
_OBJECTS: Final = "event_date=*/event_hour=*/part-0.parquet"
_TITLE: Final = "Financial transactions"
_DESCRIPTIONS: Final = {
    PUBLISHED: "Published transactions, ordered by time and id: one file for each hour of UTC.",
    VALIDATED: "The same rows before they were published. Read the published ones.",
    QUARANTINED: "Rows that break the contract: as sent, with every reason.",
    RAW: "All rows as the source sent them, as text.",
}
# The names of types in SQL, of those that have no parameters.
_SQL: Final[dict[pa.DataType, str]] = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double",
    pa.date32(): "date",
}
_OTHER_CHARACTERS: Final = re.compile(r"[^a-z0-9]+")
# Of the column that is unique.
_KEY: Final = {"unique": True, "primaryKey": True, "primaryKeyPosition": 1}
_CARDS: Final = " Card numbers are in clear."


@cache
def data_package(
    contract: Contract = TRANSACTIONS, *, card_form: CardForm = CARD_MASKS[DEFAULT_MASK]
) -> str:
    """The tables of the lake as a Data Package, version 2.

    The path of a table is the pattern of its files below the descriptor.

    Args:
        contract: on the published rows.
        card_form: the form of published card numbers.

    Returns:
        JSON.
    """
    schemas = {
        PUBLISHED: contract.published_schema,
        VALIDATED: contract.published_schema,
        QUARANTINED: contract.quarantine_schema,
        RAW: contract.raw_schema,
    }
    package = {
        "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
        "name": _name(contract),
        "title": _TITLE,
        "description": "Transactions that hold the contract, those that do not, and both as they"
        " were sent. The columns event_date and event_hour of the paths are in UTC.",
        "version": _version(contract),
        "resources": [
            {
                "name": table,
                "path": f"{table}/{_OBJECTS}",
                "description": _described(table, contract),
                "format": "parquet",
                "mediatype": "application/vnd.apache.parquet",
                "schema": _table_schema(
                    schema, contract, card_form, typed=table in {PUBLISHED, VALIDATED}
                ),
            }
            for table, schema in schemas.items()
        ],
    }
    return json.dumps(package, ensure_ascii=False, indent=2) + "\n"


def _name(contract: Contract) -> str:
    """The name of a contract's rows as both standards allow it: `stripe-charges`."""
    return f"{_OTHER_CHARACTERS.sub('-', contract.name.lower()).strip('-')}s"


def _version(contract: Contract) -> str:
    """A version of three numbers."""
    return f"{contract.version}.0.0" if contract.version.isdecimal() else contract.version


def _described(table: str, contract: Contract) -> str:
    in_clear = contract.card is not None and table in {RAW, QUARANTINED}
    return f"{_DESCRIPTIONS[table]}{_CARDS if in_clear else ''}"


def _table_schema(
    schema: pa.Schema, contract: Contract, card_form: CardForm, *, typed: bool
) -> dict[str, Any]:
    return {
        "$schema": "https://datapackage.org/profiles/2.0/tableschema.json",
        "fields": [
            {
                "name": field.name,
                "type": _kind(field.type, moment="datetime"),
                "description": _meaning(field, contract, card_form if typed else None),
                "constraints": {
                    "required": not field.nullable,
                    **(_field_rules(field.name, contract, card_form) if typed else {}),
                },
            }
            for field in schema
        ],
        **({"primaryKey": [contract.id]} if typed else {}),
    }


def _field_rules(name: str, contract: Contract, card_form: CardForm) -> dict[str, Any]:
    """The rules of a published column as constraints of a Table Schema."""
    column = contract.published_columns[name]
    pattern = _pattern(name, contract, card_form)
    # Python's regular expressions, which check packages, have no classes of Unicode.
    rules = {"pattern": pattern} if pattern and r"\p" not in pattern else {}
    return {
        **rules,
        **_bounds(column),
        **({"maxLength": length} if (length := _max_length(column)) else {}),
        **({"enum": list(contract.codes[name])} if name in contract.codes else {}),
        **({"unique": True} if name == contract.id else {}),
    }


@cache
def data_contract(
    root: str,
    contract: Contract = TRANSACTIONS,
    *,
    card_form: CardForm = CARD_MASKS[DEFAULT_MASK],
) -> str:
    """The contract on published transactions in the Open Data Contract Standard, version 3.1.

    Args:
        root: the address of the lake, `s3://...` or a directory.
        contract: on the published rows.
        card_form: the form of published card numbers.

    Returns:
        YAML.
    """
    import yaml

    objects = f"{PUBLISHED}/{_OBJECTS}"
    server = (
        {"type": "s3", "location": f"{root.rstrip('/')}/{objects}"}
        if root.startswith("s3://")
        else {"type": "local", "path": objects}
    )
    name = _name(contract)
    described = {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": f"urn:txn-platform:{name}",
        "name": name,
        "version": _version(contract),
        "status": "active",
        "domain": "payments",
        "description": {
            "purpose": f"{_TITLE} for analysis, reports and fraud models.",
            "usage": "Read whole hours. An hour may be published again with the rows that arrived"
            " late; its file is replaced whole.",
            "limitations": "Never add amounts of different currencies. An amount is in the unit of"
            " its currency.",
        },
        "servers": [{"server": "lake", "format": "parquet", **server}],
        "schema": [
            {
                "name": PUBLISHED,
                "physicalType": "file",
                "logicalType": "object",
                "description": _DESCRIPTIONS[PUBLISHED],
                "dataGranularityDescription": "One row is one transaction.",
                "properties": [
                    _property(field, contract, card_form) for field in contract.published_schema
                ],
            }
        ],
    }
    # The one in C takes 5 ms instead of 30.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(described, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)


def _property(field: pa.Field[Any], contract: Contract, card_form: CardForm) -> dict[str, Any]:
    name = field.name
    column = contract.published_columns[name]
    options: dict[str, Any] = _bounds(column)
    if pattern := _pattern(name, contract, card_form):
        options["pattern"] = pattern
    if length := _max_length(column):
        options["maxLength"] = length
    if pa.types.is_timestamp(field.type):
        options |= {"timezone": True, "defaultTimezone": "Etc/UTC"}
    known = {
        "type": "library",
        "metric": "invalidValues",
        "arguments": {"validValues": list(contract.codes.get(name, ()))},
        "mustBe": 0,
        "dimension": "conformity",
    }
    return {
        "name": name,
        "logicalType": _kind(field.type, moment="timestamp"),
        "physicalType": _physical(field.type),
        "description": _meaning(field, contract, card_form),
        "required": not field.nullable,
        **(
            {"unique": True, "primaryKey": True, "primaryKeyPosition": 1}
            if name == contract.id
            else {}
        ),
        **({"logicalTypeOptions": options} if options else {}),
        **({"quality": [known]} if name in contract.codes else {}),
    }


def _meaning(field: pa.Field[Any], contract: Contract, card_form: CardForm | None) -> str:
    if card_form is not None and field.name == contract.card:
        return card_form.description
    return (field.metadata or {})[b"description"].decode()


def _pattern(name: str, contract: Contract, card_form: CardForm) -> str | None:
    """The form of a text of a published column."""
    if name == contract.card:
        return card_form.pattern
    return getattr(contract.published_columns[name], "regex", None)


def _max_length(column: Column) -> int | None:
    """The largest number of bytes of a text, so of its characters as well."""
    return getattr(column, "max_length", None)


def _bounds(column: Column) -> dict[str, Any]:
    """The smallest and largest value of a number."""
    names = {
        "min": "minimum",
        "max": "maximum",
        "min_exclusive": "exclusiveMinimum",
        "max_exclusive": "exclusiveMaximum",
    }
    found = ((name, getattr(column, attribute, None)) for attribute, name in names.items())
    return {
        name: int(value) if value == int(value) else float(value)
        for name, value in found
        if isinstance(value, (int, float, Decimal))
    }


def _kind(kind: pa.DataType, *, moment: str) -> str:
    """The name that both standards have for a type; that of a moment differs."""
    if pa.types.is_timestamp(kind):
        return moment
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    return "array" if pa.types.is_list(kind) else "string"


def _physical(kind: pa.DataType) -> str:
    """The name of a type in SQL."""
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if isinstance(kind, pa.Decimal128Type):
        return f"decimal({kind.precision},{kind.scale})"
    return _SQL.get(kind, "varchar")
