"""Each bound of the decoders, from both sides."""

import io
import json

import pyarrow as pa
import pytest

from txn_platform.source.decode_limits import Budget, TooLargeError, UnreadableError
from txn_platform.source.decoding import DECODERS, page
from txn_platform_tests.support.bombs import BOMBS, MEGABYTE, Bomb
from txn_platform_tests.support.served_source import sent_row

_LONGEST = Budget(MEGABYTE).longest_value
_ROW = sent_row(1)


def _landed(wire: str, body: bytes, budget: Budget) -> int:
    if wire == "json":
        return page(body, ["data"], budget).rows.num_rows
    return sum(len(batch) for batch in DECODERS[wire](io.BytesIO(body), budget))


@pytest.mark.parametrize(
    "bomb",
    [pytest.param(bomb, id=f"{bomb.wire}-{bomb.id}") for bomb in BOMBS if not bomb.long],
)
def test_a_bomb_is_refused_by_the_decoder_itself(bomb: Bomb) -> None:
    budget = Budget(32 * MEGABYTE)
    if bomb.message is None:
        assert _landed(bomb.wire, bomb.make(), budget)
    else:
        with pytest.raises(UnreadableError, match=bomb.message):
            _landed(bomb.wire, bomb.make(), budget)


def _with_name(length: int) -> dict[str, str | None]:
    return {**_ROW, "merchant_name": "x" * length}


@pytest.mark.parametrize("wire", ["ndjson", "json"])
def test_a_row_is_as_long_as_it_may_be(wire: str) -> None:
    def body(length: int) -> bytes:
        row = json.dumps(_with_name(length - len(json.dumps(_with_name(0)))))
        assert len(row) == length
        return f'{{"data":[{row}],"next":null}}'.encode() if wire == "json" else f"{row}\n".encode()

    assert _landed(wire, body(_LONGEST), Budget(MEGABYTE)) == 1
    with pytest.raises(TooLargeError, match=r"has a (line|row) longer than 131,072 bytes"):
        _landed(wire, body(_LONGEST * 8 if wire == "ndjson" else _LONGEST + 1), Budget(MEGABYTE))


@pytest.mark.parametrize(
    ("elements", "rows"), [("NaN,1,{}", 3), ("null,NaN", 2), ('{"amount":NaN},"text"', 2)]
)
def test_elements_that_are_no_objects_are_rows_beside_what_is_no_json(
    elements: str, rows: int
) -> None:
    assert _landed("json", f'{{"data":[{elements}],"next":null}}'.encode(), Budget()) == rows


@pytest.mark.parametrize("elements", ['{"amount":NaN},tru', '{"amount":NaN},{"a"}', "NaN,'x'"])
def test_a_page_with_an_element_that_is_no_json_is_refused(elements: str) -> None:
    with pytest.raises(UnreadableError, match="is no JSON with a list under 'data'"):
        _landed("json", f'{{"data":[{elements}],"next":null}}'.encode(), Budget())


def test_a_row_that_only_pythons_parser_reads_is_at_most_a_mebibyte() -> None:
    def amounts(length: int) -> list[str | None]:
        row = '{"merchant_name":NaN,"amount":"1.50","x":"' + "x" * (length - 44) + '"}'
        assert len(row) == length
        (batch,) = DECODERS["ndjson"](io.BytesIO(f"{row}\n".encode()), Budget())
        return batch.column("amount").to_pylist()

    assert amounts(MEGABYTE) == ["1.50"]
    assert amounts(MEGABYTE + 1) == [None]


def test_a_page_has_less_than_a_mebibyte_beside_its_rows() -> None:
    def rows(beside: int) -> int:
        frame = '{"data":%s,"next":null,"x":"%s"}'
        fill = "x" * (beside - len(frame % ("", "")))
        return _landed("json", (frame % ('[{"amount":"1"}]', fill)).encode(), Budget())

    # With an empty list in place of the rows.
    assert rows(MEGABYTE - 2) == 1
    with pytest.raises(TooLargeError, match="has 1,048,575 bytes beside its rows"):
        rows(MEGABYTE - 1)


def test_a_line_of_csv_is_as_long_as_a_block() -> None:
    def body(length: int) -> bytes:
        names, row = ",".join(_ROW), dict.fromkeys(_ROW, "1") | {"merchant_name": "x" * length}
        return f"{names}\n{','.join(row.values())}\n".encode()

    assert _landed("csv", body(200_000), Budget(1 << 22)) == 1
    with pytest.raises(UnreadableError, match="has a line longer than 262,144 bytes"):
        _landed("csv", body(600_000), Budget(1 << 22))


def test_small_batches_of_a_stream_are_gathered() -> None:
    sink = io.BytesIO()
    batch = pa.RecordBatch.from_pydict({"amount": ["1.50"] * 1_000})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(300):
            writer.write_batch(batch)
    landed = DECODERS["arrow"](io.BytesIO(sink.getvalue()), Budget())
    assert [len(each) for each in landed] == [132_000, 132_000, 36_000]


def test_short_lines_are_read_in_small_portions() -> None:
    body = b'{"x":1}\n' * 300_000
    landed = [len(each) for each in DECODERS["ndjson"](io.BytesIO(body), Budget(1 << 27))]
    assert sum(landed) == 300_000
    assert max(landed) <= 65_536


@pytest.mark.parametrize("lines", [65_537, 140_000])
def test_short_lines_are_read_in_blocks_and_none_is_lost(lines: int) -> None:
    body = b"".join(b'{"x":%d}\n' % (number % 7) for number in range(lines))
    assert _landed("ndjson", body, Budget(1 << 25)) == lines
    # Blank lines are no rows, wherever a block is cut.
    assert _landed("ndjson", body.replace(b"\n", b"\n\n"), Budget(1 << 25)) == lines
