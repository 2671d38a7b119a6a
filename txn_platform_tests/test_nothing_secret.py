"""Secrets and card numbers are planted on paths of success and failure, and found in nothing left.

Each path has its own assertion that it was taken. All of them share a home, a lake and Dagster's
databases, which are searched at the end with all that was printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform.defs.alerts import alerts
from txn_platform.defs.resources import GeneratorResource
from txn_platform.local import stack
from txn_platform.source.auth import Secret, bearer
from txn_platform.source.pages import NextLink
from txn_platform.windows import Window
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.other_api import ROWS_ALONE, use_api
from txn_platform_tests.support.planted import (
    CARDS,
    PASSWORD,
    PATH,
    QUERY,
    SECRETS,
    TOKEN,
    USER,
    found_below,
    found_in,
)
from txn_platform_tests.support.served_source import served
from txn_platform_tests.support.webhook_receiver import WebhookReceiver, receiving

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from txn_platform.source.requests import Request
    from txn_platform_tests.conftest import S3Endpoint

_CARD = CARDS[0]
# The slash in the password ends the host too early.
_USER_INFO = f"{USER}:{PASSWORD}@127.0.0.1"
_DETAIL = f"{TOKEN} card {_CARD} or 4539 5787-6362.1486 of http://{_USER_INFO}/{PATH}?key={QUERY}"
_PROBLEM = json.dumps({"detail": _DETAIL, _CARD: TOKEN}).encode()
# Files and objects that are meant to have card numbers, or a key.
_MEANT = ("card-key", "s3-keys.json", "*/raw_transactions/*", "*/quarantined_transactions/*")


@dataclass
class _Source(HourlySource):
    """A source at a path that nobody shall see, whose rows have planted card numbers."""

    status: int = 200
    body: bytes = b""
    asked_with: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    @override
    def rows_in(self, window: Window) -> list[dict[str, str | None]]:
        return self.hours.setdefault(window.partition_key, rows_of(window, 40, card_number=_CARD))

    @override
    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        self.asked_with.append(query)
        if self.status != 200 or self.body:
            return self.status, self.body
        return super().answer(path.removeprefix(f"/{PATH}"), query)


@dataclass
class _Place:
    """The planted environment.

    Attributes:
        printed: all output, by path.
    """

    home: Path
    source: _Source
    store: FaultyStore
    receiver: WebhookReceiver
    patch: pytest.MonkeyPatch
    printed: dict[str, str] = field(default_factory=dict[str, str])
    hour: int = 0

    def txn(self, name: str, *arguments: str, ends: int = 1) -> str:
        """Run a command; returns its output, which the search looks at too."""
        result = CliRunner().invoke(main, arguments)
        self.printed[name] = said = f"{result.output}{result.exception!r}"
        assert result.exit_code == ends, f"{name}: {said}"
        return said

    def run(self, name: str, *, ends: int = 1) -> str:
        """Run an hour of its own."""
        self.hour += 1
        return self.txn(name, "run", "--partition", self.partition, ends=ends)

    @property
    def partition(self) -> str:
        start = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(hours=self.hour)
        return Window(start).partition_key

    @contextmanager
    def answering(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Generator[None]:
        """Let the source answer everything so."""
        self.source.status, self.source.body = status, body
        self.source.headers |= headers or {}
        yield
        self.source.status, self.source.body = 200, b""
        self.source.headers.clear()

    @contextmanager
    def asking(self, transactions: str, **others: Any) -> Generator[None]:
        """Let the source have another API."""
        with self.patch.context() as patch:
            use_api(patch, transactions, **others)
            yield

    @contextmanager
    def having(self, **variables: str) -> Generator[None]:
        """Change the environment."""
        with self.patch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            yield


@pytest.fixture
def place(
    no_pauses: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
) -> Iterator[_Place]:
    """A source, a store, a webhook and Dagster's home, all with secrets."""
    del no_pauses
    home = tmp_path / "left"
    (home / "dagster").mkdir(parents=True)
    (home / "dagster/dagster.yaml").write_text(stack.DAGSTER_YAML.read_text())
    with (
        served(_Source([])) as source,
        receiving() as receiver,
        FaultyStore(s3_servers("moto").url) as store,
    ):
        assert isinstance(source, _Source)
        variables = SECRETS | {
            "AWS_BUCKET_NAME": "transactions",
            "AWS_ENDPOINT_URL": store.url,
            "AWS_REGION": "us-east-1",
            "DAGSTER_HOME": str(home / "dagster"),
            "GENERATOR_URL": f"{source.url}/{PATH}",
            "TXN_ALERT_WEBHOOK": f"{receiver.url.partition('/hooks')[0]}/{PATH}?token={QUERY}",
            "TXN_HOME": str(home / "txn"),
            "TXN_LAKE_PREFIX": s3_prefix,
            "TXN_SOURCE_ATTEMPTS": "3",
            "TXN_UI_URL": "http://127.0.0.1:3000",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield _Place(home, source, store, receiver, monkeypatch)


def test_nothing_that_is_left_or_printed_has_a_secret_or_a_card_number(
    place: _Place, capfd: pytest.CaptureFixture[str], s3_servers: Callable[[str], S3Endpoint]
) -> None:
    _succeed(place)
    _refused_by_source(place)
    _refused_settings(place)
    _refused_by_store(place)
    _data_that_is_not_published(place)
    _errors_nobody_expected(place)
    _alerts(place)
    _processes_that_are_stopped(place)
    printed = capfd.readouterr()
    place.printed["standard output"] = printed.out
    place.printed["standard error"] = printed.err
    assert len(place.printed) > 25
    found = [each for name, text in place.printed.items() for each in found_in(name, text.encode())]
    found += found_below(place.home, _MEANT)
    found += _found_in_bucket(s3_servers("moto"), os.environ["TXN_LAKE_PREFIX"])
    found += found_in("webhook", json.dumps(place.receiver.accepted).encode())
    assert found == []
    assert not list((place.home / "txn").rglob("*.staging*"))


def _succeed(place: _Place) -> None:
    assert "published" in place.run("a run", ends=0)
    place.txn("the same run", "run", "--partition", place.partition, ends=0)
    assert "has complete hours up to" in place.txn("doctor", "doctor", ends=0)
    place.txn("status", "status", "--from", place.partition, "--to", place.partition, ends=0)
    with place.asking(f"{ROWS_ALONE}&key={QUERY}"):
        place.run("a source with a key in its query", ends=0)
    assert any(query.get("key") == QUERY for query in place.source.asked_with)


def _refused_by_source(place: _Place) -> None:
    for status in (401, 422, 500):
        with place.answering(status, _PROBLEM, {"Content-Type": "application/problem+json"}):
            assert f"status {status}" in place.run(f"status {status}")
    with place.answering(403, _DETAIL.encode(), {"Content-Type": f"text/plain; {TOKEN}"}):
        assert "(text/plain, " in place.run("a refusal as text")
    with place.answering(200, _PROBLEM, {"Transfer-Encoding": f"{TOKEN}{_CARD}"}):
        assert "transfer coding" in place.run("a transfer coding")
    with place.answering(200, _PROBLEM):
        place.run("no watermark")
    with place.answering(302, b"", {"Location": f"http://{_USER_INFO}/{PATH}?key={QUERY}"}):
        assert "a redirect" in place.run("a redirect")
    page = json.dumps({"data": [], "next": f"http://{_USER_INFO}/{PATH}?key={QUERY}"}).encode()
    pages = {"format": "json", "pages": NextLink()}
    rows = f"/rows?key={QUERY}&from={{start}}"
    with place.asking(rows, **pages), place.answering(200, page):
        assert "a next page" in place.run("a page of another origin")
    _authenticated(place)
    openapi = {"paths": {"/v1/transactions": {_CARD: TOKEN}}}
    place.source.openapi = openapi
    place.run("a description", ends=0)
    place.source.openapi = None
    with place.having(GENERATOR_URL=f"http://127.0.0.1:1/{PATH}"):
        assert "no source answers at http://127.0.0.1:1/…" in place.run("a source that is down")


def _authenticated(place: _Place) -> None:
    """Requests with secrets that no setting has."""

    def fails(_: Request) -> dict[str, str]:
        raise RuntimeError(f"{Secret('PLANTED').value()} is wrong")

    with place.having(PLANTED=TOKEN), place.asking(ROWS_ALONE, auth=bearer(Secret("PLANTED"))):
        place.run("a source with a key of its own", ends=0)
        with place.answering(401, f"Bearer {TOKEN} is wrong".encode()):
            assert "does not let PLANTED read" in place.run("a source that refuses its key")
    for value, auth, message in (
        (f"{TOKEN}\nX: 1", bearer(Secret("PLANTED")), "PLANTED must be text"),
        (TOKEN, fails, "fails, the auth of the source, fails with RuntimeError"),
    ):
        with place.having(PLANTED=value), place.asking(ROWS_ALONE, auth=auth):
            assert message in place.run(f"a secret: {message}")


def _refused_settings(place: _Place) -> None:
    for name, value in {
        "GENERATOR_URL": f"http://{_USER_INFO}:1/{PATH}",
        "AWS_ENDPOINT_URL": f"http://{USER}:12/{PASSWORD}@127.0.0.1:1/{PATH}",
        "TXN_UI_URL": f"http://127.0.0.1:1/{PATH}?{QUERY}",
        "TXN_ALERT_WEBHOOK": f"{TOKEN} {QUERY}",
        "DELTA_LAKE_S3_PATH": f"s3://{USER}:{PASSWORD}@bucket/{PATH}",
        "TXN_CARD_KEY": "planted",
        "GENERATOR_FORMAT": f"http://{_USER_INFO}/{PATH}",
        "TXN_SOURCE_TRANSACTIONS": f"/{PATH}?key={QUERY}",
    }.items():
        with place.having(**{name: value}):
            assert name in place.run(f"a wrong {name}")
            place.txn(f"doctor with a wrong {name}", "doctor")
    Path(".env").write_text(f"TXN_HOEM={TOKEN}\nGENERATOR_TOKEN='{TOKEN}\n")
    assert ".env cannot be read" in place.run("an .env with a broken line")
    Path(".env").unlink()
    proxied = {"GENERATOR_URL": "http://source.example", "HTTP_PROXY": f"http://{_USER_INFO}:1"}
    with place.having(**proxied):
        assert "HTTP_PROXY does not name" in place.run("a wrong proxy")
    with place.having(**proxied | {"HTTP_PROXY": f"http://{USER}:{TOKEN}@127.0.0.1:1"}):
        assert "http://source.example" in place.run("a proxy that is down")


def _refused_by_store(place: _Place) -> None:
    for operation, fault in (
        (Operation.PUT, Fault.DENIED),
        (Operation.PUT, Fault.EXPIRED),
        (Operation.HEAD, Fault.GONE),
    ):
        place.store.fail(operation, fault)
        assert "bucket 'transactions'" in place.run(f"the store answers {operation} with {fault}")
        place.store.fail(operation, fault, 0)
    with place.having(AWS_ENDPOINT_URL=f"http://127.0.0.1:1/{PATH}"):
        assert "http://127.0.0.1:1/…" in place.run("a store that is down")
    with place.having(DELTA_LAKE_S3_PATH="s3://absent-bucket/table"):
        place.run("a table that is not there")


def _data_that_is_not_published(place: _Place) -> None:
    place.hour += 1
    window = Window.of_partition(place.partition)
    place.source.hours[place.partition] = rows_of(
        window, 20, merchant_name=f"pay {CARDS[1]} to {CARDS[2]}", card_number=_CARD
    )
    said = place.txn("too many in quarantine", "run", "--partition", place.partition)
    assert "quarantine_share" in said
    quarantined = place.txn("the quarantine", "quarantine", "--partition", place.partition, ends=0)
    assert "merchant_name.card_number" in quarantined
    place.txn("expire", "expire", "--older-than", "0d", "--yes", ends=0)


def _errors_nobody_expected(place: _Place) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        try:
            raise LookupError(_DETAIL)  # noqa: TRY301 - the error that led to the other
        except LookupError as error:
            secrets = " ".join(SECRETS.values())
            raise ValueError(f"{_CARD} http://{_USER_INFO}/{PATH}?{QUERY} {secrets}") from error

    with place.patch.context() as patch:
        patch.setattr("txn_platform.defs.assets.prove_published", fail)
        assert "ValueError" in place.run("an error of the platform")


def _alerts(place: _Place) -> None:
    with dg.DagsterInstance.get() as instance:
        for name, status in (("alerts", 200), ("alerts that are refused", 500)):
            place.receiver.status = status
            with dg.build_sensor_context(
                instance=instance, resources={"generator": GeneratorResource()}
            ) as context:
                result = alerts(context)
            assert isinstance(result, dg.SensorResult)
            place.printed[name] = f"{result.skip_reason} {result.cursor}"
    assert place.receiver.accepted
    assert place.receiver.refused


def _processes_that_are_stopped(place: _Place) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        place.hour += 1
        asked = place.source.asked
        asked.clear()
        place.source.seconds = 30.0
        process = subprocess.Popen(
            [Path(sys.executable).with_name("txn"), "run", "--partition", place.partition],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            # It waits for the control totals, with the rows in a staged file.
            assert eventually(lambda asked=asked: bool(asked))
            process.send_signal(number)
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        place.source.seconds = 0.0
        place.printed[f"{number.name} in a run"] = said
        assert process.returncode != 0
    # The next run removes the files of those that were killed.
    place.run("a run after those that were killed", ends=0)


def _found_in_bucket(endpoint: S3Endpoint, prefix: str) -> Iterator[str]:
    client = endpoint.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="transactions", Prefix=prefix)
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]  # pyright: ignore[reportTypedDictNotRequiredAccess] - S3 names each
    assert any("s3_parquet_transactions" in key for key in keys)
    for key in keys:
        if "/raw_transactions/" not in key and "/quarantined_transactions/" not in key:
            stored = client.get_object(Bucket="transactions", Key=key)
            yield from found_in(key, stored["Body"].read())
            yield from found_in(key, repr(stored["Metadata"]).encode())


@pytest.mark.parametrize("word", [TOKEN, *SECRETS.values()])
def test_the_search_finds_them_in_each_form(word: str, tmp_path: Path) -> None:
    plain = f"x {word} and {_CARD[:4]} {_CARD[4:8]}-{_CARD[8:]} y".encode()
    (tmp_path / "plain.log").write_bytes(plain)
    (tmp_path / "packed").write_bytes(zlib.compress(plain))
    with pa.CompressedOutputStream(pa.OSFile(str(tmp_path / "zstd"), "w"), "zstd") as file:
        file.write(plain)
    table = pa.table({"text": [plain.decode()]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    pq.write_table(
        pa.table({"n": [1]}).replace_schema_metadata({"note": plain}), tmp_path / "b.parquet"
    )
    import sqlite3

    with sqlite3.connect(tmp_path / "d.db") as database:
        database.execute("create table t (a, b)")
        database.execute("insert into t values (1, ?)", (zlib.compress(plain),))
    database.close()
    names = {line.partition(":")[0] for line in found_below(tmp_path) if word in line}
    assert names == {"plain.log", "packed", "zstd", "a.parquet", "b.parquet", "d.db"}
    assert {line.partition(":")[0] for line in found_below(tmp_path) if _CARD in line} == names
