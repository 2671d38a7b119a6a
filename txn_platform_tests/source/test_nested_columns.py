"""Columns within other fields: cut from the bytes as sent, in every format alike."""

import io
import json
from typing import Any

import dataframely as dy
import pyarrow as pa
import pytest

from txn_platform.contract.columns import decimal, rfc3339, text
from txn_platform.contract.model import Contract
from txn_platform.source.decode_limits import Budget, TooLargeError
from txn_platform.source.decoding import DECODERS, page


class Nested(dy.Schema):
    """Values at one, two and three names."""

    ref = text("", path="id", role="id")
    seen = rfc3339("", path="when.at", role="time")
    value = decimal("", path="a.b.c", nullable=True)
    whole = text("", path="a.b", nullable=True)


NESTED = Contract("nested", "1", Nested)
_WHEN = '{"at": "2026-11-01T00:00:00Z"}'

# The text of the field `a`, and the values of the columns `value` and `whole`.
_CASES: dict[str, tuple[str, str | None, str | None]] = {
    "digits": ('{"b": {"c": 12.50}}', "12.50", '{"c": 12.50}'),
    "an exponent": ('{"b":{"c":1e2}}', "1e2", '{"c":1e2}'),
    "text": (r'{"b": {"c": "\u00e9\n\"x"}}', 'é\n"x', r'{"c": "\u00e9\n\"x"}'),
    "blanks": ('{ "b" : {"c" : [1, 2 ] } }', "[1, 2 ]", '{"c" : [1, 2 ] }'),
    "null": ('{"b": {"c": null}}', None, '{"c": null}'),
    "null on the way": ('{"b": null}', None, None),
    "absent": ("{}", None, None),
    "text on the way": ('{"b": "c"}', None, "c"),
    "a list on the way": ('{"b": [{"c": 1}]}', None, '[{"c": 1}]'),
    "a number": ("17", None, None),
    "a dotted name": ('{"b.c": 3, "b": {"c": 4}}', "3", '{"c": 4}'),
    "an escaped name": (r'{"\u0062": {"c": 5}}', "5", '{"c": 5}'),
    "text like a path": (r'{"x": "\"b\":{\"c\":6}", "b": {"c": 7}}', "7", '{"c": 7}'),
    "NaN beside it": ('{"x": NaN, "b": {"c": 8.0}}', "8.0", '{"c": 8.0}'),
}


def _values(batches: Any) -> list[tuple[Any, ...]]:
    table = pa.Table.from_batches(list(batches)).cast(
        pa.schema([(name, pa.string()) for name in NESTED.answer_schema.names])
    )
    return list(zip(*(table[name].to_pylist() for name in NESTED.names), strict=True))


def _expected(value: str | None, whole: str | None) -> list[tuple[Any, ...]]:
    return [("r1", "2026-11-01T00:00:00Z", value, whole)]


@pytest.mark.parametrize("case", _CASES)
def test_a_value_is_cut_as_it_was_sent(case: str) -> None:
    field, value, whole = _CASES[case]
    row = f'{{"id": "r1", "when": {_WHEN}, "a": {field}}}'.encode()
    (batch,) = DECODERS["ndjson"](io.BytesIO(row + b"\n"), None, NESTED)
    assert _values([batch]) == _expected(value, whole)
    (extra,) = batch["extra_fields"].to_pylist()
    assert json.loads(extra) == {"a": field, "when": _WHEN}, "the container stays whole"
    paged = page(b'{"data": [' + row + b"]}", ["data"], None, NESTED)
    assert _values([paged.rows]) == _expected(value, whole)


@pytest.mark.parametrize("case", _CASES)
def test_a_column_of_json_text_is_cut_alike(case: str) -> None:
    field, value, whole = _CASES[case]
    quoted = ",".join('"' + each.replace('"', '""') + '"' for each in ("r1", _WHEN, field))
    lines = io.BufferedReader(io.BytesIO(f"id,when,a\n{quoted}\n".encode()))  # type: ignore[arg-type]
    assert _values(DECODERS["csv"](lines, None, NESTED)) == _expected(value, whole)
    for column in (pa.array([field]), pa.array([field]).dictionary_encode()):
        table = pa.table({"id": ["r1"], "when": [_WHEN], "a": column})
        assert _values(DECODERS["arrow"](_stream(table), None, NESTED)) == _expected(value, whole)


def _stream(table: pa.Table) -> io.BytesIO:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    sink.seek(0)
    return sink


def test_a_struct_of_arrow_is_cut_alike() -> None:
    table = pa.table(
        {"id": ["r1"], "when": [{"at": "2026-11-01T00:00:00Z"}], "a": [{"b": {"c": "9.10"}}]}
    )
    found = _values(DECODERS["arrow"](_stream(table), None, NESTED))
    assert found == _expected("9.10", '{"c":"9.10"}')


def test_a_field_with_the_whole_path_for_its_name_comes_first() -> None:
    header = io.BufferedReader(
        io.BytesIO(b'id,when.at,a.b.c,a\nr1,2026-11-01T00:00:00Z,1.5,"{""b"":{""c"":2}}"\n')  # type: ignore[arg-type]
    )
    assert _values(DECODERS["csv"](header, None, NESTED)) == _expected("1.5", '{"c":2}')
    row = b'{"id": "r1", "when.at": "2026-11-01T00:00:00Z", "a.b.c": null, "a": {"b": {"c": 2}}}\n'
    assert _values(DECODERS["ndjson"](io.BytesIO(row), None, NESTED)) == _expected(None, '{"c": 2}')


def test_few_long_values_of_many_rows_do_not_become_many_long_texts() -> None:
    long = json.dumps({"b": {"c": "x" * 1_000_000}})
    rows = 10_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [long])
    when = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [_WHEN])
    ids = [f"r{number}" for number in range(rows)]
    table = pa.table({"id": ids, "when": when, "a": column})
    with pytest.raises(TooLargeError):
        list(DECODERS["arrow"](_stream(table), Budget(1 << 28), NESTED))
