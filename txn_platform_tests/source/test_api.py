"""The description of an API: the times in its paths, and that a wrong one is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from txn_platform.errors import UserError
from txn_platform.settings import load_settings
from txn_platform.source.api import SourceApi
from txn_platform.source.client import Source
from txn_platform.source.generator import open_source
from txn_platform.source.pages import (
    Cursor,
    NextLink,
    Offset,
    PageNumber,
    Pages,
    SinglePage,
)
from txn_platform.windows import Window, full_hour

_WINDOW = Window.of_partition("2026-11-01-23:00")
_AS_OF = datetime(2026, 11, 20, 12, 30, 1, 500, tzinfo=UTC)
_KEY = "key-in-query"


def _filled(path: str) -> str:
    api = SourceApi(path, SinglePage())
    request = api.request("http://h/base", _WINDOW.start, _WINDOW.end, _AS_OF)
    return request.address.removeprefix("http://h/base")


@pytest.mark.parametrize(
    ("placeholder", "value"),
    [
        ("{start}", "2026-11-01T23%3A00%3A00Z"),
        ("{end}", "2026-11-02T00%3A00%3A00Z"),
        ("{last}", "2026-11-01T23%3A59%3A59.999999Z"),
        ("{as_of}", "2026-11-20T12%3A30%3A01.000500Z"),
        ("{start:unix}", "1793574000"),
        ("{end:unix}", "1793577600"),
        ("{last:unix}", "1793577599"),
        ("{last:unix_millis}", "1793577599999"),
        ("{as_of:unix}", "1795177801"),
        ("{start:date}", "2026-11-01"),
        ("{end:date}", "2026-11-02"),
        ("{last:date}", "2026-11-01"),
        ("{start:%Y%m%dT%H:%M:%S}", "20261101T23%3A00%3A00"),
        ("{last:%d/%m/%YT%H:%M:%S}", "01%2F11%2F2026T23%3A59%3A59"),
        ("{{start}}", "{start}"),
        ("{format}", "json"),
    ],
)
def test_a_time_is_written_as_the_api_wants_it(placeholder: str, value: str) -> None:
    assert _filled(f"/tx?a[b]={placeholder}&c=d") == f"/tx?a[b]={value}&c=d"


@pytest.mark.parametrize("place", ["transactions", "totals", "body"])
@pytest.mark.parametrize(
    "placeholder",
    [
        "{ende}",
        "{offset}",
        "{start:%Q}",
        "{start:year}",
        "{start:>99999999}",
        "{format:unix}",
        "{start!r}",
        "{start.year}",
        "{start[0]}",
        "{start:{end}}",
        "{0}",
        "{}",
        "{start",
        "start}",
    ],
)
def test_a_placeholder_that_is_not_known_is_refused_without_the_path(
    placeholder: str, place: str
) -> None:
    path = f"/tx?key={_KEY}&from={placeholder}"
    described: dict[str, Any] = {"transactions": "/tx"}
    described[place] = {"a": [{"b": path}]} if place == "body" else path
    with pytest.raises(UserError, match=rf"^{place} of a SourceApi has a (brace|place)") as raised:
        SourceApi(**described, pages=SinglePage())
    assert _KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"transactions": "tx"}, "transactions of a SourceApi must begin with a slash"),
        ({"transactions": "http://h/tx"}, "transactions of a SourceApi must begin with a slash"),
        ({"transactions": "/t x"}, "must have no white space"),
        ({"transactions": "/tx#a"}, "must have no white space and no #"),
        ({"watermark": "w"}, "watermark of a SourceApi must begin"),
        ({"format": "xml"}, "format of a SourceApi must be one of arrow, csv, ndjson, json"),
        ({"pages": None}, r"pages of a SourceApi must say .*NextLink\(...\), .* SinglePage\(\)"),
        ({"pages": "next"}, "pages of a SourceApi must say how"),
        ({"pages": NextLink}, "pages of a SourceApi must say how"),
        ({"format": "csv", "pages": Cursor("next")}, "pages of a SourceApi reads fields of JSON"),
        ({"format": "csv", "pages": Offset(total="n")}, "pages of a SourceApi reads fields"),
        ({"pages": PageNumber(place="body")}, "pages of a SourceApi has place=.*give it"),
        ({"body": {"a": {1, 2}}}, "body of a SourceApi has a set, which is no JSON"),
        ({"lag": timedelta(-1)}, "lag of a SourceApi must be a timedelta of zero or more"),
        ({"lag": 2}, "lag of a SourceApi must be a timedelta"),
        ({"auth": "Bearer x"}, "auth of a SourceApi must be"),
    ],
)
def test_a_description_that_cannot_be_is_refused(described: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SourceApi(**{"transactions": "/tx", "pages": SinglePage()} | described)


@pytest.mark.parametrize(
    ("style", "options"),
    [
        (NextLink, {"end": "none"}),
        (NextLink, {"header": "X-Next"}),
        (Cursor, {"field": "next", "end": "none"}),
        (Cursor, {"field": "next", "place": "head"}),
        (Offset, {"place": "head"}),
    ],
)
def test_a_word_of_a_style_that_is_not_known_is_refused(
    style: type[Pages], options: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=rf"of {style.__name__}\(...\) must be one of"):
        style(**options)


def test_formats_that_stream_may_have_pages_without_fields() -> None:
    for pages in (None, SinglePage(), Offset(), PageNumber(), NextLink(header="Link")):
        SourceApi("/tx", pages, format="csv")


def test_without_a_watermark_hours_are_complete_when_they_are_older_than_the_lag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TXN_SETTLED_HOURS", "5")
    api = SourceApi("/tx", SinglePage())
    for lag, hours in ((None, 5), (timedelta(hours=2), 2), (timedelta(0), 0)):
        source = open_source(load_settings(), "http://h", SourceApi("/tx", SinglePage(), lag=lag))
        before, watermark = datetime.now(UTC), source.watermark()
        assert watermark <= before - timedelta(hours=hours) < watermark + timedelta(hours=1)
        assert watermark == full_hour(watermark)
        assert source.lag == timedelta(hours=hours)
    assert Source("http://h", api).watermark() == full_hour(datetime.now(UTC))
