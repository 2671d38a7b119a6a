"""The bounds of a connection: what a client may send, and how slow it may be."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from generator_service import connections
from generator_service.app import create_app
from generator_service.connections import BoundedConnection
from generator_service.models import parse_moment
from generator_service.settings import Settings
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support.served_app import connection, left_open, served_app

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from generator_service.computations import Computations

NOW = parse_moment("2026-11-23T14:25:36.123456Z")
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"
DAYS = {"start": "2026-11-01T00:00:00Z", "end": "2026-11-03T00:00:00Z"}


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, Computations]]:
    settings = Settings.load(tps=100, customers=500, merchants=100, max_computations=1)
    app = create_app(settings, now=lambda: NOW)
    with served_app(app, http=BoundedConnection, ws="none") as url:
        yield url, app.state.computations


def answer(client: socket.socket) -> bytes:
    """Return all that comes until the service closes the connection."""
    received = b""
    with suppress(ConnectionError):  # it was closed with bytes of ours unread
        while part := client.recv(65_536):
            received += part
    return received


def sent(client: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):  # the service has closed it
        client.sendall(data)


def begun(client: socket.socket) -> bytes:
    """Return the first line of an answer."""
    return client.recv(65_536).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEALTH + b"X: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (HEALTH + b"X: " + b"x" * 100_000, b"431"),
        (HEALTH + b"X: y\r\n" * 20_000, b"431"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n", b"414"),
        (b"GET /" + b"x" * 100_000, b"414"),
        (b"\r\n" * 50_000, b"431"),
        (HEALTH + b"Content-Length: 100000\r\n\r\n", b"413"),
        (b"no request\r\n\r\n", b"400"),
        (HEALTH + b"X: " + b"x" * 30_000 + b"\r\nConnection: close\r\n\r\n", b"200"),
    ],
)
def test_a_request_has_bounds(
    service: tuple[str, Computations], request_bytes: bytes, status: bytes
):
    with connection(service[0]) as client:
        sent(client, request_bytes)
        assert answer(client).split(b" ")[1] == status


@pytest.mark.parametrize(
    ("before", "more"),
    [
        (b"", b"1000\r\n" + b"x" * 4_096 + b"\r\n"),
        (b"", b"1;" + b"x" * 4_096 + b"\r\nx\r\n"),
        (b"1;", b"x" * 4_096),
        (b"", b"0" * 4_096),
        (b"0\r\n", b"X: y\r\n" * 500),
    ],
    ids=["chunks", "extensions", "an-extension", "a-size", "trailers"],
)
def test_a_body_in_chunks_has_a_bound(
    service: tuple[str, Computations], before: bytes, more: bytes
):
    with connection(service[0]) as client:
        client.sendall(HEALTH + b"Transfer-Encoding: chunked\r\n\r\n")
        assert begun(client).split(b" ")[1] == b"200"
        sent(client, before)
        for _ in range(100):
            sent(client, more)
        # The service closes it, and before the deadline of a next head does.
        client.settimeout(connections.HEAD_SECONDS / 2)
        answer(client)


def test_a_trailer_is_no_header(service: tuple[str, Computations]):
    with connection(service[0]) as client:
        chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n"
        client.sendall(HEALTH + chunked + b"X-Request-ID: of-a-trailer\r\n\r\n")
        everything = answer(client)
        assert b" 200 " in everything
        assert b"of-a-trailer" not in everything


@pytest.mark.parametrize(
    ("first", "slowly"),
    [
        (b"", b""),
        (b"", b"GET /healthz HTTP/1.1\r\n"),
        (HEALTH + b"\r\n", b"G"),
        (HEALTH + b"Content-Length: 50\r\n\r\n", b"x"),
    ],
)
def test_a_head_must_arrive_in_time(
    service: tuple[str, Computations], monkeypatch: pytest.MonkeyPatch, first: bytes, slowly: bytes
):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connection(service[0]) as client:
        client.sendall(first)
        if first:
            assert begun(client).split(b" ")[1] == b"200"
        sent(client, slowly)
        assert answer(client) == b""


def test_a_client_that_does_not_read_is_cut_off(
    service: tuple[str, Computations], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.3)
    url, turns = service
    for more in ({"format": "csv"}, {"format": "json", "limit": "50000"}):
        with left_open(url, "/v1/transactions", **DAYS, **more) as client:
            assert eventually(lambda: turns.running == 1)
            assert eventually(lambda: turns.running == 0)
            assert not answer(client).endswith(b"0\r\n\r\n")


def test_a_client_that_reads_is_not_cut_off(
    service: tuple[str, Computations], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.3)
    minutes = DAYS | {"end": "2026-11-01T00:10:00Z", "format": "ndjson"}
    with left_open(service[0], "/v1/transactions", **minutes) as client:
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received = received[-5:] + client.recv(1_000_000)


def test_pipelined_requests_are_answered_in_order_up_to_a_bound(
    service: tuple[str, Computations],
):
    watermark = b"GET /v1/watermark HTTP/1.1\r\nHost: x\r\n"
    with connection(service[0]) as client:
        client.sendall((HEALTH + b"\r\n") * 5 + watermark + b"Connection: close\r\n\r\n")
        everything = answer(client)
        assert everything.count(b"HTTP/1.1 200") == 6
        assert everything.rindex(b"PT1H") > everything.rindex(b'"ok"')
    with connection(service[0]) as client:
        sent(client, (HEALTH + b"\r\n") * 1_000)
        assert answer(client).count(b"HTTP/1.1 200") < 1_000


def test_a_client_that_leaves_with_requests_in_line_is_noticed(service: tuple[str, Computations]):
    url, turns = service
    with left_open(url, "/v1/control-totals", **DAYS, defects="all:0.1") as client:
        client.sendall((HEALTH + b"\r\n") * 3)
        assert eventually(lambda: turns.running == 1)
    assert eventually(lambda: turns.running == 0, within=5)
