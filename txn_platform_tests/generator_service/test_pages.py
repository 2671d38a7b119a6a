"""The service's own pages: they load nothing from other hosts, and their examples work."""

from __future__ import annotations

from contextlib import contextmanager
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, override

import httpx
import pytest

from generator_service.app import create_app
from generator_service.faults import HEADER
from generator_service.models import moment_text, parse_moment
from generator_service.settings import Settings
from txn_platform_tests.support.served_app import served_app

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = parse_moment("2026-11-23T14:25:36.123456Z")


@contextmanager
def service(**given: Any) -> Iterator[httpx.Client]:
    settings = Settings.load(**{"tps": 0.05, "customers": 500, "merchants": 100} | given)
    with (
        served_app(create_app(settings, now=lambda: NOW)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with service() as client:
        yield client


class References(HTMLParser):
    """The addresses in a page: those that it loads by itself, and its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in {"src", "href"} and not value.startswith("data:"):
                (self.links if tag == "a" else self.loaded).append(value)


def form(operation: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """The values that Swagger UI puts into a form: examples, or else defaults."""
    filled = {}
    for parameter in operation.get("parameters", []):
        assert "examples" not in parameter
        value = parameter.get("example", parameter["schema"].get("default"))
        if value is not None:
            filled[parameter["in"], parameter["name"]] = value
    return filled


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tps": 0.001},
        {"tps": 1, "max_window_hours": 1, "default_limit": 1, "max_limit": 1},
        {"defects": "all:0.5"},
        {"drift": "drop:transaction_id:2020-01-01T00:00:00Z,rename:amount:value:2020-01-01T00:00Z"},
        {"preset": "handbook", "locale": "pt_BR", "seed": 7},
        {"faults": "header"},
    ],
    ids=lambda given: ",".join(given) or "default",
)
def test_every_form_of_the_docs_is_filled_with_a_request_that_works(given: dict[str, Any]) -> None:
    with service(**given) as client:
        description = client.get("/openapi.json").json()
        for path, operations in description["paths"].items():
            filled = form(operations["get"])
            required = {
                (parameter["in"], parameter["name"])
                for parameter in operations["get"].get("parameters", [])
                if parameter["required"]
            }
            assert required <= filled.keys(), path
            assert ("header", HEADER) not in filled
            query = {name: value for (where, name), value in filled.items() if where == "query"}
            whole = path.format(**{name: value for (_, name), value in filled.items()})
            answer = client.get(whole, params=query)
            assert answer.status_code == 200, (path, answer.text)
            if path == "/v1/transactions/{transaction_id}":
                example = description["components"]["schemas"]["Transaction"]["examples"]
                assert example == [answer.json()["data"]]


def test_the_docs_load_their_files_from_the_service(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "//" not in page.text.replace("data:image/svg+xml,%3Csvg xmlns='http://www.w3", "")
    loaded = References(page.text).loaded
    types = {client.get(address).headers["Content-Type"].split(";")[0] for address in loaded}
    # Importing Dagster's webserver changes the type of scripts for the whole process.
    assert types in ({"text/javascript", "text/css"}, {"application/javascript", "text/css"})
    script = client.get(loaded[-1])
    assert "SwaggerUIBundle" in script.text
    again = client.get(loaded[-1], headers={"If-None-Match": script.headers["ETag"]})
    assert again.status_code == 304
    for elsewhere in ("/redoc", "/docs/swagger/none.js", "/docs/swagger/../../settings.py"):
        assert client.get(elsewhere).status_code == 404


def test_the_start_page_links_to_answers_of_every_route(client: httpx.Client) -> None:
    page = References(client.get("/").text)
    described = client.get("/openapi.json").json()["paths"]
    answers = [client.get(f"/{link}") for link in page.links]
    assert all(answer.status_code == 200 for answer in answers)
    sample = client.get("/v1/transactions/sample").json()["data"]
    routes = {answer.url.path for answer in answers}
    one = {route for route in routes if route.startswith("/v1/transactions/0")}
    assert len(one) == 1
    assert routes - one == {
        *(path for path in described if "{" not in path),
        "/docs",
        "/openapi.json",
    }
    assert sample
    # The scorecard, in a frame.
    (frame,) = page.loaded
    assert client.get(f"/{frame}").headers["Content-Type"].startswith("text/html")


def test_the_start_page_shows_what_just_happened(client: httpx.Client) -> None:
    page = client.get("/").text
    rows = client.get("/v1/transactions/sample", params={"count": 10}).json()["data"]
    assert all(row["transaction_at"] in page for row in rows)
    assert not any(row["card_number"] in page for row in rows)
    assert moment_text(NOW)[:10] in page
    assert "//" not in page.replace("data:image/svg+xml,%3Csvg xmlns='http://www.w3", "")


def test_the_start_page_shows_the_names_that_a_drift_gave() -> None:
    drift = "rename:amount:total_value:2020-01-01T00:00:00Z"
    with service(drift=drift) as client:
        assert "<th>total_value</th>" in client.get("/").text


def test_the_pages_answer_while_the_other_routes_have_faults() -> None:
    with service(faults="status=503") as client:
        statuses = [client.get(path).status_code for path in ("/", "/docs", "/v1/watermark")]
        script = References(client.get("/docs").text).loaded[-1]
        assert statuses == [200, 200, 503]
        assert client.get(script).status_code == 200
