"""Arrow columns of every type: as text that has its standard form, or refused by name and type."""

import datetime as dt
import io
import struct
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pytest

from txn_platform.source.arrow_text import AsText
from txn_platform.source.decode_limits import Budget, RefusedError, TooLargeError, UnreadableError
from txn_platform.source.decoding import DECODERS
from txn_platform_tests.support.served_source import sent_row

# Microseconds since 1970: one of 2026-11-01, the first hour, and one before 1970.
_MOMENTS: Final = (1_793_491_201_000_001, -1_000)


def _column(values: list[Any], kind: pa.DataType) -> Any:
    return pa.array(values, kind)


def _stored(kind: Any, storage: Any) -> Any:
    return pa.ExtensionArray.from_storage(kind, storage)


def _stream(column: Any, name: str = "amount") -> bytes:
    row = sent_row(1)
    table = pa.table({other: pa.array([row[other]] * len(column), pa.string()) for other in row})
    sink = io.BytesIO()
    table = table.drop_columns([name] if name in table.column_names else [])
    table = table.append_column(name, column)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _texts(column: Any) -> list[str | None]:
    """The column as it is landed under a name of the contract."""
    batches = list(DECODERS["arrow"](io.BytesIO(_stream(column))))
    return [text for batch in batches for text in batch["amount"].to_pylist()]


@pytest.mark.parametrize("zone", ["UTC", "+05:30", "Europe/Berlin"])
@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("s", ["2026-11-01T00:00:01Z", "1969-12-31T23:59:59Z"]),
        ("ms", ["2026-11-01T00:00:01.000Z", "1969-12-31T23:59:59.999Z"]),
        ("us", ["2026-11-01T00:00:01.000001Z", "1969-12-31T23:59:59.999000Z"]),
        ("ns", ["2026-11-01T00:00:01.000001Z", "1969-12-31T23:59:59.999000Z"]),
    ],
)
def test_moments_are_written_in_utc(unit: Any, zone: str, texts: list[str]) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    counts = [moment * per_second // 10**6 for moment in _MOMENTS]
    assert _texts(_column([*counts, None], pa.timestamp(unit, tz=zone))) == [*texts, None]
    naive = [text.removesuffix("Z") for text in texts]
    assert _texts(_column([*counts, None], pa.timestamp(unit))) == [*naive, None]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (_column([2**62, 0], pa.timestamp("s", tz="UTC")), [str(2**62), "1970-01-01T00:00:00Z"]),
        (_column([2**31 - 1], pa.date32()), [str(2**31 - 1)]),
        (_column([dt.date(2026, 11, 1), None], pa.date32()), ["2026-11-01", None]),
        (_column([dt.time(1, 2, 3)], pa.time32("s")), ["01:02:03"]),
        (_column([1, -90, 0, None], pa.duration("s")), ["PT1S", "PT-90S", "PT0S", None]),
        (_column([1, 1500, -10_000], pa.duration("ms")), ["PT0.001S", "PT1.5S", "PT-10S"]),
        (_column([-1, 10**6], pa.duration("us")), ["PT-0.000001S", "PT1S"]),
        (_column([10**9 + 1, 0], pa.duration("ns")), ["PT1.000000001S", "PT0S"]),
        (_column([Decimal("12.50"), None], pa.decimal128(18, 2)), ["12.50", None]),
        (_column([Decimal("12.5"), Decimal(100)], pa.decimal128(38, 9)), ["12.50", "100.00"]),
        (_column([Decimal("12.345")], pa.decimal128(18, 4)), ["12.345"]),
        (_column([Decimal("1E-9"), Decimal(0)], pa.decimal256(60, 30)), ["0.000000001", "0.00"]),
        (_column([Decimal(1500)], pa.decimal128(5, -2)), ["1500"]),
        (_column([1.5, None, 65504.0], pa.float16()), ["1.5", None, "65504"]),
        (_column([b"M1", None], pa.large_binary()), ["M1", None]),
        (_column(["M1", "longer than twelve bytes"], pa.string_view()), None),
        (_stored(pa.bool8(), _column([1, 0, None], pa.int8())), ["true", "false", None]),
        (
            _stored(pa.uuid(), _column([b"\0" * 16], pa.binary(16))),
            ["0" * 8 + "-0000" * 3 + "-" + "0" * 12],
        ),
        (_column([[1, None], None, []], pa.list_(pa.int8())), ["[1,null]", None, "[]"]),
        (_column([[("k", 1)]], pa.map_(pa.string(), pa.int8())), ['[["k",1]]']),
        (
            _column([{"a": Decimal("1.10")}], pa.struct([("a", pa.decimal128(5, 2))])),
            ['{"a":"1.10"}'],
        ),
        (_column([[1500]], pa.list_(pa.duration("ms"))), ['["PT1.5S"]']),
        (_column(["a", "a", None], pa.string()).dictionary_encode(), ["a", "a", None]),
        (
            pa.RunEndEncodedArray.from_arrays(
                _column([2, 3], pa.int16()), _column([7, None], pa.int8())
            ),
            ["7", "7", None],
        ),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_column_of_any_type_is_text_in_its_standard_form(
    column: Any, texts: list[str | None] | None
) -> None:
    assert _texts(column) == (column.to_pylist() if texts is None else texts)


@pytest.mark.parametrize(
    "column",
    [
        _column([[1]], pa.list_view(pa.int8())),
        _column([b"\xff"], pa.binary()),
        _column([(1, 2, 3)], pa.month_day_nano_interval()),
        pa.UnionArray.from_sparse(_column([0], pa.int8()), [_column([1], pa.int8())]),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_that_has_no_text_is_refused_by_name_and_type(column: Any) -> None:
    with pytest.raises(RefusedError, match="has the column 'loyalty' of type '") as why:
        list(DECODERS["arrow"](io.BytesIO(_stream(column, "loyalty"))))
    assert str(column.type)[:40] in str(why.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"FEA1" + bytes(60), "is a Feather file"),
        (b"ARROW1\0\0" + bytes(60), "is an Arrow file"),
        (b"PAR1" + bytes(60), "is a Parquet file"),
        (b"BZh91AY&SY\0\1" + bytes(60), "is compressed with bzip2"),
        (b"\xfd7zXZ\0\0\4" + bytes(60), "is compressed with xz"),
        (b"\x04\x22\x4d\x18" + bytes(60), "is compressed with lz4"),
    ],
)
@pytest.mark.parametrize("wire", DECODERS)
def test_another_format_is_refused_by_its_name(wire: str, content: bytes, kind: str) -> None:
    with pytest.raises(RefusedError, match=f"{kind}.*GENERATOR_FORMAT"):
        list(DECODERS[wire](io.BufferedReader(io.BytesIO(content))))


@pytest.mark.parametrize(
    "text", [b"error: timeout\n", b'{"error":"x"}', b"<html></html>", b"a,b,c"]
)
def test_text_is_no_arrow_stream_and_no_limit_is_in_its_way(text: bytes) -> None:
    with pytest.raises(UnreadableError, match="has text where an Arrow message should be"):
        list(DECODERS["arrow"](io.BytesIO(text)))
    with pytest.raises(UnreadableError, match="has text where an Arrow message should be"):
        list(DECODERS["arrow"](io.BytesIO(_stream(_column(["1.00"], pa.string()))[:-8] + text)))


@pytest.mark.parametrize("inner", [pa.list_(pa.binary()), pa.list_(pa.int8()), pa.int64()])
def test_a_list_of_nulls_whose_values_have_no_buffers_is_read(inner: Any) -> None:
    """Arrow's `nbytes` ends the process there."""
    values = pa.array([], inner.value_type) if pa.types.is_list(inner) else None
    empty = pa.Array.from_buffers(
        inner, 0, [None, None], children=None if values is None else [values]
    )
    offsets = pa.py_buffer(bytes(4 * 8))
    column = pa.Array.from_buffers(
        pa.large_list(inner), 3, [pa.py_buffer(b"\0"), offsets], null_count=3, children=[empty]
    )
    column.validate(full=True)
    text = AsText("x", Budget())(pa.chunked_array([column]))
    assert text.to_pylist() == [None] * 3


@pytest.mark.parametrize("values", [["a", None, "b"], [None, None], [None]])
@pytest.mark.parametrize("index", [pa.int8(), pa.int32(), pa.uint16()])
def test_a_dictionary_of_texts_has_no_null_among_its_values(values: list[Any], index: Any) -> None:
    indices = pa.array([*range(len(values)), None, 0], index)
    column = pa.DictionaryArray.from_arrays(indices, pa.array(values, pa.string()))
    text: Any = AsText("amount", Budget())(pa.chunked_array([column]))
    assert text.to_pylist() == [*values, None, values[0]]
    assert [chunk.dictionary.null_count for chunk in text.chunks] == [0]


def test_a_value_is_as_long_as_it_may_be() -> None:
    budget = Budget(1 << 20)
    longest = budget.longest_value
    for length in (1, longest):
        column = pa.chunked_array([pa.array(["x" * length, None])])
        assert AsText("amount", budget)(column).to_pylist() == ["x" * length, None]
    many = pa.chunked_array([pa.array(["x" * 1_000] * (longest // 500))])
    assert len(AsText("amount", budget)(many)) == longest // 500
    with pytest.raises(TooLargeError, match="has a value longer than 131,072 bytes in the column"):
        AsText("amount", budget)(pa.chunked_array([pa.array(["x" * (longest + 1)])]))
    encoded = pa.array(["x" * (longest + 1)]).dictionary_encode()
    with pytest.raises(TooLargeError, match="has a value longer than"):
        AsText("amount", budget)(pa.chunked_array([encoded]))


def test_indices_that_their_buffer_does_not_hold_are_refused() -> None:
    rows = 123_457
    indices = pa.array([0] * rows, pa.int32())
    table = pa.table({"x": pa.DictionaryArray.from_arrays(indices, pa.array(["a"]))})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = sink.getvalue()
    length = struct.pack("<q", 4 * rows)
    assert whole.count(length) == 1
    with pytest.raises(UnreadableError):
        list(DECODERS["arrow"](io.BytesIO(whole.replace(length, struct.pack("<q", 8)))))


@pytest.mark.parametrize("index", [-1, 1, 100])
def test_an_index_outside_its_dictionary_is_refused(index: int) -> None:
    indices = pa.array([0, index, 0], pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["a"]), safe=False)
    with pytest.raises(pa.ArrowInvalid, match="an index points past its dictionary"):
        AsText("amount", Budget())(pa.chunked_array([column]))
