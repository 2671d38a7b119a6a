"""Every check fails on a file that breaks it, wherever in the file the fault is.

The files are what a defect of the platform would write: no run of it does. Each holds three row
groups of several batches, and the fault is in one row of the first, a middle or the last batch.
"""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from txn_platform.contract.card_numbers import card_number_spans
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.defs import assets, checks
from txn_platform.defs.assets import raw_transactions, s3_parquet_transactions, validation
from txn_platform.defs.resources import GeneratorResource
from txn_platform.lake.parquet import open_parquet, read_batches
from txn_platform.rows.proof import Proof, prove_published
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.rows.validation import Validator
from txn_platform_tests.support.card_spellings import PARTS, SPELLINGS
from txn_platform_tests.support.run_resources import run_resources
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

_FREE_TEXTS = [name for name in TRANSACTIONS.names if TRANSACTIONS.card_search(name) == "within"]
_IDENTIFIERS = [name for name in TRANSACTIONS.names if TRANSACTIONS.card_search(name) == "whole"]
_PARTITION = "2026-11-01-00:00"
_ROWS = 240
# Of 240 rows in row groups of 80 and batches of 30: the first batch, one in the middle, the last.
_INDICES = [0, 29, 30, 121, 210, 239]


@pytest.fixture(autouse=True)
def short_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txn_platform.lake.parquet._BATCH_ROWS", 30)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """A window as it is published, from a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("published"))
        with served(ServedSource([sent_row(number) for number in range(_ROWS)])) as source:
            assert _materialize(source).success
        path = Path(".txn/lake/s3_parquet_transactions/event_date=2026-11-01/event_hour=00")
        return pl.read_parquet(path / "part-0.parquet")


def _materialize(source: ServedSource, *names: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [raw_transactions, validation, s3_parquet_transactions],
        selection=list(names) or None,
        partition_key=_PARTITION,
        resources=run_resources(GeneratorResource(url=source.url)),
        raise_on_error=False,
    )


def _failed(
    frame: pl.DataFrame,
    path: Path,
    expected: ControlTotals,
    *,
    policy: str = "token",
    schema: pa.Schema = TRANSACTIONS.published_schema,
) -> dict[str, str]:
    """The checks that fail on a file of these rows, with what they say."""
    columns = [frame[name].to_arrow().cast(schema.field(name).type) for name in schema.names]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path, row_group_size=80)
    with open_parquet(path, TRANSACTIONS.dictionary_encoded) as file:
        proof = prove_published(
            file.metadata.schema.to_arrow_schema(),
            partial(read_batches, file),
            expected,
            clear_cards=policy == "clear",
        )
    results = checks.published(proof, policy)
    return {
        result.check_name or "": result.description or "" for result in results if not result.passed
    }


def _with(frame: pl.DataFrame, index: int, **values: Any) -> pl.DataFrame:
    row = pl.int_range(frame.height) == index
    return frame.with_columns(
        pl.when(row)
        .then(pl.lit(value, dtype=frame.schema[name]))
        .otherwise(pl.col(name))
        .alias(name)
        for name, value in values.items()
    )


def test_a_file_without_fault_passes(published: pl.DataFrame, tmp_path: Path) -> None:
    assert _failed(published, tmp_path / "file", ControlTotals.of(published)) == {}


@pytest.mark.parametrize("index", _INDICES)
def test_a_repeated_id_is_found_wherever_it_is(
    published: pl.DataFrame, tmp_path: Path, index: int
) -> None:
    other = published["transaction_id"][(index + 97) % _ROWS]
    frame = _with(published, index, transaction_id=other)
    found = _failed(frame, tmp_path / "file", ControlTotals.of(frame))
    assert set(found) == {"ids_are_unique"}
    assert "Found: 2 rows share their id with another." in found["ids_are_unique"]


@pytest.mark.parametrize("index", _INDICES)
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"amount": Decimal("1000000.00")}, "amount of PURCHASE"),
        ({"transaction_type": "REFUND"}, "amount of REFUND"),
        ({"transaction_id": "019a3c00-0000-7000-8000-ffffffffffff"}, "digest of ids"),
    ],
)
def test_a_changed_row_differs_from_the_totals_wherever_it_is(
    published: pl.DataFrame, tmp_path: Path, index: int, change: dict[str, Any], difference: str
) -> None:
    found = _failed(
        _with(published, index, **change), tmp_path / "file", ControlTotals.of(published)
    )
    assert set(found) == {"totals_equal_source", "raw_is_published_plus_quarantined"}
    assert all(difference in message for message in found.values())


@pytest.mark.parametrize("index", _INDICES)
def test_a_lost_or_doubled_row_differs_from_the_totals(
    published: pl.DataFrame, tmp_path: Path, index: int
) -> None:
    lost = published.filter(pl.int_range(_ROWS) != index)
    expected = ControlTotals.of(published)
    assert (
        "rows: 239 against 240" in _failed(lost, tmp_path / "file", expected)["totals_equal_source"]
    )
    doubled = pl.concat([published, published[index]])
    found = _failed(doubled, tmp_path / "file", expected)
    assert "rows: 241 against 240" in found["totals_equal_source"]
    assert "ids_are_unique" in found


# One number of each length, in the ranges of networks that issue it.
_NUMBERS = {
    13: "4222222222222",
    14: "36148900647913",
    15: "378282246310005",
    16: "4111111111111111",
    17: "62000000000000000",
    18: "620000000000000005",
    19: "6304000000000000000",
}


@pytest.mark.parametrize("index", _INDICES)
@pytest.mark.parametrize("column", ["card_number", *_FREE_TEXTS, *_IDENTIFIERS])
def test_a_card_number_in_clear_is_found_wherever_it_is(
    published: pl.DataFrame, tmp_path: Path, index: int, column: str
) -> None:
    frame = _with(published, index, **{column: "4111111111111111"})
    found = _failed(frame, tmp_path / "file", ControlTotals.of(frame))
    assert set(found) == {"no_card_number_in_clear"}
    message = found["no_card_number_in_clear"]
    assert f"Found: 1 rows show a card number in {column}, at the positions {index} " in message


@pytest.mark.parametrize("column", ["card_number", *_FREE_TEXTS, *_IDENTIFIERS])
@pytest.mark.parametrize("length", range(13, 20))
def test_a_card_number_of_every_length_is_found(
    published: pl.DataFrame, tmp_path: Path, column: str, length: int
) -> None:
    number = _NUMBERS[length]
    assert len(number) == length
    frame = _with(published, 77, **{column: number})
    found = _failed(frame, tmp_path / "file", ControlTotals.of(frame))
    assert set(found) == {"no_card_number_in_clear"}


@pytest.mark.parametrize(
    "column", [field.name for field in TRANSACTIONS.published_schema if field.type == pa.string()]
)
def test_every_spelling_is_found_in_every_column_of_text(
    published: pl.DataFrame, tmp_path: Path, column: str
) -> None:
    texts = [
        text
        for spelling, text in SPELLINGS.items()
        if column not in _IDENTIFIERS or spelling not in PARTS
    ]
    sound = published[column][len(texts) :]
    frame = published.with_columns(pl.Series(column, [*texts, *sound], pl.String))
    found = _failed(frame, tmp_path / "file", ControlTotals.of(frame))
    message = found["no_card_number_in_clear"]
    assert f"Found: {len(texts)} rows show a card number in {column}, at the positions 0, 1, 2" in (
        message
    )
    assert not card_number_spans(message)


def test_many_rows_with_card_numbers_are_counted_and_the_first_named(
    published: pl.DataFrame, tmp_path: Path
) -> None:
    frame = published.with_columns(
        merchant_name=pl.when(pl.int_range(_ROWS) % 20 == 5)
        .then(pl.lit("paid by 4111 1111 1111 1111"))
        .otherwise("merchant_name")
    )
    message = _failed(frame, tmp_path / "file", ControlTotals.of(frame))["no_card_number_in_clear"]
    assert "Found: 12 rows show a card number in merchant_name" in message
    assert "5, 25, 45, 65, 85, 105, 125, 145, 165, 185 ... of the file" in message
    assert "4111" not in message


@pytest.mark.parametrize("mask", ["411111******111", "41111*******1111", "4111111*****1111", ""])
def test_text_that_is_no_mask_is_refused(
    published: pl.DataFrame, tmp_path: Path, mask: str
) -> None:
    found = _failed(
        _with(published, 100, card_number=mask), tmp_path / "file", ControlTotals.of(published)
    )
    assert set(found) == {"no_card_number_in_clear"}


def test_numbers_in_clear_pass_under_the_policy_that_publishes_them(
    published: pl.DataFrame, tmp_path: Path
) -> None:
    frame = _with(published, 100, card_number="4111111111111111")
    assert _failed(frame, tmp_path / "file", ControlTotals.of(frame), policy="clear") == {}


def _other_schemas() -> Iterator[Any]:
    for index, field in enumerate(TRANSACTIONS.published_schema):
        if field.type == pa.string():
            yield (
                field.name,
                TRANSACTIONS.published_schema.set(index, field.with_type(pa.large_string())),
            )
        yield (
            field.name,
            TRANSACTIONS.published_schema.set(index, field.with_nullable(not field.nullable)),
        )
    reversed_columns = pa.schema(reversed(list(TRANSACTIONS.published_schema)))
    yield "the order of columns", reversed_columns


@pytest.mark.parametrize(("name", "schema"), list(_other_schemas()))
def test_any_other_schema_is_named(
    published: pl.DataFrame, tmp_path: Path, name: str, schema: pa.Schema
) -> None:
    # Without nulls, the rows fit a schema that allows none.
    frame = published.with_columns(pl.col(pl.String).fill_null("x"))
    found = _failed(frame, tmp_path / "file", ControlTotals.of(frame), schema=schema)
    assert set(found) == {"schema_is_contract"}
    assert f"Found: not as in the contract: {name}." in found["schema_is_contract"]


@pytest.fixture
def there() -> Iterator[ServedSource]:
    with served(ServedSource([sent_row(number) for number in range(_ROWS)])) as source:
        yield source


def _messages(result: dg.ExecuteInProcessResult) -> list[str]:
    return [
        event.step_failure_data.user_failure_data.description or ""
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    ]


def _objects() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(".txn").rglob("?*.parquet"))}


@pytest.mark.parametrize("index", _INDICES)
@pytest.mark.parametrize("loss", ["conforming", "quarantined"])
def test_a_row_that_validation_loses_fails_the_window(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, index: int, loss: str
) -> None:
    """The two outputs are counted for themselves, and not from one another."""
    if loss == "quarantined":
        there.rows[index] = sent_row(index, currency="XXX")
    validate = Validator.validate
    seen = 0

    def lossy(self: Validator, rows: pa.RecordBatch) -> Any:
        nonlocal seen
        result = validate(self, rows)
        lost = seen <= index < seen + rows.num_rows
        seen += rows.num_rows
        if not lost:
            return result
        part: pa.RecordBatch = getattr(result, loss)
        at = index - seen + rows.num_rows if loss == "conforming" else 0
        kept = pa.array([row != at for row in range(part.num_rows)])
        object.__setattr__(result, loss, part.filter(kept))
        if loss == "quarantined":
            # The tally takes its examples by index.
            object.__setattr__(result, "rows_by_reason", {})
        return result

    monkeypatch.setattr(Validator, "validate", lossy)
    result = _materialize(there)
    assert not result.success
    (message,) = _messages(result)
    assert "raw_is_validated_plus_quarantined: Expected: each of 240 landed rows once" in message
    assert "Found: rows: 239 against 240" in message
    assert not [path for path in _objects() if "raw_transactions" not in path]


def test_a_row_of_both_kinds_fails_the_window(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Validator.validate

    def doubling(self: Validator, rows: pa.RecordBatch) -> Any:
        result = validate(self, rows)
        conforming = pa.concat_batches([result.conforming, result.conforming.slice(0, 1)])
        object.__setattr__(result, "conforming", conforming)
        return result

    monkeypatch.setattr(Validator, "validate", doubling)
    (message,) = _messages(_materialize(there))
    assert "raw_is_validated_plus_quarantined: Expected: each of 240 landed rows once" in message
    assert "Found: rows: 248 against 240" in message


def test_an_hour_that_is_not_over_is_refused_before_anything_is_asked(
    there: ServedSource,
) -> None:
    there.watermark = there.watermark.replace(day=1, hour=0, minute=59, second=59)
    result = _materialize(there)
    (message,) = _messages(result)
    assert "is not complete" in message
    assert there.requests == ["/v1/watermark"]
    assert _objects() == {}
    there.watermark = there.watermark.replace(hour=1, minute=0, second=0)
    assert _materialize(there).success


def test_totals_are_asked_for_at_the_moment_of_the_rows(there: ServedSource) -> None:
    """A row that arrives between the two questions is in both answers, or in none."""
    asked: list[tuple[str, str]] = []
    answer = there.answer

    def noted(path: str, query: dict[str, str]) -> tuple[int, bytes]:
        if "as_of" in query:
            asked.append((path, query["as_of"]))
        return answer(path, query)

    there.answer = noted  # pyright: ignore[reportAttributeAccessIssue] - as the handler calls it
    assert _materialize(there).success
    assert {path for path, _ in asked} == {"/v1/transactions", "/v1/control-totals"}
    assert len({moment for _, moment in asked}) == 1


def test_a_key_is_asked_for_before_card_numbers_are_landed(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_CARD_KEY", "too short")
    result = _materialize(there, "raw_transactions")
    assert not result.success
    assert there.requests == []
    assert _objects() == {}


def test_a_failed_run_leaves_the_last_good_version(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _materialize(there).success
    before = _objects()
    there.rows[5] = sent_row(5, amount="7.77")

    def failing(*args: Any, **kwargs: Any) -> Proof:
        return replace(prove_published(*args, **kwargs), repeated_ids=2)

    monkeypatch.setattr(assets, "prove_published", failing)
    assert not _materialize(there).success
    published = [path for path in before if "s3_parquet" in path]
    assert [_objects()[path] for path in published] == [before[path] for path in published]


@pytest.mark.parametrize("shared", [0, 1, 12])
def test_the_share_of_the_quarantine_is_allowed_up_to_its_limit(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, shared: int
) -> None:
    """12 of 240 rows are 5 %: that many pass, and one more does not."""
    for number in range(shared):
        there.rows[number] = sent_row(number, currency="XXX")
    assert _materialize(there).success
    there.rows[100] = sent_row(100, currency="XXX")
    assert _materialize(there).success == (shared < 12)
    monkeypatch.setenv("TXN_MAX_QUARANTINE", str(shared / _ROWS))
    assert not _materialize(there).success


def test_raw_has_every_column_of_its_schema(there: ServedSource) -> None:
    assert _materialize(there, "raw_transactions").success
    (path,) = Path(".txn").rglob("raw_transactions/**/*.parquet")
    assert pq.read_schema(path).equals(TRANSACTIONS.raw_schema)
