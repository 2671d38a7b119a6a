"""The service under load: turns, work that ends with its client, bounds on rows and time."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from generator_service.app import create_app
from generator_service.models import parse_moment
from generator_service.settings import Settings, SettingsError
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support.served_app import left_open, served_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from generator_service.computations import Computations

NOW = parse_moment("2026-11-23T14:25:36.123456Z")
WINDOW_PATH = "/v1/transactions"
MINUTE = {"start": "2026-11-01T00:00:00Z", "end": "2026-11-01T00:01:00Z"}
# 6,000 rows a minute, 17 million of these two days: some minutes of work.
DAYS = {"start": "2026-11-01T00:00:00Z", "end": "2026-11-03T00:00:00Z"}
BUSY = {"tps": 100, "customers": 200_000, "merchants": 100, "max_window_hours": 48}


@dataclass(frozen=True)
class Service:
    url: str
    client: httpx.Client
    turns: Computations


@contextmanager
def served(**given: Any) -> Iterator[Service]:
    """A service on a socket."""
    app = create_app(Settings.load(**BUSY | given), now=lambda: NOW)
    with served_app(app) as url, httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield Service(url, client, app.state.computations)


@pytest.fixture(scope="module")
def one_at_a_time() -> Iterator[Service]:
    """A service that computes one large answer, and lets one wait."""
    with served(max_computations=1, max_queued=1) as service:
        yield service


def test_large_answers_wait_for_their_turn_and_too_many_are_refused(
    one_at_a_time: Service,
):
    url, client, turns = one_at_a_time.url, one_at_a_time.client, one_at_a_time.turns
    with left_open(url, WINDOW_PATH, **DAYS, format="csv"):
        assert eventually(lambda: turns.running == 1)
        with left_open(url, WINDOW_PATH, **DAYS, format="arrow"):
            assert eventually(lambda: turns.queued == 1)
            metrics = client.get("/metrics").text
            assert "generator_computations_running 1" in metrics
            assert "generator_computations_queued 1" in metrics
            refused = client.get(WINDOW_PATH, params=DAYS | {"format": "ndjson"})
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) > 0
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert "busy" in refused.json()["detail"]
            # Small answers wait for none of them.
            for path, parameters in (
                ("/healthz", {}),
                (WINDOW_PATH, MINUTE | {"limit": 1_000}),
                (f"{WINDOW_PATH}/sample", {}),
                ("/v1/customers", {"limit": 100}),
                ("/", {}),
            ):
                assert client.get(path, params=parameters).status_code == 200
    assert eventually(lambda: (turns.running, turns.queued) == (0, 0))
    metrics = client.get("/metrics").text
    assert "generator_computations_running 0" in metrics
    assert "generator_computations_queued 0" in metrics
    assert "generator_rows_total" in metrics
    assert client.get("/v1/control-totals", params=MINUTE).status_code == 200


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        *((WINDOW_PATH, DAYS | {"format": form}) for form in ("arrow", "parquet", "csv", "ndjson")),
        (WINDOW_PATH, DAYS | {"format": "json", "defects": "duplicate_id:0.01"}),
        (WINDOW_PATH, DAYS | {"as_of": "2026-11-02T23:00:00Z", "format": "json"}),
        ("/v1/control-totals", DAYS),
        ("/v1/control-totals", DAYS | {"defects": "all:0.01"}),
        ("/v1/defects", DAYS | {"defects": "all:0.01", "format": "csv"}),
        ("/v1/scorecard", DAYS),
        ("/v1/customers", {"format": "csv"}),
        ("/v1/cards", {"format": "parquet"}),
    ],
)
def test_work_ends_when_its_client_leaves(
    one_at_a_time: Service, path: str, parameters: dict[str, str]
):
    turns = one_at_a_time.turns
    with left_open(one_at_a_time.url, path, **parameters):
        assert eventually(lambda: turns.running == 1)
    assert eventually(lambda: turns.running == 0, within=5)
    assert eventually(lambda: not working_threads(), within=5)


def working_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("prefetch", "in-parallel"))]


def test_the_rows_that_are_computed_for_one_document_have_a_bound():
    with served(max_computed_rows=1_000) as service:
        client = service.client
        for path in ("/v1/control-totals", "/v1/defects", WINDOW_PATH):
            answer = client.get(path, params=MINUTE | {"defects": "duplicate_id:0.1"})
            assert answer.status_code == 422
            assert "at most 1,000 are computed" in answer.json()["detail"]
        # Rows that are sent, and totals of rows without defects, need no memory.
        stream = client.get(WINDOW_PATH, params=MINUTE | {"defects": "all:0.1", "format": "csv"})
        assert stream.status_code == 200
        assert client.get("/v1/control-totals", params=MINUTE).status_code == 200
        answer = client.get("/v1/scorecard", params={"rows": 1_000_001})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "rows")


def test_an_answer_has_a_deadline():
    with served(answer_seconds=0.5, max_computations=1) as service:
        client, turns = service.client, service.turns
        totals = client.get("/v1/control-totals", params=DAYS | {"defects": "all:0.01"})
        assert totals.status_code == 503
        assert "longer than 0.5 s" in totals.json()["detail"]
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(WINDOW_PATH, params=DAYS | {"format": "csv"})
        assert eventually(lambda: turns.running == 0)


def test_pages_of_reference_data_are_the_rows_of_the_whole(
    one_at_a_time: Service,
):
    client = one_at_a_time.client
    for path in ("/v1/cards", "/v1/customers"):
        whole = client.get(path, params={"format": "ndjson"})
        pages: list[bytes] = []
        following: str | None = f"{path}?format=ndjson&limit=50000"
        while following:
            page = client.get(following)
            pages.append(page.content)
            following = page.links.get("next", {}).get("url")
        assert len(pages) >= 4
        assert b"".join(pages) == whole.content
        assert whole.content.count(b"\n") == int(whole.headers["X-Total-Rows"])


def test_a_short_key_of_cursors_is_refused_without_showing_it():
    with pytest.raises(SettingsError, match=r"GENERATOR_CURSOR_KEY .* 16 or more") as error:
        Settings.load(cursor_key="too short")
    assert "too short" not in str(error.value)
    assert "long enough a key" not in repr(Settings.load(cursor_key="long enough a key"))
