"""The contract for other tools: a Data Package (Frictionless) and an ODCS data contract.

Both are made from `schema` and lie beside the tables in the lake, where `lake/descriptors` puts
them. `page` makes the page for people.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from txn_platform.contract.schema import (
    CARD_MASKS,
    CODES,
    CONTRACT_VERSION,
    DEFAULT_MASK,
    PUBLISHED,
    PUBLISHED_SCHEMA,
    QUARANTINE_SCHEMA,
    QUARANTINED,
    RAW,
    RAW_SCHEMA,
    VALIDATED,
    CardForm,
    Transaction,
)

if TYPE_CHECKING:
    from dataframely.columns import Column

PACKAGE_NAME: Final = "datapackage.json"
CONTRACT_NAME: Final = "contract.odcs.yaml"

# Of the objects of a table below the lake's root.
_OBJECTS: Final = "event_date=*/event_hour=*/part-0.parquet"
_VERSION: Final = f"{CONTRACT_VERSION}.0.0"
_KEY: Final = "transaction_id"
_TITLE: Final = "Financial transactions"

_TABLES: Final = {
    PUBLISHED: (
        PUBLISHED_SCHEMA,
        "Published transactions, ordered by time and id: one file for each hour of UTC.",
    ),
    VALIDATED: (
        PUBLISHED_SCHEMA,
        "The same rows before they were published. Read the published ones.",
    ),
    QUARANTINED: (
        QUARANTINE_SCHEMA,
        "Rows that break the contract: as sent, with every reason. Card numbers are in clear.",
    ),
    RAW: (
        RAW_SCHEMA,
        "All rows as the source sent them, as text. Card numbers are in clear.",
    ),
}


@cache
def data_package(*, card_form: CardForm = CARD_MASKS[DEFAULT_MASK]) -> str:
    """The tables of the lake as a Data Package, version 2.

    The path of a table is the pattern of its files below the descriptor.

    Args:
        card_form: the form of published card numbers.

    Returns:
        JSON.
    """
    package = {
        "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
        "name": "transactions",
        "title": _TITLE,
        "description": "Transactions that hold the contract, those that do not, and both as they"
        " were sent. The columns event_date and event_hour of the paths are in UTC.",
        "version": _VERSION,
        "resources": [
            {
                "name": table,
                "path": f"{table}/{_OBJECTS}",
                "description": description,
                "format": "parquet",
                "mediatype": "application/vnd.apache.parquet",
                "schema": _table_schema(schema, card_form),
            }
            for table, (schema, description) in _TABLES.items()
        ],
    }
    return json.dumps(package, ensure_ascii=False, indent=2) + "\n"


def _table_schema(schema: pa.Schema, card_form: CardForm) -> dict[str, Any]:
    typed = schema is PUBLISHED_SCHEMA
    return {
        "$schema": "https://datapackage.org/profiles/2.0/tableschema.json",
        "fields": [
            {
                "name": field.name,
                "type": _kind(field.type, moment="datetime"),
                "description": _meaning(field, card_form if typed else None),
                "constraints": {
                    "required": not field.nullable,
                    **(_field_rules(field.name, card_form) if typed else {}),
                },
            }
            for field in schema
        ],
        **({"primaryKey": [_KEY]} if typed else {}),
    }


def _field_rules(name: str, card_form: CardForm) -> dict[str, Any]:
    """The rules of a published column as constraints of a Table Schema."""
    column = Transaction.columns()[name]
    pattern = _pattern(name, column, card_form)
    # Python's regular expressions, which check packages, have no classes of Unicode.
    rules = {"pattern": pattern} if pattern and r"\p" not in pattern else {}
    return {
        **rules,
        **_bounds(column),
        **({"maxLength": length} if (length := _max_length(column)) else {}),
        **({"enum": list(CODES[name])} if name in CODES else {}),
        **({"unique": True} if name == _KEY else {}),
    }


@cache
def data_contract(root: str, *, card_form: CardForm = CARD_MASKS[DEFAULT_MASK]) -> str:
    """The contract on published transactions in the Open Data Contract Standard, version 3.1.

    Args:
        root: the address of the lake, `s3://...` or a directory.
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
    contract = {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": "urn:txn-platform:transactions",
        "name": "transactions",
        "version": _VERSION,
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
                "description": _TABLES[PUBLISHED][1],
                "dataGranularityDescription": "One row is one transaction.",
                "properties": [_property(field, card_form) for field in PUBLISHED_SCHEMA],
            }
        ],
    }
    # The one in C takes 5 ms instead of 30.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(contract, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)


def _property(field: pa.Field[Any], card_form: CardForm) -> dict[str, Any]:
    name = field.name
    column = Transaction.columns()[name]
    options: dict[str, Any] = _bounds(column)
    if pattern := _pattern(name, column, card_form):
        options["pattern"] = pattern
    if length := _max_length(column):
        options["maxLength"] = length
    if pa.types.is_timestamp(field.type):
        options |= {"timezone": True, "defaultTimezone": "Etc/UTC"}
    known = {
        "type": "library",
        "metric": "invalidValues",
        "arguments": {"validValues": list(CODES.get(name, ()))},
        "mustBe": 0,
        "dimension": "conformity",
    }
    return {
        "name": name,
        "logicalType": _kind(field.type, moment="timestamp"),
        "physicalType": _physical(field.type),
        "description": _meaning(field, card_form),
        "required": not field.nullable,
        **({"unique": True, "primaryKey": True, "primaryKeyPosition": 1} if name == _KEY else {}),
        **({"logicalTypeOptions": options} if options else {}),
        **({"quality": [known]} if name in CODES else {}),
    }


def _meaning(field: pa.Field[Any], card_form: CardForm | None) -> str:
    if card_form is not None and field.name == "card_number":
        return card_form.description
    return (field.metadata or {})[b"description"].decode()


def _pattern(name: str, column: Column, card_form: CardForm) -> str | None:
    """The form of a text of a published column."""
    if name == "card_number":
        return card_form.pattern
    return getattr(column, "regex", None)


def _max_length(column: Column) -> int | None:
    """The largest number of bytes of a text, so of its characters as well."""
    return getattr(column, "max_length", None)


def _bounds(column: Column) -> dict[str, Any]:
    """The smallest and largest value of a number, as whole numbers."""
    names = {"min": "minimum", "max": "maximum", "min_exclusive": "exclusiveMinimum"}
    return {
        name: int(value)
        for attribute, name in names.items()
        if (value := getattr(column, attribute, None)) is not None
    }


def _kind(kind: pa.DataType, *, moment: str) -> str:
    """The name that both standards have for a type; that of a moment differs."""
    if pa.types.is_timestamp(kind):
        return moment
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
    if pa.types.is_floating(kind):
        return "double"
    return "boolean" if pa.types.is_boolean(kind) else "varchar"
