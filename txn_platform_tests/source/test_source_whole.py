"""Part of a window is never mistaken for all of it, and all that HTTP allows is read.

The source of these tests states no control totals: only the client can notice a loss.
"""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from txn_platform.arrow.dictionaries import as_frame
from txn_platform.cli import main
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.lake.opening import open_lake
from txn_platform.settings import load_settings
from txn_platform.source import transport as transport_module
from txn_platform.source.api import SourceApi
from txn_platform.source.client import Source
from txn_platform.source.generator import GENERATOR
from txn_platform.source.pages import NextLink, Offset
from txn_platform.source.transport import Limits, Transport, source_backoff
from txn_platform.windows import Window
from txn_platform_tests.support.other_api import use_api
from txn_platform_tests.support.served_bytes import ServedBytes, chunked, head, served_bytes, whole
from txn_platform_tests.support.served_source import sent_frame, sent_row
from txn_platform_tests.support.source_fault_cases import WIRES, Wire

_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))
_AS_OF = datetime(2026, 11, 20, tzinfo=UTC)
_LIMITS: Final = Limits(
    read_seconds=5,
    whole_seconds=20,
    backoff=source_backoff(4, first_pause=0.001, longest_pause=0.01),
)
_PARTITION = "2026-11-01-00:00"
_ROWS = [sent_row(number) for number in range(3)]


@pytest.fixture(scope="module")
def source() -> Iterator[ServedBytes]:
    """One server for all tests here; each sets what it answers."""
    with served_bytes(lambda _: b"") as source:
        yield source


def _lines(rows: list[dict[str, str | None]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _csv(rows: list[dict[str, str | None]], names: tuple[str, ...] = TRANSACTIONS.names) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NOTNULL, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in rows)
    return text.getvalue().encode()


def _arrow(rows: list[dict[str, str | None]], *, batches: int = 1) -> bytes:
    sink = io.BytesIO()
    frame = sent_frame(rows)
    table = frame.to_arrow().cast(pa.schema([(name, pa.string()) for name in frame.columns]))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for number in range(batches):
            writer.write_table(table.slice(number * len(rows) // batches, len(rows) // batches))
    return sink.getvalue()


def _page(rows: list[dict[str, str | None]], **others: object) -> bytes:
    return json.dumps({"data": rows, "next": None} | others).encode()


_BODIES: Final[dict[Wire, bytes]] = {
    "arrow": _arrow(_ROWS),
    "csv": _csv(_ROWS),
    "ndjson": _lines(_ROWS),
    "json": _page(_ROWS),
}


def _deflated(content: bytes, *, wrapped: bool) -> bytes:
    deflater = zlib.compressobj(wbits=zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


def _of_arrow(content: bytes, codec: str) -> bytes:
    return pa.Codec(codec).compress(content, asbytes=True)


_ENCODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": gzip.compress,
    "deflate": lambda content: _deflated(content, wrapped=True),
    "zstd": lambda content: _of_arrow(content, "zstd"),
    "br": lambda content: _of_arrow(content, "brotli"),
}


def _encoded(content: bytes, coding: str) -> bytes:
    return whole(content, f"Content-Encoding: {coding}")


def _halves(content: bytes, encode: Callable[[bytes], bytes]) -> tuple[bytes, bytes]:
    middle = len(content) // 2
    return encode(content[:middle]), encode(content[middle:])


def _rows(source: Source) -> list[dict[str, str | None]]:
    batches = list(source.batches(_WINDOW, _AS_OF))
    if not batches:
        return []
    frame = pl.concat(map(as_frame, batches))
    assert frame["extra_fields"].null_count() == frame.height
    return frame.drop("position", "extra_fields").to_dicts()


def _client(url: str, wire: Wire, path: str = "/tx", **others: object) -> Source:
    others.setdefault("pages", NextLink() if wire == "json" else None)
    api = SourceApi(path, format=wire, **others)  # pyright: ignore[reportArgumentType] - fields of any type
    return Source(url, api, _LIMITS)


# Ways to send a body that HTTP and the formats allow, by name.
_LEGAL: Final[dict[str, Callable[[bytes], bytes]]] = {
    "chunks": chunked,
    "chunks-of-one-byte": lambda body: chunked(body, size=1),
    "chunks-with-extensions-and-trailers": lambda body: (
        head("Transfer-Encoding: Chunked")
        + b"%X ;a=b\r\n%b\r\n" % (len(body), body)
        + b"0;last\r\nX-Checksum: 1\r\n\r\n"
    ),
    "gzip": lambda body: _encoded(gzip.compress(body), "gzip"),
    "gzip-in-two-members": lambda body: _encoded(b"".join(_halves(body, gzip.compress)), "GZip"),
    "x-gzip-in-chunks": lambda body: chunked(gzip.compress(body), "Content-Encoding: x-gzip"),
    "deflate": lambda body: _encoded(_deflated(body, wrapped=True), "deflate"),
    "deflate-without-a-wrapper": lambda body: _encoded(_deflated(body, wrapped=False), "deflate"),
    "zstd": lambda body: _encoded(_ENCODERS["zstd"](body), "zstd"),
    "zstd-in-two-frames": lambda body: _encoded(b"".join(_halves(body, _ENCODERS["zstd"])), "zstd"),
    "br": lambda body: _encoded(_ENCODERS["br"](body), "br"),
    "two-codings": lambda body: _encoded(gzip.compress(_ENCODERS["zstd"](body)), "zstd, gzip"),
    "two-codings-in-two-headers": lambda body: whole(
        gzip.compress(_ENCODERS["br"](body)), "Content-Encoding: br", "content-encoding: gzip"
    ),
    "identity": lambda body: _encoded(body, "identity"),
    "the-length-twice": lambda body: whole(body, f"Content-Length: {len(body)}"),
    "the-length-twice-in-one-header": lambda body: (
        head(f"Content-Length: {len(body)}, {len(body)}") + body + b"of another answer"
    ),
    "two-dates-and-types": lambda body: whole(
        body, *["Date: Sun, 01 Nov 2026 01:00:00 -0000", "content-type: text/x; charset=utf-8"] * 2
    ),
    "early-hints": lambda body: head("Link: </a>", status="103 Early Hints") + whole(body),
    "http-1.0-with-its-length": lambda body: whole(body).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "until-the-connection-ends-with-a-coding": lambda body: (
        head("Content-Encoding: gzip", version="HTTP/1.0") + gzip.compress(body)
    ),
    "until-the-connection-ends": lambda body: head(version="HTTP/1.0") + body,
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("way", _LEGAL)
def test_every_answer_that_http_allows_is_read(way: str, wire: Wire, source: ServedBytes) -> None:
    source.answer = lambda _: _LEGAL[way](_BODIES[wire])
    assert _rows(_client(source.url, wire)) == _ROWS


@pytest.mark.parametrize(
    ("wire", "body", "rows"),
    [
        ("ndjson", _BODIES["ndjson"].rstrip(b"\n"), 3),
        ("ndjson", _BODIES["ndjson"].replace(b"\n", b"\r\n"), 3),
        ("ndjson", _BODIES["ndjson"] + b"\n\r\n \n  ", 3),
        ("ndjson", b"\xef\xbb\xbf" + _BODIES["ndjson"], 3),
        ("ndjson", b"", 0),
        ("ndjson", b"\n", 0),
        ("csv", _BODIES["csv"].rstrip(b"\n"), 3),
        ("arrow", _BODIES["arrow"][:-8], 3),
        ("csv", _BODIES["csv"].replace(b"\n", b"\r\n") + b"\r\n", 3),
        ("csv", b"\xef\xbb\xbf" + _BODIES["csv"], 3),
        ("csv", _csv([]), 0),
        ("csv", _csv([]).rstrip(b"\n"), 0),
        ("csv", _csv([], (*TRANSACTIONS.names, "loyalty")).rstrip(b"\n"), 0),
        ("json", b"\xef\xbb\xbf" + _BODIES["json"] + b"\r\n", 3),
        ("json", _page([]), 0),
        ("json", _page([], error=None, errors=[], ok=True, success=True, timed_out=False), 0),
        ("json", _page(_ROWS, error="", errors={}, took=float("nan")), 3),
        ("json", _page(_ROWS, status="ok", code=0, success=1, has_more=False, next_cursor="a"), 3),
        ("json", _page(_ROWS, status=200, code="1000", ok={}, partial=False, exception=None), 3),
        ("arrow", _arrow([]), 0),
    ],
)
def test_every_body_that_a_format_allows_is_read(
    wire: Wire, body: bytes, rows: int, source: ServedBytes
) -> None:
    source.answer = lambda _: whole(body)
    assert _rows(_client(source.url, wire)) == _ROWS[:rows]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("headers", [(), ("Content-Type: text/csv", "Content-Encoding: gzip")])
def test_no_content_is_an_empty_window(
    wire: Wire, headers: tuple[str, ...], source: ServedBytes
) -> None:
    source.answer = lambda _: head(*headers, status="204 No Content")
    assert _rows(_client(source.url, wire)) == []
    assert len(source.asked) >= 1


def test_no_content_is_no_document(source: ServedBytes) -> None:
    source.answer = lambda _: head(status="204 No Content")
    with pytest.raises(UserError, match="has no content"):
        Source(source.url, GENERATOR, _LIMITS).watermark()


def _flushed(content: bytes, wbits: int) -> bytes:
    """Compressed content as it is when it is flushed, all of it, without an end."""
    deflater = zlib.compressobj(wbits=wbits)
    return deflater.compress(content) + deflater.flush(zlib.Z_SYNC_FLUSH)


_OF_GZIP: Final = 16 + zlib.MAX_WBITS


def _two_lines(content: bytes) -> bytes:
    return content[: content.rstrip(b"\n").rfind(b"\n") + 1]


def _cut_chunks(content: bytes) -> bytes:
    return chunked(content)[: -len(b"64\r\n0\r\n\r\n")]


# How an answer is cut, or ends as no answer does: a body to what is sent, and what must be said.
_CUT: Final[dict[str, tuple[Callable[[bytes], bytes], str]]] = {
    "gzip-at-a-flush": (
        lambda body: _encoded(_flushed(_two_lines(body), _OF_GZIP), "gzip"),
        "broke off",
    ),
    "gzip-without-its-end": (lambda body: _encoded(_flushed(body, _OF_GZIP), "gzip"), "broke off"),
    "deflate-at-a-flush": (
        lambda body: _encoded(_flushed(_two_lines(body), zlib.MAX_WBITS), "deflate"),
        "broke off",
    ),
    "deflate-without-its-end": (
        lambda body: _encoded(_flushed(body, -zlib.MAX_WBITS), "deflate"),
        "broke off",
    ),
    **{
        f"{coding}-without-its-last-byte": (
            lambda body, encode=encode, coding=coding: _encoded(encode(body)[:-1], coding),
            "broke off",
        )
        for coding, encode in _ENCODERS.items()
    },
    **{
        f"gzip-{cut}-bytes-short": (
            lambda body, cut=cut: _encoded(gzip.compress(body)[:-cut], "gzip"),
            "broke off",
        )
        for cut in (4, 8, 9)
    },
    **{
        f"{coding}-with-a-second-part-cut-to-{size}": (
            lambda body, encode=encode, coding=coding, size=size: _encoded(
                encode(body) + encode(body)[:size], coding
            ),
            "broke off",
        )
        for coding, encode in _ENCODERS.items()
        for size in (3, 30)
        if coding in {"gzip", "zstd"}
    },
    "gzip-of-nothing": (lambda _: _encoded(b"", "gzip"), "broke off"),
    "zstd-of-nothing": (lambda _: _encoded(b"", "zstd"), "broke off"),
    "gzip-within-zstd-cut": (
        lambda body: _encoded(_ENCODERS["zstd"](_flushed(body, _OF_GZIP)), "gzip, zstd"),
        "broke off",
    ),
    "gzip-with-another-sum": (
        lambda body: _encoded(gzip.compress(body)[:-8] + bytes(8), "gzip"),
        "is not compressed as it says",
    ),
    "gzip-and-more": (
        lambda body: _encoded(gzip.compress(body) + b"error: x\n", "gzip"),
        "is not compressed as it says",
    ),
    "deflate-and-more": (
        lambda body: _encoded(_deflated(body, wrapped=True) + b"error: x\n", "deflate"),
        "goes on behind the end of its compressed content",
    ),
    "an-unknown-coding": (
        lambda body: _encoded(body, "gzip, snappy"),
        "has the content coding 'snappy', which is not known",
    ),
    "an-unknown-transfer-coding": (
        lambda body: head("Transfer-Encoding: gzip, chunked") + body,
        "has the transfer coding 'gzip, chunked', which is not known",
    ),
    "shorter-than-its-length": (
        lambda body: head(f"Content-Length: {len(body) + 10}") + body,
        "broke off",
    ),
    "two-lengths": (
        lambda body: whole(body, "Content-Length: 9"),
        "states its length twice, and not the same",
    ),
    "no-length": (
        lambda body: head("Content-Length: many") + body[:-9],
        "states a length that is none",
    ),
    "a-negative-length": (
        lambda body: head("Content-Length: -9") + body[:-9],
        "states a length that is none",
    ),
    "chunks-without-the-last": (_cut_chunks, "broke off"),
    "chunks-without-the-end": (
        lambda body: chunked(body).removesuffix(b"0\r\n\r\n"),
        "broke off",
    ),
    "a-chunk-cut": (lambda body: chunked(body)[:-12], "broke off"),
    "a-negative-chunk": (
        lambda body: head("Transfer-Encoding: chunked") + b"-5\r\n" + body,
        "broke off",
    ),
    "a-chunk-size-that-is-none": (
        lambda body: chunked(body).replace(b"\r\n0\r\n", b"\r\n0x0\r\n"),
        "broke off",
    ),
    "a-chunk-size-without-its-end": (
        lambda body: chunked(body).removesuffix(b"\r\n\r\n"),
        "broke off",
    ),
    "a-part": (
        lambda body: whole(body, "Content-Range: bytes 0-9/99", status="206 Partial Content"),
        "refused .* with status 206",
    ),
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("way", _CUT)
def test_a_cut_answer_is_never_mistaken_for_all(way: str, wire: Wire, source: ServedBytes) -> None:
    cut, message = _CUT[way]
    source.answer = lambda _: cut(_BODIES[wire])
    with pytest.raises(UserError, match=message):
        _rows(_client(source.url, wire))


_CSV_LINES: Final = _BODIES["csv"].splitlines(keepends=True)
_ARROW_OF_THREE: Final = _arrow(_ROWS, batches=3)


@pytest.mark.parametrize(
    ("wire", "answer", "message"),
    [
        ("csv", whole(b"error: backend timeout\n"), "header line with none of the contract's"),
        ("csv", whole(b"error: backend timeout"), "header line that does not end"),
        ("csv", whole(b""), "header line"),
        ("csv", whole(b"<html>\n<body>Bad gateway</body>\n</html>\n"), "header line with none"),
        ("csv", whole(_csv([]).replace(b",", b";")), "header line with none of the contract's"),
        ("csv", whole(_csv([])[:40]), "header line that does not end"),
        ("csv", whole(_BODIES["csv"] + b"error: backend timeout\n"), "ends in what is no row"),
        ("csv", whole(_BODIES["csv"] + b"error, backend, timeout\n"), "ends in what is no row"),
        ("csv", whole(b"".join(_CSV_LINES[:-1]) + _CSV_LINES[-1][:60] + b"\n"), "is no row"),
        ("csv", whole(b"transaction_id\n"), "has no row, and lacks 14 of the contract's columns"),
        (
            "csv",
            whole(_csv([], TRANSACTIONS.names[1:])),
            "lacks 1 of .* columns, as 'transaction_id'",
        ),
        ("csv", whole(_BODIES["csv"][:-8]), "has a last line that does not end"),
        ("csv", head() + _BODIES["csv"][:-1], "has no end by which it can be told to be whole"),
        ("ndjson", whole(b'{"error":"backend timeout"}\n'), "no row with any of the contract's"),
        ("ndjson", whole(b'{"error":"backend timeout"}'), "no row with any of the contract's"),
        ("ndjson", whole(b"error: backend timeout\n"), "no row with any of the contract's"),
        ("ndjson", whole(b"error: backend timeout"), "has a last line that does not end"),
        ("ndjson", whole(_lines(_ROWS) + b'{"error":"x"}\n'), "ends in what is no row"),
        ("ndjson", whole(_lines(_ROWS) + b'{"error":"x"}'), "ends in what is no row"),
        ("ndjson", whole(_lines(_ROWS) + b"error: timeout\n"), "ends in what is no row"),
        ("ndjson", whole(_lines(_ROWS)[:-9]), "has a last line that does not end"),
        ("ndjson", head() + _lines(_ROWS)[:-9], "has a last line that does not end"),
        ("arrow", whole(_arrow([{"error": "backend timeout"}])), "no row with any of the"),
        ("arrow", whole(_arrow([*_ROWS, {"error": "timeout"}])), "ends in what is no row"),
        (
            "arrow",
            head() + _ARROW_OF_THREE[:-8],
            "has no end by which it can be told to be whole",
        ),
        ("json", whole(b'{"error":"backend timeout"}'), "at the items of its"),
        ("json", whole(_page([], error="backend timeout")), "states a failure, under 'error'"),
        ("json", whole(_page(_ROWS, errors=[{"code": 5}])), "states a failure, under 'errors'"),
        ("json", whole(_page(_ROWS, success=False)), "states a failure, under 'success'"),
        ("json", whole(_page(_ROWS, timed_out=True)), "states a failure, under 'timed_out'"),
        ("json", whole(_page(_ROWS, error=1, took=float("nan"))), "failure, under 'error'"),
        ("json", whole(_page([{"error": "backend timeout"}])), "no row with any of the"),
        ("json", whole(_page([*_ROWS, {"error": "x"}])), "ends in what is no row"),
        ("json", whole(_page([], status="error")), "states a failure, under 'status'"),
        ("json", whole(_page([], Status=503)), "states a failure, under 'Status'"),
        ("json", whole(_page([], code=500)), "states a failure, under 'code'"),
        ("json", whole(_page([], success="false")), "states a failure, under 'success'"),
        ("json", whole(_page([], fault={"x": 1})), "states a failure, under 'fault'"),
        ("json", whole(_page([], error_message="x")), "states a failure, under 'error_message'"),
        ("json", whole(_page([], errorCode="LIMIT")), "states a failure, under 'errorCode'"),
        ("json", whole(_page([], meta={"error": "x"})), "states a failure, under 'meta.error'"),
        ("json", whole(_page(_ROWS, isPartial=True, partial=True)), "failure, under 'partial'"),
        ("json", whole(b'{"data":{"id":1},"next":null}'), "at the items of its"),
        ("json", whole(b'{"data":null,"next":null}'), "at the items of its"),
    ],
)
def test_a_failure_never_passes_for_rows_or_for_an_empty_window(
    wire: Wire, answer: bytes, message: str, source: ServedBytes
) -> None:
    source.answer = lambda _: answer
    with pytest.raises(UserError, match=message) as raised:
        _rows(_client(source.url, wire))
    assert "backend" not in str(raised.value)


def test_an_arrow_stream_of_no_rows_must_have_columns_of_the_contract(source: ServedBytes) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("error", pa.string())])):
        pass
    source.answer = lambda _: whole(sink.getvalue())
    with pytest.raises(UserError, match="has no row, and lacks 15 of the contract's columns"):
        _rows(_client(source.url, "arrow"))


# Pages: by the target that is asked for, with "/tx" for the first.
def _pages(pages: dict[str, bytes]) -> Callable[[str], bytes]:
    def answer(target: str) -> bytes:
        page = pages.get(target)
        return whole(b"", status="404 Not Found") if page is None else whole(page)

    return answer


@pytest.mark.parametrize("path", ["/tx", "/tx?page=1", "/deep/er/tx"])
@pytest.mark.parametrize(
    ("reference", "second"),
    [
        ("?page=2", "{page}?page=2"),
        ("{last}?page=2", "{page}?page=2"),
        ("./{last}?page=2", "{page}?page=2"),
        ("more/tx", "{folder}more/tx"),
        ("/other?page=2", "/other?page=2"),
        ("/a/../other", "/other"),
        ("{url}/other?page=2#rows", "/other?page=2"),
        ("//{host}/other", "/other"),
        ("HTTP://{host}/other", "/other"),
    ],
)
def test_the_next_page_is_relative_to_the_page_that_names_it(
    path: str, reference: str, second: str, source: ServedBytes
) -> None:
    page = path.partition("?")[0]
    folder, _, last = page.rpartition("/")
    values = {"page": page, "folder": f"{folder}/", "last": last, "url": source.url}
    values["host"] = source.url.removeprefix("http://")
    following = reference.format(**values)
    source.answer = _pages(
        {
            path: _page(_ROWS[:2], next=following),
            second.format(**values): _page(_ROWS[2:]),
        }
    )
    assert _rows(_client(source.url, "json", path)) == _ROWS


@pytest.mark.parametrize(
    ("base", "page", "reference", "expected"),
    [
        ("http://h", "http://h/tx", "http://h:80/tx?p=2", "http://h/tx?p=2"),
        ("http://h:80", "http://h:80/tx", "http://h/tx?p=2", "http://h:80/tx?p=2"),
        ("https://h", "https://h/tx", "https://H:443/tx?p=2", "https://h/tx?p=2"),
        ("https://Api.Example", "https://Api.Example/t", "//api.EXAMPLE./t2", "/t2"),
        ("https://bücher.example", "https://bücher.example/t", "//xn--bcher-kva.example/b", "/b"),
        ("http://[::1]:80", "http://[::1]:80/t", "http://[::1]/b", "/b"),
        ("https://h/api/v2", "https://h/api/v2/tx", "?p=2", "/api/v2/tx?p=2"),
        ("https://h/api/v2", "https://h/api/v2/tx", "tx?p=2", "/api/v2/tx?p=2"),
        ("https://h/api/v2", "https://h/api/v2/tx", "/api/v2/tx?p=2", "/api/v2/tx?p=2"),
        ("https://h/api/v2", "https://h/api/v2/tx", "https://h/api/v2/tx?p=2", "/api/v2/tx?p=2"),
        ("https://h/api/v2", "https://h/api/v2/tx", "/other?p=2", "/other?p=2"),
        # A service that does not know of the path that a proxy takes away.
        ("https://h/api/v2", "https://h/api/v2/v1/tx?p=1", "/v1/tx?p=2", "/api/v2/v1/tx?p=2"),
    ],
)
def test_addresses_of_one_origin(base: str, page: str, reference: str, expected: str) -> None:
    transport = Transport(base, Limits())
    own = "/".join(base.split("/")[:3])
    expected = expected if "://" in expected else f"{own}{expected}"
    assert transport.followed(page, reference) == expected


@pytest.mark.parametrize(
    "reference",
    [
        "https://h/tx",
        "http://h:8080/tx",
        "http://h.evil/tx",
        "http://h@evil/tx",
        "http://user:secret@h/tx",
        "//evil/tx",
        "ftp://h/tx",
        "javascript:alert(1)",
        "http://h:99999/tx",
    ],
)
def test_addresses_of_another_origin_are_not_followed(reference: str) -> None:
    transport = Transport("http://h", Limits())
    with pytest.raises(UserError, match=r"another origin is not followed|no address") as why:
        transport.followed("http://h/tx", reference)
    assert "secret" not in str(why.value)


@pytest.mark.parametrize("reference", ["http:///tx", r"\\evil\tx", "http:tx", "@evil/tx", " "])
def test_an_odd_address_is_asked_of_the_source_itself(reference: str) -> None:
    transport = Transport("http://h", Limits())
    assert transport.followed("http://h/tx", reference).startswith("http://h/")


def test_a_base_with_a_path_keeps_it(source: ServedBytes) -> None:
    first = "/api/v2/v1/tx?from=2026-11-01T00%3A00%3A00Z"
    source.answer = _pages(
        {
            first: _page(_ROWS[:2], next="/v1/tx?page=2"),
            "/api/v2/v1/tx?page=2": _page(_ROWS[2:]),
        }
    )
    assert _rows(_client(f"{source.url}/api/v2/", "json", "/v1/tx?from={start}")) == _ROWS


@pytest.mark.parametrize("says", [{"href": "/tx?p=2"}, 7, 1.5, True, False, ["/tx?p=2"], {}])
@pytest.mark.parametrize("odd", [0, float("nan")])
def test_a_next_that_is_neither_text_nor_null_names_the_setting(
    says: object, odd: float, source: ServedBytes
) -> None:
    source.answer = lambda _: whole(_page(_ROWS[:1], next=says, odd=odd))
    with pytest.raises(UserError, match=r"'next' is neither .* pages=NextLink"):
        _rows(_client(source.url, "json"))


@pytest.mark.parametrize("name", ["@odata.nextLink", "paging.@odata.nextLink", "a.b.c"])
@pytest.mark.parametrize("odd", [0, float("nan")])
def test_a_name_with_dots_is_tried_as_it_is_before_it_is_split(
    name: str, odd: float, source: ServedBytes
) -> None:
    def page(rows: list[dict[str, str | None]], following: str | None) -> bytes:
        last = name.partition(".")[2]
        others: dict[str, dict[str, object]] = {
            "@odata.nextLink": {"@odata": {"nextLink": None}},
            "paging.@odata.nextLink": {"paging": {"@odata": {}, last: following}},
            "a.b.c": {"a": {"b": {"c": following}}, "a.b": {"d": None}},
        }
        document: dict[str, object] = {"x.rows": rows, "x": {"rows": []}, "odd": odd}
        document |= others[name]
        if name == "@odata.nextLink":
            document[name] = following
        return json.dumps(document).encode()

    source.answer = _pages({"/tx": page(_ROWS[:2], "/tx?2"), "/tx?2": page(_ROWS[2:], None)})
    assert _rows(_client(source.url, "json", items="x.rows", pages=NextLink(name))) == _ROWS


def test_a_next_that_is_absent_is_no_end_unless_it_is_declared(source: ServedBytes) -> None:
    source.answer = lambda _: whole(json.dumps({"data": _ROWS, "@odata.next": "/tx?2"}).encode())
    with pytest.raises(UserError, match=r"without '@odata.nextLink', .*NextLink.*end=\"absent\""):
        _rows(_client(source.url, "json", pages=NextLink("@odata.nextLink")))
    declared = NextLink("@odata.nextLink", end="absent")
    with pytest.raises(UserError, match=r"there are more rows, under '@odata.next'"):
        _rows(_client(source.url, "json", pages=declared))
    source.answer = lambda _: whole(json.dumps({"data": _ROWS}).encode())
    assert _rows(_client(source.url, "json", pages=declared)) == _ROWS
    last = json.dumps({"data": _ROWS[2:]}).encode()
    source.answer = _pages({"/tx": _page(_ROWS[:2], next="?2"), "/tx?2": last})
    with pytest.raises(UserError, match="without 'next'"):
        _rows(_client(source.url, "json"))
    assert _rows(_client(source.url, "json", pages=NextLink(end="absent"))) == _ROWS


@pytest.mark.parametrize(
    ("absent", "others"),
    [
        (False, {"has_more": True}),
        (False, {"hasMore": True}),
        (False, {"meta": {"has_next_page": True}}),
        (False, {"IsTruncated": True, "took": float("nan")}),
        (True, {"has_more": True}),
        (True, {"@odata.nextLink": "/tx?2"}),
        (True, {"next_cursor": "b2Zmc2V0"}),
        (True, {"nextPage": 2}),
        (True, {"next_page": True}),
        (True, {"_links": {"self": {"href": "/tx"}, "next": {"href": "/tx?2"}}}),
    ],
)
def test_a_page_that_says_that_there_are_more_is_not_the_last(
    absent: bool, others: dict[str, object], source: ServedBytes
) -> None:
    page: dict[str, object] = {"data": _ROWS} | others
    if not absent:
        page["following"] = None
    source.answer = lambda _: whole(json.dumps(page).encode())
    client = _client(source.url, "json", pages=NextLink("following", end="absent"))
    with pytest.raises(UserError, match=r"says that there are more rows, .*NextLink"):
        _rows(client)


@pytest.mark.parametrize(
    "others",
    [
        {"total": 4},
        {"total_count": 4, "took": float("nan")},
        {"totalResults": 4},
        {"@odata.count": 4},
        {"page": {"totalElements": 4, "size": 3}},
        {"meta": {"pagination": "none", "total": 10**20}},
    ],
)
def test_a_page_that_states_more_rows_than_came_is_not_all(
    others: dict[str, object], source: ServedBytes
) -> None:
    source.answer = lambda _: whole(json.dumps({"data": _ROWS, "next": None} | others).encode())
    with pytest.raises(UserError, match=r"says that there are [\d,]+ rows, under .* sends 3 of"):
        _rows(_client(source.url, "json"))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "header",
    ["X-Total-Count: 4", "X-WP-Total: 4", "Content-Range: 0-2/4", "Content-Range: rows 0-2/4"],
)
def test_a_header_that_states_more_rows_than_came_is_believed(
    wire: Wire, header: str, source: ServedBytes
) -> None:
    source.answer = lambda _: whole(_BODIES[wire], header)
    with pytest.raises(UserError, match=r"there are 4 rows, under .* sends 3 of them"):
        _rows(_client(source.url, wire))


@pytest.mark.parametrize(
    ("header", "others"),
    [
        ("X-Total-Count: 3", {"total": 3}),
        ("X-Total-Count: 1", {"total": 1}),
        ("X-Total-Count: many", {"total": "100"}),
        ("Content-Range: bytes 0-99/100", {"total": 100.5}),
        ("Content-Range: items 0-2/*", {"total": None, "total_amount": 100}),
        ("X-Total-Pages: 1", {"error_code": 0, "error_message": "OK", "job": {"errors": 3}}),
        ("X-Has-More: false", {"complete": True, "first": True, "last": True, "next_run": "6"}),
    ],
)
def test_a_header_that_states_no_other_number_of_rows_does_not_matter(
    header: str, others: dict[str, object], source: ServedBytes
) -> None:
    body = json.dumps({"data": _ROWS, "next": None} | others).encode()
    source.answer = lambda _: whole(body, header)
    assert _rows(_client(source.url, "json")) == _ROWS


def test_the_rows_of_all_pages_count_against_what_is_stated_last(source: ServedBytes) -> None:
    first, last = _ROWS[:2], _ROWS[2:]
    source.answer = _pages(
        {"/tx": _page(first, next="?2", total=4), "/tx?2": _page(last, next=None, total=3)}
    )
    assert _rows(_client(source.url, "json")) == _ROWS
    source.answer = _pages(
        {"/tx": _page(first, next="?2", total=3), "/tx?2": _page(last, next=None, total=4)}
    )
    with pytest.raises(UserError, match="4 rows, under 'total', and sends 3"):
        _rows(_client(source.url, "json"))


def test_a_header_that_says_that_there_are_more_is_not_the_last(source: ServedBytes) -> None:
    for header in ("X-Next-Page: 2", "X-Next-Cursor: b", "X-Has-More: true"):
        source.answer = lambda _, header=header: whole(_BODIES["csv"], header)
        named = header.partition(":")[0]
        with pytest.raises(UserError, match=f"there are more rows, under '{named}'"):
            _rows(_client(source.url, "csv"))
    source.answer = lambda _: whole(_BODIES["csv"], "X-Next-Page:")
    assert _rows(_client(source.url, "csv")) == _ROWS


def test_a_header_that_states_more_pages_than_came_is_believed(source: ServedBytes) -> None:
    for header in ("X-Total-Pages: 2", "X-WP-TotalPages: 2"):
        source.answer = lambda _, header=header: whole(_BODIES["ndjson"], header)
        with pytest.raises(UserError, match=r"there are 2 pages, under .* sends 1 of them"):
            _rows(_client(source.url, "ndjson"))


@pytest.mark.parametrize(
    "link",
    [
        "/tx?2; rel=next",
        '</tx?2; rel="next"',
        "</tx?2>; rel=next, </tx?3>; rel=next",
        '</tx?1>; rel=prev, /tx?2; rel="next"',
    ],
)
def test_a_link_that_cannot_be_read_is_not_the_end(link: str, source: ServedBytes) -> None:
    source.answer = lambda _: whole(_BODIES["csv"], f"Link: {link}")
    with pytest.raises(UserError, match="Link header from which the next page cannot be told"):
        _rows(_client(source.url, "csv"))


@pytest.mark.parametrize(
    "link",
    [
        "</tx?2>; rel='next'",
        "</tx?2>; rel=next; title='a'",
        '</tx>; rel=last; title="a, b; rel=next", </tx?2>; rel="next"',
        r'</tx>; title="a\"; rel=next; b=\"", </tx?2>; REL = "last next"',
    ],
)
def test_a_link_is_followed_however_it_is_quoted_and_whatever_the_page_says(
    link: str, source: ServedBytes
) -> None:
    source.answer = lambda target: (
        whole(_page(_ROWS[2:])) if "?" in target else whole(_page(_ROWS[:2]), f"Link: {link}")
    )
    assert _rows(_client(source.url, "json")) == _ROWS


def test_a_link_to_nothing_leads_in_a_circle(source: ServedBytes) -> None:
    source.answer = lambda _: whole(_BODIES["csv"], 'Link: <>; rel="next"')
    with pytest.raises(UserError, match="leads in a circle"):
        _rows(_client(source.url, "csv"))


def test_an_empty_next_is_the_end(source: ServedBytes) -> None:
    source.answer = lambda _: whole(_page(_ROWS, next=""))
    assert _rows(_client(source.url, "json")) == _ROWS


@pytest.mark.parametrize("wire", WIRES)
def test_a_next_page_in_a_link_header_is_had(wire: Wire, source: ServedBytes) -> None:
    bodies = {
        "arrow": _arrow,
        "csv": _csv,
        "ndjson": _lines,
        "json": lambda rows: json.dumps({"data": rows}).encode(),
    }[wire]
    links = '<?page=9>; rel="last", <?page=2>; title="a, b"; rel="next prefetch"'

    def answer(target: str) -> bytes:
        if "?" in target:
            return whole(bodies(_ROWS[2:]), 'Link: <?page=1>; rel="prev"')
        return whole(bodies(_ROWS[:2]), f"Link: {links}")

    source.asked.clear()
    source.answer = answer
    pages = NextLink(header="Link") if wire == "json" else None
    assert _rows(_client(source.url, wire, pages=pages)) == _ROWS
    assert source.asked == ["/tx", "/tx?page=2"]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("last", ["empty", "no-content"])
def test_an_offset_is_asked_for_until_no_row_comes(
    wire: Wire, last: str, source: ServedBytes
) -> None:
    bodies = {"arrow": _arrow, "csv": _csv, "ndjson": _lines, "json": _page}[wire]
    # The source has a largest page, and it is not always the same.
    pages = [slice(0, 1), slice(1, 3)]

    def answer(target: str) -> bytes:
        rows = next((_ROWS[page] for page in pages if target == f"/tx?skip={page.start}"), [])
        if not rows and last == "no-content":
            return head(status="204 No Content")
        return whole(bodies(rows))

    source.answer = answer
    assert _rows(_client(source.url, wire, pages=Offset("skip"))) == _ROWS


def test_a_last_row_without_any_value_is_a_row(source: ServedBytes) -> None:
    source.answer = lambda _: whole(_BODIES["ndjson"] + b"{}\n")
    assert _rows(_client(source.url, "ndjson")) == [*_ROWS, dict.fromkeys(_ROWS[0])]


@pytest.mark.parametrize(("empty", "ends"), [(101, True), (102, False)])
def test_a_source_may_send_a_hundred_empty_pages_between_rows(
    empty: int, source: ServedBytes, *, ends: bool
) -> None:
    def answer(target: str) -> bytes:
        number = int(target.rpartition("=")[2] or 0) if "=" in target else 0
        rows = {0: _ROWS[:1], empty: _ROWS[1:2], 2 * empty: _ROWS[2:]}.get(number, [])
        return whole(_page(rows, next=f"/tx?page={number + 1}" if number < 2 * empty else None))

    source.answer = answer
    if ends:
        assert _rows(_client(source.url, "json")) == _ROWS
    else:
        with pytest.raises(UserError, match="leads in a circle"):
            _rows(_client(source.url, "json"))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize("pages", [Offset("skip"), None], ids=["offset", "named"])
def test_pages_that_come_again_are_a_circle(
    pages: Offset | None, period: int, wire: Wire, source: ServedBytes
) -> None:
    bodies = {"arrow": _arrow, "csv": _csv, "ndjson": _lines, "json": _page}[wire]
    count = itertools.count(1)

    def answer(_: str) -> bytes:
        number = next(count)
        rows = [sent_row(number % period * 2), sent_row(number % period * 2 + 1)]
        following = f"/tx?at={number}"
        if wire == "json" and pages is None:
            return whole(_page(rows, next=following, took=number))
        link = [] if pages else [f'Link: <{following}>; rel="next"']
        return whole(bodies(rows), *link)

    source.answer = answer
    source.asked.clear()
    with pytest.raises(UserError, match="leads in a circle"):
        _rows(_client(source.url, wire, pages=pages or (NextLink() if wire == "json" else None)))
    assert len(source.asked) <= 3 * period


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", ["without ids", "growing"])
def test_an_offset_that_the_source_ignores_is_a_circle_whatever_its_rows_are(
    kind: str, wire: Wire, source: ServedBytes
) -> None:
    bodies = {"arrow": _arrow, "csv": _csv, "ndjson": _lines, "json": _page}[wire]
    count = itertools.count(1)

    def answer(_: str) -> bytes:
        if kind == "growing":
            return whole(bodies([sent_row(number) for number in range(next(count))]))
        return whole(bodies([row | {"transaction_id": None} for row in _ROWS]))

    source.answer = answer
    source.asked.clear()
    with pytest.raises(UserError, match="leads in a circle"):
        _rows(_client(source.url, wire, pages=Offset("skip")))
    assert len(source.asked) <= 5


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(slice_pages=20), "is more than 20 pages"),
        (
            Limits(whole_seconds=20),
            r"took longer than 0\.4 s; raise TXN_SOURCE_WHOLE_SECONDS",
        ),
    ],
)
def test_pages_are_bounded_in_number_and_in_time(
    limits: Limits, message: str, source: ServedBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "_ANSWERS_OF_A_SLICE", 0.02)
    count = itertools.count()

    def answer(_: str) -> bytes:
        number = next(count)
        return whole(_page([sent_row(number)], next=f"?at={number}"))

    source.answer = answer
    api = SourceApi("/tx", NextLink())
    with pytest.raises(UserError, match=message):
        list(Source(source.url, api, limits).batches(_WINDOW, _AS_OF))


@pytest.mark.parametrize("status", ["408 Request Timeout", "425 Too Early", "429 Slow", "502 Bad"])
@pytest.mark.parametrize("wire", WIRES)
def test_statuses_of_a_moment_are_asked_again(status: str, wire: Wire, source: ServedBytes) -> None:
    answers = iter([whole(b"", status=status), whole(_BODIES[wire])])
    source.answer = lambda _: next(answers)
    assert _rows(_client(source.url, wire)) == _ROWS


@pytest.mark.parametrize(
    "headers",
    [
        ["Retry-After: Sun, 01 Nov 2026 01:00:00 -0000"],
        ["Retry-After: Sunday, 01-Nov-26 01:00:00 GMT"],
        ["Retry-After: Sun Nov  1 01:00:00 2026"],
        ["Retry-After: Sun, 01 Nov 2026 01:00:00 +9999"],
        ["Retry-After: Sun, 31 Dec 9999 23:59:59 -2359"],
        ["Retry-After: Sun, 01 Jan 0001 00:00:00 +2359"],
        ["Retry-After: 1, 2"],
        ["Retry-After: ٣"],
        ["Retry-After: 0", "Retry-After: 0"],
        ["Retry-After: -1", "Date: never", "Date: Sun, 01 Nov 2026 01:00:00 -0000"],
    ],
)
def test_no_retry_after_raises(headers: list[str], source: ServedBytes) -> None:
    lines = [header.encode().decode("latin-1") for header in headers]
    answers = iter([whole(b"", *lines, status="503 Busy"), whole(_BODIES["csv"])])
    source.answer = lambda _: next(answers)
    assert _rows(_client(source.url, "csv")) == _ROWS


_PUBLISHED = Path(
    ".txn/lake/s3_parquet_transactions/event_date=2026-11-01/event_hour=00/part-0.parquet"
)


def _run(*options: str) -> Result:
    return CliRunner().invoke(main, ["run", "--partition", _PARTITION, *options])


@pytest.fixture
def published(source: ServedBytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Three rows that `txn run` has published of a source without totals."""
    monkeypatch.setenv("GENERATOR_URL", source.url)
    use_api(monkeypatch, "/tx", format="csv")
    source.answer = lambda _: whole(_BODIES["csv"])
    assert _run().exit_code == 0
    assert pl.read_parquet(_PUBLISHED).height == 3
    return _PUBLISHED.read_bytes()


def test_a_window_that_comes_back_empty_fails_and_leaves_what_is_published(
    published: bytes, source: ServedBytes
) -> None:
    landed = Path(str(_PUBLISHED).replace("s3_parquet", "raw"))
    raw = landed.read_bytes()
    source.answer = lambda _: head(status="204 No Content")
    result = _run()
    assert result.exit_code == 1
    assert "2026-11-01-00:00 came back without a row, and 3 were published" in result.output
    assert "allow_empty" in result.output
    assert "Traceback" not in result.output
    assert (_PUBLISHED.read_bytes(), landed.read_bytes()) == (published, raw)
    # Rows that were landed and not published yet count as well.
    _PUBLISHED.unlink()
    result = _run()
    assert result.exit_code == 1
    assert "3 were landed before" in result.output
    assert landed.read_bytes() == raw
    assert _run("--allow-empty").exit_code == 0
    assert pl.read_parquet(_PUBLISHED).height == 0
    assert _run().exit_code == 0


@pytest.mark.usefixtures("no_pauses")
def test_an_error_with_status_200_leaves_what_is_published(
    published: bytes, source: ServedBytes
) -> None:
    source.answer = lambda _: whole(b"error: backend timeout\n")
    result = _run("--allow-empty")
    assert result.exit_code == 1
    assert "has a header line with none of the contract's columns" in result.output
    assert _PUBLISHED.read_bytes() == published


def test_the_required_columns_are_those_without_null() -> None:
    assert set(TRANSACTIONS.names) - set(TRANSACTIONS.required) == {
        "fraud_scenario",
        "original_transaction_id",
    }


@pytest.mark.parametrize("dates", [["-0000"], ["-0000", "GMT"], ["GMT", "GMT"]])
def test_a_store_may_write_its_date_as_it_likes(
    dates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"Date: Sun, 01 Nov 2026 01:00:00 {zone}" for zone in dates]
    skewed = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
    refusal = whole(skewed, *lines, "Content-Type: application/xml", status="403 Forbidden")
    with served_bytes(lambda _: refusal) as store:
        for name, value in {
            "AWS_BUCKET_NAME": "transactions",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": store.url,
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"clock is [0-9,]+ s (ahead of|behind) the store"):
            open_lake(load_settings()).keys("raw_transactions")
