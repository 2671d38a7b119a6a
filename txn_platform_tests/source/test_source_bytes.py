"""Bytes that a source may send: what they become, or the one sentence that refuses them."""

from __future__ import annotations

import io
import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from txn_platform.arrow.dictionaries import as_frame
from txn_platform.cli import main
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.rows.validation import NO_REPEATS, Validator
from txn_platform.source.api import SourceApi
from txn_platform.source.client import Source
from txn_platform.source.pages import NextLink
from txn_platform.source.transport import Limits, source_backoff
from txn_platform.windows import Window
from txn_platform_tests.support.other_api import use_api
from txn_platform_tests.support.served_bytes import ServedBytes, served_bytes, whole
from txn_platform_tests.support.served_source import sent_row
from txn_platform_tests.support.source_fault_cases import WIRES, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))
_LIMITS: Final = Limits(backoff=source_backoff(4, first_pause=0.001, longest_pause=0.01))
_MOMENT: Final = datetime(2026, 11, 1, 0, 0, 1, 1, tzinfo=UTC)
_ROW: Final = json.dumps(sent_row(1))


@pytest.fixture(scope="module")
def source() -> Iterator[ServedBytes]:
    """One server for all tests here; each sets what it answers."""
    with served_bytes(lambda _: b"") as source:
        yield source


def _batches(source: ServedBytes, wire: Wire, body: bytes) -> list[pa.RecordBatch]:
    source.answer = lambda _: whole(body)
    source.asked.clear()
    api = SourceApi("/tx", NextLink() if wire == "json" else None, format=wire)
    return list(Source(source.url, api, _LIMITS).batches(_WINDOW, _WINDOW.end))


def _rows(source: ServedBytes, wire: Wire, body: bytes) -> list[dict[str, Any]]:
    return pl.concat(map(as_frame, _batches(source, wire, body))).to_dicts()


def _refusal(source: ServedBytes, wire: Wire, body: bytes) -> str:
    with pytest.raises(UserError) as raised:
        _batches(source, wire, body)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


def _page(*rows: str, **others: str) -> bytes:
    members = {"data": f"[{','.join(rows)}]", "next": "null"} | others
    return ("{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}").encode()


def _bodies(*rows: str) -> dict[Wire, bytes]:
    return {"ndjson": "\n".join([*rows, ""]).encode(), "json": _page(*rows)}


def _stream(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    table = pa.table(columns)
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _typed(**changes: Any) -> dict[str, Any]:
    """The columns of one good row, as text; some of them replaced."""
    return {name: pa.array([text], pa.string()) for name, text in sent_row(1).items()} | changes


# A row with two fields of one name, however they are written, as the ending of a good row.
_REPEATED: Final = {
    "plainly": '"amount":"99.50"}',
    "the-same-value": '"amount":"2.50"}',
    "by-an-escape": '"amo\\u0075nt":"99.50"}',
    "behind-a-blank": '"amount" : "99.50"}',
    "an-unknown-field": '"loyalty":1,"loyalty":2}',
    "within-a-field": '"loyalty":{"a":1,"a":2}}',
    "within-a-list": '"loyalty":[{"a":[1],"a":[2]}]}',
    "beside-nan": '"loyalty":NaN,"amount":"99.50"}',
    "without-a-name": '"":1,"":2}',
}


@pytest.mark.parametrize("ending", _REPEATED.values(), ids=_REPEATED)
@pytest.mark.parametrize("wire", ["ndjson", "json"])
def test_a_row_with_two_fields_of_one_name_is_quarantined_for_it(
    source: ServedBytes, wire: Wire, ending: str
) -> None:
    repeated = f"{_ROW[:-1]},{ending}"
    body = _bodies(json.dumps(sent_row(2)), repeated, json.dumps(sent_row(3)))[wire]
    (batch,) = _batches(source, wire, body)
    validated = Validator(_WINDOW, NO_REPEATS).validate(batch)
    assert validated.conforming.column("transaction_id").to_pylist() == [
        sent_row(number)["transaction_id"] for number in (2, 3)
    ]
    (row,) = validated.quarantined.to_pylist()
    assert (row["position"], row["reasons"]) == (1, ["row.duplicate_field"])
    assert row["transaction_id"] == sent_row(1)["transaction_id"]
    # Nothing that was sent is lost.
    assert json.loads(row["extra_fields"])["duplicate_field"] == [repeated]


def test_a_field_that_is_called_like_the_marks_is_a_field(source: ServedBytes) -> None:
    row = sent_row(1, duplicate_field="[", extra_fields="x", position="y")
    (batch,) = _batches(source, "ndjson", _bodies(json.dumps(row))["ndjson"])
    validated = Validator(_WINDOW, NO_REPEATS).validate(batch)
    assert validated.conforming.num_rows == 1
    assert json.loads(batch.column("extra_fields")[0].as_py()) == {
        "duplicate_field": "[",
        "extra_fields": "x",
        "position": "y",
    }


def test_rows_with_names_in_their_values_repeat_none(source: ServedBytes) -> None:
    rows = [sent_row(1, merchant_name='":"', loyalty='{"a":1,"a":2}'), sent_row(2, note='"a" "a"')]
    for wire, body in _bodies(*map(json.dumps, rows)).items():
        (batch,) = _batches(source, wire, body)
        assert Validator(_WINDOW, NO_REPEATS).validate(batch).quarantined.num_rows == 0


@pytest.mark.parametrize(
    "page",
    [
        f'{{"data":[],"data":[{_ROW}],"next":null}}',
        f'{{"data":[{_ROW}],"next":"/tx?p=2","next":null}}',
        f'{{"data":[{_ROW}],"ne\\u0078t":"/tx?p=2","next":null}}',
        f'{{"data":[{_ROW}],"next":null,"meta":{{"a":1,"a":2}}}}',
        f'{{"data":[{_ROW},{{"amount":NaN}}],"data":[],"next":null}}',
    ],
)
def test_a_page_with_two_fields_of_one_name_is_refused(source: ServedBytes, page: str) -> None:
    message = _refusal(source, "json", page.encode())
    assert "has a page with two fields of one name: let the source send each name once" in message
    assert len(source.asked) == 1


def test_the_run_publishes_the_others(source: ServedBytes, monkeypatch: pytest.MonkeyPatch) -> None:
    repeated = f'{_ROW[:-1]},"amount":"99.50"}}'
    good = [json.dumps(sent_row(number)) for number in range(2, 40)]
    source.answer = lambda _: whole(_bodies(repeated, *good)["ndjson"])
    monkeypatch.setenv("GENERATOR_URL", source.url)
    use_api(monkeypatch, "/tx", format="ndjson")
    result = CliRunner().invoke(main, ["run", "--partition", "2026-11-01-00:00"])
    assert result.exit_code == 0, result.output
    lake = Path(".txn/lake")
    (published,) = lake.glob("s3_parquet_transactions/**/*.parquet")
    assert pl.read_parquet(published).height == 38
    shown = CliRunner().invoke(main, ["quarantine", "--partition", "2026-11-01-00:00"])
    assert shown.exit_code == 0
    assert "row.duplicate_field" in shown.output
    assert "4111111111111111" not in shown.output


@pytest.mark.parametrize("name", ["a\0b", "\0", "", "\U0001f600", '"', "\\", "x" * 5_000, "[/x]"])
@pytest.mark.parametrize("wire", WIRES)
def test_a_field_of_any_name_is_kept(source: ServedBytes, wire: Wire, name: str) -> None:
    row = sent_row(1) | {name: "gold"}
    quoted = name.replace('"', '""')
    body = {
        **_bodies(json.dumps(row)),
        "arrow": _stream(_typed(**{name: pa.array(["gold"])})),
        "csv": (
            ",".join([*TRANSACTIONS.names, f'"{quoted}"']) + "\n"
            + ",".join([*(row[name] or "" for name in TRANSACTIONS.names), "gold"]) + "\n"
        ).encode(),
    }[wire]  # fmt: skip
    (sent,) = _rows(source, wire, body)
    assert json.loads(sent["extra_fields"]) == {name: "gold"}
    assert sent["amount"] == row["amount"]


# Columns of types that are no text, and the text that stands for what was sent.
_TYPES: Final[dict[str, tuple[Any, str]]] = {
    "timestamp": (pa.array([_MOMENT], pa.timestamp("us", "UTC")), "2026-11-01T00:00:01.000001Z"),
    "timestamp-of-a-zone": (
        pa.array([_MOMENT], pa.timestamp("us", "Europe/Berlin")),
        "2026-11-01T00:00:01.000001Z",
    ),
    "timestamp-of-seconds": (pa.array([7], pa.timestamp("s", "UTC")), "1970-01-01T00:00:07Z"),
    "timestamp-of-nanoseconds": (
        pa.array([7_000], pa.timestamp("ns", "UTC")),
        "1970-01-01T00:00:00.000007Z",
    ),
    "timestamp-finer": (
        pa.array([7], pa.timestamp("ns", "UTC")),
        "1970-01-01T00:00:00.000000007Z",
    ),
    "timestamp-without-a-zone": (pa.array([7], pa.timestamp("s")), "1970-01-01T00:00:07"),
    "timestamps-repeated": (
        pa.array([_MOMENT], pa.timestamp("us", "UTC")).dictionary_encode(),
        "2026-11-01T00:00:01.000001Z",
    ),
    "decimal": (pa.array([Decimal("12.50")], pa.decimal128(18, 2)), "12.50"),
    "double": (pa.array([12.5]), "12.5"),
    "integer": (pa.array([12], pa.uint8()), "12"),
    "boolean": (pa.array([True]), "true"),
    "date": (pa.array([_MOMENT.date()]), "2026-11-01"),
    "view": (pa.array(["ä"], pa.string_view()), "ä"),
    "binary": (pa.array(["ä".encode()]), "ä"),
    "uuid": (
        pa.array([bytes(range(16))], pa.binary(16)).cast(pa.uuid()),
        "00010203-0405-0607-0809-0a0b0c0d0e0f",
    ),
    "category": (pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array(["x"])), "x"),
    "runs": (pc.run_end_encode(pa.array(["x"])), "x"),
    "list": (pa.array([["a", None]]), '["a",null]'),
    "list-of-numbers": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "[1,2]"),
    "struct": (
        pa.array([{"a": 1, "b": [_MOMENT], "c": Decimal("1.50")}]),
        '{"a":1,"b":["2026-11-01T00:00:01.000001Z"],"c":"1.50"}',
    ),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), '[["k",1]]'),
}  # fmt: skip


@pytest.mark.parametrize(("column", "text"), _TYPES.values(), ids=_TYPES)
def test_a_column_of_any_type_is_kept_as_text(source: ServedBytes, column: Any, text: str) -> None:
    body = _stream(_typed(loyalty=column, transaction_at=column, merchant_name=column))
    (row,) = _rows(source, "arrow", body)
    assert json.loads(row["extra_fields"]) == {"loyalty": text}
    assert (row["transaction_at"], row["merchant_name"]) == (text, text)


def test_typed_columns_hold_the_contract(source: ServedBytes) -> None:
    column = pa.array([_MOMENT], pa.timestamp("us", "UTC"))
    amount = pa.array([Decimal("2.50")], pa.decimal128(18, 2))
    body = _stream(_typed(transaction_at=column, amount=amount, is_fraud=pa.array([False])))
    (batch,) = _batches(source, "arrow", body)
    assert Validator(_WINDOW, NO_REPEATS).validate(batch).conforming.num_rows == 1


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([["a"]], pa.list_view(pa.string())), "list_view<item: string>"),
        (pa.array([b"\xff"]), "binary"),
        (pa.nulls(1, pa.month_day_nano_interval()), "month_day_nano_interval"),
        (pa.array([["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))), "list<item: dict"),
    ],
)
def test_a_column_without_a_text_is_refused_by_name_and_type(
    source: ServedBytes, column: Any, kind: str
) -> None:
    body = _stream(_typed(loyalty=column))
    message = _refusal(source, "arrow", body)
    assert f"has the column 'loyalty' of type '{kind}" in message
    assert "let the source send it as a string" in message
    assert len(source.asked) == 1


def test_a_column_of_a_type_without_arrays_is_refused(source: ServedBytes) -> None:
    """As `month_interval`, which pyarrow reads and can make nothing of."""
    days = _stream({"amount": pa.array(["1"]), "x": pa.nulls(1, pa.month_day_nano_interval())})
    messages: list[str] = []
    # One of these bytes of the schema is the unit of the type.
    for index in [at for at in range(300) if days[at] == 2]:
        months = days[:index] + b"\0" + days[index + 1 :]
        try:
            _batches(source, "arrow", months)
        except UserError as error:
            messages.append(str(error))
    assert any("the column 'x' of type 'month_interval'" in message for message in messages)


def _named_twice() -> bytes:
    sink = io.BytesIO()
    schema = pa.schema([("amount", pa.string()), ("amount", pa.string())])
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(["1"]), pa.array(["2"])], schema=schema))
    return sink.getvalue()


def _arrow_file() -> bytes:
    sink = io.BytesIO()
    table = pa.table(_typed())
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(_typed()), sink)
    return sink.getvalue()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("make", "name"), [(_arrow_file, "is an Arrow file"), (_parquet, "is a Parquet file")]
)
def test_files_of_other_formats_are_refused_by_their_name(
    source: ServedBytes, wire: Wire, make: Callable[[], bytes], name: str
) -> None:
    message = _refusal(source, wire, make())
    assert name in message
    assert "GENERATOR_FORMAT" in message
    assert "TXN_SOURCE_MAX_BYTES" not in message
    assert len(source.asked) == 1


def test_an_arrow_stream_is_refused_where_text_is_expected(source: ServedBytes) -> None:
    assert "is an Arrow stream, and CSV is expected" in _refusal(source, "csv", _stream(_typed()))


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        ("csv", b"amount,amount\n1,2\n"),
        ("csv", b'amount,"amo""unt","amo""unt"\n1,2,3\n'),
        ("arrow", _named_twice()),
    ],
)
def test_columns_of_one_name_are_refused_by_it(
    source: ServedBytes, wire: Wire, body: bytes
) -> None:
    assert re.search(r"with the column '(amount|amo\"unt)' twice", _refusal(source, wire, body))


def test_a_broken_csv_line_keeps_its_place_in_every_block(source: ServedBytes) -> None:
    """Blank lines do not count, and lines within quotes are one."""
    lines = [f'a,"1\n{"1" * 100}"', "b", "", "c,3"] * 40_000
    body = "\n".join(["transaction_id,amount", "x,y,z", *lines, ""]).encode()
    frame = pl.concat(map(as_frame, _batches(source, "csv", body)))
    assert frame.height == 120_001
    assert frame["transaction_id"].head(7).to_list() == [None, "a", None, "c", "a", None, "c"]
    broken = frame.with_row_index("line").filter(pl.col("transaction_id").is_null())
    assert broken["line"].to_list() == [0, *range(2, 120_001, 3)]
    assert set(broken["extra_fields"][1:]) == {'{"unreadable":"b"}'}


@pytest.mark.parametrize("wire", ["ndjson", "json"])
def test_odd_rows_are_kept_as_they_were_sent(source: ServedBytes, wire: Wire) -> None:
    body = _bodies(_ROW, '{"amount":NaN,"tags":[1, 2.50,{"a" : null}],"currency":"USD"}')[wire]
    row = _rows(source, wire, body)[1]
    assert (row["amount"], row["currency"]) == ("NaN", "USD")
    assert json.loads(row["extra_fields"]) == {"tags": '[1, 2.50,{"a" : null}]'}


def test_no_message_shows_a_card_number(source: ServedBytes) -> None:
    card = "4111 1111-1111 1111"
    body = _stream(_typed(**{card: pa.array([b"\xff"])}))
    message = _refusal(source, "arrow", body)
    assert "1111-1111" not in message
    twice = f"amount,{card},{card}\n".encode()
    assert "1111-1111" not in _refusal(source, "csv", twice)
