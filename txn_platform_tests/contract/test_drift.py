"""Drift: what a source declares of its rows against the contract, and what a window does then."""

import copy
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from generator_service.app import Source as Service
from generator_service.app import create_app
from generator_service.settings import Settings
from txn_platform.contract.drift import find_drift
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.definitions import build_defs
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

_ROUTE = "/v1/transactions"
_END = datetime(2026, 11, 1, 1, tzinfo=UTC)


def _openapi(drift: str = "") -> dict[str, Any]:
    """The description that the generator's service gives of itself."""
    settings = Settings.load(customers=100, merchants=100, drift=drift)
    service = create_app(settings)
    service.state.source = Service(settings, lambda: time.time_ns() // 1000)
    return service.openapi()


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The generator's description without drift."""
    return _openapi()


def _found(openapi: Any) -> list[tuple[bool, str]]:
    return [
        (drift.breaking, drift.message)
        for drift in find_drift(openapi, _ROUTE, ["data"], _END) or []
    ]


def test_the_generator_describes_the_contract(described: dict[str, Any]) -> None:
    assert find_drift(described, _ROUTE, ["data"], _END) == []


def test_an_added_field_does_not_break_and_a_missing_or_retyped_one_does(
    described: dict[str, Any],
) -> None:
    changed = copy.deepcopy(described)
    fields = changed["components"]["schemas"]["Transaction"]["properties"]
    fields["loyalty"] = {"type": "string"}
    assert _found(changed) == [(False, "field 'loyalty' is not in the contract")]
    fields["amount"] = {"type": "number", "x-since": "2026-10-01T00:00:00Z"}
    del fields["channel"]
    assert _found(changed)[:2] == [
        (True, "field 'channel' is no longer sent"),
        (True, "field 'amount' is number, the contract has string since 2026-10-01T00:00:00Z"),
    ]


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        (
            "rename:amount:value:2026-10-01T00:00:00Z",
            [
                (True, "field 'amount' is no longer sent since 2026-10-01T00:00:00"),
                (False, "field 'value' is not in the contract since 2026-10-01T00:00:00"),
            ],
        ),
        (
            "add:loyalty:2026-10-01T00:00:00Z",
            [(False, "field 'loyalty' is not in the contract since 2026-10-01T00:00:00")],
        ),
        (
            "drop:channel:2026-10-01T00:00:00Z",
            [(True, "field 'channel' is no longer sent since 2026-10-01T00:00:00")],
        ),
        (
            "retype:amount:2026-10-01T00:00:00Z",
            [
                (
                    True,
                    "field 'amount' is number, the contract has string since 2026-10-01T00:00:00",
                )
            ],
        ),
        ("drop:channel:2026-11-01T01:00:00Z", []),
    ],
)
def test_the_generators_drifts_are_found_when_they_are_in_effect(
    drift: str, expected: list[tuple[bool, str]]
) -> None:
    found = _found(_openapi(drift))
    assert len(found) == len(expected)
    for (breaking, message), (expected_breaking, beginning) in zip(found, expected, strict=True):
        assert breaking == expected_breaking
        assert message.startswith(beginning)


@pytest.mark.parametrize("openapi", [None, [], {}, {"paths": {_ROUTE: 7}}])
def test_a_description_that_says_nothing_is_no_drift(openapi: Any) -> None:
    assert find_drift(openapi, _ROUTE, ["data"], _END) is None


def _row(fields: dict[str, Any], **schemas: Any) -> dict[str, Any]:
    """A description of rows with these fields."""
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/Row"}}
    schema = {"type": "object", "properties": {"data": rows}}
    answer = {"content": {"application/json": {"schema": schema}}}
    return {
        "openapi": "3.1.0",
        "paths": {_ROUTE: {"get": {"responses": {"200": answer}}}},
        "components": {"schemas": {"Row": {"properties": fields}} | schemas},
    }


@pytest.mark.parametrize(
    ("schema", "found"),
    [
        ({"type": ["string", "null"]}, None),
        ({"type": "string", "nullable": True}, None),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"allOf": [{"$ref": "#/components/schemas/Text"}]}, None),
        ({"$ref": "#/components/schemas/Alias"}, None),
        ({"enum": ["USD", "EUR", None]}, None),
        ({"const": "USD"}, None),
        ({}, None),
        (True, None),
        ({"$ref": "#/components/schemas/Circle"}, None),
        ({"$ref": 7}, None),
        ({"type": ["integer", "null"]}, "number"),
        ({"type": ["string", "number"]}, "number or string"),
        ({"anyOf": [{"type": ["string", "null"]}, {"type": "array"}]}, "array or string"),
        ({"enum": ["USD", 7.5]}, "number or string"),
    ],
)
def test_the_type_of_a_field_is_what_its_schema_says(schema: Any, found: str | None) -> None:
    fields = {name: {"type": _JSON.get(name, "string")} for name in TRANSACTIONS.names}
    described = _row(
        {**fields, "currency": schema},
        Text={"type": ["string"]},
        Alias={"$ref": "#/components/schemas/Text"},
        Circle={"anyOf": [{"$ref": "#/components/schemas/Circle"}] * 1_000},
    )
    expected = f"field 'currency' is {found}, the contract has string"
    assert _found(described) == ([] if found is None else [(True, expected)])


_JSON = {"latitude": "number", "longitude": "integer", "is_fraud": "boolean"}


def test_no_more_unknown_fields_are_named_than_can_be_read() -> None:
    fields = {name: {"type": _JSON.get(name, "string")} for name in TRANSACTIONS.names}
    unknown = {f"\x1b[31m{number}\0" + "x" * 100: {} for number in range(1_000)}
    found = _found(_row(fields | unknown))
    assert len(found) == 21
    assert found[-1] == (False, "980 more fields are not in the contract")
    assert all(message.isprintable() and len(message) < 200 for _, message in found)


def test_a_time_without_a_zone_is_in_utc() -> None:
    fields = {name: {"type": _JSON.get(name, "string")} for name in TRANSACTIONS.names}
    later = {"type": "integer", "x-since": "2026-11-01T01:00:00"}
    assert _found(_row(fields | {"currency": later})) == []


@pytest.fixture
def there() -> Iterator[ServedSource]:
    """A source with ten good rows."""
    with served(ServedSource([sent_row(number) for number in range(10)])) as source:
        yield source


def _run(source: ServedSource) -> tuple[bool, dg.AssetCheckEvaluation]:
    result = (
        build_defs()
        .resolve_job_def("land_transactions")
        .execute_in_process(
            partition_key="2026-11-01-00:00",
            run_config={"resources": {"generator": {"config": {"url": source.url}}}},
            raise_on_error=False,
        )
    )
    (evaluation,) = [
        found
        for found in result.get_asset_check_evaluations()
        if found.check_name == "schema_has_not_drifted"
    ]
    return result.success, evaluation


def test_a_window_of_a_drifted_source_warns_or_fails(
    there: ServedSource, described: dict[str, Any]
) -> None:
    there.openapi = copy.deepcopy(described)
    fields = there.openapi["components"]["schemas"]["Transaction"]["properties"]
    fields["loyalty"] = {"type": "string"}
    success, evaluation = _run(there)
    assert success
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert "Found: field 'loyalty' is not in the contract." in (evaluation.description or "")
    written = {path: path.stat().st_mtime_ns for path in Path(".txn/lake").rglob("*.parquet")}
    del fields["amount"]
    success, evaluation = _run(there)
    assert not success
    assert evaluation.severity is dg.AssetCheckSeverity.ERROR
    assert "field 'amount' is no longer sent" in (evaluation.description or "")
    assert written == {
        path: path.stat().st_mtime_ns for path in Path(".txn/lake").rglob("*.parquet")
    }
