"""A page of another site cannot use the UI on this machine through its reader's browser."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from txn_platform.local.same_origin import SameOrigin

UI = "http://127.0.0.1:3000"
OWN = {"Host": "127.0.0.1:3000", "Origin": UI}
MUTATION = "mutation { launchRun { __typename } }"
FOLLOWED = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}


def _client(address: str = UI) -> TestClient:
    async def page(_: object) -> PlainTextResponse:
        return PlainTextResponse("page")

    async def logs(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("log")
        await websocket.close()

    routes = [
        WebSocketRoute("/graphql", logs),
        Route("/{path:path}", page, methods=["GET", "POST"]),
    ]
    return TestClient(SameOrigin(Starlette(routes=routes), address))


@pytest.mark.parametrize(
    "headers",
    [
        # Programs send a host only.
        {"Host": "127.0.0.1:3000"},
        {"Host": "localhost:3000"},
        {"Host": "LOCALHOST"},
        {"Host": "[::1]:3000"},
        # Through a tunnel.
        {"Host": "localhost:8080", "Origin": "http://localhost:8080"},
        OWN,
        OWN | {"Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1:3000", "Sec-Fetch-Site": "none"},
    ],
)
def test_its_own_pages_and_programs_are_served(headers: dict[str, str]) -> None:
    client = _client()
    assert client.get("/runs", headers=headers).text == "page"
    assert client.post("/graphql", headers=headers, json={"query": MUTATION}).text == "page"
    with client.websocket_connect("/graphql", headers=headers) as websocket:
        assert websocket.receive_text() == "log"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:3000", "Origin": "http://evil.example:3000"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "evil.example@localhost"},
        {"Host": "localhost:3000@evil.example"},
        {"Host": "localhost."},
        {"Host": ""},
        OWN | {"Origin": "http://evil.example"},
        OWN | {"Origin": "null"},
        OWN | {"Origin": ""},
        OWN | {"Origin": "http://127.0.0.1:8080"},
        OWN | {"Origin": "http://localhost:3000"},
        OWN | {"Origin": "http://127.0.0.1:3000.evil.example"},
        {"Host": "127.0.0.1:3000", "Sec-Fetch-Site": "cross-site"},
        {"Host": "127.0.0.1:3000", "Sec-Fetch-Site": "same-site"},
        {"Host": "127.0.0.1:3000", "Sec-Fetch-Dest": "iframe", **FOLLOWED},
    ],
)
def test_another_site_is_refused_whatever_it_asks_for(headers: dict[str, str]) -> None:
    client = _client()
    for answer in (
        client.get("/runs", headers=headers),
        client.get("/graphql", params={"query": "{ version }"}, headers=headers),
        client.post("/graphql", headers=headers, json={"query": MUTATION}),
        # The browser asks nobody before it sends a form, or a text that is JSON.
        client.post("/graphql", headers=headers, params={"query": MUTATION}),
        client.post("/graphql", headers=headers | {"Content-Type": "text/plain"}),
        client.post("/report_asset_materialization/raw_transactions", headers=headers),
    ):
        assert answer.status_code == 403
        assert UI in answer.text
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/graphql", headers=headers),
    ):
        pass


def test_a_host_that_is_named_twice_or_not_at_all_is_refused() -> None:
    client = _client()
    twice = [("Host", "127.0.0.1:3000"), ("Host", "evil.example")]
    assert client.get("/", headers=twice).status_code == 403
    request = client.build_request("GET", "/")
    del request.headers["Host"]
    assert client.send(request).status_code == 403


def test_a_link_in_an_alert_opens_a_page_and_runs_nothing() -> None:
    headers = {"Host": "127.0.0.1:3000", "Sec-Fetch-Dest": "document", **FOLLOWED}
    client = _client()
    assert client.get("/runs/1", headers=headers).text == "page"
    assert client.post("/graphql", headers=headers, json={"query": MUTATION}).status_code == 403
    followed = client.get("/graphql", params={"query": MUTATION}, headers=headers)
    assert followed.status_code == 405


def test_the_address_that_a_proxy_gives_the_ui_is_its_own() -> None:
    client = _client("https://dagster.example.com")
    own = {"Host": "dagster.example.com", "Origin": "https://dagster.example.com"}
    assert client.get("/", headers=own).text == "page"
    assert client.get("/", headers=own | {"Origin": "https://example.com"}).status_code == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("{ version }", 200),
        ("query mutation { version }", 200),
        ("subscription { logs }", 200),
        ("", 200),
        ("this is no query", 405),
        (MUTATION, 405),
        ("mutation($a: Int) { launchRun(a: $a) { id } }", 405),
        ("# { version }\nmutation { launchRun { id } }", 405),
        ("fragment f on Run { id } mutation m { launchRun { ...f } }", 405),
        ("query q { version } mutation m { launchRun { id } }", 405),
        ("mutation { launchRun { id } } query q { version }", 405),
        ("{a" * 10_000, 405),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_no_mutation_runs_but_by_post(method: str, query: str, status: int) -> None:
    client = _client()
    # The app takes the last of several queries.
    parameters = {"query": ["{ version }", query], "operationName": "m"}
    answer = client.request(method, "/%67raphql", params=parameters, headers=OWN)
    # The app itself takes no PUT.
    assert answer.status_code == (405 if method == "PUT" else status)
    if status == 405:
        assert answer.headers["Allow"] == "POST"
