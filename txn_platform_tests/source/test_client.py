"""The source's client: whole windows from an API that breaks, and messages when it can't."""

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from typing import ClassVar, Literal
from urllib.parse import parse_qsl, urlsplit

import polars as pl
import pyarrow as pa
import pytest

from txn_platform.arrow.dictionaries import as_frame
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.settings import load_settings
from txn_platform.source import client as source_module
from txn_platform.source.api import SourceApi
from txn_platform.source.client import Source
from txn_platform.source.generator import (
    GENERATOR,
    GENERATOR_PAGES,
    generator_api,
    open_source,
    source_limits,
)
from txn_platform.source.pages import Offset
from txn_platform.source.transport import Limits, source_backoff
from txn_platform.windows import Window
from txn_platform_tests.support.served_handler import served_by
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))
_AS_OF = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def there() -> Iterator[ServedSource]:
    """A source with 300 rows in the window's first five minutes."""
    with served(ServedSource([sent_row(number) for number in range(300)])) as source:
        yield source


def _all(source: Source) -> pl.DataFrame:
    return pl.concat(map(as_frame, source.batches(_WINDOW, _AS_OF)))


def test_a_window_comes_as_sent(there: ServedSource) -> None:
    frame = _all(Source(there.url, GENERATOR))
    assert frame.columns == TRANSACTIONS.raw_schema.names
    assert frame["position"].to_list() == list(range(300))
    assert frame.drop("position", "extra_fields").to_dicts() == there.rows


def test_slices_add_up_to_the_window(there: ServedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _all(Source(there.url, GENERATOR))
    monkeypatch.setattr(source_module, "_SLICE_ROWS", 7)
    assert _all(Source(there.url, GENERATOR)).equals(whole)
    assert there.requests.count("/v1/transactions") > 30


def test_an_answer_that_breaks_off_is_asked_for_again(there: ServedSource) -> None:
    there.faults = ["/v1/transactions"] * 3
    assert _all(Source(there.url, GENERATOR)).height == 300
    assert there.requests.count("/v1/transactions") == 3 + 3


def test_an_answer_that_breaks_off_costs_its_slice_and_not_the_window(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_SLICE_ROWS", 100)
    source = Source(there.url, GENERATOR, Limits(backoff=source_backoff(first_pause=0.001)))
    whole = _all(source)
    slices = there.requests.count("/v1/transactions")
    assert slices > 3
    there.requests.clear()
    there.faults = ["/v1/transactions"] * 2
    assert _all(source).equals(whole)
    assert there.requests.count("/v1/transactions") == slices + 2


def test_an_answer_that_always_breaks_off_is_given_up_with_a_message(there: ServedSource) -> None:
    there.faults = ["/v1/transactions"] * 50
    source = Source(there.url, GENERATOR, Limits(backoff=source_backoff(5, first_pause=0.001)))
    with pytest.raises(
        UserError, match=r"gave no usable answer for \[2026-.*\) in 5 attempts; the last broke off:"
    ):
        _all(source)
    assert there.requests.count("/v1/transactions") == 5


def test_unknown_fields_are_kept_and_absent_ones_are_null(there: ServedSource) -> None:
    there.rows = [sent_row(1) | {"loyalty": "gold", "note": None}]
    del there.rows[0]["channel"]
    (row,) = _all(Source(there.url, GENERATOR)).to_dicts()
    assert row["channel"] is None
    assert row["extra_fields"] == '{"loyalty":"gold"}'


def test_a_window_that_is_not_over_is_refused(there: ServedSource) -> None:
    there.watermark = datetime(2026, 11, 1, 0, 59, tzinfo=UTC)
    with pytest.raises(
        UserError, match=r"2026-11-01-00:00 is not complete: .* up to 2026-11-01T00:59"
    ):
        Source(there.url, GENERATOR).require_complete(_WINDOW)
    there.watermark = _WINDOW.end
    Source(there.url, GENERATOR).require_complete(_WINDOW)


@pytest.mark.parametrize(
    ("watermark", "refused"),
    [
        ("2026-11-01T06:00:00", "has a time without a zone under 'watermark'"),
        ("2026-11-01", "has a time without a zone under 'watermark'"),
        ("soon", "has no time under 'watermark'"),
        ("9999-12-31T23:59:59-14:00", "has no time under 'watermark'"),
        (None, "has no time under 'watermark'"),
    ],
)
def test_a_watermark_that_is_no_moment_is_refused(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, watermark: str | None, refused: str
) -> None:
    body = json.dumps({"watermark": watermark}).encode()
    monkeypatch.setattr(there, "answer", lambda *_: (200, body))
    with pytest.raises(UserError, match=refused):
        Source(there.url, GENERATOR, Limits(backoff=source_backoff(first_pause=0.001))).watermark()


def test_a_watermark_that_is_stated_twice_is_refused(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"watermark":"2026-11-01T06:00:00Z","watermark":"2026-11-01T07:00:00Z"}'
    monkeypatch.setattr(there, "answer", lambda *_: (200, body))
    with pytest.raises(UserError, match="has two fields of one name"):
        Source(there.url, GENERATOR, Limits(backoff=source_backoff(first_pause=0.001))).watermark()


@pytest.mark.parametrize("zone", ["+02:00", "Z"])
def test_a_watermark_of_any_zone_is_a_moment(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    body = json.dumps({"watermark": f"2026-11-01T06:00:00{zone}"}).encode()
    monkeypatch.setattr(there, "answer", lambda *_: (200, body))
    hour = 4 if zone == "+02:00" else 6
    assert Source(there.url, GENERATOR).watermark() == datetime(2026, 11, 1, hour, tzinfo=UTC)


def test_no_source_is_said_so() -> None:
    with pytest.raises(UserError, match=r"no source answers at http://127.0.0.1:9: start it"):
        Source(
            "http://127.0.0.1:9", GENERATOR, Limits(backoff=source_backoff(first_pause=0.001))
        ).watermark()


def test_another_service_is_said_so(there: ServedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there, "answer", lambda *_: (200, b"<html>hello</html>"))
    source = Source(there.url, GENERATOR, Limits(backoff=source_backoff(first_pause=0.001)))
    with pytest.raises(UserError, match=r"is not JSON: its address must be .* GENERATOR_URL"):
        source.watermark()
    with pytest.raises(UserError, match="is no statement of control totals"):
        source.control_totals(_WINDOW, _AS_OF)


def test_a_refusal_says_what_the_source_said(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(there, "answer", lambda *_: (422, b'{"detail": "start is naive"}'))
    with pytest.raises(UserError, match=r"422 \(no media type, 28 bytes, 'start is naive'\)"):
        _all(Source(there.url, GENERATOR))


_FULL_WIDTH = "".join(chr(0xFF10 + int(digit)) for digit in "4111111111111111")
_SAID_BY_SOURCES = [
    # Plain words are shown; numbers and tokens are not.
    ('{"detail": "the end must be after the start"}', "the end must be after the start"),
    ('{"detail": "limit must be at most 1000, not 5"}', "limit must be at most …, not …"),
    ('{"error": {"message": "S"}, "title": "Not Found"}', "Not Found"),
    ('{"detail": "card 4111111111111111 is unknown"}', "card … is unknown"),
    ('{"detail": "card 4111 1111-1111.1111 is unknown"}', "card … is unknown"),
    (json.dumps({"detail": f"card {_FULL_WIDTH} is unknown"}), "card … is unknown"),
    ('{"detail": "Bearer AbCdEfGh was revoked"}', "Bearer … revoked"),
    ('{"detail": "the token: swordfish, is not allowed"}', "the token: … not allowed"),
    ('{"detail": "client_secret swordfish or cookie swordfish"}', "… cookie …"),
    ('{"detail": "bad passphrase: swordfish blowfish"}', "bad passphrase: …"),
    ('{"detail": "key=sk_live_a ak-b, see http://u:pa/ss@h/x?key=c"}', "…, see http:…"),
    ('{"detail": "AKIAIOSFODNNEXAMPLEK was denied"}', "… was denied"),
    ('{"detail": ["swordfish"]}', None),
    ('["swordfish"]', None),
    ("<html>swordfish</html>", None),
    ("", None),
]


@pytest.mark.parametrize(("body", "said"), _SAID_BY_SOURCES)
def test_of_a_refusal_plain_text_is_shown_alone(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, body: str, said: str | None
) -> None:
    monkeypatch.setattr(there, "answer", lambda *_: (422, body.encode()))
    there.headers["Content-Type"] = "application/problem+json; charset=utf-8"
    with pytest.raises(UserError) as raised:
        Source(there.url, GENERATOR).watermark()
    quote = "" if said is None else f", '{said}'"
    assert str(raised.value) == (
        f"{there.url} refused /v1/watermark with status 422"
        f" (application/problem+json, {len(body.encode())} bytes{quote}): look at its log"
    )


def test_a_text_is_quoted_and_a_media_type_of_its_own_is_not_named(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(there, "answer", lambda *_: (400, b"No such hour.\r\nTry later."))
    there.headers["Content-Type"] = "Text/Plain"
    with pytest.raises(UserError, match=r"\(text/plain, 25 bytes, 'No such hour. Try later.'\)"):
        Source(there.url, GENERATOR).watermark()
    there.headers["Content-Type"] = "application/sk-live-4111111111111111"
    with pytest.raises(UserError, match=r"status 400 \(another media type, 25 bytes\): look"):
        Source(there.url, GENERATOR).watermark()


def test_a_source_that_always_fails_is_given_up(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(there, "answer", lambda *_: (503, b""))
    with pytest.raises(
        UserError, match="no usable answer for /v1/watermark in 3 attempts; the last had status 503"
    ):
        Source(
            there.url, GENERATOR, Limits(backoff=source_backoff(3, first_pause=0.001))
        ).watermark()
    assert len(there.requests) == 3


def test_a_redirect_is_not_followed(there: ServedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there, "answer", lambda *_: (302, b""))
    with pytest.raises(UserError, match="with status 302"):
        Source(there.url, GENERATOR).watermark()


def test_the_generators_windows_are_whole(generator_url: str) -> None:
    source = Source(generator_url, GENERATOR)
    totals = source.control_totals(_WINDOW, _AS_OF)
    assert totals is not None
    frame = _all(source)
    assert frame.height == totals.rows > 0
    assert frame["transaction_id"].is_unique().all()


@pytest.mark.parametrize("wire", ["json", "ndjson", "csv"])
def test_every_wire_format_gives_the_same_rows(
    generator_url: str, wire: Literal["json", "ndjson", "csv"], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(generator_url, GENERATOR)
    totals = source.control_totals(_WINDOW, _AS_OF)
    assert totals is not None
    arrow = _all(source)
    monkeypatch.setenv("GENERATOR_FORMAT", wire)
    assert _all(open_source(load_settings(), generator_url)).equals(arrow)


def test_an_unknown_format_is_refused_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GENERATOR_FORMAT", "http://127.0.0.1:9?key=secret")
    with pytest.raises(UserError, match=r"GENERATOR_FORMAT.*set it to .*arrow, csv, ndjson, json"):
        generator_api(load_settings(), "http://127.0.0.1:9")


class _OffsetPages(BaseHTTPRequestHandler):
    """Another source: pages by offset, other names for everything, no totals, no watermark."""

    rows: ClassVar[list[dict[str, str | None]]] = [sent_row(number) for number in range(25)]

    def do_GET(self) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query))
        assert query["from"] == "2026-11-01T00:00:00Z"
        skip = int(query["skip"])
        page = {"result": {"records": self.rows[skip : skip + 10]}, "took": 0.5}
        body = json.dumps(page).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_source_that_is_not_ours_is_described_by_its_api() -> None:
    api = SourceApi("/api/tx?from={start}&to={end}", Offset("skip"), items="result.records")
    with served_by(_OffsetPages) as address:
        source = Source(address, api)
        source.require_complete(_WINDOW)
        assert source.control_totals(_WINDOW, _AS_OF) is None
        rows = pl.concat(map(as_frame, source.batches(_WINDOW, _AS_OF)))
    assert rows.drop("position", "extra_fields").to_dicts() == _OffsetPages.rows


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("http://127.0.0.1:9/v1/transactions?cursor=x", r"http://127.0.0.1:9"),
        ("http://user:12345/ss@127.0.0.1:9/v1/transactions", r"http://…"),
    ],
)
def test_a_next_page_of_another_origin_is_not_followed(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, page: str, told: str
) -> None:
    answer = json.dumps({"data": [], "next": page}).encode()
    monkeypatch.setattr(there, "answer", lambda *_: (200, answer))
    source = Source(there.url, GENERATOR_PAGES)
    with pytest.raises(UserError, match=rf"next page at {told}: .* not followed"):
        _all(source)


def test_a_line_that_is_no_row_is_believed_when_it_comes_three_times(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(sent_row(1)).encode()
    bodies = [b"{damaged\n", b"{another\n", *[line + b"\n{the source's own\n"] * 3, b"{never\n"]
    monkeypatch.setattr(there, "answer", lambda *_: (200, bodies.pop(0)))
    source = Source(
        there.url,
        replace(GENERATOR, format="ndjson", totals=None),
        Limits(backoff=source_backoff(first_pause=0.001)),
    )
    good, bad = _all(source).to_dicts()
    assert good["transaction_id"] == sent_row(1)["transaction_id"]
    assert bad["extra_fields"] == '{"unreadable":"{the source\'s own"}'
    assert bodies == [b"{never\n"]


def test_an_arrow_stream_without_its_end_is_believed_when_it_comes_three_times(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = io.BytesIO()
    table = pa.table({"transaction_id": ["a", "b"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue()[:-8]
    monkeypatch.setattr(there, "answer", lambda *_: (200, body))
    frame = _all(
        Source(
            there.url,
            replace(GENERATOR, totals=None),
            Limits(backoff=source_backoff(first_pause=0.001)),
        )
    )
    assert frame["transaction_id"].to_list() == ["a", "b"]
    assert there.requests.count("/v1/transactions") == 3


def test_retry_after_is_heeded_up_to_the_longest_pause(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def answer(*_: object) -> tuple[int, bytes]:
        asked.append(time.monotonic())
        return 503, b""

    monkeypatch.setattr(there, "answer", answer)
    there.headers["Retry-After"] = "1"
    limits = Limits(backoff=source_backoff(3, first_pause=0.001))
    with pytest.raises(UserError, match="the last had status 503"):
        Source(there.url, GENERATOR, limits).watermark()
    assert all(after - before >= 1 for before, after in pairwise(asked))
    asked.clear()
    limits = Limits(backoff=source_backoff(5, first_pause=0.001, longest_pause=0.1))
    for header in ("3600", "9" * 5_000, "Fri, 31 Dec 9999 23:59:59 GMT"):
        there.headers["Retry-After"] = header
        with pytest.raises(UserError, match="the last had status 503"):
            Source(there.url, GENERATOR, limits).watermark()
    assert len(asked) == 15
    assert 3 * 4 * 0.1 <= asked[-1] - asked[0] < 100


@pytest.mark.parametrize("header", ["-5", "soon", "Fri, 99 Zzz 9999", "0", ""])
def test_a_retry_after_that_says_nothing_is_none(
    there: ServedSource, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    there.headers["Retry-After"] = header
    monkeypatch.setattr(there, "answer", lambda *_: (503, b""))
    with pytest.raises(UserError, match="in 2 attempts; the last had status 503"):
        Source(
            there.url, GENERATOR, Limits(backoff=source_backoff(2, first_pause=0.001))
        ).watermark()


def test_pages_by_an_offset_that_the_source_ignores_are_said_so(there: ServedSource) -> None:
    api = SourceApi("/tx?start={start}&end={end}", Offset("skip"))
    there.answer = lambda *_: (200, json.dumps({"data": [sent_row(1), sent_row(2)]}).encode())
    with pytest.raises(
        UserError, match=r"leads in a circle: .* pages=Offset\(...\) of its SourceApi"
    ):
        _all(Source(there.url, api))
    assert len(there.requests) == 2


def test_threads_may_ask_at_once(there: ServedSource) -> None:
    there.faults = ["/v1/transactions"] * 8
    source = Source(there.url, GENERATOR, Limits(backoff=source_backoff(9, first_pause=0.001)))
    with ThreadPoolExecutor(8) as threads:
        frames = list(threads.map(lambda _: _all(source), range(16)))
    assert all(frame.equals(frames[0]) for frame in frames)
    assert frames[0].height == 300


def test_the_settings_say_what_the_source_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_limits(load_settings()) == Limits()
    monkeypatch.setenv("TXN_SOURCE_READ_SECONDS", "1.5")
    monkeypatch.setenv("TXN_SOURCE_WHOLE_SECONDS", "9")
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    monkeypatch.setenv("TXN_SOURCE_MAX_BYTES", "2000000")
    assert source_limits(load_settings()) == Limits(
        read_seconds=1.5, whole_seconds=9, backoff=source_backoff(3), slice_bytes=2_000_000
    )
