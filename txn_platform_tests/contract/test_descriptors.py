"""The contract for other tools: the Data Package and the ODCS contract."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from txn_platform.contract.card_forms import CARD_IN_CLEAR, CARD_MASKS, DEFAULT_MASK, CardForm
from txn_platform.contract.descriptors import data_contract, data_package
from txn_platform.contract.schema import PUBLISHED, QUARANTINED, RAW, TRANSACTIONS, VALIDATED

_ROOTS = ("s3://bucket/lake/", "/home/somebody/.txn/lake")


def _resources(card_form: CardForm = CARD_MASKS[DEFAULT_MASK]) -> dict[str, Any]:
    package = json.loads(data_package(card_form=card_form))
    return {resource["name"]: resource for resource in package["resources"]}


def _fields(table: str, card_form: CardForm = CARD_MASKS[DEFAULT_MASK]) -> dict[str, Any]:
    schema = _resources(card_form)[table]["schema"]
    return {field["name"]: field for field in schema["fields"]}


def _properties(
    root: str = _ROOTS[0], card_form: CardForm = CARD_MASKS[DEFAULT_MASK]
) -> dict[str, Any]:
    contract = yaml.safe_load(data_contract(root, card_form=card_form))
    (table,) = contract["schema"]
    assert table["name"] == PUBLISHED
    return {each["name"]: each for each in table["properties"]}


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        (PUBLISHED, TRANSACTIONS.published_schema),
        (VALIDATED, TRANSACTIONS.published_schema),
        (QUARANTINED, TRANSACTIONS.quarantine_schema),
        (RAW, TRANSACTIONS.raw_schema),
    ],
)
def test_the_package_has_every_table_with_its_columns(table: str, schema: Any) -> None:
    fields = _fields(table)
    assert list(fields) == schema.names
    for field in schema:
        found = fields[field.name]
        assert found["constraints"]["required"] is not field.nullable
        assert found["description"] == field.metadata[b"description"].decode()
    assert _resources()[table]["path"] == f"{table}/event_date=*/event_hour=*/part-0.parquet"


def test_types_have_the_names_of_the_standards() -> None:
    kinds = {name: field["type"] for name, field in _fields(PUBLISHED).items()}
    properties = _properties()
    assert kinds.keys() == properties.keys()
    other = {
        "transaction_at": ("datetime", "timestamp", "timestamp"),
        "amount": ("number", "number", "decimal(18,2)"),
        "latitude": ("number", "number", "double"),
        "longitude": ("number", "number", "double"),
        "is_fraud": ("boolean", "boolean", "boolean"),
    }
    for name, kind in kinds.items():
        each = properties[name]
        found = (kind, each["logicalType"], each["physicalType"])
        assert found == other.get(name, ("string", "string", "varchar"))
    quarantined = _fields(QUARANTINED)
    assert (quarantined["reasons"]["type"], quarantined["position"]["type"]) == ("array", "integer")


def test_rules_are_those_of_the_contract() -> None:
    rules = {name: field["constraints"] for name, field in _fields(PUBLISHED).items()}
    options = {name: each.get("logicalTypeOptions", {}) for name, each in _properties().items()}
    assert rules["amount"]["exclusiveMinimum"] == options["amount"]["exclusiveMinimum"] == 0
    assert (rules["latitude"]["minimum"], rules["latitude"]["maximum"]) == (-90, 90)
    assert (options["longitude"]["minimum"], options["longitude"]["maximum"]) == (-180, 180)
    assert {"EUR", "JPY"} < set(rules["currency"]["enum"])
    assert "XXX" not in rules["currency"]["enum"]
    (known,) = _properties()["country"]["quality"]
    assert known["arguments"]["validValues"] == rules["country"]["enum"]
    assert (known["metric"], known["mustBe"]) == ("invalidValues", 0)
    assert rules["merchant_name"]["maxLength"] == options["merchant_name"]["maxLength"] == 200
    assert rules["transaction_id"]["unique"] is _properties()["transaction_id"]["unique"] is True
    assert _resources()[PUBLISHED]["schema"]["primaryKey"] == ["transaction_id"]


def test_patterns_can_be_read_by_python() -> None:
    patterns = {
        name: field["constraints"].get("pattern") for name, field in _fields(PUBLISHED).items()
    }
    assert [name for name, pattern in patterns.items() if pattern and not re.compile(pattern)] == []
    # Classes of Unicode are not for Python.
    assert patterns["merchant_name"] is None
    assert r"\p{C}" in _properties()["merchant_name"]["logicalTypeOptions"]["pattern"]


def test_a_lake_says_how_its_card_numbers_are_published() -> None:
    holding = {
        CARD_IN_CLEAR: "4111111111111111",
        CARD_MASKS["first6last4"]: "411111******1111",
        CARD_MASKS["last4"]: "************1111",
        CARD_MASKS["none"]: "****",
    }
    for form, holds in holding.items():
        field = _fields(PUBLISHED, form)["card_number"]
        each = _properties(card_form=form)["card_number"]
        for pattern in (field["constraints"]["pattern"], each["logicalTypeOptions"]["pattern"]):
            assert [bool(re.search(pattern, value)) for value in holding.values()] == [
                value == holds for value in holding.values()
            ]
        assert field["description"] == each["description"] == form.description
        assert ("in clear" in each["description"]) is (form is CARD_IN_CLEAR)


def test_the_contract_says_where_the_rows_are() -> None:
    pattern = f"{PUBLISHED}/event_date=*/event_hour=*/part-0.parquet"
    in_bucket, in_directory = (yaml.safe_load(data_contract(root))["servers"] for root in _ROOTS)
    assert in_bucket == [
        {
            "server": "lake",
            "format": "parquet",
            "type": "s3",
            "location": f"s3://bucket/lake/{pattern}",
        }
    ]
    # Relative, so that it holds in a copy of the directory, and names nobody's folder.
    assert in_directory == [
        {"server": "lake", "format": "parquet", "type": "local", "path": pattern}
    ]
