"""The example's API with faults of the transport and authentication: the right rows, or no harm."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from starlette.types import Receive, Scope, Send

from examples.stripe_charges.fake_api import FakeStripe
from examples.stripe_charges.feed import STRIPE
from generator_service.faults import FaultsMiddleware
from txn_platform.contract.model import Contract
from txn_platform.defs.assets import window_assets
from txn_platform.defs.resources import CardKeyResource
from txn_platform.feeds import Feed
from txn_platform.source.client import Source
from txn_platform.source.transport import Limits, source_backoff
from txn_platform_tests.support.run_resources import lake_resources
from txn_platform_tests.support.served_app import served_app
from txn_platform_tests.support.source_fault_cases import FAULT_CASES, FaultCase

_PARTITION = "2026-11-01-00:00"
_LANDED = Path(
    ".txn/lake/stripe/raw_transactions/event_date=2026-11-01/event_hour=00/part-0.parquet"
)
_SECRET = "sk_test_51HqLyPlanted"
_CASES = [
    pytest.param(case, id=case.id, marks=pytest.mark.long if "stall" in case.faults else ())
    for case in FAULT_CASES
    if case.wire == "json" and not case.everywhere
]


class _Service:
    """The fake behind faults that each test sets."""

    def __init__(self) -> None:
        self.fake = FakeStripe(_SECRET)
        self.inject("")

    def inject(self, faults: str) -> None:
        self._faulty = FaultsMiddleware(self._answer, setting=faults, seed=0, refuse=_never)
        self.fake.asked.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._faulty(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        target = f"{scope['path']}?{scope['query_string'].decode()}"
        status, content = self.fake.answer(target, headers.get("authorization"))
        body = json.dumps(content).encode()
        length = (b"content-length", str(len(body)).encode())
        kind = (b"content-type", b"application/json")
        await send({"type": "http.response.start", "status": status, "headers": [kind, length]})
        await send({"type": "http.response.body", "body": body})
        await asyncio.sleep(0)


async def _never(*_: object) -> None:
    raise AssertionError("no request asks for faults here")


@dataclass(frozen=True)
class _Impatient:
    """The source of a feed, with the limits of these tests."""

    feed: Feed
    limits: Limits

    def source(self, contract: Contract) -> Source:
        return Source(self.feed.url, self.feed.api, self.limits, contract)


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[_Service, Feed]]:
    with served_app(service := _Service()) as url:
        # Several pages.
        path = STRIPE.api.transactions.replace("limit=100", "limit=25")
        yield service, replace(STRIPE, url=url, api=replace(STRIPE.api, transactions=path))


def _land(feed: Feed, faults: str = "") -> dg.ExecuteInProcessResult:
    backoff = source_backoff(4, first_pause=0.002, longest_pause=0.02)
    limits = Limits(read_seconds=0.5 if "stall" in faults else 30, backoff=backoff)
    raw, _, _ = window_assets(feed)
    return dg.materialize(
        [raw],
        partition_key=_PARTITION,
        resources={
            **lake_resources(),
            "card_key": CardKeyResource(),
            "source_stripe": _Impatient(feed, limits),
        },
        raise_on_error=False,
    )


def _files(directory: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("case", _CASES)
def test_a_fault_ends_in_the_right_rows_or_in_one_message_and_the_lake_as_it_was(
    case: FaultCase,
    service: tuple[_Service, Feed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIPE_API_KEY", _SECRET)
    api, feed = service
    sent = api.fake.charges(1793491200, 1793491200 + 3600)
    if case.message is not None:
        api.inject("")
        assert _land(feed).success
        shutil.copytree(".txn", "before")
    api.inject(case.faults)
    result = _land(feed, case.faults)
    assert _SECRET not in str(result.all_events)
    if case.message is None:
        assert result.success
        landed = pl.read_parquet(_LANDED)
        assert landed["charge_id"].to_list() == [charge["id"] for charge in sent]
        assert landed["amount"].to_list() == [str(charge["amount"]) for charge in sent]
        return
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    said = failed.step_failure_data.user_failure_data
    assert said, "no message, but a traceback"
    assert case.message in (said.description or "")
    assert _files(Path(".txn")) == _files(Path("before"))
