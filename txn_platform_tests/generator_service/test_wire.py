"""How rows are written: the text of a value, lines, streams, and the threads that make them."""

from __future__ import annotations

import csv
import io
import json
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator_service import wire
from generator_service.simulator import SCHEMA, Configuration, Simulator, Window
from generator_service.wire import Format, Prefetch, encode, text_batches, text_schema

HOUR = 3_600_000_000
START = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
WINDOW = Window(START, START + HOUR)

VALUES = pa.dictionary(pa.int32(), pa.string())
MIXED = pa.schema(
    {
        "id": pa.string(),
        "at": pa.timestamp("us", tz="UTC"),
        "type": VALUES,
        "amount": pa.decimal128(18, 2),
        "latitude": pa.float64(),
        "flag": pa.bool_(),
        "born": pa.date32(),
        "maybe": pa.string(),
    }
)


@pytest.fixture(scope="module")
def rows() -> list[pa.RecordBatch]:
    """An hour of transactions, every column as the simulator makes it."""
    configuration = Configuration(tps=1, customers=500, merchants=100)
    return list(Simulator(configuration).batches(WINDOW))


def text_rows(batches: list[pa.RecordBatch]) -> list[dict[str, str | None]]:
    return [row for batch in text_batches(batches) for row in batch.to_pylist()]


def lines(batches: list[pa.RecordBatch], form: Format) -> bytes:
    schema = text_schema(batches[0].schema)
    return b"".join(encode(text_batches(batches), schema, form))


def from_csv(content: bytes, schema: pa.Schema) -> list[dict[str, str | None]]:
    """The values for a reader that distinguishes empty text from null."""
    table = pyarrow.csv.read_csv(
        io.BytesIO(content),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in schema.names},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return table.to_pylist()


def test_each_kind_of_value_has_one_text():
    batch = pa.RecordBatch.from_pylist(
        [
            {
                "id": "a",
                "at": datetime(2026, 11, 1, tzinfo=UTC),
                "type": "PURCHASE",
                "amount": Decimal("12.50"),
                "latitude": -0.0000004,
                "flag": True,
                "born": date(1999, 2, 3),
                "maybe": None,
            },
            {
                "id": "b",
                "at": datetime(9998, 12, 31, 23, 59, 59, 999_999, UTC),
                "type": None,
                "amount": Decimal("-9999999999999999.99"),
                "latitude": -179.1234565,
                "flag": False,
                "born": date(2026, 11, 1),
                "maybe": "",
            },
            {
                "id": "c",
                "at": None,
                "type": "REFUND",
                "amount": Decimal("0.05"),
                "latitude": 32.83002,
                "flag": None,
                "born": None,
                "maybe": "x",
            },
        ],
        MIXED,
    )
    assert text_rows([batch]) == [
        {
            "id": "a",
            "at": "2026-11-01T00:00:00.000000Z",
            "type": "PURCHASE",
            "amount": "12.50",
            "latitude": "0.000000",
            "flag": "true",
            "born": "1999-02-03",
            "maybe": None,
        },
        {
            "id": "b",
            "at": "9998-12-31T23:59:59.999999Z",
            "type": None,
            "amount": "-9999999999999999.99",
            "latitude": "-179.123457",
            "flag": "false",
            "born": "2026-11-01",
            "maybe": "",
        },
        {
            "id": "c",
            "at": None,
            "type": "REFUND",
            "amount": "0.05",
            "latitude": "32.830020",
            "flag": None,
            "born": None,
            "maybe": "x",
        },
    ]


def test_json_quotes_amounts_but_not_coordinates_and_flags(rows: list[pa.RecordBatch]):
    line = lines(rows, Format.NDJSON).splitlines()[0]
    row = json.loads(line, parse_float=lambda digits: ("bare", digits))
    assert list(row) == SCHEMA.names
    assert row["amount"] == text_rows(rows[:1])[0]["amount"]
    assert row["latitude"] == ("bare", text_rows(rows[:1])[0]["latitude"])
    assert row["is_fraud"] is False
    assert row["fraud_scenario"] is None


def moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
some_rows = st.lists(
    st.fixed_dictionaries(
        {
            "id": texts,
            "at": st.integers(0, 250_000_000_000_000_000).map(moment),
            "type": st.none() | texts,
            "amount": st.decimals(-(10**15), 10**15, places=2),
            "latitude": st.floats(-180, 180),
            "flag": st.booleans(),
            "born": st.dates(date(1900, 1, 1)),
            "maybe": st.none() | texts,
        }
    ),
    min_size=1,
    max_size=5,
)


@given(some_rows, some_rows)
def test_any_text_survives_ndjson_and_csv(first: list[dict], second: list[dict]):
    # Two batches, so that the dictionary of a column changes.
    batches = [pa.RecordBatch.from_pylist(part, MIXED) for part in (first, second)]
    expected = text_rows(batches)
    assert [row["maybe"] for row in expected] == [row["maybe"] for row in first + second]

    parsed = [
        json.loads(line, parse_float=str)
        for line in lines(batches, Format.NDJSON).split(b"\n")[:-1]
    ]
    for row in parsed:
        row["flag"] = json.dumps(row["flag"])
    assert parsed == expected
    assert from_csv(lines(batches, Format.CSV), MIXED) == expected


def test_csv_quotes_only_what_needs_it():
    schema = pa.schema({"a": pa.string(), "b": VALUES})
    batch = pa.RecordBatch.from_pydict(
        {"a": ["plain", 'a "b"', "c,d", "", None], "b": ["x y", "e\nf", None, "", "ü"]}, schema
    )
    assert lines([batch], Format.CSV).decode() == (
        'a,b\nplain,x y\n"a ""b""","e\nf"\n"c,d",\n"",""\n,ü\n'
    )


def test_a_slice_writes_its_own_rows_only():
    values = pa.array(["a", None, "b", "c"], VALUES)
    batch = pa.RecordBatch.from_pydict({"id": pa.array(["1", '"', "3", None]), "type": values})
    assert lines([batch.slice(1, 2)], Format.NDJSON) == (
        b'{"id":"\\"","type":null}\n{"id":"3","type":"b"}\n'
    )


def test_all_formats_carry_the_same_text(rows: list[pa.RecordBatch]):
    expected = text_rows(rows)
    schema = text_schema(SCHEMA)
    assert len(expected) > 1_000

    def streamed(form: Format) -> io.BytesIO:
        return io.BytesIO(b"".join(encode(text_batches(rows), schema, form)))

    def from_json(content: bytes) -> list[dict]:
        found = json.loads(content, parse_float=str)
        return [row | {"is_fraud": json.dumps(row["is_fraud"])} for row in found]

    ndjson = streamed(Format.NDJSON).getvalue()
    assert from_json(b"[" + b",".join(ndjson.splitlines()) + b"]") == expected
    assert from_json(b"[" + wire.json_items(text_batches(rows)) + b"]") == expected
    assert from_csv(streamed(Format.CSV).getvalue(), SCHEMA) == expected
    assert len(list(csv.reader(io.StringIO(streamed(Format.CSV).getvalue().decode())))) == (
        len(expected) + 1
    )
    assert pa.ipc.open_stream(streamed(Format.ARROW)).read_all().to_pylist() == expected
    assert pq.read_table(streamed(Format.PARQUET)).to_pylist() == expected


def test_typed_arrow_and_parquet_are_the_rows(rows: list[pa.RecordBatch]):
    schema = wire.named(SCHEMA, "0123456789abcdef")
    expected = pa.Table.from_batches(rows).to_pylist()

    arrow = b"".join(encode(rows, schema, Format.ARROW))
    stream = pa.ipc.open_stream(arrow)
    assert stream.schema.equals(schema, check_metadata=True)
    assert stream.read_all().to_pylist() == expected

    parquet = b"".join(encode(rows, schema, Format.PARQUET))
    table = pq.read_table(io.BytesIO(parquet))
    assert table.to_pylist() == expected
    assert pq.ParquetFile(io.BytesIO(parquet)).metadata.metadata == {
        b"generator.version": b"1",
        b"generator.configuration": b"0123456789abcdef",
    }
    assert table.schema.field("amount").type == pa.decimal128(18, 2)
    assert table.schema.field("transaction_at").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("merchant_name").type == pa.string()

    assert arrow == b"".join(encode(rows, schema, Format.ARROW))
    assert parquet == b"".join(encode(rows, schema, Format.PARQUET))


def test_other_readers_see_the_types_of_parquet(rows: list[pa.RecordBatch], tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"".join(encode(rows, SCHEMA, Format.PARQUET)))
    found = duckdb.read_parquet(str(path))
    types = dict(zip(found.columns, map(str, found.types), strict=True))
    assert types["amount"] == "DECIMAL(18,2)"
    assert types["transaction_at"] == "TIMESTAMP WITH TIME ZONE"
    assert types["merchant_id"] == "VARCHAR"


def test_no_rows_are_still_a_readable_answer():
    schema = text_schema(SCHEMA)
    header = (",".join(SCHEMA.names) + "\n").encode()
    assert b"".join(encode([], schema, Format.NDJSON)) == b""
    assert b"".join(encode([], schema, Format.CSV)) == header
    arrow = pa.ipc.open_stream(b"".join(encode([], SCHEMA, Format.ARROW))).read_all()
    assert (arrow.schema, arrow.num_rows) == (SCHEMA, 0)
    parquet = pq.read_table(io.BytesIO(b"".join(encode([], SCHEMA, Format.PARQUET))))
    assert (parquet.column_names, parquet.num_rows) == (SCHEMA.names, 0)
    assert wire.json_items([]) == b""


def test_a_row_group_is_closed_when_it_is_full(
    rows: list[pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
):
    """Memory stays flat because a stream of Parquet holds one row group, not all of them."""
    monkeypatch.setattr(wire, "_ROW_GROUP_ROWS", 1_000)
    pieces = [batch.slice(at, 400) for batch in rows for at in range(0, batch.num_rows, 400)]
    content = b"".join(encode(pieces, SCHEMA, Format.PARQUET))
    found = pq.ParquetFile(io.BytesIO(content)).metadata
    sizes = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
    assert sum(sizes) == sum(batch.num_rows for batch in rows)
    assert set(sizes[:-1]) == {1_200}


def test_json_is_no_stream():
    with pytest.raises(ValueError, match="pages"):
        encode([], SCHEMA, Format.JSON)


# Threads.


def test_prefetch_gives_the_items_in_order():
    with Prefetch(iter(range(100)), 3) as prefetch:
        assert list(prefetch) == list(range(100))
        assert list(prefetch) == []


def test_prefetch_makes_no_more_items_than_its_depth():
    made = threading.Semaphore(0)

    def items():
        for item in range(100):
            made.release()
            yield item

    with Prefetch(items(), 3) as prefetch:
        for _ in range(3):
            assert made.acquire(timeout=10)
        # None was consumed, so a fourth is never made.
        assert not made.acquire(timeout=0.05)
        assert next(prefetch) == 0
        assert made.acquire(timeout=10)


def test_prefetch_passes_on_an_error():
    def items():
        yield 1
        raise OSError("disk on fire")

    with Prefetch(items(), 3) as prefetch:
        assert next(prefetch) == 1
        with pytest.raises(OSError, match="disk on fire"):
            next(prefetch)


def test_prefetch_ends_its_thread_and_its_items_when_closed():
    ended = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            ended.set()

    prefetch = Prefetch(items(), 3)
    assert next(prefetch) == 1
    prefetch.close()
    prefetch.thread.join(timeout=10)
    assert not prefetch.thread.is_alive()
    assert ended.wait(timeout=10)


def numbers(start: int, stop: int) -> list[pa.RecordBatch]:
    column = pa.array(range(start, stop), pa.int64())
    return [pa.RecordBatch.from_arrays([column], ["n"])] if stop > start else []


@given(st.integers(0, 300), st.integers(0, 300))
def test_work_in_parallel_comes_in_order_and_once(start: int, length: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_FIRST_STRETCH", 7)
        patch.setattr(wire, "_STRETCH", 30)
        made = list(wire.in_parallel(numbers, start, start + length))
    found = [number for batch in made for number in batch.column(0).to_pylist()]
    assert found == list(range(start, start + length))
    assert not made or made[0].num_rows <= 7


def test_work_in_parallel_that_is_dropped_is_not_begun(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "_FIRST_STRETCH", 1)
    monkeypatch.setattr(wire, "_STRETCH", 1)
    begun: list[int] = []

    def make(start: int, stop: int) -> list[pa.RecordBatch]:
        begun.append(start)
        return numbers(start, stop)

    batches = wire.in_parallel(make, 0, 10_000)
    next(batches)
    batches.close()
    assert len(begun) < 20
