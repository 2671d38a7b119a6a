"""Each bound of the decoders, from both sides."""

import io
import json

import pytest

from txn_platform.source.decode_limits import Budget, TooLargeError, UnreadableError
from txn_platform.source.decoding import DECODERS, page
from txn_platform_tests.support.bombs import BOMBS, MEGABYTE, Bomb
from txn_platform_tests.support.served_source import sent_row

_LONGEST = Budget(MEGABYTE).longest_value
_ROW = sent_row(1)


def _landed(wire: str, body: bytes, budget: Budget) -> int:
    if wire == "json":
        return page(body, ["data"], ["next"], budget).rows.num_rows
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
        # The refusal comes before the memory is used.
        assert budget.used <= 1 << 40


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


@pytest.mark.parametrize("lines", [65_537, 140_000])
def test_short_lines_are_read_in_blocks_and_none_is_lost(lines: int) -> None:
    body = b"".join(b'{"x":%d}\n' % (number % 7) for number in range(lines))
    assert _landed("ndjson", body, Budget(1 << 25)) == lines
    # Blank lines are no rows, wherever a block is cut.
    assert _landed("ndjson", body.replace(b"\n", b"\n\n"), Budget(1 << 25)) == lines
