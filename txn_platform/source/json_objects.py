"""The structure of JSON texts: names, members and elements, without decoding their values.

A parser makes an object for every value, and keeps the last of two members of one name without a
word. Here only brackets, colons, commas and the ends of strings are looked for. Whether a text is
JSON at all is for the caller to find out.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from txn_platform.source.decode_limits import MOST_COLUMNS, RefusedError, UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator

_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_TOKEN: Final = re.compile(_STRING + rb"|[\[\]{}:,]", re.DOTALL)
# The same, but an innermost object or list is one token.
_FLAT: Final = re.compile(
    rb'[\[{][^\[\]{}"]*+(?:' + _STRING + rb'[^\[\]{}"]*+)*+[\]}]|' + _STRING + rb"|[\[\]{}:,]",
    re.DOTALL,
)
_QUOTE, _COLON, _COMMA, _OBJECT = b'":,{'
_OPENING, _CLOSING = b"{[", b"}]"
_DEEPEST: Final = 1_000
_DEEPEST_PARSED: Final = 500


class Part(NamedTuple):
    """A member of an object, or an element of a list.

    Attributes:
        name: the member's name, in its quotes; empty for an element.
        start: the index at which its value begins.
        end: the index at which its value and the blanks after it end.
    """

    name: bytes
    start: int
    end: int


def parts(text: bytes, opening: int) -> Iterator[Part]:
    """The members or elements of the object or list that opens at an index.

    Raises:
        ValueError: it does not close.
    """
    name = b""
    depth, start = 1, opening + 1
    for token in _FLAT.finditer(text, start):
        at, behind = token.span()
        sign = text[at]
        if sign in _OPENING:
            # An innermost object or list opens and closes in one token.
            depth += behind - at == 1
        elif sign in _CLOSING:
            depth -= 1
            if not depth:
                if text[start:at].strip():
                    yield Part(name, start, at)
                return
        elif depth == 1 and sign == _COLON:
            name, start = text[start:at].strip(), behind
        elif depth == 1 and sign == _COMMA:
            yield Part(name, start, at)
            name, start = b"", behind
    raise ValueError


def repeats_a_name(text: bytes) -> bool:
    r"""Whether an object in a JSON text, at any depth, has two members of one name.

    Names are the same also when one is written with escapes (`"amo\u0075nt"`).

    Raises:
        RefusedError: an object has more names than can be looked at.
        RecursionError: objects are nested too deeply.
    """
    within: list[set[bytes]] = [set()]
    last = b""
    for token in _TOKEN.finditer(text):
        found = token[0]
        sign = found[0]
        if sign == _QUOTE:
            last = found
        elif sign == _COLON:
            names, name = within[-1], unescaped(last)
            if name in names:
                return True
            names.add(name)
            if len(names) > MOST_COLUMNS:
                raise too_many_names()
        elif sign in _OPENING:
            within.append(set())
            if len(within) > _DEEPEST:
                raise RecursionError
        elif sign in _CLOSING and len(within) > 1:
            within.pop()
    return False


def is_too_deep(text: bytes) -> bool:
    """Whether brackets are nested too deeply for Python's parser, in any version."""
    depth = 0
    for token in _TOKEN.finditer(text):
        sign = token[0][0]
        depth += (sign in _OPENING) - (sign in _CLOSING)
        if depth > _DEEPEST_PARSED:
            return True
    return False


def without_repeats(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its members, for `json.loads`.

    Raises:
        UnreadableError: two of them have one name.
    """
    found = dict(members)
    if len(found) < len(members):
        raise UnreadableError("has two fields of one name")
    return found


def unescaped(name: bytes) -> bytes:
    """A name in its quotes, escaped in one way only."""
    if b"\\" not in name:
        return name
    try:
        return json.dumps(json.loads(name), ensure_ascii=False).encode("utf-8", "surrogatepass")
    except ValueError:  # The text is no JSON.
        return name


def too_many_names() -> RefusedError:
    """The error of rows that have too many fields."""
    return RefusedError(
        f"has rows of more than {MOST_COLUMNS:,} different fields: let the source put names that"
        " vary into values"
    )
