"""Styles of pages: each lands every row, or fails with the setting's name; none lands a part."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import pytest

from txn_platform.errors import UserError
from txn_platform.source.api import SourceApi
from txn_platform.source.client import Source
from txn_platform.source.pages import (
    AfterLast,
    Cursor,
    NextLink,
    Offset,
    PageNumber,
    Pages,
    SinglePage,
)
from txn_platform.source.transport import Limits, source_backoff
from txn_platform.windows import Window
from txn_platform_tests.support.served_api import Asked, ServedApi, served_api
from txn_platform_tests.support.served_source import sent_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WINDOW = Window.of_partition("2026-11-01-00:00")
_LIMITS = Limits(read_seconds=5, whole_seconds=20, backoff=source_backoff(3, first_pause=0.001))
_ROWS = [sent_row(number) for number in range(7)]
_IDS = [row["transaction_id"] for row in _ROWS]
_PAGE: Final = 3

type Answer = Callable[[Asked], Any]


@pytest.fixture
def there() -> Iterator[ServedApi]:
    with served_api(lambda _: None) as api:
        yield api


def _ids(there: ServedApi, pages: Pages, **others: Any) -> list[str | None]:
    source = Source(there.url, SourceApi("/tx?from={start}", pages, **others), _LIMITS)
    batches = list(source.batches(_WINDOW, _WINDOW.end))
    return [found for batch in batches for found in batch["transaction_id"].to_pylist()]


def _query(asked: Asked) -> dict[str, str]:
    query = dict(parse_qsl(urlsplit(asked.target).query))
    assert query.pop("from") == "2026-11-01T00:00:00Z"
    return query


def _from(start: int) -> dict[str, Any]:
    return {"data": _ROWS[start : start + _PAGE]}


def _after_last(asked: Asked) -> Any:
    after = _query(asked).get("starting_after")
    start = _IDS.index(after) + 1 if after else 0
    return {**_from(start), "has_more": start + _PAGE < len(_ROWS)}


def _numbered(lowest: int, **others: Any) -> Answer:
    def answer(asked: Asked) -> Any:
        return _from((int(_query(asked)["page"]) - lowest) * _PAGE) | others

    return answer


def _tokens(last: dict[str, Any], *, name: str = "next_cursor") -> Answer:
    """Pages with a token of odd characters; `last` is what the last one says."""

    def answer(asked: Asked) -> Any:
        start = int(_query(asked).get("cursor", "0:&=/ é").partition(":")[0])
        more = {name: f"{start + _PAGE}:&=/ é", "has_more": True}
        return _from(start) | (more if start + _PAGE < len(_ROWS) else last)

    return answer


def _within(page: dict[str, Any]) -> dict[str, Any]:
    """The same page with its token in an object, which is there on the last page too."""
    return {"data": page["data"], "page": {"next": {"token": page["next_cursor"], "rel": "next"}}}


def _null_object(page: dict[str, Any]) -> dict[str, Any]:
    return page if page["page"]["next"]["token"] else page | {"page": {"next": None}}


def _address_after(token: str | None) -> dict[str, str] | None:
    here = "/tx?from=2026-11-01T00:00:00Z"
    return None if token is None else {"href": f"{here}&cursor={token.partition(':')[0]}"}


def _offset(**others: Any) -> Answer:
    return lambda asked: _from(int(_query(asked)["offset"])) | others


_WHOLE: Final[dict[str, tuple[Pages, Answer, int]]] = {
    "after the last": (AfterLast(field="transaction_id"), _after_last, 3),
    "after the last, until a page is empty": (
        AfterLast(field="transaction_id", more=None),
        _after_last,
        4,
    ),
    "cursor, null at the end": (Cursor("next_cursor"), _tokens({"next_cursor": None}), 3),
    "cursor, empty at the end": (Cursor("next_cursor"), _tokens({"next_cursor": ""}), 3),
    "cursor, absent at the end": (Cursor("next_cursor", end="absent"), _tokens({}), 3),
    "cursor that stays at the end": (
        Cursor("next_cursor", more="has_more"),
        _tokens({"next_cursor": "9", "has_more": False}),
        3,
    ),
    "cursor in an object that stays": (
        Cursor("page.next.token"),
        lambda asked: _within(_tokens({"next_cursor": None})(asked)),
        3,
    ),
    "cursor in an object that is null at the end": (
        Cursor("page.next.token"),
        lambda asked: _null_object(_within(_tokens({"next_cursor": None})(asked))),
        3,
    ),
    "address in an object that is null at the end (HAL)": (
        NextLink("_links.next.href"),
        lambda asked: {
            **(page := _tokens({"next_cursor": None})(asked)),
            "_links": {"next": _address_after(page["next_cursor"])},
        },
        3,
    ),
    "cursor in a dotted name": (Cursor("a.b"), _tokens({"a.b": None}, name="a.b"), 3),
    "numbers of a total": (PageNumber(total="total_pages"), _numbered(1, total_pages=3), 3),
    "numbers from zero": (PageNumber(total="pages", start=0), _numbered(0, pages="3"), 3),
    "numbers of a total with a point": (PageNumber(total="n"), _numbered(1, n=3.0), 3),
    "numbers until a page is empty": (PageNumber(), _numbered(1), 4),
    "offset of a total": (Offset(total="meta.total"), _offset(meta={"total": 7}), 3),
    "offset until a page is empty": (Offset(), _offset(), 4),
}


@pytest.mark.parametrize("case", _WHOLE)
def test_every_row_lands(case: str, there: ServedApi) -> None:
    pages, there.answer, requests = _WHOLE[case]
    assert _ids(there, pages) == _IDS
    assert len(there.asked) == requests


def test_pages_of_a_list_alone_with_a_link_header(there: ServedApi) -> None:
    def answer(asked: Asked) -> Any:
        start = int(_query(asked).get("at", "0"))
        link = f'</tx?from=2026-11-01T00:00:00Z&at={start + _PAGE}>; rel="next"'
        last = start + _PAGE >= len(_ROWS)
        there.sent_headers = {"Link": '</tx>; rel="first"' if last else link}
        return _ROWS[start : start + _PAGE]

    there.answer = answer
    assert _ids(there, NextLink(header="Link"), items="") == _IDS
    there.sent_headers, there.answer = {}, lambda _: _ROWS
    with pytest.raises(UserError, match=r"without a Link header, .* pages .*NextLink\(...\)"):
        _ids(there, NextLink(header="Link"), items="")
    assert _ids(there, NextLink(header="Link", end="absent"), items="") == _IDS
    assert _ids(there, SinglePage(), items="") == _IDS


@pytest.mark.parametrize("style", ["cursor", "after", "number", "offset"])
def test_pages_are_asked_for_in_a_body(style: str, there: ServedApi) -> None:
    pages, name = {
        "cursor": (Cursor("next", "page.cursor", place="body", end="absent"), "cursor"),
        "after": (AfterLast("page.after", "transaction_id", place="body"), "after"),
        "number": (PageNumber("page.number", total="pages", place="body"), "number"),
        "offset": (Offset("page.skip", total="total", place="body"), "skip"),
    }[style]

    def answer(asked: Asked) -> Any:
        body = json.loads(asked.body)
        assert body["between"] == [1793491200, 1793494799999]
        assert body["page"]["size"] == _PAGE
        value = body["page"].get(name, 0)
        start = {
            "cursor": lambda: value,
            "after": lambda: _IDS.index(value) + 1 if value else 0,
            "number": lambda: (value - 1) * _PAGE,
            "offset": lambda: value,
        }[style]()
        more = start + _PAGE < len(_ROWS)
        said = {"has_more": more, "pages": 3, "total": 7}
        return _from(start) | said | ({"next": start + _PAGE} if more else {})

    there.answer = answer
    body = {
        "between": ["{start:unix}", "{last:unix_millis}"],
        "page": {"size": _PAGE},
    }
    assert _ids(there, pages, body=body) == _IDS
    assert len(there.asked) == 3


_PARTS: Final[dict[str, tuple[Pages, Answer]]] = {
    "more without a cursor": (
        Cursor("next_cursor", more="has_more"),
        lambda _: _from(0) | {"has_more": True},
    ),
    "more with a null cursor": (
        Cursor("next_cursor", more="has_more"),
        lambda _: _from(0) | {"has_more": True, "next_cursor": None},
    ),
    "more, and an end by the cursor": (
        Cursor("next_cursor"),
        lambda _: _from(0) | {"has_more": True, "next_cursor": None},
    ),
    "a cursor of another name": (Cursor("cursor"), lambda _: _from(0) | {"next_cursor": "b"}),
    "a cursor of another name, declared": (
        Cursor("cursor", end="absent"),
        lambda _: _from(0) | {"next_cursor": "b"},
    ),
    "a cursor that is an object": (Cursor("next"), lambda _: _from(0) | {"next": {"c": "b"}}),
    "a cursor that is true": (Cursor("next"), lambda _: _from(0) | {"next": True}),
    "a cursor that the source ignores": (
        Cursor("next_cursor"),
        lambda asked: _from(0) | {"next_cursor": f"{len(asked.target)}"},
    ),
    "more that is absent": (AfterLast(), lambda _: _from(0)),
    "more that is no flag": (AfterLast(), lambda _: _from(0) | {"has_more": "yes"}),
    "more after no row": (AfterLast(), lambda _: {"data": [], "has_more": True}),
    "more after a row without the field": (
        AfterLast(field="id"),
        lambda _: _from(0) | {"has_more": True},
    ),
    "a parameter that the source ignores": (
        AfterLast("after", "transaction_id", more=None),
        lambda _: _from(0),
    ),
    "a total that is absent": (PageNumber(total="total_pages"), _numbered(1)),
    "a total that is no number": (
        PageNumber(total="total_pages"),
        _numbered(1, total_pages="many"),
    ),
    "a number that the source ignores": (
        PageNumber(total="total_pages"),
        lambda _: _from(0) | {"total_pages": 2},
    ),
    "a total of pages that nobody reads": (
        NextLink(end="absent"),
        lambda _: _from(0) | {"total_pages": 3},
    ),
    "a total of pages as text": (NextLink(end="absent"), lambda _: _from(0) | {"pages": "3"}),
    "a total of pages with a point": (
        NextLink(end="absent"),
        lambda _: _from(0) | {"meta": {"total_pages": 3.0}},
    ),
    "a total of pages that sinks": (
        PageNumber(total="n"),
        lambda asked: _numbered(1, n=3 if "page=1" in asked.target else 2)(asked),
    ),
    "a total of pages below those that came": (PageNumber(total="n"), _numbered(1, n=0)),
    "numbers from one, of a source that counts from zero": (
        PageNumber(total="n"),
        _numbered(0, n=3),
    ),
    "numbers from one, of a source that says so": (
        PageNumber(),
        lambda asked: _numbered(0, has_previous="page=0" not in asked.target)(asked),
    ),
    "a first page that is not the first": (
        PageNumber(more="more"),
        lambda asked: _numbered(0, more=False, first="page=0" in asked.target)(asked),
    ),
    "a total of rows that sinks": (
        Offset(total="n"),
        lambda asked: _offset(n=7 if "offset=0" in asked.target else 6)(asked),
    ),
    "a total of pages beside a null": (
        NextLink(),
        lambda _: _from(0) | {"next": None, "page": {"totalPages": 3}},
    ),
    "a total of rows that is absent": (Offset(total="total"), _offset()),
    "a total of rows that do not come": (Offset(total="total"), _offset(total=9)),
    "a single page of several": (SinglePage(), lambda _: _from(0) | {"has_more": True}),
    "a single page with a cursor": (SinglePage(), lambda _: _from(0) | {"next_cursor": "b"}),
    "a single page of pages": (SinglePage(), lambda _: _from(0) | {"page": 1, "pages": 3}),
    "a single page of many": (
        SinglePage(),
        lambda _: _from(0) | {"meta": {"pagination": {"total": 7, "per_page": 3}}},
    ),
    "a single page with a continuation": (
        SinglePage(),
        lambda _: _from(0) | {"continuationToken": "b"},
    ),
    "a null beside another cursor": (
        NextLink(),
        lambda _: _from(0) | {"next": None, "meta": {"next_page_token": "b"}},
    ),
    "a null beside another next": (
        NextLink(),
        lambda _: _from(0) | {"next": None, "_links": {"next": {"href": "/tx?2"}}},
    ),
    "a single page with a next": (SinglePage(), lambda _: _from(0) | {"next": "/tx?2"}),
    "a token that is no address": (NextLink(), lambda _: _from(0) | {"next": "eyJwIjoyfQ=="}),
    "a token with a slash": (
        NextLink(),
        lambda asked: _from(0) | {"next": "eyJ/IjoyfQ=="} if "from" in asked.target else b"",
    ),
    "an object": (NextLink(), lambda _: _from(0) | {"next": {"href": "/tx?2"}}),
    "a list": (NextLink(), lambda _: _from(0) | {"next": ["/tx?2"]}),
    "true": (NextLink(), lambda _: _from(0) | {"next": True}),
    "a number": (NextLink(), lambda _: _from(0) | {"next": 2}),
    "a list of links": (
        NextLink("links.next", end="absent"),
        lambda _: _from(0) | {"links": [{"rel": "self", "href": "/tx?2"}]},
    ),
    "a list of links that nobody reads": (
        NextLink(end="absent"),
        lambda _: _from(0) | {"link": [{"relation": "next", "url": "/tx?2"}]},
    ),
    "a text where an object is named": (
        Cursor("paging.next", end="absent"),
        lambda _: _from(0) | {"paging": "b"},
    ),
    "more as text": (NextLink(end="absent"), lambda _: _from(0) | {"has_more": "true"}),
    "more as a number": (NextLink(end="absent"), lambda _: _from(0) | {"hasMore": 1}),
    "a page that is not the last": (SinglePage(), lambda _: _from(0) | {"isLast": False}),
    "a query that is not done": (
        NextLink(end="absent"),
        lambda _: _from(0) | {"done": False, "nextRecordsUrl": "/tx?2"},
    ),
    "a query that is done, and another page": (
        NextLink(end="absent"),
        lambda _: _from(0) | {"done": True, "nextRecordsUrl": "/tx?2"},
    ),
    "a key of another page": (SinglePage(), lambda _: _from(0) | {"LastEvaluatedKey": {"n": 2}}),
    "a name with a dot, of another source": (
        NextLink("@odata.nextLink"),
        lambda _: _from(0) | {"@odata": {"next": "/tx?2"}},
    ),
}


@pytest.mark.parametrize("case", _PARTS)
def test_a_part_is_refused_with_the_name_of_the_setting(case: str, there: ServedApi) -> None:
    pages, there.answer = _PARTS[case]
    with pytest.raises(UserError, match=rf"pages.*{type(pages).__name__}") as raised:
        _ids(there, pages)
    assert str(raised.value).isprintable()
    assert "eyJ" not in str(raised.value)


def test_a_page_that_is_named_and_refused_names_the_setting(there: ServedApi) -> None:
    def answer(asked: Asked) -> Any:
        there.status = 200 if "from" in asked.target else 404
        return _from(0) | {"next": "/other?page=2"}

    there.answer = answer
    with pytest.raises(UserError, match=r"status 404 .*pages=NextLink\(...\)"):
        _ids(there, NextLink())


@pytest.mark.parametrize(
    "pages",
    [
        NextLink(end="absent"),
        NextLink(header="Link", end="absent"),
        Cursor("next", "p", end="absent"),
    ],
)
def test_a_page_that_is_named_and_has_no_content_is_not_the_end(
    pages: Pages, there: ServedApi
) -> None:
    def answer(asked: Asked) -> Any:
        there.status = 204 if "p=" in asked.target else 200
        there.sent_headers = {} if "p=" in asked.target else {"Link": "</tx?p=2>; rel=next"}
        return b"" if "p=" in asked.target else _from(0) | {"next": "/tx?p=2"}

    there.answer = answer
    with pytest.raises(UserError, match=rf"status 204, .*pages={type(pages).__name__}\(...\)"):
        _ids(there, pages)


def test_a_link_header_beside_a_single_page_is_refused(there: ServedApi) -> None:
    there.answer = lambda _: _from(0)
    there.sent_headers = {"Link": '</tx?2>; rel="next"'}
    with pytest.raises(UserError, match=r"Link header.*SinglePage.*NextLink\(header"):
        _ids(there, SinglePage())


@pytest.mark.parametrize(
    "body", [b'{"data":[]}', b"[1", b"7", b"", b'[{"a":NaN}] []', b'[{"a":NaN}]x', b"null"]
)
def test_what_is_no_list_of_rows_is_refused(body: bytes, there: ServedApi) -> None:
    there.answer = lambda _: body
    with pytest.raises(UserError, match=r"items of its SourceApi|no row with any"):
        _ids(there, SinglePage(), items="")


_EMPTY = Cursor("cursor", end="absent")


@pytest.mark.parametrize(
    ("items", "body"),
    [
        ("payments", {}),
        ("payments", {"payments": None}),
        ("payments", {"payments": []}),
        ("_embedded.payments", {}),
        ("_embedded.payments", {"_embedded": None}),
        ("_embedded.payments", {"_embedded": {}}),
        ("_embedded.payments", {"_embedded": {"payments": None}, "notes": [], "count": 0}),
    ],
)
def test_a_list_that_is_left_out_is_empty_where_that_is_declared(
    there: ServedApi, items: str, body: Any
) -> None:
    there.answer = lambda _: body
    assert _ids(there, _EMPTY, items=items, empty="absent") == []
    if body != {"payments": []}:
        with pytest.raises(UserError, match="with a list under"):
            _ids(there, _EMPTY, items=items)


def test_a_list_that_is_left_out_on_the_last_page_alone_ends_the_rows(there: ServedApi) -> None:
    there.answer = lambda asked: (
        {} if "cursor" in _query(asked) else {**_from(0), "cursor": "second"}
    )
    assert _ids(there, _EMPTY, empty="absent") == _IDS[:_PAGE]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"orders": [{"id": 1}]}, id="rows under another name"),
        pytest.param({"result": {"data": [{"id": 1}]}}, id="rows elsewhere"),
        pytest.param({"data": {}}, id="an object"),
        pytest.param({"data": "none"}, id="a text"),
        pytest.param({"errors": [{"code": "UNAUTHORIZED"}]}, id="a failure"),
        pytest.param({"cursor": "more"}, id="another page"),
        pytest.param({"total": 3}, id="a total"),
        pytest.param([], id="a list"),
        pytest.param("", id="an empty text"),
    ],
)
def test_a_page_that_may_have_rows_elsewhere_is_none_without_rows(
    there: ServedApi, body: Any
) -> None:
    there.answer = lambda _: body
    with pytest.raises(UserError):
        _ids(there, _EMPTY, empty="absent")


@pytest.mark.parametrize("changes", [{"empty": "null"}, {"empty": "absent", "items": ""}])
def test_a_rule_for_empty_pages_that_cannot_hold_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^empty of a SourceApi"):
        SourceApi("/tx?from={start}", _EMPTY, **changes)
