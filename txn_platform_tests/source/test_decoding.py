"""Decoding: the same rows from every format, nothing rounded, nothing dropped."""

import csv
import io
import json
import random

import msgspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from txn_platform.arrow.dictionaries import as_frame
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.source import decoding, json_rows
from txn_platform.source.decode_limits import Budget
from txn_platform.source.decoding import DECODERS, UnreadableError
from txn_platform.source.envelope import NO_OBJECT, value_at
from txn_platform_tests.support.served_source import sent_row

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)
_ROWS = st.lists(
    st.dictionaries(
        st.sampled_from([*TRANSACTIONS.names, "loyalty", "café"]),
        st.one_of(st.none(), _TEXT),
        min_size=1,
    ),
    min_size=1,
    max_size=12,
)


def _decoded(name: str, body: bytes) -> list[dict[str, str | None]]:
    frames = list(DECODERS[name](io.BufferedReader(io.BytesIO(body))))
    return pl.concat(map(as_frame, frames)).to_dicts() if frames else []


def _expected(row: dict[str, str | None], repeats: str | None = None) -> dict[str, str | None]:
    extra: dict[str, object] = {} if repeats is None else {"duplicate_field": [repeats]}
    extra |= {
        name: row[name]
        for name in sorted(row)
        if name not in TRANSACTIONS.names and row[name] is not None
    }
    text = json.dumps(extra, ensure_ascii=False, separators=(",", ":")) if extra else None
    return {name: row.get(name) for name in TRANSACTIONS.names} | {"extra_fields": text}


def _ndjson(rows: list[dict[str, str | None]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _csv(rows: list[dict[str, str | None]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, quoting=csv.QUOTE_NOTNULL, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in rows)
    return lines.getvalue().encode()


def _arrow(rows: list[dict[str, str | None]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table(
        {name: pa.array([row.get(name) for row in rows], pa.string()) for name in names}
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def items(page: bytes, path: list[str]) -> pa.RecordBatch:
    return decoding.page(page, path).rows


@given(_ROWS)
def test_every_format_ends_in_the_same_rows(rows: list[dict[str, str | None]]) -> None:
    expected = [_expected(row) for row in rows]
    assert _decoded("ndjson", _ndjson(rows)) == expected
    assert _decoded("arrow", _arrow(rows)) == expected
    page = json.dumps({"envelope": {"rows": rows}}).encode()
    assert items(page, ["envelope", "rows"]).to_pylist() == expected
    # A CSV line of nulls only, in one column, is an empty line, which is no line.
    if all(any(row.get(name) is not None for row in rows for name in row) for row in rows):
        several = [{"transaction_id": "x", "amount": "1"} | row for row in rows]
        assert _decoded("csv", _csv(several)) == [_expected(row) for row in several]


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ("12.50", "12.50"),
        ("1e400", "1e400"),
        ("-0", "-0"),
        ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
        ("true", "true"),
        ("null", None),
        ('""', ""),
        ('"null"', "null"),
        ('"a\\"b\\\\c\\u00e9\\n"', 'a"b\\cé\n'),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ('"\\ud800"', "\x1a\\ud800"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
    ],
)
def test_json_values_keep_what_was_sent(sent: str, text: str | None) -> None:
    line = f'{{"amount":{sent},"currency":"USD"}}\n'.encode()
    (row,) = _decoded("ndjson", line)
    assert (row["amount"], row["currency"]) == (text, "USD")
    (row,) = items(b'{"data":[' + line.strip() + b"]}", ["data"]).to_pylist()
    assert (row["amount"], row["currency"]) == (text, "USD")


# Values as they may be sent, with what a careless search for quotes, commas and braces stumbles on.
_SENT = st.one_of(
    st.sampled_from(["null", "true", "false", "0", "-0", "1e5", "12.340000", "1E+400", '""']),
    st.sampled_from(['"\\\\"', '"\\""', '"a\\\\\\"b"', '"\\u00e9"', '"\\ud83d\\ude00"', '"},{"']),
    st.sampled_from(
        ["[]", "{}", "[1, 2]", '["a","b"]', '{"amount":1}', '{"amount":{"country":"x"}}']
    ),
    st.text('ab":,\\{}[] é\U0001f600\n', max_size=5).map(json.dumps),
    st.text('ab":,\\{}[] é\U0001f600\n', max_size=5).map(
        lambda text: json.dumps(text, ensure_ascii=False)
    ),
)
_FIELD = st.sampled_from(
    ["amount", "country", "currency", "loyalty", "café", 'a"b', "x:y", "extra_fields", ""]
)
_BLANKS = st.sampled_from([(":", ","), (": ", ", "), (":", ", "), (" :", " ,"), (": ", " , ")])


@st.composite
def _json_rows(draw: st.DrawFn) -> list[str]:
    """Objects of a few shapes, some of them with a field twice, mixed with some of no shape."""
    shapes = draw(st.lists(st.lists(_FIELD, max_size=4), min_size=1, max_size=3))
    blanks = draw(_BLANKS)
    rows: list[str] = []
    for _ in range(draw(st.integers(1, 8))):
        usual = draw(st.integers(0, 4)) > 0
        names = draw(st.sampled_from(shapes) if usual else st.lists(_FIELD, max_size=4))
        colon, comma = blanks if usual else draw(_BLANKS)
        fields = (
            json.dumps(name, ensure_ascii=draw(st.booleans())) + colon + draw(_SENT)
            for name in names
        )
        rows.append("{" + comma.join(fields) + "}")
    return rows


def _one_value(sent: object) -> str | None:
    """One JSON value, read with its numbers as sent and what is nested as sent."""
    match sent:
        case None:
            return None
        case bool():
            return "true" if sent else "false"
        case _:
            return str(sent)


@settings(max_examples=400)
@given(_json_rows(), st.sampled_from([",", ",\n", " , "]), st.sampled_from(["\n", "\n\n", " \r\n"]))
def test_json_is_read_the_same_however_it_is_written(
    rows: list[str], between: str, newline: str
) -> None:
    """By columns or one by one, alone or among others, a row is what it is."""
    expected: list[dict[str, str | None]] = []
    for row in rows:
        sent: dict[str, str | None] = {}
        repeats: list[bool] = []

        def look(pairs: list[tuple[str, object]], repeats: list[bool] = repeats) -> None:
            repeats.append(len({name for name, _ in pairs}) < len(pairs))

        json.loads(row, object_pairs_hook=look)
        for name, value in msgspec.json.decode(row, type=dict[str, msgspec.Raw]).items():
            text = bytes(value).decode()
            nested = text[0] in "[{"
            sent[name] = (
                text if nested else _one_value(json.loads(text, parse_float=str, parse_int=str))
            )
        expected.append(_expected(sent, row if any(repeats) else None))
    page = f'{{"data":[{between.join(rows)}],"next":null}}'.encode()
    assert items(page, ["data"]).to_pylist() == expected
    assert _decoded("ndjson", (newline.join(rows) + "\n").encode()) == expected


@pytest.mark.parametrize("odd", [0, 1, 2_999])
def test_a_row_unlike_the_others_stays_in_its_place(odd: int) -> None:
    rows = [sent_row(number, merchant_name=f'"{number}"') for number in range(3_000)]
    rows[odd] = {"loyalty": "gold"} | rows[odd]
    texts = [json.dumps(row) for row in rows]
    texts[odd - 1] = texts[odd - 1].replace('"US"', '{"code":"US"}')
    rows[odd - 1] |= {"country": '{"code":"US"}'}
    page = f'{{"data":[{",".join(texts)}]}}'.encode()
    assert items(page, ["data"]).to_pylist() == [_expected(row) for row in rows]


def test_rows_written_alike_are_read_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a window from JSON would take ten times as long."""
    monkeypatch.setattr(json_rows, "value_text", None)
    rows = [sent_row(number) for number in range(3_000)]
    expected = [_expected(row) for row in rows]
    for separators in [(",", ":"), (", ", ": ")]:
        page = json.dumps({"data": rows}, ensure_ascii=False, separators=separators).encode()
        assert items(page, ["data"]).to_pylist() == expected


def test_a_line_that_is_no_object_is_a_row_of_its_own() -> None:
    good = json.dumps(sent_row(1)).encode()
    lines = [good, b"{", b"[1]", b"7", b'"\xff"', b'{"amount":"\xff"}', good]
    # Half a surrogate pair in what only looks like UTF-8.
    lines.insert(1, b'{"amount":"\xed\xa0\x80"}')
    lines.insert(1, b'{"amount":' + b"[" * 100_000)
    rows = _decoded("ndjson", b"\n".join(lines) + b"\n")
    assert rows[0] == rows[-1] == _expected(sent_row(1))
    for row, line in zip(rows[1:-1], lines[1:-1], strict=True):
        kept = json.loads(row["extra_fields"] or "")
        assert kept == {"unreadable": line.decode("utf-8", "backslashreplace")}
        assert all(row[name] is None for name in TRANSACTIONS.names)


def test_a_csv_line_with_another_number_of_fields_is_kept() -> None:
    rows = _decoded("csv", b"transaction_id,amount\na,1\nb\n\nc,2,3\nd,4\n\ne,5,6\n")
    assert [row["transaction_id"] for row in rows] == ["a", None, None, "d", None]
    assert [row["extra_fields"] for row in rows] == [
        None,
        '{"unreadable":"b"}',
        '{"unreadable":"c,2,3"}',
        None,
        '{"unreadable":"e,5,6"}',
    ]


def test_csv_tells_null_from_empty() -> None:
    (row,) = _decoded("csv", b'transaction_id,amount,currency\na,"",\n')
    assert (row["amount"], row["currency"]) == ("", None)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ndjson", b'{"amount":"1"}\n{"amo'),
        ("csv", b"transaction_id,amo"),
        ("arrow", _arrow([{"amount": "1"}])[:-60]),
        ("arrow", b"no arrow"),
    ],
)
def test_a_cut_answer_is_noticed(name: str, body: bytes) -> None:
    with pytest.raises((UnreadableError, OSError)):
        _decoded(name, body)


def test_no_byte_of_an_arrow_stream_is_trusted() -> None:
    """Whatever becomes of its bytes, it is rows or refused, and never a crash."""
    rows = pa.Table.from_pylist([sent_row(number) for number in range(100)])
    kinds = rows["transaction_type"].combine_chunks().dictionary_encode()
    named = rows.schema.field("currency").with_metadata({"source": "café"})
    table = rows.append_column("kind", kinds).drop_columns(["transaction_type"])
    table = table.set_column(table.schema.get_field_index("currency"), named, table["currency"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema.with_metadata({"made_by": "café"})) as writer:
        writer.write_table(table)
    sound = sink.getvalue()
    chance = random.Random(5)  # noqa: S311
    refused = 0
    for _ in range(1_000):
        damaged = bytearray(sound)
        # Most of what can go wrong is in the schema, at the beginning.
        start = chance.randrange(min(len(sound), chance.choice([3_000, len(sound)])))
        damaged[start : start + chance.choice([1, 4, 8])] = chance.randbytes(4)
        try:
            for row in _decoded("arrow", bytes(damaged)):
                assert set(row) == {*TRANSACTIONS.names, "extra_fields"}
        except UnreadableError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("header", ["\n", "a,a\n", "a,\xff\n", '"' + "x" * 200_000 + '"\n', "a"])
def test_a_csv_header_that_names_no_columns_is_refused(header: str) -> None:
    with pytest.raises(UnreadableError, match="header line"):
        _decoded("csv", header.encode("latin-1"))


@pytest.mark.parametrize("damaged", ["a,\xc3\n", "a,b,\xff\n", "\xe2\x82"])
def test_csv_that_is_not_utf8_is_refused_quietly(
    damaged: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnreadableError, match="is no CSV in UTF-8"):
        _decoded("csv", b"transaction_id,amount\na,1\n" + damaged.encode("latin-1"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "page", [b"", b"[", b'{"data":7}', b'{"other":[]}', b'{"data":null}', b"[]"]
)
def test_content_that_is_no_page_is_refused(page: bytes) -> None:
    with pytest.raises(UnreadableError):
        items(page, ["data"])


@pytest.mark.parametrize("odd", ["1", "NaN"])
def test_the_next_page_is_found_by_its_path(odd: str) -> None:
    links = '"meta":{"links":{"next":"/x?a=\\u0031"}},"next":null'
    page = f'{{{links},"data":[],"odd":{odd}}}'.encode()

    def found(*path: str) -> tuple[bool, object]:
        return value_at(decoding.page(page, ["data"]).envelope, path)

    assert found("meta", "links", "next") == (True, "/x?a=1")
    assert found("next") == (True, None)
    assert found("next", "href") == (True, None)
    assert found("meta", "absent") == (False, None)
    for behind_no_object in (("odd", "next"), ("data", "next")):
        assert found(*behind_no_object) == (True, NO_OBJECT)


def test_no_rows_are_no_rows() -> None:
    assert _decoded("ndjson", b"") == []
    assert _decoded("csv", ",".join(TRANSACTIONS.names).encode() + b"\n") == []
    with pytest.raises(UnreadableError, match="lacks 13 of the contract's columns"):
        _decoded("csv", b"transaction_id,amount\n")
    assert items(b'{"data":[]}', ["data"]).num_rows == 0


def test_very_many_short_lines_are_read_in_portions() -> None:
    long = json.dumps(sent_row(2, note="x" * 100_000))
    lines = [*(f'{{"n":{number}}}' for number in range(140_000)), long, "7", ""]
    batches = list(DECODERS["ndjson"](io.BytesIO("\n".join(lines).encode()), Budget(1 << 25)))
    assert len(batches) > 2
    extra = [text for batch in batches for text in batch.column("extra_fields").to_pylist()]
    assert extra[:-2] == [f'{{"n":"{number}"}}' for number in range(140_000)]
    assert json.loads(extra[-2]) == {"note": "x" * 100_000}
    assert extra[-1] == '{"unreadable":"7"}'


@pytest.mark.parametrize("depth", [1_500, 3_000])
@pytest.mark.parametrize("size", [1, 40])
def test_a_row_of_objects_too_deep_to_look_through_is_unreadable(depth: int, size: int) -> None:
    name = json.dumps("n" * size)
    deep = f"{{{name}:" * depth + "1" + "}" * depth
    row = json.dumps(sent_row(1))[:-1] + f',"x":{deep}}}'
    for wire, body in {"ndjson": f"{row}\n", "json": f'{{"data":[{row}]}}'}.items():
        if wire == "json":
            extra = [items(body.encode(), ["data"])["extra_fields"][0].as_py()]
        else:
            batches = DECODERS[wire](io.BytesIO(body.encode()))
            extra = [text for batch in batches for text in batch["extra_fields"].to_pylist()]
        assert [list(json.loads(text)) for text in extra] == [["unreadable"]]


@pytest.mark.parametrize(
    "name", ['Joe "The": Shop', "back\\slash", 'ends with \\"', '":"', "\\\\", '\\":{"x":"']
)
def test_quotes_and_backslashes_within_texts_are_no_structure(name: str) -> None:
    """Among many rows, which are read by columns, and in one that is read alone."""
    plain = [sent_row(number) for number in range(600)]
    rows = [{**row, "merchant_name": name} for row in plain]
    for sent in (rows, [*plain[:300], rows[300], *plain[301:]], rows[:1]):
        body = "".join(f"{json.dumps(row)}\n" for row in sent).encode()
        names = [row["merchant_name"] for row in _decoded("ndjson", body)]
        assert names == [row["merchant_name"] for row in sent]
