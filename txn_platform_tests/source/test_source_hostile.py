"""Sources that mean harm: each is refused in bounded time and memory, with one message."""

import gzip
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

import psutil
import pytest

from examples.stripe_charges.feed import STRIPE
from txn_platform.errors import UserError
from txn_platform.source.auth import Secret, bearer
from txn_platform.source.client import Source
from txn_platform.source.generator import GENERATOR, GENERATOR_PAGES
from txn_platform.source.pages import Offset
from txn_platform.source.transport import Limits, source_backoff
from txn_platform.windows import Window
from txn_platform_tests.support.served_source import sent_row
from txn_platform_tests.support.source_fault_cases import HOSTILE_CASES, HostileCase

_TOKEN = "planted-token-51HqLy"
_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))
_AS_OF = datetime(2026, 11, 20, tzinfo=UTC)
_MOST_GROWTH = 200 << 20
_MOST_SECONDS = 30
_PAUSE_OF_A_DRIP = 0.02

_PATIENT = Limits(read_seconds=10, whole_seconds=20, backoff=source_backoff(2, first_pause=0.002))
_BRISK = Limits(read_seconds=0.2, backoff=source_backoff(2, first_pause=0.002))
_HASTY = Limits(read_seconds=5, whole_seconds=0.5, backoff=source_backoff(2, first_pause=0.002))
_NARROW = Limits(backoff=source_backoff(2, first_pause=0.002), slice_bytes=1 << 17)
_LIMITS = {
    "drip": _HASTY,
    "silence": _BRISK,
    "endless-rows": _NARROW,
    "endless-nothing": _NARROW,
    "tiny-chunks": _NARROW,
    "next-endless": _NARROW,
}

type _Answer = Iterator[bytes]


def _head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode()


def _whole(content: bytes, *headers: str, status: str = "200 OK") -> _Answer:
    yield _head(f"Content-Length: {len(content)}", *headers, status=status) + content


def _endless(piece: bytes, first: bytes = b"", *headers: str, status: str = "200 OK") -> _Answer:
    yield _head(*headers, status=status) + first
    yield from itertools.repeat(piece)


def _page(rows: int, following: object) -> _Answer:
    page = {"data": [sent_row(number) for number in range(rows)], "next": following}
    yield from _whole(json.dumps(page).encode())


# 64 MiB of spaces, 64 kB on the wire, again and again: each a member of one file.
_BOMB = gzip.compress(b" " * (1 << 26))
_BOMB_OF_ROWS = gzip.compress(b"a,1\n" * (1 << 22))
_CSV_HEAD = b"transaction_id,amount\n"
_GZIP = "Content-Encoding: gzip"
_X = b"x" * (1 << 16)
_ROW = json.dumps(sent_row(1)).encode() + b"\n"
_CHUNKED = "Transfer-Encoding: chunked"


def _redirect(to: str, status: str) -> _Answer:
    return _whole(b"", f"Location: {to}", status=status)


def _circle(query: dict[str, str]) -> _Answer:
    return _page(1, "/v1/transactions?at=" + ("b" if query.get("at") == "a" else "a"))


def _by_turns(query: dict[str, str]) -> _Answer:
    number = int(query["skip"]) % 2
    page = {"data": [sent_row(number)]}
    return _whole(json.dumps(page).encode())


def _counting(rows: int) -> Callable[[dict[str, str], str], _Answer]:
    def page(query: dict[str, str], _: str) -> _Answer:
        return _page(rows, f"/v1/transactions?at={int(query.get('at', 0)) + 1}")

    return page


def _fixed(make: Callable[[], _Answer]) -> Callable[[dict[str, str], str], _Answer]:
    return lambda _query, _url: make()


_BAD_DETAIL = json.dumps({"detail": "Go\x1b[31maway\r\n" + "x" * 50_000}).encode()
_DEEP = b'{"data":' + b"[" * 100_000
_ARROW_OF_2_GB = b"\xff\xff\xff\xff" + (2**31 - 8).to_bytes(4, "little")

# How a source answers, by case: the query and its own address to the bytes it sends. A drip sends
# its first bytes at once and the last one again and again, slowly.
_ANSWERS: dict[str, Callable[[dict[str, str], str], _Answer]] = {
    "bomb-rows": _fixed(lambda: _endless(_BOMB, b"", _GZIP)),
    "bomb-arrow": _fixed(lambda: _endless(_BOMB, b"", _GZIP)),
    "bomb-csv": _fixed(lambda: _endless(_BOMB_OF_ROWS, gzip.compress(_CSV_HEAD), _GZIP)),
    "bomb-page": _fixed(lambda: _endless(_BOMB, b"", _GZIP)),
    "endless-nothing": _fixed(lambda: _endless(gzip.compress(b"") * 1_000, b"", _GZIP)),
    "endless-offset": lambda query, _: _by_turns(query),
    "endless-line": _fixed(lambda: _endless(_X)),
    "endless-csv-line": _fixed(lambda: _endless(_X, _CSV_HEAD)),
    "endless-csv-field": _fixed(lambda: _endless(b"x,\n" * 20_000, _CSV_HEAD + b'"')),
    "endless-csv-header": _fixed(lambda: _endless(_X)),
    "endless-page": _fixed(lambda: _endless(b"{}," * 20_000, b'{"data":[')),
    "endless-rows": _fixed(lambda: _endless(_ROW * 100)),
    "endless-document": _fixed(lambda: _endless(_X)),
    "endless-head": _fixed(lambda: iter([b"HTTP/1.1 200 OK\r\n", *[b"A: b\r\n"] * 10_000])),
    "tiny-chunks": _fixed(lambda: _endless(b"1\r\n{\r\n" * 1_000, b"", _CHUNKED)),
    "chunk-of-a-terabyte": _fixed(lambda: iter([_head(_CHUNKED), b"10000000000\r\n", _ROW])),
    "huge-message": _fixed(lambda: _endless(_X, _ARROW_OF_2_GB)),
    "drip-body": _fixed(lambda: iter([_head(), b"{"])),
    "drip-arrow": _fixed(lambda: iter([_head(), b"\xff\xff\xff\xff\0\1\0\0", b"\0"])),
    "drip-page": _fixed(lambda: iter([_head("Content-Length: 9999"), b" "])),
    "drip-head": _fixed(lambda: iter([b"HTTP/1.1 200 OK\r\nX: ", b"x"])),
    "drip-chunk": _fixed(lambda: iter([_head(_CHUNKED), b"0"])),
    "silence": _fixed(lambda: iter([b""])),
    "hang-up": _fixed(lambda: iter([])),
    "no-http": _fixed(lambda: iter([b"220 mail.example ESMTP\r\n"])),
    "no-gzip": _fixed(lambda: _whole(b"no gzip", _GZIP)),
    "redirect": _fixed(lambda: _redirect("http://127.0.0.2:9/", "302 Found")),
    "redirect-home": lambda _, url: _redirect(f"{url}/v1/transactions", "307 Temporary Redirect"),
    "next-elsewhere": _fixed(lambda: _page(1, "http://127.0.0.2:9/v1/transactions?at=1")),
    "next-scheme-relative": _fixed(lambda: _page(1, "//127.0.0.2/v1/transactions?at=1")),
    "next-look-alike": lambda _, url: _page(1, f"{url}@127.0.0.2/v1/transactions?at=1"),
    "next-file": _fixed(lambda: _page(1, "file:///etc/passwd")),
    "next-nonsense": _fixed(lambda: _page(1, "http://[")),
    "next-itself": _fixed(lambda: _page(1, "?at=1")),
    "next-circle": lambda query, _: _circle(query),
    "next-empty": _counting(0),
    "next-endless": _counting(100),
    "forbidden-endless": _fixed(lambda: _endless(_X, status="422 Unprocessable Content")),
    "detail": _fixed(lambda: _whole(_BAD_DETAIL, status="422 Unprocessable Content")),
    "deep": _fixed(lambda: _whole(_DEEP)),
}


@contextmanager
def _hostile(case: str) -> Iterator[str]:
    """The source of a case, on a free port; gives its address."""
    ended = threading.Event()
    answering: list[threading.Thread] = []

    def answer(wire: socket.socket) -> None:
        # The client goes when it has seen enough.
        with wire, suppress(OSError):
            asked = wire.recv(1 << 16).split()[1].decode()
            query = dict(parse_qsl(urlsplit(asked).query))
            piece = None
            for piece in _ANSWERS[case](query, url):
                wire.sendall(piece)
            while piece is not None and case.startswith(("drip", "silence")):
                if ended.wait(_PAUSE_OF_A_DRIP):
                    break
                wire.sendall(piece)

    def accept() -> None:
        while not ended.is_set():
            with suppress(OSError):
                wire, _ = listener.accept()
                answering.append(threading.Thread(target=answer, args=(wire,)))
                answering[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield url
        finally:
            ended.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in answering:
                one.join()


@contextmanager
def _memory() -> Iterator[Callable[[], int]]:
    """Watches this process's memory within; what it gives says how much it grew at the most."""
    process = psutil.Process()
    before = highest = process.memory_info().rss
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: highest - before
    finally:
        ended.set()
        thread.join()


def _ask(case: HostileCase, source: Source) -> None:
    if case.id == "endless-document":
        source.control_totals(_WINDOW, _AS_OF)
    else:
        list(source.batches(_WINDOW, _AS_OF))


@pytest.mark.parametrize("case", HOSTILE_CASES, ids=lambda case: case.id)
def test_a_hostile_source_is_refused_in_bounded_time_and_memory(
    case: HostileCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", _TOKEN)
    api = GENERATOR_PAGES if case.wire == "json" else replace(GENERATOR, format=case.wire)
    if case.id == "endless-offset":
        api = replace(api, pages=Offset("skip"))
    with _hostile(case.id) as url:
        message = _refusal(
            case, Source(url, replace(api, auth=bearer(Secret("PLANTED"))), _limits(case))
        )
    assert re.search(case.message, message)


# The example has pages of JSON, of another style, and no totals.
_OF_PAGES = [
    case
    for case in HOSTILE_CASES
    if case.wire not in {"arrow", "csv"} and case.id not in {"endless-document", "endless-offset"}
]


@pytest.mark.parametrize("case", _OF_PAGES, ids=lambda case: case.id)
def test_a_hostile_source_is_refused_in_the_place_of_the_examples(
    case: HostileCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", _TOKEN)
    with _hostile(case.id) as url:
        message = _refusal(case, Source(url, STRIPE.api, _limits(case), STRIPE.contract))
    if case.wire == "json":
        expected = "has_more" if case.id.startswith("next") else case.message
        assert re.search(expected, message)


def _limits(case: HostileCase) -> Limits:
    return next(
        (limits for beginning, limits in _LIMITS.items() if case.id.startswith(beginning)), _PATIENT
    )


def _refusal(case: HostileCase, source: Source) -> str:
    """The message of a refusal that took bounded time and memory."""
    with _memory() as growth:
        start = time.monotonic()
        with pytest.raises(UserError) as raised:
            _ask(case, source)
        assert time.monotonic() - start < _MOST_SECONDS
        assert growth() < _MOST_GROWTH
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 1_000
    assert _TOKEN not in message
    return message
