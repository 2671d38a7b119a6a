"""Values in JSON texts, found by a path of names and kept as sent.

Nothing but the members on the way is decoded. A number keeps its digits.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from txn_platform.contract.model import HALF_A_CHARACTER
from txn_platform.source.decode_limits import MOST_COLUMNS
from txn_platform.source.json_objects import parts, too_many_names, unescaped

if TYPE_CHECKING:
    from collections.abc import Sequence

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@lru_cache(maxsize=64)
def _members(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Finds members of an object by their names, and makes nothing of the others."""
    fields = {f"member_{index}": name for index, name in enumerate(names)}
    kind = msgspec.Raw | msgspec.UnsetType
    struct = msgspec.defstruct(
        "_Members", [(field, kind, msgspec.UNSET) for field in fields], rename=fields
    )
    return msgspec.json.Decoder(struct)


def find_value(content: bytes | msgspec.Raw, path: Sequence[str]) -> msgspec.Raw | None:
    """The value at a path of names in valid JSON, as sent; None when there is none.

    A member that has the whole path for its name, joined by dots, comes before one within another.
    """
    try:
        return _value_at(content, path)
    except (msgspec.DecodeError, RecursionError):
        return None


def _value_at(content: bytes | msgspec.Raw, path: Sequence[str]) -> msgspec.Raw | None:
    """The same.

    Raises:
        msgspec.DecodeError: the content is no JSON, or as a `ValidationError`, it is no object.
    """
    beginnings = [path[:length] for length in range(len(path), 0, -1)]
    found = _members(tuple(".".join(names) for names in beginnings)).decode(content)
    for index, names in enumerate(beginnings):
        value = getattr(found, f"member_{index}")
        if value is not msgspec.UNSET:
            within = find_value(value, path[len(names) :]) if len(names) < len(path) else value
            if within is not None:
                return within
    return None


def find_loosely(
    content: bytes, start: int, end: int, path: Sequence[str]
) -> tuple[int, int] | None:
    """The same in what a strict parser refuses: from where to where."""
    if not path:
        return start, end
    if not content[start:end].lstrip().startswith(b"{"):
        return None
    found: dict[bytes, tuple[int, int]] = {}
    try:
        for part in parts(content, content.index(b"{", start)):
            found[unescaped(part.name)] = part.start, part.end
            if len(found) > MOST_COLUMNS:
                break
    except ValueError:
        return None
    if len(found) > MOST_COLUMNS:
        raise too_many_names()
    for length in range(len(path), 0, -1):
        name = json.dumps(".".join(path[:length]), ensure_ascii=False).encode()
        if name in found:
            within = find_loosely(content, *found[name], path[length:])
            if within is not None:
                return within
    return None


def text_within(text: str, path: Sequence[str]) -> str | None:
    """The text of the value at a path within a JSON object; None if it is null or absent.

    Args:
        text: the object as sent; in any other text there is no such value.
        path: the names on the way.
    """
    content = text.encode()
    try:
        value = _value_at(content, path)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, RecursionError):
        # Some parsers write NaN, which is not JSON by the letter.
        span = find_loosely(content, 0, len(content), path)
        return None if span is None else value_text(content[slice(*span)].strip())
    return None if value is None else value_text(bytes(value))


def value_text(value: bytes) -> str | None:
    """One JSON value as text."""
    if value == b"null":
        return None
    if not value.startswith(b'"'):
        return value.decode()
    return printable(json.loads(value))


def printable(text: str) -> str:
    """Text that UTF-8 can hold.

    Half of a surrogate pair is no character: it is written out behind a SUBSTITUTE, which no rule
    takes for printable.
    """
    return _SURROGATE.sub(lambda half: f"{HALF_A_CHARACTER}{ord(half[0]):04x}", text)
