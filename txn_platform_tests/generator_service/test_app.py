"""The routes over a socket: their answers, and their messages for a bad request."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator_service import routes
from generator_service.app import create_app
from generator_service.cursors import Cursors
from generator_service.models import (
    Card,
    Customer,
    Merchant,
    RequestError,
    Transaction,
    moment_text,
    parse_moment,
)
from generator_service.settings import Settings
from generator_service.simulator import SCHEMA, VERSION, Simulator
from generator_service.simulator.configuration import FIRST_MOMENT
from generator_service.wire import MEDIA_TYPES, Format
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support.served_app import served_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

NOW = parse_moment("2026-11-23T14:25:36.123456Z")
HOUR = {"start": "2026-11-01T00:00:00Z", "end": "2026-11-01T01:00:00Z"}
WINDOW_PATH = "/v1/transactions"


@dataclass(frozen=True)
class Service:
    client: httpx.Client
    app: FastAPI

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return self.client.get(path, params=parameters)

    def rows(self, path: str = WINDOW_PATH, **parameters: Any) -> list[dict[str, Any]]:
        response = self.get(path, **parameters)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def pages(self, path: str = WINDOW_PATH, **parameters: Any) -> list[list[dict[str, Any]]]:
        """All pages, by following `next`."""
        pages = []
        page = self.get(path, **parameters).json()
        while True:
            pages.append(page["data"])
            if page["next"] is None:
                return pages
            page = self.client.get(page["next"]).json()


@contextmanager
def serve(app: FastAPI) -> Iterator[Service]:
    with (
        served_app(app) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        yield Service(client, app)


def settings(**given: Any) -> Settings:
    small: dict[str, Any] = {
        "tps": 1,
        "customers": 500,
        "merchants": 100,
        "max_window_hours": 48,
        "cursor_key": "the key of all tests",
    }
    return Settings.load(**small | given)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve(create_app(settings(), now=lambda: NOW)) as service:
        yield service


def read(form: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of an answer, each value as it is read."""
    match form:
        case "json":
            return json.loads(content)["data"]
        case "ndjson":
            return [json.loads(line) for line in content.splitlines()]
        case "csv":
            return list(csv.DictReader(io.StringIO(content.decode())))
        case "arrow":
            return pa.ipc.open_stream(content).read_all().to_pylist()
        case _:
            return pq.read_table(io.BytesIO(content)).to_pylist()


FORMATS = [form.value for form in Format]


# A window.


@pytest.mark.parametrize("form", FORMATS)
def test_an_hour_is_its_sixty_minutes_put_together(service: Service, form: str):
    whole = service.get(WINDOW_PATH, **HOUR, format=form, **limit_of(form))
    minutes = [f"2026-11-01T00:{minute:02}:00Z" for minute in range(60)] + [HOUR["end"]]
    parts: list[dict[str, Any]] = []
    for start, end in itertools.pairwise(minutes):
        part = service.get(WINDOW_PATH, start=start, end=end, format=form, **limit_of(form))
        parts += read(form, part.content)
    assert len(parts) > 1_000
    assert parts == read(form, whole.content)


def limit_of(form: str) -> dict[str, int]:
    return {"limit": 50_000} if form == "json" else {}


def test_asked_again_and_by_another_service_the_bytes_are_the_same(service: Service):
    with serve(create_app(settings(), now=lambda: NOW + 10**12)) as other:
        for form in FORMATS:
            first = service.get(WINDOW_PATH, **HOUR, format=form)
            assert service.get(WINDOW_PATH, **HOUR, format=form).content == first.content
            assert other.get(WINDOW_PATH, **HOUR, format=form).content == first.content


@pytest.mark.parametrize("limit", [1_000, 777, 50_000])
def test_pages_of_any_size_give_the_same_rows(service: Service, limit: int):
    pages = service.pages(**HOUR, limit=limit)
    assert [row for page in pages for row in page] == read(
        "ndjson", service.get(WINDOW_PATH, **HOUR, format="ndjson").content
    )
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert pages[-1]


def test_json_without_a_limit_gives_pages_of_the_default_one(service: Service):
    page = service.get(WINDOW_PATH, **HOUR).json()
    assert len(page["data"]) == 1_000
    assert page["next"].startswith("/v1/transactions?")
    assert (page["start"], page["end"], page["as_of"]) == (
        "2026-11-01T00:00:00.000000Z",
        "2026-11-01T01:00:00.000000Z",
        None,
    )
    assert page["generator"] | {"status": "ok"} == service.get("/healthz").json()


@pytest.mark.parametrize("form", FORMATS)
def test_the_link_header_leads_through_every_format(service: Service, form: str):
    response = service.get(WINDOW_PATH, **HOUR, format=form, limit=1_500)
    rows = read(form, response.content)
    while "next" in response.links:
        response = service.client.get(response.links["next"]["url"])
        rows += read(form, response.content)
    assert rows == read(form, service.get(WINDOW_PATH, **HOUR, format=form, limit=50_000).content)


def test_a_cursor_without_limit_gives_all_the_rest(service: Service):
    first = service.get(WINDOW_PATH, **HOUR, limit=10)
    query = httpx.URL(first.json()["next"]).params
    rest = service.get(WINDOW_PATH, **HOUR, cursor=query["cursor"], format="ndjson")
    whole = service.get(WINDOW_PATH, **HOUR, format="ndjson")
    assert whole.content.splitlines()[10:] == rest.content.splitlines()


def test_offsets_say_the_same_moment_as_utc(service: Service):
    there = {"start": "2026-11-01T02:00:00+02:00", "end": "2026-10-31T20:00:00-05:00"}
    assert service.rows(**there) == service.rows(**HOUR)


@pytest.mark.parametrize("form", FORMATS)
def test_every_answer_says_what_made_it(service: Service, form: str):
    response = service.get(WINDOW_PATH, **HOUR, format=form)
    health = service.get("/healthz").json()
    assert health == {
        "status": "ok",
        "version": VERSION,
        "configuration": Simulator(settings().configuration()).configuration_hash,
    }
    assert response.headers["X-Generator-Version"] == VERSION
    assert response.headers["X-Generator-Configuration"] == health["configuration"]
    assert (
        int(response.headers["X-Total-Rows"])
        == service.get("/v1/control-totals", **HOUR).json()["rows"]
    )
    assert response.headers["Content-Type"].split(";")[0] == MEDIA_TYPES[Format(form)]


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_arrow_and_parquet_say_in_themselves_what_made_them(service: Service, form: str):
    response = service.get(WINDOW_PATH, **HOUR, format=form)
    if form == "arrow":
        metadata = pa.ipc.open_stream(response.content).schema.metadata
    else:
        metadata = pq.ParquetFile(io.BytesIO(response.content)).metadata.metadata
    assert metadata == {
        b"generator.version": response.headers["X-Generator-Version"].encode(),
        b"generator.configuration": response.headers["X-Generator-Configuration"].encode(),
    }


@pytest.mark.parametrize("types", ["typed", "text"])
@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_large_answers_are_compressed_and_say_the_same(
    service: Service, monkeypatch: pytest.MonkeyPatch, form: str, types: str
):
    small = service.get(WINDOW_PATH, **HOUR, format=form, types=types).content
    monkeypatch.setattr(routes, "_ENCODED_FROM", 1)
    large = service.get(WINDOW_PATH, **HOUR, format=form, types=types).content
    assert read(form, large) == read(form, small)
    if form == "arrow":
        kinds = pa.ipc.open_stream(large).schema
        assert pa.types.is_dictionary(kinds.field("card_number").type)
        # A dictionary has all customers, who are more than these rows.
        few = service.get(WINDOW_PATH, **HOUR, format=form, types=types, limit=100).content
        kinds = pa.ipc.open_stream(few).schema
        assert not pa.types.is_dictionary(kinds.field("card_number").type)


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_types_text_carries_what_json_carries(service: Service, form: str):
    lines = service.get(WINDOW_PATH, **HOUR, format="ndjson").content.splitlines()
    expected = [json.loads(line, parse_float=str) for line in lines]
    for row in expected:
        row["is_fraud"] = json.dumps(row["is_fraud"])
    text = service.get(WINDOW_PATH, **HOUR, format=form, types="text")
    assert read(form, text.content) == expected


def test_typed_columns_are_the_default(service: Service):
    table = pa.ipc.open_stream(service.get(WINDOW_PATH, **HOUR, format="arrow").content).read_all()
    assert table.schema == SCHEMA


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/*", "text/csv"),
        ("text/csv;q=0.5, application/vnd.apache.parquet", "application/vnd.apache.parquet"),
        ("application/json;q=0, text/csv;q=0.1", "text/csv"),
        ("Application/Vnd.Apache.Arrow.Stream", "application/vnd.apache.arrow.stream"),
    ],
)
def test_accept_chooses_the_format(service: Service, accept: str | None, expected: str):
    request = service.client.build_request("GET", WINDOW_PATH, params=HOUR)
    del request.headers["Accept"]
    if accept is not None:
        request.headers["Accept"] = accept
    response = service.client.send(request)
    assert response.headers["Content-Type"].split(";")[0] == expected
    assert response.headers["Vary"] == "Accept"


def test_format_goes_before_accept(service: Service):
    response = service.client.get(
        WINDOW_PATH, params=HOUR | {"format": "csv"}, headers={"Accept": "application/json"}
    )
    assert response.headers["Content-Type"].startswith("text/csv")


def test_rows_that_arrive_late_are_missing_before(service: Service):
    early = HOUR | {"as_of": HOUR["end"]}
    then = service.get(WINDOW_PATH, **early, format="ndjson")
    whole = service.get(WINDOW_PATH, **HOUR, format="ndjson")
    arrived = then.content.splitlines()
    assert set(arrived) < set(whole.content.splitlines())
    assert int(then.headers["X-Total-Rows"]) == len(arrived)
    assert service.get("/v1/control-totals", **early).json()["rows"] == len(arrived)
    pages = service.pages(**early, limit=500)
    assert [row for page in pages for row in page] == read("ndjson", then.content)
    assert service.get(WINDOW_PATH, **early).json()["as_of"] == "2026-11-01T01:00:00.000000Z"


def test_delayed_labels_are_not_known_at_once():
    seen = HOUR | {"as_of": "2026-11-01T02:00:00Z", "limit": 50_000}
    with serve(create_app(settings(fraud_rate=0.1), now=lambda: NOW)) as service:
        oracle = service.rows(**seen)
        delayed = service.rows(**seen, labels="delayed")
    assert [row["transaction_id"] for row in oracle] == [row["transaction_id"] for row in delayed]
    assert sum(row["is_fraud"] for row in delayed) < sum(row["is_fraud"] for row in oracle)


# Control totals, watermark, one transaction, a sample, reference data.


def digest(ids: list[str]) -> str:
    """The digest as the documentation of the route defines it."""
    mask = 2**64 - 1

    def mix(z: int) -> int:
        z = (z + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    total = 0
    for text in ids:
        content = text.encode()
        state = mix(len(content))
        content += b"\0" * (-len(content) % 8)
        for at in range(0, len(content), 8):
            state = mix(state ^ int.from_bytes(content[at : at + 8], "little"))
        total += state
    return f"{total & mask:016x}"


def test_control_totals_are_the_sums_of_the_rows(service: Service):
    rows = read("ndjson", service.get(WINDOW_PATH, **HOUR, format="ndjson").content)
    amounts: dict[str, Decimal] = {}
    for row in rows:
        kind = row["transaction_type"]
        amounts[kind] = amounts.get(kind, Decimal(0)) + Decimal(row["amount"])
    totals = service.get("/v1/control-totals", **HOUR).json()
    assert totals == {
        "start": "2026-11-01T00:00:00.000000Z",
        "end": "2026-11-01T01:00:00.000000Z",
        "as_of": None,
        "rows": len(rows),
        "amount_by_type": {kind: str(amounts[kind]) for kind in sorted(amounts)},
        "ids_digest": digest([row["transaction_id"] for row in rows]),
        "generator": {
            "version": VERSION,
            "configuration": service.get("/healthz").json()["configuration"],
        },
    }


def test_control_totals_asked_twice_are_computed_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    window = {"start": "2026-11-05T00:00:00Z", "end": "2026-11-05T00:10:00Z"}
    first = service.get("/v1/control-totals", **window).json()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Simulator, "_arrived_blocks", refuse)
    assert service.get("/v1/control-totals", **window).json() == first


def test_the_watermark_is_the_end_of_the_newest_complete_hour(service: Service):
    assert service.get("/v1/watermark").json() == {
        "watermark": "2026-11-23T14:00:00.000000Z",
        "window": "PT1H",
    }


def test_a_transaction_is_found_by_its_id(service: Service):
    row = service.rows(**HOUR, limit=3)[2]
    response = service.get(f"/v1/transactions/{row['transaction_id']}")
    assert response.json()["data"] == row


@pytest.mark.parametrize("count", [1, 30, 10_000])
def test_a_sample_is_the_newest_transactions_newest_first(service: Service, count: int):
    rows = service.rows("/v1/transactions/sample", count=count)
    times = [row["transaction_at"] for row in rows]
    assert len(rows) == count
    assert times == sorted(times, reverse=True)
    assert times[0] < moment_text(NOW)
    between = {"start": times[-1], "end": moment_text(NOW), "limit": 50_000}
    assert service.rows(**between) == rows[::-1]


def test_a_sample_has_thirty_rows_unless_told(service: Service):
    assert len(service.rows("/v1/transactions/sample")) == 30


@pytest.mark.parametrize("form", FORMATS)
def test_a_sample_comes_in_every_format(service: Service, form: str):
    response = service.get("/v1/transactions/sample", count=5, format=form)
    assert len(read(form, response.content)) == 5


def test_a_sample_reaches_no_further_back_than_the_simulator():
    shortly_after = FIRST_MOMENT + 60_000_000
    with serve(create_app(settings(), now=lambda: shortly_after)) as service:
        assert 0 < len(service.rows("/v1/transactions/sample", count=10_000)) < 10_000


def test_every_transaction_joins_the_reference_data(service: Service):
    rows = service.rows(**HOUR, limit=50_000)
    for path, key, columns in (
        ("/v1/customers", "customer_id", ["customer_id"]),
        ("/v1/cards", "card_number", ["card_number", "customer_id"]),
        ("/v1/merchants", "merchant_id", ["merchant_id", "merchant_name"]),
    ):
        reference = [row for page in service.pages(path, limit=333) for row in page]
        known = {tuple(row[column] for column in columns) for row in reference}
        assert len(known) == len({row[key] for row in reference}) == len(reference)
        assert {tuple(row[column] for column in columns) for row in rows} <= known


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("path", ["/v1/customers", "/v1/cards", "/v1/merchants"])
def test_reference_data_comes_in_every_format(service: Service, path: str, form: str):
    response = service.get(path, format=form, **limit_of(form))
    rows = read(form, response.content)
    assert len(rows) == int(response.headers["X-Total-Rows"])
    part = service.get(path, format=form, limit=7)
    assert read(form, part.content) == rows[:7]
    following = service.client.get(part.links["next"]["url"])
    assert read(form, following.content) == rows[7:14]


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (WINDOW_PATH, Transaction),
        ("/v1/customers", Customer),
        ("/v1/cards", Card),
        ("/v1/merchants", Merchant),
    ],
)
def test_the_documented_fields_are_the_ones_sent(service: Service, path: str, model: type):
    parameters = HOUR if path == WINDOW_PATH else {}
    for row in service.rows(path, **parameters, limit=200):
        assert list(row) == list(model.model_fields)
        model.model_validate(row, strict=False)


def test_openapi_describes_routes_parameters_and_problems(service: Service):
    description = service.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/transactions",
        "/v1/transactions/sample",
        "/v1/transactions/{transaction_id}",
        "/v1/control-totals",
        "/v1/defects",
        "/v1/scorecard",
        "/v1/watermark",
        "/v1/customers",
        "/v1/cards",
        "/v1/merchants",
        "/healthz",
        "/metrics",
    }
    operation = description["paths"]["/v1/transactions"]["get"]
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        *("start", "end", "as_of", "limit", "cursor", "format", "types", "labels", "defects"),
        "X-Generator-Faults",
    }
    assert set(operation["responses"]["200"]["content"]) == set(MEDIA_TYPES.values())
    problems = {"400", "403", "406", "422", "500", "503"}
    refusals = {"400", "413", "414", "429", "431"}
    assert set(operation["responses"]) == {"200", *problems, *refusals}
    for status in problems | refusals:
        kinds = {"application/problem+json"} if status in problems else set()
        kinds |= {"text/plain"} if status in refusals else set()
        assert set(operation["responses"][status]["content"]) == kinds
    assert service.get("/docs").status_code == 200


# Bad requests.


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the problem of a response, after checking that it is one."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Generator-Version"] == VERSION
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "errors"}
    assert body["status"] == status
    return body


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"end": "2026-10-31T00:00:00Z"}, "end", "a time after start"),
        ({"end": HOUR["start"]}, "end", "a time after start"),
        ({"start": "2026-11-01T00:00:00"}, "start", "add Z or an offset"),
        ({"start": "2026-11-01"}, "start", "add Z or an offset"),
        ({"start": "2026-11-01T00:00:00 02:00"}, "start", "%2B"),
        ({"start": "yesterday"}, "start", "a time such as 2026-11-01T00:00:00Z"),
        ({"start": "1793491200"}, "start", "a time such as"),
        ({"start": "2026-02-30T00:00:00Z"}, "start", "that exist"),
        ({"start": "2026-11-01T00:00:00.1234567Z"}, "start", "a time such as"),
        ({"start": "1969-12-31T23:59:59Z"}, "start", "from 1971-01-01 to 9999-01-01"),
        ({"start": ""}, "start", "a time such as"),
        ({"as_of": "now"}, "as_of", "a time such as"),
        ({"end": "2026-11-03T00:00:01Z"}, "end", "at most 48 hours after start"),
        ({"format": "xml"}, "format", "'json', 'ndjson', 'csv', 'arrow' or 'parquet'"),
        ({"types": "float"}, "types", "'typed' or 'text'"),
        ({"labels": "late"}, "labels", "'oracle' or 'delayed'"),
        ({"limit": "0"}, "limit", "from 1 to 50000"),
        ({"limit": "-1"}, "limit", "from 1 to 50000"),
        ({"limit": "50001"}, "limit", "from 1 to 50000"),
        ({"limit": "ten"}, "limit", "a valid integer"),
        ({"limt": "10"}, "limt", "limit instead: no parameter here is called limt"),
        ({"colour": "blue"}, "colour", "one of start, end"),
    ],
)
def test_a_bad_parameter_is_named_with_what_to_send_instead(
    service: Service, changed: dict[str, str], field: str, says: str
):
    body = problem(service.get(WINDOW_PATH, **HOUR | changed), 422)
    assert body["type"] == "/problems/invalid-parameter"
    assert [error["field"] for error in body["errors"]] == [field]
    assert says in body["errors"][0]["expected"]
    assert body["detail"].startswith(f"{field} is {body['errors'][0]['given']!r}; send ")
    assert says in body["detail"]
    assert body["detail"].endswith(".")


def test_all_bad_parameters_are_named(service: Service):
    body = problem(service.get(WINDOW_PATH, start="x", end="y", labels="z"), 422)
    assert [error["field"] for error in body["errors"]] == ["start", "end", "labels"]


@pytest.mark.parametrize("path", [WINDOW_PATH, "/v1/control-totals"])
def test_a_missing_parameter_is_named(service: Service, path: str):
    body = problem(service.get(path, start=HOUR["start"]), 422)
    assert body["errors"][0] == {
        "field": "end",
        "given": None,
        "expected": "a time such as 2026-11-01T00:00:00Z",
    }
    assert body["detail"] == "end is missing; send a time such as 2026-11-01T00:00:00Z."


def test_control_totals_refuse_what_transactions_refuse(service: Service):
    problem(service.get("/v1/control-totals", start=HOUR["end"], end=HOUR["start"]), 422)
    problem(service.get("/v1/control-totals", **HOUR, limit=3), 422)
    long = HOUR | {"end": "2026-12-01T00:00:00Z"}
    assert "48 hours" in problem(service.get("/v1/control-totals", **long), 422)["detail"]


@pytest.mark.parametrize("count", ["0", "10001", "many"])
def test_a_sample_of_a_count_out_of_range_is_refused(service: Service, count: str):
    body = problem(service.get("/v1/transactions/sample", count=count), 422)
    assert body["errors"][0]["field"] == "count"


def test_an_accept_header_that_cannot_be_met_is_refused(service: Service):
    response = service.client.get(WINDOW_PATH, params=HOUR, headers={"Accept": "image/png"})
    body = problem(response, 406)
    assert body["errors"][0]["field"] == "Accept"
    assert "application/x-ndjson" in body["detail"]
    asked = HOUR | {"format": "json"}
    accepted = service.client.get(WINDOW_PATH, params=asked, headers={"Accept": "image/png"})
    assert accepted.status_code == 200


@pytest.mark.parametrize("cursor", ["abc", "", "ü", "=", "AAAAAAAAAAAAAAAA", "x" * 5_000])
def test_an_unknown_cursor_is_refused(service: Service, cursor: str):
    body = problem(service.get(WINDOW_PATH, **HOUR, cursor=cursor), 400)
    assert body["type"] == "/problems/invalid-cursor"
    assert body["errors"][0]["field"] == "cursor"


def test_a_cursor_of_another_answer_is_refused(service: Service):
    def cursor_of(service: Service, path: str = WINDOW_PATH, **parameters: Any) -> str:
        return httpx.URL(service.get(path, **parameters).json()["next"]).params["cursor"]

    def refused(cursor: str, **parameters: Any) -> str:
        response = service.get(WINDOW_PATH, **parameters, cursor=cursor)
        return problem(response, 400)["errors"][0]["expected"]

    ours = cursor_of(service, **HOUR, limit=5)
    other_end = HOUR | {"end": "2026-11-01T02:00:00Z"}
    assert "this end, 2026-11-01T02:00:00.000000Z" in refused(ours, **other_end)
    assert "this as_of" in refused(ours, **HOUR, as_of=HOUR["end"])
    assert "this labels" in refused(ours, **HOUR, labels="delayed")
    refused(cursor_of(service, "/v1/customers", limit=5), **HOUR)
    with serve(create_app(settings(seed=1))) as other:
        assert "this configuration" in refused(cursor_of(other, **HOUR, limit=5), **HOUR)


CURSORS = Cursors(b"a key of sixteen bytes")


@given(st.integers(1, 2**62), st.dictionaries(st.sampled_from("abc"), st.text()))
def test_a_cursor_leads_back_to_its_position(position: int, answer: dict[str, str]):
    cursor = CURSORS.write(position, answer)
    assert CURSORS.read(cursor, answer, position + 1) == position


@given(st.integers(0, 200), st.characters(codec="ascii", exclude_categories=["Cc"]))
def test_a_cursor_changed_anywhere_is_refused(index: int, character: str):
    answer = {"route": "transactions"}
    cursor = CURSORS.write(12_345, answer)
    index %= len(cursor)
    changed = cursor[:index] + character + cursor[index + 1 :]
    if changed != cursor:
        with pytest.raises(RequestError):
            CURSORS.read(changed, answer, 20_000)


@given(st.sampled_from("xyz"), st.sampled_from(["=", "==", "====", "\n", " ", "A", "."]))
def test_a_cursor_has_one_spelling(route: str, more: str):
    for answer in ({"route": route}, {"route": route * 2}, {"route": route * 3}):
        cursor = CURSORS.write(1, answer)
        for changed in (cursor + more, more + cursor, cursor.replace("-", "+").replace("_", "/")):
            if changed != cursor:
                with pytest.raises(RequestError):
                    CURSORS.read(changed, answer, 2)


def test_the_next_page_has_the_cursor_of_any_spelling_of_the_parameters(service: Service):
    for defects in ("all:0.02\n", " all:0.02\v", "amount_scale:0.01,\nduplicate_id:0.1"):
        page = service.get(WINDOW_PATH, **HOUR, limit=5, defects=defects).json()
        assert service.client.get(page["next"]).status_code == 200


@pytest.mark.parametrize("position", [-1, 0, 100, 101, 10**15])
def test_a_position_outside_of_the_rows_is_refused_though_signed(position: int):
    answer = {"route": "transactions"}
    with pytest.raises(RequestError):
        CURSORS.read(CURSORS.write(position, answer), answer, 100)


def test_a_cursor_signed_by_another_key_is_refused(service: Service):
    """The key is no public value: a service with the same settings else cannot sign for this."""
    for key in (None, "another key of all tests"):
        with serve(create_app(settings(cursor_key=key), now=lambda: NOW)) as other:
            following = other.get(WINDOW_PATH, **HOUR, limit=5).json()["next"]
            body = problem(service.client.get(following), 400)
            assert "GENERATOR_CURSOR_KEY" in body["errors"][0]["expected"]


@pytest.mark.parametrize(
    "transaction_id",
    ["x", "019a3f00-1c2b-7d3e-8f4a-5b6c7d8e9f00", "ü", "0" * 36, "019a3f00"],
)
def test_an_unknown_transaction_is_not_found(service: Service, transaction_id: str):
    body = problem(service.get(f"/v1/transactions/{transaction_id}"), 404)
    assert body["errors"][0]["field"] == "transaction_id"


def test_an_unknown_route_is_answered_with_the_nearest(service: Service):
    assert "send /v1/merchants" in problem(service.get("/v1/merchant"), 404)["detail"]
    assert "/docs" in problem(service.get("/nothing/like/it"), 404)["detail"]
    assert "send /v1/merchants" in problem(service.get("/v1/merchants/"), 404)["detail"]


@pytest.mark.parametrize("path", [WINDOW_PATH, "/healthz", "/", "/docs", "/openapi.json"])
def test_another_method_is_refused(service: Service, path: str):
    answer = service.client.post(path)
    assert "send GET" in problem(answer, 405)["detail"]
    assert answer.headers["Allow"] == "GET, HEAD"


@given(st.integers(FIRST_MOMENT, parse_moment("9999-01-01T00:00:00Z")))
def test_a_moment_is_read_as_it_is_written(moment: int):
    assert parse_moment(moment_text(moment)) == moment


# Streams.


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A simulator whose windows do not end; returns how many batches it has made."""
    made = 0
    batches = Simulator.batches

    def without_end(self: Simulator, window: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        nonlocal made
        [batch] = batches(self, window, position=0, stop=1_000)
        while True:
            made += 1
            yield batch

    monkeypatch.setattr(Simulator, "batches", without_end)
    return lambda: made


@pytest.mark.parametrize("form", ["ndjson", "csv", "arrow"])
def test_rows_stop_being_made_when_the_client_goes(
    service: Service, endless: Callable[[], int], form: str
):
    parameters = HOUR | {"format": form}
    with service.client.stream("GET", WINDOW_PATH, params=parameters) as response:
        chunks = response.iter_raw()
        assert next(chunks)
        assert prefetch_threads()
    assert eventually(lambda: not prefetch_threads())
    assert service.get("/healthz").status_code == 200


def test_a_client_that_does_not_read_holds_the_rows_back(
    service: Service, endless: Callable[[], int]
):
    parameters = HOUR | {"format": "ndjson"}
    with service.client.stream("GET", WINDOW_PATH, params=parameters) as response:
        chunks = response.iter_raw()
        assert next(chunks)
        # Some more are made for the buffers, and then none.
        assert eventually(lambda: no_more(endless))
        assert endless() < 500


def no_more(count: Callable[[], int]) -> bool:
    before = count()
    threading.Event().wait(0.2)
    return before == count()


@pytest.mark.parametrize("form", ["ndjson", "csv", "arrow", "parquet"])
def test_an_error_after_the_first_row_breaks_the_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: str
):
    """A client must never mistake half a window for a whole one."""
    batches = Simulator.batches

    def failing(self: Simulator, window: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        yield next(batches(self, window, **options))
        raise RuntimeError("lost")

    monkeypatch.setattr(Simulator, "batches", failing)
    with pytest.raises(httpx.RemoteProtocolError):
        service.get(WINDOW_PATH, **HOUR, format=form)
    assert eventually(lambda: failures(caplog))
    assert failures(caplog) == ["GET /v1/transactions broke off: RuntimeError, request ID"]


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The service's own messages, all of which are errors."""
    ours = [record for record in caplog.records if record.name.startswith("generator_service")]
    assert {record.levelname for record in ours} <= {"ERROR"}
    assert not any(record.exc_info for record in ours)
    return [re.sub("request [0-9a-f]{32}$", "request ID", line.getMessage()) for line in ours]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_failure_is_logged_by_its_route_without_id_and_query(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
):
    def failing(*_: object) -> None:
        raise RuntimeError("of a row")

    monkeypatch.setattr(Simulator, "transaction", failing)
    # The server closes the connection after a failure: the next test must not use it.
    answer = service.client.request(
        method,
        f"{WINDOW_PATH}/an-id",
        params={"key": "secret"},
        headers={"Connection": "close"},
    )
    assert answer.status_code == 500
    assert eventually(lambda: failures(caplog))
    assert failures(caplog) == [
        f"{method} /v1/transactions/{{transaction_id}} failed: RuntimeError, request ID"
    ]


def test_refused_requests_and_faults_are_not_logged(caplog: pytest.LogCaptureFixture):
    with serve(create_app(settings(faults="header"), now=lambda: NOW)) as service:
        assert service.get("/v1/nowhere").status_code == 404
        assert service.get(WINDOW_PATH).status_code == 422
        for fault in ("status=503", "cut=100", "reset"):
            headers = {"X-Generator-Faults": fault}
            with suppress(httpx.TransportError):
                service.client.get(WINDOW_PATH, params=HOUR, headers=headers)
    assert failures(caplog) == []


def test_an_error_before_the_first_row_is_a_problem(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: object, **__: object) -> int:
        raise RuntimeError("lost")

    monkeypatch.setattr(Simulator, "count", failing)
    answer = service.get(WINDOW_PATH, **HOUR)
    body = problem(answer, 500)
    assert body["type"] == "/problems/internal-error"
    assert "lost" not in json.dumps(body)
    # The server closes the connection: a client that does not know would use it again.
    assert answer.headers["connection"] == "close"
    assert service.get("/healthz").status_code == 200


# HEAD.

_ROUTES = [
    ("/healthz", {}),
    ("/", {}),
    ("/docs", {}),
    ("/docs/swagger/swagger-ui.css", {}),
    ("/openapi.json", {}),
    ("/v1/watermark", {}),
    *((WINDOW_PATH, HOUR | {"format": form}) for form in FORMATS),
    (WINDOW_PATH, HOUR | {"limit": 10, "defects": "duplicate_id:0.1"}),
    (WINDOW_PATH, HOUR | {"start": "2026-11-01T02:00:00Z"}),
    (WINDOW_PATH, {}),
    (f"{WINDOW_PATH}/sample", {"count": 3}),
    (f"{WINDOW_PATH}/no-such-id", {}),
    ("/v1/control-totals", HOUR),
    ("/v1/control-totals", HOUR | {"defects": "no_such_kind:1"}),
    ("/v1/defects", HOUR),
    ("/v1/defects", HOUR | {"defects": "all:0.1"}),
    ("/v1/scorecard", HOUR),
    ("/v1/scorecard", HOUR | {"format": "html"}),
    ("/v1/customers", {"limit": 5}),
    ("/v1/cards", {}),
    ("/v1/merchants", {"format": "csv"}),
    ("/v1/nowhere", {}),
]


@pytest.mark.parametrize(("path", "parameters"), _ROUTES)
def test_head_is_get_without_a_body(service: Service, path: str, parameters: dict[str, Any]):
    got = service.get(path, **parameters)
    head = service.client.head(path, params=parameters)
    assert (head.status_code, head.content) == (got.status_code, b"")
    of_the_body = {"date", "content-length", "transfer-encoding", "x-request-id"}
    said = {name: value for name, value in head.headers.items() if name not in of_the_body}
    full = {name: value for name, value in got.headers.items() if name not in of_the_body}
    assert said.items() <= full.items()
    # The rows would have to be made to count their defects.
    assert full.keys() - said.keys() <= ({"x-total-rows"} if "defects" in parameters else set())
    length = head.headers.get("content-length")
    assert length in {None, got.headers.get("content-length")}


def test_head_makes_no_row(service: Service, monkeypatch: pytest.MonkeyPatch):
    def made(*_: object, **__: object) -> None:
        raise AssertionError("rows were made")

    monkeypatch.setattr(Simulator, "batches", made)
    monkeypatch.setattr(Simulator, "control_totals", made)
    hours = {"start": "2026-10-01T00:00:00Z", "end": "2026-10-02T00:00:00Z"}
    for path in (WINDOW_PATH, "/v1/control-totals", "/v1/defects", "/v1/scorecard"):
        for defects in ("", "all:0.1"):
            asked = hours if path == "/v1/scorecard" else hours | {"defects": defects}
            assert service.client.head(path, params=asked).status_code == 200, path
    with pytest.raises(AssertionError):
        service.app.state.source.simulator.batches()
