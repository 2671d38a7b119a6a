"""The token of the source: it lets the platform in, and goes to the source's origin only."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from generator_service.app import create_app
from generator_service.keys import KeysFile, Scope
from generator_service.settings import Settings as GeneratorSettings
from txn_platform.defs.resources import GeneratorResource
from txn_platform.errors import UserError
from txn_platform.settings import load_settings
from txn_platform.source.auth import headers_of
from txn_platform.source.generator import generator_api, open_source
from txn_platform.source.requests import Request
from txn_platform.windows import Window
from txn_platform_tests.support.served_app import served_app

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW = Window.of_partition("2026-11-01-00:00")
_AS_OF = datetime(2026, 12, 1, tzinfo=UTC)
_TOKEN = "gsk_0123abcd_planted-secret"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, KeysFile]]:
    """The address of a generator with keys, and their file."""
    file = KeysFile(tmp_path / "keys.json")
    file.add("other", (Scope.REFERENCE,), 1_000)
    settings = GeneratorSettings.load(tps=0.1, customers=500, merchants=100, keys_file=file.path)
    with served_app(create_app(settings)) as url:
        yield url, file


def test_a_run_needs_the_token_and_has_enough_with_its_first_scope(
    guarded: tuple[str, KeysFile], tmp_path: Path
) -> None:
    url, file = guarded
    key = file.add("platform", (Scope.TRANSACTIONS,), 1_000)
    wrong = file.add("wrong", (Scope.REFERENCE,), 1_000)

    def run(token: str) -> subprocess.CompletedProcess[str]:
        given = {"GENERATOR_URL": url, "GENERATOR_TOKEN": token, "TXN_HOME": str(tmp_path / "home")}
        command = [Path(sys.executable).with_name("txn"), "doctor"]
        return subprocess.run(
            command, env=os.environ | given, capture_output=True, text=True, check=False
        )

    let_in = run(f" {key}\n")
    assert f"{url} has complete hours up to" in let_in.stdout
    for token, status in (("", "401"), (_TOKEN, "401"), (wrong, "403")):
        refused = run(token)
        assert refused.returncode == 1
        assert f"refused /v1/watermark with status {status}" in refused.stdout
        assert "GENERATOR_TOKEN" in refused.stdout
        for process in (let_in, refused):
            said = process.stdout + process.stderr
            assert key not in said
            assert wrong not in said
            assert "planted-secret" not in said


def test_rows_and_totals_come_with_the_token(
    guarded: tuple[str, KeysFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, file = guarded
    monkeypatch.setenv("GENERATOR_URL", url)
    monkeypatch.setenv("GENERATOR_TOKEN", file.add("platform", (Scope.TRANSACTIONS,), 1_000))
    source = GeneratorResource().source()
    rows = sum(batch.num_rows for batch in source.batches(_WINDOW, _AS_OF))
    totals = source.control_totals(_WINDOW, _AS_OF)
    assert totals is not None
    assert rows == totals.rows > 0
    assert source.drift(_WINDOW) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_the_setting_in_one_sentence(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _recorded(status) as (url, _):
        monkeypatch.setenv("GENERATOR_URL", url)
        for token in ("", _TOKEN):
            monkeypatch.setenv("GENERATOR_TOKEN", token)
            with pytest.raises(UserError) as error:
                open_source(load_settings(), url).watermark()
            message = str(error.value)
            assert "GENERATOR_TOKEN" in message
            assert "keys add" in message
            assert "\n" not in message
            assert _TOKEN not in message


def test_the_token_does_not_go_along_with_a_redirect_or_a_next_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GENERATOR_TOKEN", _TOKEN)
    monkeypatch.setenv("GENERATOR_FORMAT", "json")
    with _recorded(200) as (elsewhere, received):
        for status, headers in (
            *((status, {"Location": elsewhere}) for status in (301, 302, 303, 307, 308)),
            (200, {"Link": f'<{elsewhere}/next>; rel="next"'}),
        ):
            with _recorded(status, headers, b'{"data": []}') as (url, asked):
                monkeypatch.setenv("GENERATOR_URL", url)
                with pytest.raises(UserError):
                    list(open_source(load_settings(), url).batches(_WINDOW, _AS_OF))
                assert set(asked) == {f"Bearer {_TOKEN}"}
        assert received == []


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("https://source.example/api", True),
        ("https://SOURCE.example:443", True),
        ("http://source.example/api", False),
        ("https://source.example:8443", False),
        ("https://source.example.evil.example", False),
        ("http://127.0.0.1:8000", False),
    ],
)
def test_the_token_is_for_the_origin_of_the_setting(
    url: str, *, is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERATOR_TOKEN", _TOKEN)
    monkeypatch.setenv("GENERATOR_URL", "https://source.example/api")
    settings = load_settings()
    api = generator_api(settings, url)
    sent = {"Authorization": f"Bearer {_TOKEN}"} if is_sent else {}
    assert headers_of(api.auth, Request(url)) == sent
    assert _TOKEN not in repr((settings, api))
    monkeypatch.delenv("GENERATOR_URL")
    assert headers_of(generator_api(load_settings(), url).auth, Request(url)) == {}


def test_an_address_in_a_runs_config_does_not_get_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _recorded(200, body=b'{"watermark": "2026-11-01T00:00:00Z"}') as (url, asked):
        monkeypatch.setenv("GENERATOR_TOKEN", _TOKEN)
        monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:1")
        assert GeneratorResource(url=url).source().watermark() == _WINDOW.start
        assert asked == [""]
        monkeypatch.setenv("GENERATOR_URL", url)
        assert GeneratorResource(url=url).source().watermark() == _WINDOW.start
        assert asked == ["", f"Bearer {_TOKEN}"]


@pytest.mark.parametrize("token", ["two words", "Bearer x", "schlüssel", "a\nb"])
def test_a_token_that_no_header_carries_is_refused_and_not_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERATOR_TOKEN", token)
    with pytest.raises(UserError, match="GENERATOR_TOKEN") as error:
        load_settings()
    assert token not in str(error.value)


@contextmanager
def _recorded(
    status: int, headers: dict[str, str] | None = None, body: bytes = b"{}"
) -> Iterator[tuple[str, list[str]]]:
    """Serve one answer; yield the address, and the header Authorization of each request."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
