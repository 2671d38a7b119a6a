"""The envelope of a JSON page: all that it says beside its rows.

`pages` reads in it how one page leads to the next. Other members may say that it fails, that there
is more, or how many rows and pages there are; a page is compared with these whatever the pages are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from txn_platform.errors import shown
from txn_platform.source.decode_limits import UnreadableError
from txn_platform.source.json_rows import Digits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

_FAILURES: Final = frozenset({"error", "fail", "failed", "failure", "timeout"})
_FAILED_STATUSES: Final = range(400, 600)
# Members by which a page says that there is another page, besides its address.
_STATES_MORE: Final = frozenset(
    {"hasmore", "hasnext", "hasnextpage", "istruncated", "more", "truncated"}
)

# Members that have an address or a token of the next page, also behind a prefix and a dot, as in
# `@odata.nextLink`.
_NEXT_PAGES: Final = frozenset(
    {"continuation", "continuationtoken", "cursor", "next", "nextcursor", "nexthref", "nextlink"}
    | {"nextmarker", "nextoffset", "nextpage", "nexttoken", "nexturi", "nexturl"}
    | {f"nextpage{kind}" for kind in ("cursor", "link", "token", "uri", "url")}
)

_STATES_ROWS: Final = frozenset(
    {"@odata.count", "total"}
    | {f"total{rows}" for rows in ("count", "elements", "items", "records", "results", "rows")}
)
_STATES_PAGES: Final = frozenset(
    {"lastpage", "maxpage", "numberofpages", "numpages", "pagecount", "pages", "pagestotal"}
    | {"pagetotal", "totalpage", "totalpages"}
)
# How many objects within each other are looked through: `meta.pagination.total`.
_LEVELS: Final = 3
# Digits of a number that are looked at; more of them make it no smaller.
_LONGEST_COUNT: Final = 18

type Stated = tuple[str, int]
"""The name of a member, and the number that it states."""


def value_at(document: Any, path: Sequence[str]) -> tuple[bool, Any]:
    """Whether a parsed document has a value at a path of names, and which.

    A member that has the whole path for its name, joined by dots, comes before one within another.
    """
    if not path:
        return True, document
    if isinstance(document, dict):
        members = cast("dict[str, Any]", document)
        for length in range(len(path), 0, -1):
            name = ".".join(path[:length])
            if name in members:
                found, within = value_at(members[name], path[length:])
                if found:
                    return True, within
    return False, None


def count_of(value: Any) -> int | None:
    """A number of rows or pages, as JSON has it: a number or its text; None if it is none."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value[:_LONGEST_COUNT])
    return None


def require_no_failure(envelope: Mapping[str, Any], besides: Collection[str]) -> None:
    """Refuse a page that was answered with a status of success, and says that it failed.

    Args:
        envelope: the page.
        besides: names with another meaning.

    Raises:
        UnreadableError: it says so.
    """
    for name, value in envelope.items():
        states = _STATES_FAILURE.get(_plain(name))
        if name not in besides and states is not None and states(value):
            raise UnreadableError(f"states a failure, under {shown(name)}")


def member_of_more(
    envelope: Mapping[str, Any], besides: Collection[str], *, is_proven: bool
) -> str | None:
    """The name under which a page says that there is another one, if it does.

    Args:
        envelope: the page; such a name stands at its top, or in objects within.
        besides: names, joined by dots, with another meaning, as have the objects that they are in.
        is_proven: the page has no row, where another one would have some, so that only a plain
            statement counts. Where a plain statement says that there is none, an address or a
            cursor does not count either.
    """
    others = [
        (name, value)
        for path, name, value in _members(envelope)
        if not any(f"{known}.".startswith(f"{path}.") for known in besides)
    ]
    plain = [(name, value) for name, value in others if _plain(name) in _STATES_MORE]
    stated = next((name for name, value in plain if value is True), None)
    if stated is not None or is_proven or any(value is False for _, value in plain):
        return stated
    return next((name for name, value in others if _is_next(name) and _has_value(value)), None)


def _is_next(name: str) -> bool:
    return _plain(name).rpartition(".")[2] in _NEXT_PAGES


def _has_value(value: Any) -> bool:
    """Whether there is more in a value than nulls and empty texts."""
    if isinstance(value, dict):
        return any(map(_has_value, cast("dict[str, Any]", value).values()))
    return bool(value)


def stated_rows(envelope: Mapping[str, Any]) -> Stated | None:
    """How many rows a page says that all pages have, at its top or in objects within."""
    return _stated(envelope, _STATES_ROWS)


def stated_pages(envelope: Mapping[str, Any]) -> Stated | None:
    """How many pages a page says that there are, likewise."""
    return _stated(envelope, _STATES_PAGES)


def _stated(envelope: Mapping[str, Any], names: Collection[str]) -> Stated | None:
    for _, name, value in _members(envelope):
        if isinstance(value, Digits) and _plain(name) in names:
            count = count_of(value)
            if count is not None:
                return name, count
    return None


def _members(envelope: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Path, name and value of the members at the top, and then those of the next levels."""
    level = [("", envelope)]
    for _ in range(_LEVELS):
        within: list[tuple[str, Mapping[str, Any]]] = []
        for path, members in level:
            for name, value in members.items():
                full = f"{path}.{name}" if path else name
                yield full, name, value
                if isinstance(value, dict):
                    within.append((full, cast("dict[str, Any]", value)))
        level = within


def _plain(name: str) -> str:
    """A name without the differences of style between `has_more`, `hasMore` and `HasMore`."""
    return name.replace("_", "").replace("-", "").lower()


def _is_failure(status: Any) -> bool:
    """Whether the status that a page has in its content is one of failure."""
    if isinstance(status, Digits):
        return status.isdecimal() and int(status[:9]) in _FAILED_STATUSES
    return isinstance(status, str) and status.lower() in _FAILURES


# How a page that was answered with a status of success says that it is none, or not whole.
_STATES_FAILURE: Final[dict[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ["error", "errors", "exception", "fault"], lambda value: bool(value) and value != "0"
    ),
    **dict.fromkeys(["ok", "success"], lambda value: str(value).lower() in {"0", "false"}),
    **dict.fromkeys(
        ["timedout", "incompleteresults", "incomplete", "partial"], lambda value: value is True
    ),
    **dict.fromkeys(["status", "statuscode", "code"], _is_failure),
}
