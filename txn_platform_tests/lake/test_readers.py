"""Every program that reads the lake finds the same values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq
import pytest
import yaml

from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.lake.layout import object_key
from txn_platform.runs import dagster_instance, materialize
from txn_platform.windows import Window
from txn_platform_tests.support.lake_readers import (
    EXAMPLES,
    PAGE,
    READERS,
    Reader,
    Rows,
    comparable,
    with_table,
)
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW: Final = Window.of_partition("2026-11-01-00:00")
_ID: Final = "transaction_id"
_ROWS: Final = 400
_BAD: Final = 40
# All that Parquet had from its beginning; RLE is that of levels and of indices into dictionaries.
_UNIVERSAL: Final = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}


def _good(number: int) -> dict[str, str | None]:
    fraud = {"is_fraud": "true", "fraud_scenario": "card_testing"} if number % 10 == 0 else {}
    place = {"latitude": f"-{number % 90}.123456", "longitude": "0"} if number % 3 else {}
    names = ("Crêperie 🥞", "寿司", "Ł & \"quoted\", 'too'")
    name = names[number % 3] + ("" if number % 2 else f" {number}")
    return sent_row(number, merchant_name=name, country="FR", **place, **fraud)


def _bad(number: int) -> dict[str, str | None]:
    """A row of two reasons, of a field that the contract does not know, or of an empty text."""
    changes: list[dict[str, str | None]] = [
        {"amount": "a lot", "currency": "???"},
        {"amount": None, "loyalty": '{"points": "é"}'},
        {"customer_id": "", "card_number": "0", "country": "XX"},
    ]
    return sent_row(number, **changes[number % 3])


@dataclass(frozen=True)
class _Lake:
    """A window that was run: its objects, its Delta table, and what was sent."""

    published: Path
    quarantined: Path
    delta: str
    good: list[dict[str, str | None]]
    bad: list[dict[str, str | None]]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Lake]:
    home = tmp_path_factory.mktemp("read")
    good = [_good(number) for number in range(_ROWS)]
    bad = [_bad(number) for number in range(_ROWS, _ROWS + _BAD)]
    with pytest.MonkeyPatch.context() as patch, served(ServedSource([*good, *bad])) as source:
        patch.chdir(home)
        patch.setenv("DELTA_LAKE_S3_PATH", str(home / "delta"))
        patch.setenv("TXN_MAX_QUARANTINE", "0.5")
        with dagster_instance() as instance:
            summary = materialize(
                _WINDOW, instance=instance, source_url=source.url, on_progress=lambda _: None
            )
        assert (summary.published, summary.quarantined) == (_ROWS, _BAD)
        root = home / ".txn" / "lake"
        yield _Lake(
            root / object_key("s3_parquet_transactions", _WINDOW),
            root / object_key("quarantined_transactions", _WINDOW),
            str(home / "delta"),
            good,
            bad,
        )


def _by_pyarrow(path: Path, columns: list[str]) -> list[tuple[Any, ...]]:
    return comparable(pq.ParquetFile(path).read().to_pylist(), columns, _ID)


def _each(readers: tuple[Reader, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "reader",
        [
            pytest.param(each, id=each.package, marks=pytest.mark.readers if each.large else ())
            for each in readers
        ],
    )


_FILE_READERS: Final = tuple(reader for reader in READERS if reader.parquet)


def test_the_first_opinion_is_what_was_sent(lake: _Lake) -> None:
    """Which the readers are then compared with."""
    names = [_ID, "transaction_at", "customer_id", "merchant_name", "amount", "latitude"]
    names += ["is_fraud", "fraud_scenario"]
    expected = [
        (
            row[_ID],
            datetime.fromisoformat(row["transaction_at"] or "").astimezone(UTC),
            row["customer_id"],
            row["merchant_name"],
            Decimal(row["amount"] or ""),
            None if row["latitude"] is None else float(row["latitude"]),
            row["is_fraud"] == "true",
            row["fraud_scenario"],
        )
        for row in lake.good
    ]
    assert _by_pyarrow(lake.published, names) == expected
    names = [_ID, "amount", "currency", "customer_id", "country"]
    expected = [tuple(row[name] for name in names) for row in lake.bad]
    assert _by_pyarrow(lake.quarantined, names) == expected
    reasons = _by_pyarrow(lake.quarantined, [_ID, "reasons"])
    assert {len(each) for _, each in reasons} == {1, 2, 3}


@_each(_FILE_READERS)
def test_a_published_window_is_the_same_to(reader: Reader, lake: _Lake) -> None:
    assert reader.parquet
    columns = list(TRANSACTIONS.published_columns)
    found = comparable(reader.parquet(str(lake.published)), columns, _ID)
    assert found == _by_pyarrow(lake.published, columns)


@_each(_FILE_READERS)
def test_a_quarantined_window_is_the_same_to(reader: Reader, lake: _Lake) -> None:
    assert reader.parquet
    columns = list(TRANSACTIONS.quarantine_schema.names)
    found = comparable(reader.parquet(str(lake.quarantined)), columns, _ID)
    assert found == _by_pyarrow(lake.quarantined, columns)


@_each(READERS)
def test_a_delta_window_is_the_same_to(reader: Reader, lake: _Lake) -> None:
    columns = list(TRANSACTIONS.published_columns)
    found = comparable(reader.read_delta(lake.delta), columns, _ID)
    assert found == _by_pyarrow(lake.published, columns)


def test_the_data_package_beside_the_tables_leads_to_them_and_their_rows_hold_it(
    lake: _Lake,
) -> None:
    root = lake.published.parents[3]
    package = json.loads((root / "datapackage.json").read_text("utf-8"))
    found: dict[str, Rows] = {}
    for table in package["resources"]:
        (path,) = root.glob(table["path"])
        found[table["name"]] = rows = pq.ParquetFile(path).read().to_pylist()
        fields = table["schema"]["fields"]
        assert [list(row) for row in rows] == [[field["name"] for field in fields]] * len(rows)
        assert [(name, row[name]) for row in rows for name in _breaking(fields, row)] == []
    assert len(found["s3_parquet_transactions"]) == _ROWS
    assert len(found["quarantined_transactions"]) == _BAD
    # The rules are no empty ones: each quarantined row that was parsed breaks some.
    published = package["resources"][0]["schema"]["fields"]
    sent = {"card_number", "amount", "currency", "country", "customer_id"}
    assert all(
        set(_breaking([each for each in published if each["name"] in sent], row))
        for row in found["quarantined_transactions"]
    )


@pytest.mark.readers
def test_frictionless_reads_the_tables_by_the_package(lake: _Lake) -> None:
    """One file of each: it reads no pattern of Parquet files, and no lists."""
    from frictionless import Package

    root = lake.published.parents[3]
    package = json.loads((root / "datapackage.json").read_text("utf-8"))
    tables = [each for each in package["resources"] if each["name"] != "quarantined_transactions"]
    assert len(tables) == 3
    for table in tables:
        (path,) = root.glob(table["path"])
        table["path"] = path.relative_to(root).as_posix()
    package["resources"] = tables
    report = Package.from_descriptor(package, basepath=str(root)).validate()
    assert report.valid, report.flatten(["message"])
    # It looks at rules.
    tables[0]["schema"]["fields"][0]["constraints"]["enum"] = ["another"]
    report = Package.from_descriptor(package, basepath=str(root)).validate()
    assert [task.valid for task in report.tasks] == [False, True, True]


@pytest.mark.readers
def test_the_contract_has_the_form_of_its_standard(lake: _Lake) -> None:
    import open_data_contract_standard
    from jsonschema.validators import validator_for

    path = Path(open_data_contract_standard.__file__).with_name("schema.json")
    schema = json.loads(path.read_text("utf-8"))
    validator = validator_for(schema)(schema)
    text = (lake.published.parents[3] / "contract.odcs.yaml").read_text("utf-8")
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []
    assert list(validator.iter_errors(yaml.safe_load(text) | {"kind": "Table"}))


def _breaking(fields: list[dict[str, Any]], row: dict[str, Any]) -> Iterator[str]:
    """The names of the columns whose value breaks a constraint of a Table Schema."""
    for field in fields:
        name, rules = field["name"], field["constraints"]
        value = row[name]
        if value is None:
            if rules["required"]:
                yield name
        elif (
            ("pattern" in rules and not re.fullmatch(rules["pattern"], value))
            or ("enum" in rules and value not in rules["enum"])
            or ("maxLength" in rules and len(value) > rules["maxLength"])
            or ("minimum" in rules and value < rules["minimum"])
            or ("maximum" in rules and value > rules["maximum"])
            or (isinstance(value, Decimal) and value <= rules["exclusiveMinimum"])
        ):
            yield name


def test_the_contract_beside_the_tables_is_that_of_the_published_rows(lake: _Lake) -> None:
    root = lake.published.parents[3]
    contract = yaml.safe_load((root / "contract.odcs.yaml").read_text("utf-8"))
    (server,) = contract["servers"]
    assert list(root.glob(server["path"])) == [lake.published]
    (table,) = contract["schema"]
    assert [each["name"] for each in table["properties"]] == list(TRANSACTIONS.published_columns)


@pytest.mark.readers
@pytest.mark.parametrize("program", ["Spark", "ClickHouse"])
def test_the_example_of_a_large_program_reads_the_lake(program: str, lake: _Lake) -> None:
    """The other examples of the page run with all examples of the documentation."""
    text = EXAMPLES.read_text("utf-8").partition(f"\n## {program}\n")[2].partition("\n## ")[0]
    home = lake.published.parents[5]
    for query in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
        (home / "clickhouse.sql").write_text(query, "utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=home, capture_output=True, text=True, check=True
    )
    assert re.search(rf"\bUSD\b\W+{_ROWS}\b", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("program", "kinds"),
    [
        ("CREATE EXTERNAL TABLE", {"string": "string", "timestamp[us, tz=UTC]": "timestamp"}),
        ("CREATE TABLE", {"string": "varchar", "timestamp[us, tz=UTC]": "timestamp(6)"}),
    ],
)
def test_the_statement_for_a_query_engine_has_the_columns_of_the_contract(
    program: str, kinds: dict[str, str]
) -> None:
    """Athena and Trino are not installed by the tests."""
    kinds = {"bool": "boolean", "decimal128(18, 2)": "decimal(18,2)", **kinds}
    _, _, statement = EXAMPLES.read_text("utf-8").partition(f"```sql\n{program} ")
    columns = re.findall(r"^  ([a-z_]+) ([a-z]+(?:\([0-9,]+\))?),?$", statement, re.MULTILINE)
    expected = [
        (field.name, kinds.get(str(field.type), str(field.type)))
        for field in TRANSACTIONS.published_schema
    ]
    assert [column for column in columns if not column[0].startswith("event_")][
        : len(expected)
    ] == expected


def _encodings(path: Path) -> dict[str, set[str]]:
    """Of each column, those of its pages, of all row groups."""
    footer = pq.read_metadata(path)
    found: dict[str, set[str]] = {}
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            column = footer.row_group(group).column(place)
            found.setdefault(column.path_in_schema, set()).update(column.encodings)
    return found


def test_no_file_for_readers_has_an_encoding_that_some_readers_lack(lake: _Lake) -> None:
    delta = [Path(path) for path in Path(lake.delta).rglob("*.parquet")]
    assert delta
    for path in (lake.published, lake.quarantined, *delta):
        for column, encodings in _encodings(path).items():
            assert encodings <= _UNIVERSAL, (path, column)


def test_the_page_has_each_reader_with_its_locked_version() -> None:
    page = PAGE.read_text("utf-8")
    assert with_table(page) == page
    assert len(re.findall(r"^\| .* \| \d+\.\S+ \|", page, re.MULTILINE)) == len(READERS)
