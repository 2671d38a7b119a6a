"""Faults on request: each kind as a client sees it, and which requests get it."""

from __future__ import annotations

import re
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from generator_service.app import create_app
from generator_service.faults import HEADER, parse_faults
from generator_service.settings import Settings, SettingsError
from txn_platform_tests.support.served_app import served_app

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = "/v1/transactions?start=2026-11-01T00:00:00Z&end=2026-11-01T00:05:00Z"


@contextmanager
def service(faults: str) -> Iterator[httpx.Client]:
    settings = Settings.load(tps=1, customers=100, merchants=100, faults=faults)
    with (
        served_app(create_app(settings)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def by_header() -> Iterator[httpx.Client]:
    with service("header") as client:
        yield client


def _raw(client: httpx.Client, faults: str, path: str, *, until: bytes | None = None) -> bytes:
    """Return the bytes until the connection is closed, reset, or has sent `until`."""
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=60) as wire:
        close = "" if until else "Connection: close\r\n"
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\n{close}{HEADER}: {faults}\r\n\r\n"
        wire.sendall(request.encode())
        received = b""
        while piece := wire.recv(1 << 16):
            received += piece
            if until and until in received:
                break
    return received


def _body(client: httpx.Client, form: str) -> bytes:
    return client.get(f"{ROWS}&format={form}").content


def test_a_status_is_answered_with_its_retry_after_and_says_that_it_was_asked_for(
    by_header: httpx.Client,
) -> None:
    answer = by_header.get(ROWS, headers={HEADER: "status=429,retry_after=7"})
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Generator-Version"]
    assert f"asked, by {HEADER} or GENERATOR_FAULTS" in answer.json()["detail"]


def test_the_first_tries_of_each_request_fail_and_then_it_works(by_header: httpx.Client) -> None:
    def statuses(path: str) -> list[int]:
        asked = {HEADER: "status=503:first2"}
        return [by_header.get(path, headers=asked).status_code for _ in range(4)]

    assert statuses(f"{ROWS}&limit=1") == [503, 503, 200, 200]
    assert statuses(f"{ROWS}&limit=2") == [503, 503, 200, 200]


def test_a_rate_hits_its_share_of_the_tries_and_the_same_ones_again() -> None:
    def hits() -> list[bool]:
        with service("status=500:0.3") as client:
            return [client.get("/v1/watermark").status_code == 500 for _ in range(200)]

    first = hits()
    assert 30 < sum(first) < 90
    assert hits() == first


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_body_is_cut_after_so_many_bytes(by_header: httpx.Client, form: str) -> None:
    whole = _body(by_header, form)
    _, _, body = _raw(by_header, "cut=500", f"{ROWS}&format={form}").partition(b"\r\n\r\n")
    if form == "csv":
        body = b"".join(re.split(rb"(?:^|\r\n)[0-9a-f]+\r\n", body.removesuffix(b"\r\n")))
    assert body == whole[:500]
    with pytest.raises(httpx.RemoteProtocolError):
        by_header.get(f"{ROWS}&format={form}", headers={HEADER: "cut=500"})


@pytest.mark.parametrize("form", ["json", "ndjson"])
@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_body_shorter_than_what_is_to_be_sent_of_it_still_breaks_off(
    by_header: httpx.Client, kind: str, form: str
) -> None:
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        by_header.get(f"{ROWS}&format={form}&limit=1", headers={HEADER: f"{kind}=999999"})


@pytest.mark.parametrize("faults", ["reset", "reset=500"])
def test_a_connection_is_reset(by_header: httpx.Client, faults: str) -> None:
    with pytest.raises(ConnectionResetError):
        _raw(by_header, faults, ROWS)


def test_a_stall_sends_so_much_and_then_nothing(by_header: httpx.Client) -> None:
    first = _body(by_header, "json")[:500]
    with socket.create_connection(("127.0.0.1", by_header.base_url.port or 0), timeout=60) as wire:
        wire.sendall(f"GET {ROWS} HTTP/1.1\r\nHost: x\r\n{HEADER}: stall=500\r\n\r\n".encode())
        received = b""
        while not received.endswith(first):
            piece = wire.recv(1 << 16)
            assert piece, received
            received += piece
        assert received.startswith(b"HTTP/1.1 200 ")
        wire.settimeout(0.3)
        with pytest.raises(TimeoutError):
            wire.recv(1)


def test_latency_comes_before_the_answer(by_header: httpx.Client) -> None:
    start = time.monotonic()
    answer = by_header.get(ROWS, headers={HEADER: "latency=0.2"})
    assert time.monotonic() - start >= 0.2
    assert answer.content == _body(by_header, "json")


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_garbage_replaces_64_bytes(by_header: httpx.Client, form: str) -> None:
    whole = _body(by_header, form)
    path = f"{ROWS}&format={form}"
    corrupted = by_header.get(path, headers={HEADER: "garbage=500"}).content
    assert len(corrupted) == len(whole)
    assert (corrupted[:500], corrupted[564:]) == (whole[:500], whole[564:])
    assert corrupted[500:564] != whole[500:564]
    with pytest.raises(UnicodeDecodeError):
        corrupted[500:564].decode()


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_length_is_stated_wrongly(by_header: httpx.Client, form: str) -> None:
    whole, path = _body(by_header, form), f"{ROWS}&format={form}"
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        by_header.get(path, headers={HEADER: "length=10"})
    # The other bytes are sent too, where the next answer of the connection begins.
    fewer = httpx.get(
        by_header.base_url.join(path), headers={HEADER: "length=-10"}, trust_env=False
    )
    assert fewer.content == whole[:-10]
    assert _raw(by_header, "length=-10", path, until=whole[-20:])


def test_a_request_without_faults_gets_none(by_header: httpx.Client) -> None:
    assert by_header.get(ROWS).status_code == 200
    with service("status=503") as client:
        assert client.get(ROWS).status_code == 503
        assert client.get(ROWS, headers={HEADER: ""}).status_code == 200


def test_the_setting_does_not_affect_health_checks() -> None:
    with service("reset") as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/docs").status_code == 200
        with pytest.raises(httpx.TransportError):
            client.get("/v1/watermark")


def test_a_service_that_is_not_set_to_refuses() -> None:
    with service("") as client:
        answer = client.get(ROWS, headers={HEADER: "reset"})
        assert answer.status_code == 403
        assert answer.headers["X-Generator-Version"]
        problem = answer.json()
        assert problem["type"] == "/problems/faults-not-allowed"
        assert problem["detail"] == (
            f"{HEADER} is 'reset'; send no such header, or set the service's GENERATOR_FAULTS to"
            " header."
        )
        assert client.get(ROWS).status_code == 200


BAD = [
    ("stuck", "one of status, retry_after, .* instead of 'stuck'"),
    ("stal", "stall instead of 'stal'"),
    ("status", "status= with a number from 400 to 599"),
    ("status=200", "status= with a number from 400 to 599"),
    ("latency=1e9", "latency= with a number from 0 to 3600"),
    ("cut=-1", "cut= with a number from 0"),
    ("cut=nan", "cut= with a number from 0"),
    ("cut=5:2", "cut with the share of requests that get it, as in :0.1"),
    ("reset:sometimes", "reset with the share of requests"),
    ("retry_after=5", "status=503 beside retry_after"),
]


@pytest.mark.parametrize(("faults", "instead"), BAD)
def test_an_unknown_fault_is_refused_with_what_to_send_instead(
    by_header: httpx.Client, faults: str, instead: str
) -> None:
    answer = by_header.get(ROWS, headers={HEADER: faults})
    assert answer.status_code == 422
    assert re.search(f"^{HEADER} is '.*'; send .*{instead}", answer.json()["detail"])
    with pytest.raises(SettingsError, match=f"GENERATOR_FAULTS=.* cannot be used: write {instead}"):
        Settings.load(faults=faults)


def test_every_route_says_how_faults_are_asked_for(by_header: httpx.Client) -> None:
    description = by_header.get("/openapi.json").json()
    for path in description["paths"].values():
        (header,) = [one for one in path["get"]["parameters"] if one["name"] == HEADER]
        assert header["in"] == "header"
        kinds = re.findall(r"^\| `(\w+)` \|", header["description"], re.MULTILINE)
        assert {"status", "stall", "reset", "cut", "length", "garbage"} < set(kinds)
        (example,) = re.findall(r"For example,\s`(.+?)`", header["description"])
        assert parse_faults(example)
        # A page of documentation would fill these into every request.
        assert not {"example", "examples"} & header.keys()
