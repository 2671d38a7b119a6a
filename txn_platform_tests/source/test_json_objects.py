"""Objects within JSON texts: names that repeat, and texts too deep or too wide to look through."""

import json

import pytest

from txn_platform.source.decode_limits import MOST_COLUMNS, RefusedError
from txn_platform.source.json_objects import is_too_deep, repeats_a_name


def _object(names: int) -> str:
    return json.dumps({f"k{number}": number for number in range(names)})


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ('{"a":1,"a":2}', True),
        ('{"a":1,"\\u0061":2}', True),
        ('{"x":[{"a":1},{"b":1,"b":1}]}', True),
        ('{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}', False),
        ('{"a":"a","b":"a\\":","c":":"}', False),
        ("{}", False),
        ("}{", False),
    ],
)
def test_a_name_that_occurs_twice_in_one_object_is_found(text: str, *, repeats: bool) -> None:
    assert repeats_a_name(text.encode()) is repeats


@pytest.mark.parametrize("within", ["%s", '{"x":%s}', '{"x":[1,%s]}'])
def test_an_object_has_a_bounded_number_of_names(within: str) -> None:
    assert not repeats_a_name((within % _object(MOST_COLUMNS)).encode())
    with pytest.raises(RefusedError, match="rows of more than 1,000 different fields"):
        repeats_a_name((within % _object(MOST_COLUMNS + 1)).encode())


def test_names_of_different_objects_are_not_counted_together() -> None:
    half = _object(MOST_COLUMNS // 2 + 1)
    assert not repeats_a_name(f"[{half},{half}]".encode())


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_depth_is_bounded_and_brackets_in_texts_do_not_count(brackets: str) -> None:
    begin, end = brackets
    assert is_too_deep(b"1") is False
    assert is_too_deep((begin + end).encode() * 10_000) is False
    assert is_too_deep(f'"{begin * 10_000}"'.encode()) is False
    assert is_too_deep((begin * 10_000).encode()) is True
