"""The page of a window in Dagster's UI: figures, tables, the picture, and messages of checks."""

import base64
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import pytest

from txn_platform.contract.reasons import reasons
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.defs import checks
from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
from txn_platform.defs.resources import GeneratorResource
from txn_platform.defs.window_metadata import amounts_of, reasons_of
from txn_platform_tests.support.other_api import use_api
from txn_platform_tests.support.run_resources import run_resources
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

_PARTITION = "2026-11-01-00:00"
_IMAGE = re.compile(r"!\[[^]]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)")


@pytest.fixture
def there() -> Iterator[ServedSource]:
    """100 rows: three currencies, fraud, and six that break the contract."""
    rows = [sent_row(number) for number in range(90)]
    rows += [sent_row(number, currency="JPY", amount="1234567") for number in range(90, 92)]
    rows += [sent_row(number, currency="KWD", amount="0.50") for number in range(92, 94)]
    rows += [sent_row(number, currency="XXX") for number in range(94, 98)]
    rows += [sent_row(number, amount="free", currency="XXX") for number in range(98, 100)]
    for row in rows[:9]:
        row |= {"is_fraud": "true", "fraud_scenario": "stolen_card"}
    with served(ServedSource(rows)) as source:
        yield source


def _run(source: ServedSource, *names: str, limit: float = 0.1) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [raw_transactions, validation, s3_parquet_transactions],
        selection=list(names) or None,
        partition_key=_PARTITION,
        resources=run_resources(GeneratorResource(url=source.url)),
        run_config={"ops": {"validation": {"config": {"max_quarantine": limit}}}},
        raise_on_error=False,
    )


def _metadata(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, dg.MetadataValue[Any]]]:
    return {
        event.asset_key.to_user_string(): dict(event.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_a_published_window_shows_its_figures_as_numbers(there: ServedSource) -> None:
    started = time.monotonic()
    metadata = _metadata(_run(there))
    took = time.monotonic() - started
    published = metadata[checks.PUBLISHED]
    numbers = {
        name: value.value
        for name, value in published.items()
        if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue)
    }
    assert numbers["rows"] == 94
    assert numbers["rows_sent"] == 100
    assert numbers["rows_quarantined"] == 6
    assert numbers["quarantine_rate"] == 0.06
    assert numbers["fraud_share"] == 9 / 94
    # 1.50 to 90.50.
    assert numbers["amount_USD"] == 90 * 46.0
    assert numbers["amount_JPY"] == 2 * 1234567
    assert numbers["amount_KWD"] == 1.0
    seconds = [metadata[asset]["seconds"].value for asset in metadata]
    assert len(seconds) == 4
    assert all(0 < each < took for each in seconds)
    assert all(metadata[asset]["rows_per_second"].value > 0 for asset in metadata)


def test_amounts_are_exact_and_never_added_across_currencies(there: ServedSource) -> None:
    published = _metadata(_run(there))[checks.PUBLISHED]
    amounts = amounts_of(published)
    assert amounts == {"USD": Decimal("4140.00"), "JPY": 2469134, "KWD": Decimal("1.000")}
    # With the decimals of each currency.
    assert {code: -int(total.as_tuple().exponent) for code, total in amounts.items()} == {
        "USD": 2,
        "JPY": 0,
        "KWD": 3,
    }
    across = sum(amounts.values())
    assert not [name for name, value in published.items() if str(across) in str(value.value)]


def test_reasons_are_a_table_with_their_meanings(there: ServedSource) -> None:
    metadata = _metadata(_run(there))
    for asset in (checks.QUARANTINED, checks.PUBLISHED):
        assert reasons_of(metadata[asset]) == {"currency.unknown": 6, "amount.format": 2}
        table: Any = metadata[asset]["reasons"].value
        first = table.records[0].data
        assert first["share"] == "6.00%"
        assert first["meaning"] == reasons(TRANSACTIONS)["currency.unknown"]


def _picture(metadata: dict[str, dg.MetadataValue[Any]]) -> str:
    markdown = metadata["picture"]
    assert isinstance(markdown, dg.MarkdownMetadataValue)
    assert len(str(markdown.value)) < 8_000
    image = _IMAGE.fullmatch(str(markdown.value))
    assert image is not None
    return base64.b64decode(image[1]).decode()


def test_the_picture_shows_minutes_amounts_and_reasons_and_no_data_of_a_row(
    there: ServedSource,
) -> None:
    svg = _picture(_metadata(_run(there))[checks.PUBLISHED])
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    name = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{name}text")]
    assert {"currency.unknown", "amount.format", "6", "2"} <= set(texts)
    minutes, amounts, *reasons = [
        path.get("d", "") for path in root.iter(f"{name}path") if path.get("fill")
    ]
    # Rows of two minutes; 1.50 to 90.50, and yen.
    assert minutes.count("M") == 2
    assert amounts.count("M") == 8
    assert len(reasons) == 2
    for value in ("1234567", "90.50", "Café", "411111", "M1", "C17", "free"):
        assert value not in svg


def test_an_empty_window_has_a_picture_too(there: ServedSource) -> None:
    there.rows = []
    published = _metadata(_run(there))[checks.PUBLISHED]
    assert "none" in _picture(published)
    assert amounts_of(published) == {}
    assert published["quarantine_rate"].value == 0


def test_the_metadata_of_a_window_is_light_and_without_data_of_a_row(there: ServedSource) -> None:
    result = _run(there)
    for asset, metadata in _metadata(result).items():
        text = repr(metadata)
        assert len(text) < 20_000, asset
        for value in ("411111", "Café", "C17", "90.50"):
            assert value not in text, asset


_PASSED = re.compile(r"Expected: [^.].+\. Found: .+\.", re.DOTALL)
_FAILED = re.compile(r"Expected: [^.].+\. Found: .+\. To do: .+\.", re.DOTALL)


def test_every_check_says_what_was_expected_found_and_what_to_do(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = _run(there).get_asset_check_evaluations()
    assert len(passed) == 10
    assert all(found.passed for found in passed)
    for found in passed:
        assert _PASSED.fullmatch(found.description or ""), found.check_name
        assert "To do" not in (found.description or "")
    failed = [
        found for found in _run(there, limit=0.01).get_asset_check_evaluations() if not found.passed
    ]
    use_api(monkeypatch)
    failed += [found for found in _run(there).get_asset_check_evaluations() if not found.passed]
    assert [found.check_name for found in failed] == ["quarantine_share", "source_states_totals"]
    for found in failed:
        assert _FAILED.fullmatch(found.description or ""), found.check_name


def test_a_window_that_is_run_again_has_the_same_data_version(there: ServedSource) -> None:
    """So that assets downstream see whether it has changed."""

    def version() -> str | None:
        (event,) = [
            event.materialization
            for event in _run(there).get_asset_materialization_events()
            if event.asset_key == dg.AssetKey(checks.PUBLISHED)
        ]
        return (event.tags or {}).get("dagster/data_version")

    first = version()
    assert first == version()
    assert first is not None
    there.rows.append(sent_row(200))
    assert version() != first


def test_the_definitions_and_a_run_show_the_columns_from_raw_to_published(
    there: ServedSource,
) -> None:
    metadata = _metadata(_run(there))
    defined = {
        spec.key.to_user_string(): spec
        for assets in (raw_transactions, validation, s3_parquet_transactions)
        for spec in assets.specs
    }
    for asset in (checks.VALIDATED, checks.QUARANTINED, checks.PUBLISHED):
        shown = metadata[asset]["dagster/column_lineage"].value
        assert shown == defined[asset].metadata["dagster/column_lineage"]
    columns = [
        column.name
        for column in defined[checks.PUBLISHED].metadata["dagster/column_schema"].columns
    ]
    for column in columns:
        origin = column
        for asset in (checks.PUBLISHED, checks.VALIDATED):
            lineage: Any = metadata[asset]["dagster/column_lineage"].value
            (dependency,) = lineage.deps_by_column[origin]
            origin = dependency.column_name
        assert dependency.asset_key == dg.AssetKey(checks.RAW)
        assert origin == ("card_number" if column == "card_token" else column)


def test_every_asset_says_whose_it_is_and_where_its_code_is() -> None:
    from txn_platform.definitions import build_defs

    graph = build_defs().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert len(node.description or "") > 200
        assert node.owners == ["team:data-platform"]
        assert node.code_version == "contract-1"
        assert {"zone", "pii"} <= set(node.tags)
        assert node.kinds
        (place,) = node.metadata["dagster/code_references"].code_references
        lines = Path(place.file_path).read_text("utf-8").splitlines()
        assert any(line.lstrip().startswith("def ") for line in lines[place.line_number - 1 :][:40])
    zones = {key.to_user_string(): graph.get(key).tags for key in graph.get_all_asset_keys()}
    assert {name for name, tags in zones.items() if tags["pii"] == "clear"} == {
        "raw_transactions",
        "quarantined_transactions",
    }


def test_columns_show_the_rules_of_the_contract() -> None:
    spec = next(spec for spec in validation.specs if spec.key.path == [checks.VALIDATED])
    columns = {column.name: column for column in spec.metadata["dagster/column_schema"].columns}
    identifier = columns["transaction_id"].constraints
    assert identifier.unique
    assert not identifier.nullable
    assert "above 0" in columns["amount"].constraints.other
    assert "at least -90" in columns["latitude"].constraints.other
    assert "in its code list" in columns["currency"].constraints.other
    assert columns["card_number"].tags == {"pii": "masked"}
    assert columns["currency"].tags == {}
    assert columns["card_token"].description.endswith("From card_number of raw_transactions")
