"""The envelope of a JSON page: all that it says beside its rows.

`pages` reads in it how one page leads to the next. Other members may say that it fails, that there
is more, or how many rows and pages there are; a page is compared with these whatever the pages are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

from txn_platform.errors import shown
from txn_platform.source.decode_limits import UnreadableError
from txn_platform.source.json_rows import Digits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

_FAILURES: Final = frozenset({"error", "fail", "failed", "failure", "timeout"})
_FAILED_STATUSES: Final = range(400, 600)
_ERRORS: Final = frozenset(
    {"errcode", "errmsg", "error", "errors", "exception", "fault"}
    | {f"error{kind}" for kind in ("code", "description", "detail", "details", "message", "type")}
)
_NO_ERRORS: Final = frozenset({"", "false", "no error", "none", "ok", "success"})
# How the names of members begin by which a page says that there is another page, besides its
# address, and the names by which it says that there is none.
_STATES_MORE: Final = ("hasmore", "hasnext", "istruncated", "more", "truncated")
_STATES_END: Final = frozenset({"islast", "islastpage", "last", "lastpage"})
# If true, these may speak of a query instead of its pages.
_STATES_WHOLE: Final = frozenset({"complete", "done", "iscomplete"})
# The same for a page before this one.
_STATES_BEFORE: Final = ("hasprev", "hasprior")
_STATES_BEGINNING: Final = frozenset({"first", "firstpage", "isfirst", "isfirstpage"})

# Members that have an address or a token of the next page, also behind a prefix and a dot, as in
# `@odata.nextLink`.
_NEXT_PAGES: Final = re.compile(
    r"next(batch|page|records?|results?|rows?|set)?"
    r"(continuation|cursor|href|key|link|marker|number|offset|path|start|token|ur[il])?"
    r"|bookmark|continuation(token)?|cursor|lastevaluatedkey|resumptiontoken"
)
# Members of an object in a list of links that have its relation.
_RELATIONS: Final = ("rel", "relation")

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
# A count may be written as 3.0. Of its digits 18 are looked at; more of them make it no smaller.
_COUNT: Final = re.compile(r"([0-9]{1,18})[0-9]*(?:\.0+)?")

NO_OBJECT: Final = object()
"""Stands for a value that cannot be found, because a list or a text is on the way to it."""

type Stated = tuple[str, int]
"""The name of a member, and the number that it states."""


def value_at(document: Any, path: Sequence[str]) -> tuple[bool, Any]:
    """Whether a parsed document has a value at a path of names, and which.

    A member that has the whole path for its name, joined by dots, comes before one within another.
    A null on the way is the value. A list, a text or the like on the way is found as `NO_OBJECT`.
    """
    if not path or document is None:
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
    return True, NO_OBJECT


def leaves_out(envelope: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a page has nothing, or null, at the path of its rows, and no other list with rows."""
    found, value = value_at(envelope, path)
    if found and value is not None:
        return False
    return not any(isinstance(each, list) and each for _, _, each in _members(envelope))


def count_of(value: Any) -> int | None:
    """A number of rows or pages, as JSON has it: a number or its text; None if it is none."""
    count = _COUNT.fullmatch(value) if isinstance(value, str) else None
    return None if count is None else int(count[1])


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
    for path, name, value in _members(envelope):
        # A number within another object may count the errors of a job.
        is_within = path != name and not isinstance(value, Digits)
        if is_within and _plain(name) in _ERRORS and _is_error(value):
            raise UnreadableError(f"states a failure, under {shown(path)}")


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
    flags = _flags(others, _STATES_MORE, _STATES_END | _STATES_WHOLE)
    stated = next((name for name, says_so in flags if says_so), None)
    if stated or is_proven or any(_plain(name) not in _STATES_WHOLE for name, _ in flags):
        return stated
    return next((name for name, value in others if _names_next(name, value)), None)


def member_of_before(envelope: Mapping[str, Any]) -> str | None:
    """The name under which a page says that there is one before it, if it does."""
    members = [(name, value) for _, name, value in _members(envelope)]
    flags = _flags(members, _STATES_BEFORE, _STATES_BEGINNING)
    return next((name for name, says_so in flags if says_so), None)


def _flags(
    members: Collection[tuple[str, Any]], beginnings: tuple[str, ...], opposites: Collection[str]
) -> list[tuple[str, bool]]:
    """The names of members that are true or false, and whether they say so or the opposite."""
    flags: list[tuple[str, bool]] = []
    for name, value in members:
        is_opposite = _plain(name) in opposites
        if not is_opposite and not _plain(name).startswith(beginnings):
            continue
        if isinstance(value, bool):
            flags.append((name, value is not is_opposite))
        elif not is_opposite and isinstance(value, str) and _is_yes(value):
            flags.append((name, True))
    return flags


def _is_yes(value: str) -> bool:
    """Whether a text or a number stands for true."""
    return bool(count_of(value)) if isinstance(value, Digits) else value.lower() == "true"


def _names_next(name: str, value: Any) -> bool:
    """Whether a member has an address or a token of the next page."""
    if isinstance(value, list):
        links = cast("list[Any]", value)
        return any(isinstance(link, dict) and _is_link_to_next(link) for link in links)
    return _NEXT_PAGES.fullmatch(_plain(name).rpartition(".")[2]) is not None and _has_value(value)


def _is_link_to_next(link: Mapping[str, Any]) -> bool:
    return any(link.get(name) == "next" for name in _RELATIONS)


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
        count = count_of(value) if _plain(name) in names else None
        # A total may be a sum of amounts, with decimals or as text.
        is_amount = _plain(name) == "total" and not (
            isinstance(value, Digits) and value.isdecimal()
        )
        if count is not None and not is_amount:
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


def _is_error(value: Any) -> bool:
    """Whether the value of a member for errors has any."""
    if isinstance(value, str):
        return value.strip("0").lower() not in _NO_ERRORS
    return bool(value)


def _is_failure(status: Any) -> bool:
    """Whether the status that a page has in its content is one of failure."""
    if isinstance(status, Digits):
        return status.isdecimal() and int(status[:9]) in _FAILED_STATUSES
    return isinstance(status, str) and status.lower() in _FAILURES


# How a page that was answered with a status of success says that it is none, or not whole.
_STATES_FAILURE: Final[dict[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(_ERRORS, _is_error),
    **dict.fromkeys(["ok", "success"], lambda value: str(value).lower() in {"0", "false"}),
    **dict.fromkeys(
        ["timedout", "incompleteresults", "incomplete", "partial"], lambda value: value is True
    ),
    **dict.fromkeys(["status", "statuscode", "code"], _is_failure),
}
