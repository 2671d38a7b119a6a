"""A transport that breaks, under the asset that lands: it recovers, or says why, and no harm."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import override

import dagster as dg
import polars as pl
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from generator_service.app import create_app
from generator_service.faults import FaultsMiddleware
from generator_service.settings import Settings
from txn_platform.contract.model import Contract
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.defs.assets import raw_transactions
from txn_platform.defs.resources import GeneratorResource
from txn_platform.settings import load_settings
from txn_platform.source.auth import Secret, bearer
from txn_platform.source.client import Source
from txn_platform.source.generator import generator_api
from txn_platform.source.transport import Limits, source_backoff
from txn_platform_tests.support.run_resources import run_resources
from txn_platform_tests.support.served_app import served_app
from txn_platform_tests.support.source_fault_cases import FAULT_CASES, FaultCase

_PARTITION = "2026-11-01-00:00"
_ROUTE = "/v1/transactions"
_LANDED = Path(".txn/lake/raw_transactions/event_date=2026-11-01/event_hour=00/part-0.parquet")
_LIMITS = Limits(backoff=source_backoff(4, first_pause=0.002, longest_pause=0.02))
_PAGE_ROWS = 150
_TOKEN = "planted-token-51HqLy"


class _Faulty:
    """The service behind faults that each test sets; remembers what was asked for."""

    def __init__(self, sound: ASGIApp) -> None:
        self._sound = sound
        self._faulty: ASGIApp = sound
        self._everywhere = False
        self.asked: list[str] = []
        self.credentials: set[bytes] = set()

    def inject(self, faults: str, *, everywhere: bool) -> None:
        self._faulty = FaultsMiddleware(self._sound, setting=faults, seed=0, refuse=_never)
        self._everywhere = everywhere
        self.asked.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        faulty = scope["type"] == "http" and (self._everywhere or scope["path"] == _ROUTE)
        if scope["type"] == "http":
            self.asked.append(f"{scope['path']}?{scope['query_string'].decode()}")
            self.credentials.add(dict(scope["headers"]).get(b"authorization", b""))
        await (self._faulty if faulty else self._sound)(scope, receive, send)


async def _never(*_: object) -> None:
    raise AssertionError("no request asks for faults here")


@dataclass(frozen=True)
class _Service:
    url: str
    faulty: _Faulty
    # One for all runs, none of which looks at another: to make it takes a third of a run's time.
    instance: dg.DagsterInstance


class _Impatient(GeneratorResource):
    """The source, with the limits of these tests and small pages."""

    # Of what does not stall, however busy the machine is, nothing is asked for once more.
    read_seconds: float = 30
    attempts: int = _LIMITS.backoff.attempts

    @override
    def source(self, contract: Contract = TRANSACTIONS) -> Source:
        assert self.url
        api = generator_api(load_settings(), self.url)
        transactions = re.sub(r"limit=\d+", f"limit={_PAGE_ROWS}", api.transactions)
        backoff = replace(_LIMITS.backoff, attempts=self.attempts)
        limits = replace(_LIMITS, read_seconds=self.read_seconds, backoff=backoff)
        api = replace(api, transactions=transactions, auth=bearer(Secret("PLANTED")))
        return Source(self.url, api, limits, contract=contract)


@pytest.fixture(scope="module")
def service() -> Iterator[_Service]:
    settings = Settings.load(tps=0.1, customers=100, merchants=100)
    faulty = _Faulty(create_app(settings))
    with served_app(faulty) as url, dg.DagsterInstance.ephemeral() as instance:
        yield _Service(url, faulty, instance)


@pytest.fixture(scope="module")
def sound_lake(service: _Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a platform that has landed the window in peace."""
    home = tmp_path_factory.mktemp("sound")
    service.faulty.inject("", everywhere=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("PLANTED", _TOKEN)
        assert _land(service).success
    return home / ".txn"


def _land(service: _Service, faults: str = "") -> dg.ExecuteInProcessResult:
    if "stall" in faults:
        # On a busy machine other answers can seem to stall too: such a thing is asked for again.
        attempts = 12 if "first" in faults else _LIMITS.backoff.attempts
        resource = _Impatient(url=service.url, read_seconds=0.5, attempts=attempts)
        return _land_from(resource, service.instance)
    return _land_from(_Impatient(url=service.url), service.instance)


def _land_from(
    generator: GeneratorResource, instance: dg.DagsterInstance | None = None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [raw_transactions],
        instance=instance,
        partition_key=_PARTITION,
        resources=run_resources(generator),
        raise_on_error=False,
    )


def _files(directory: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def _asked_for_rows(service: _Service) -> list[str]:
    return [asked for asked in service.faulty.asked if asked.startswith(_ROUTE)]


# A stall is the same for every stream, and takes seconds; a page is no stream.
_STALLS = {"stall-arrow-twice", "stall-json-twice", "stall-arrow-always", "stall-json-always"}
_CASES = [
    pytest.param(
        case,
        id=case.id,
        marks=pytest.mark.long if "stall" in case.faults and case.id not in _STALLS else (),
    )
    for case in FAULT_CASES
]


@pytest.mark.parametrize("case", _CASES)
def test_a_fault_ends_in_the_right_rows_or_in_one_message_and_the_lake_as_it_was(
    case: FaultCase, service: _Service, sound_lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERATOR_FORMAT", case.wire)
    monkeypatch.setenv("PLANTED", _TOKEN)
    service.faulty.inject(case.faults, everywhere=case.everywhere)
    service.faulty.credentials.clear()
    if case.message is None:
        assert _land(service, case.faults).success
        assert service.faulty.credentials == {f"Bearer {_TOKEN}".encode()}
        landed = pl.read_parquet(_LANDED)
        assert landed.height > 2 * _PAGE_ROWS
        assert landed.equals(pl.read_parquet(sound_lake.parent / _LANDED))
        # Each thing that is asked for is asked for three times: no page once more than its own
        # faults cost, or a machine so busy that an answer seems to stall.
        asked = _asked_for_rows(service)
        counts = {asked.count(one) for one in asked}
        assert min(counts) == 3
        assert "stall" in case.faults or max(counts) == 3
        return
    shutil.copytree(sound_lake, ".txn")
    result = _land(service, case.faults)
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    said = failed.step_failure_data.user_failure_data
    assert said, "no message, but a traceback"
    assert case.message in (said.description or "")
    assert _TOKEN not in str(result.all_events)
    assert (said.description or "").count(service.url) <= 1
    assert _files(Path(".txn")) == _files(sound_lake)


def test_the_generator_that_a_run_starts_takes_its_faults_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"TPS": "0.1", "CUSTOMERS": "100", "MERCHANTS": "100"}.items():
        monkeypatch.setenv(f"GENERATOR_{name}", value)
    monkeypatch.setenv("GENERATOR_FAULTS", "cut=30:first1")
    assert _land_from(GeneratorResource()).success
    assert pl.read_parquet(_LANDED).height > 100
