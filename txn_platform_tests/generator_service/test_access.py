"""Who may ask: this machine, or whoever has a key; and what a response says besides its content."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from generator_service.access import is_loopback
from generator_service.app import create_app
from generator_service.keys import Key, KeysFile, KnownKeys, Scope
from generator_service.models import parse_moment
from generator_service.server import serve
from generator_service.settings import Settings
from txn_platform_tests.conftest import eventually
from txn_platform_tests.generator_service.test_service_process import failed, process, service
from txn_platform_tests.support.served_app import served_app

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = parse_moment("2026-11-23T14:25:36.123456Z")
MINUTE = {"start": "2026-11-01T00:00:00Z", "end": "2026-11-01T00:01:00Z"}
ROWS = "/v1/transactions"
FAULTS = "X-Generator-Faults"


@dataclass(frozen=True)
class Guarded:
    """A service with keys."""

    client: httpx.Client
    file: KeysFile

    def add(self, name: str, *scopes: Scope, requests_per_minute: int = 1_000) -> dict[str, str]:
        """Add a key, and return the header with it."""
        return {"Authorization": f"Bearer {self.file.add(name, scopes, requests_per_minute)}"}


@contextmanager
def guarded(directory: Path, **given: Any) -> Iterator[Guarded]:
    file = KeysFile(directory / "keys.json")
    file.add("first", (Scope.TRANSACTIONS,), 1_000)
    small = {"tps": 1, "customers": 500, "merchants": 100, "keys_file": file.path}
    with (
        served_app(create_app(Settings.load(**small | given), now=lambda: NOW)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield Guarded(client, file)


@pytest.fixture(scope="module")
def with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("keys"), faults="header") as service:
        yield service


@pytest.fixture(scope="module")
def open_one() -> Iterator[httpx.Client]:
    """A service without keys."""
    settings = Settings.load(tps=1, customers=500, merchants=100)
    with (
        served_app(create_app(settings, now=lambda: NOW)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        yield client


def said(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.json()["detail"]


# Without keys: loopback.


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "x-forwarded-proto",
        "X-Forwarded-Prefix",
        "X-Real-IP",
        "Via",
        "CF-Connecting-IP",
        "True-Client-IP",
        "X-Original-Forwarded-For",
        "X-Forwarder-For",
        "X_Forwarded_For",
        "X-Vercel-Forwarded-For",
        "X-Remote-Addr",
        "X-Originating-IP",
        "WL-Proxy-Client-IP",
        "X-Azure-SocketIP",
        "X-AppEngine-User-IP",
        "CloudFront-Viewer-Address",
        "CDN-Loop",
        "X-Original-Host",
        "X-Envoy-Original-Path",
        "X-Host",
    ],
)
@pytest.mark.parametrize("path", ["/healthz", ROWS, "/", "/docs/swagger/swagger-ui.css"])
def test_a_forwarded_request_is_refused(open_one: httpx.Client, header: str, path: str) -> None:
    detail = said(open_one.get(path, headers={header: "127.0.0.1"}), 403)
    assert header.lower() in detail
    assert "keys add" in detail
    assert "GENERATOR_OPEN=true" in detail


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "10.0.0.1", "[fd00::1]:80"])
def test_a_request_to_the_name_of_another_host_is_refused(
    open_one: httpx.Client, host: str
) -> None:
    assert "name of another host" in said(open_one.get("/healthz", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.2", "[::1]:80", "a.localhost", "here"])
def test_a_request_to_this_machine_is_answered(open_one: httpx.Client, host: str) -> None:
    assert open_one.get("/healthz", headers={"Host": host}).status_code == 200


def test_a_token_does_not_matter_without_keys(open_one: httpx.Client) -> None:
    headers = {"Authorization": "Bearer of another service"}
    assert open_one.get("/v1/watermark", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("server", "status"),
    [
        (("127.0.0.1", 8000), 200),
        (("::1", 8000), 200),
        (("::ffff:127.0.0.1", 8000), 200),
        (("/run/generator.sock", None), 200),
        (("10.1.2.3", 8000), 403),
        (("::ffff:10.1.2.3", 8000), 403),
        (("fe80::1%eth0", 8000), 403),
        (("testserver", 80), 403),
        (None, 403),
    ],
)
def test_the_address_of_the_server_decides(server: Any, status: int) -> None:
    app = create_app(Settings.load(customers=500, merchants=100))

    async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "server": server} if scope["type"] == "http" else scope, receive, send)

    with served_app(elsewhere) as url:
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0"])  # noqa: S104
def test_another_host_without_keys_is_refused_at_the_start(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(host, 0) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for remedy in ("keys add", "--host", "GENERATOR_OPEN=true"):
        assert remedy in message


def test_the_host_of_the_settings_is_refused_at_the_start_as_well() -> None:
    code, why = failed("-m", "generator_service", GENERATOR_HOST="0.0.0.0")  # noqa: S104
    assert code == 2
    assert "0.0.0.0" in why  # noqa: S104


def _address_of_this_machine() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        try:
            wire.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network")
        address = wire.getsockname()[0]
    if is_loopback(address):
        pytest.skip("this machine has no network")
    return address


def test_under_uvicorn_other_machines_are_refused_until_the_service_is_open() -> None:
    here = _address_of_this_machine()
    arguments = ("-m", "uvicorn", "generator_service.app:app", "--port", "0", "--host", "0.0.0.0")  # noqa: S104
    for given, expected in (({}, 403), ({"GENERATOR_OPEN": "true"}, 200)):
        with process(*arguments, **given) as running:
            line = re.compile(r"Uvicorn running on http://0\.0\.0\.0:(\d+)")
            port = next(match[1] for text in running.stderr if (match := line.search(text)))
            for host, status in (("127.0.0.1", 200), (here, expected)):
                answer = httpx.get(f"http://{host}:{port}/v1/watermark", trust_env=False)
                assert answer.status_code == status
            headers = {"X-Forwarded-For": "10.0.0.1"}
            answer = httpx.get(f"http://127.0.0.1:{port}/", headers=headers, trust_env=False)
            assert answer.status_code == expected


# With keys.


def test_a_key_is_needed(with_keys: Guarded) -> None:
    for path in (ROWS, "/v1/watermark", "/v1/cards", "/v1/nowhere", "/metrics", "/v1/scorecard"):
        answer = with_keys.client.get(path, params=MINUTE)
        assert "Bearer" in said(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="')


def test_the_pages_and_the_state_need_no_key_and_show_no_row(with_keys: Guarded) -> None:
    key = with_keys.add("for-rows", Scope.TRANSACTIONS)
    rows = with_keys.client.get("/v1/transactions/sample?count=100", headers=key).json()["data"]
    for path in ("/", "/healthz", "/docs", "/docs/swagger/swagger-ui.css", "/openapi.json"):
        answer = with_keys.client.get(path)
        assert answer.status_code == 200
        assert not any(row["transaction_id"] in answer.text for row in rows)
        assert "Tps" not in answer.text
        # Whoever knows the settings can make the rows.
        assert "seed" not in answer.text or path.startswith("/docs/")


@pytest.mark.parametrize(
    "sent",
    ["", "Bearer", "Bearer x", "Basic {}", "Bearer {}x", "bearer gsk_{}", "{}", "é {}"],
)
def test_another_token_is_refused_and_not_shown(with_keys: Guarded, sent: str) -> None:
    key = with_keys.add(f"key{abs(hash(sent))}", Scope.TRANSACTIONS)["Authorization"][7:]
    header = sent.format(key).encode("latin-1")
    answer = with_keys.client.get("/v1/watermark", headers={b"Authorization": header})
    said(answer, 401)
    assert key not in answer.text
    assert answer.headers["WWW-Authenticate"]


def test_two_tokens_are_refused(with_keys: Guarded) -> None:
    key = with_keys.add("twice", Scope.TRANSACTIONS)["Authorization"]
    headers = [("Authorization", key), ("Authorization", key)]
    said(with_keys.client.get("/v1/watermark", headers=headers), 401)


@pytest.mark.parametrize("scope", [Scope.TRANSACTIONS, Scope.REFERENCE, Scope.METRICS])
def test_a_key_allows_what_its_scopes_say(with_keys: Guarded, scope: Scope) -> None:
    key = with_keys.add(f"only-{scope}", scope)
    paths = {
        ROWS: Scope.TRANSACTIONS,
        "/v1/watermark": Scope.TRANSACTIONS,
        "/v1/control-totals": Scope.TRANSACTIONS,
        "/v1/defects": Scope.TRANSACTIONS,
        "/v1/transactions/sample": Scope.TRANSACTIONS,
        "/v1/customers": Scope.REFERENCE,
        "/v1/cards": Scope.REFERENCE,
        "/v1/merchants": Scope.REFERENCE,
        "/metrics": Scope.METRICS,
    }
    for path, needed in paths.items():
        takes_window = path in {ROWS, "/v1/control-totals", "/v1/defects"}
        params = MINUTE if takes_window else {}
        answer = with_keys.client.get(path, params=params, headers=key)
        if needed is scope:
            assert answer.status_code == 200, answer.text
        else:
            assert f"--scope {needed}" in said(answer, 403)
            assert f'scope="{needed}"' in answer.headers["WWW-Authenticate"]
    # A bad parameter is not told to whom it does not concern.
    refused = {Scope.TRANSACTIONS: "/v1/cards?limit=x"}.get(scope, f"{ROWS}?start=x")
    said(with_keys.client.get(refused, headers=key), 403)


def test_faults_by_header_need_their_scope(with_keys: Guarded) -> None:
    asks = {FAULTS: "status=503"}
    without = with_keys.add("no-faults", Scope.TRANSACTIONS)
    allowed = with_keys.add("faults", Scope.TRANSACTIONS, Scope.FAULTS)
    for path in ("/v1/watermark", "/healthz"):
        said(with_keys.client.get(path, headers=asks), 401)
        assert "--scope faults" in said(with_keys.client.get(path, headers=asks | without), 403)
        for method in ("POST", "TRACE"):
            said(with_keys.client.request(method, path, headers=asks | without), 405)
        assert "asked" in said(with_keys.client.get(path, headers=asks | allowed), 503)


def test_a_key_beyond_its_limit_waits(with_keys: Guarded) -> None:
    key = with_keys.add("slow", Scope.TRANSACTIONS, requests_per_minute=2)
    other = with_keys.add("other", Scope.TRANSACTIONS)
    get = with_keys.client.get
    assert [get("/v1/watermark", headers=key).status_code for _ in range(2)] == [200, 200]
    refused = get("/v1/watermark", headers=key)
    assert "2 requests a minute" in said(refused, 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert get("/v1/watermark", headers=other).status_code == 200


def test_the_allowance_of_a_key_grows_with_time(tmp_path: Path) -> None:
    now = 0.0
    known = KnownKeys(KeysFile(tmp_path / "keys.json"), monotonic=lambda: now)
    key = Key(
        id="0" * 8,
        name="a",
        sha256="0" * 64,
        scopes=(Scope.TRANSACTIONS,),
        requests_per_minute=60,
        created="",
    )
    assert [known.wait(key) for _ in range(61)] == [0] * 60 + [1]
    now = 0.5
    assert known.wait(key) == 1
    now = 1.0
    assert [known.wait(key), known.wait(key)] == [0, 1]
    now = 1_000.0
    assert [known.wait(key) for _ in range(61)] == [0] * 60 + [1]


def test_a_running_service_notices_added_and_revoked_keys(with_keys: Guarded) -> None:
    key = with_keys.add("short", Scope.TRANSACTIONS)
    assert with_keys.client.get("/v1/watermark", headers=key).status_code == 200
    with_keys.file.revoke("short")
    assert "revoked" in said(with_keys.client.get("/v1/watermark", headers=key), 401)


def test_a_service_that_loses_its_keys_lets_no_one_in(tmp_path: Path) -> None:
    with guarded(tmp_path) as service:
        key = service.add("one", Scope.TRANSACTIONS)
        assert service.client.get("/v1/watermark", headers=key).status_code == 200
        content = service.file.path.read_text()
        for damage in (content[:-5], "[]", content.replace("sha256", "hash")):
            service.file.path.write_text(damage)
            answer = service.client.get("/v1/watermark", headers=key)
            assert "its log says why" in said(answer, 503)
            assert int(answer.headers["Retry-After"])
        service.file.path.write_text(content)
        service.file.path.chmod(0o622)
        said(service.client.get("/v1/watermark", headers=key), 503)
        service.file.path.unlink()
        said(service.client.get("/v1/watermark", headers=key), 503)
        service.file.path.mkdir()
        for _ in range(2):
            said(service.client.get("/v1/watermark", headers=key), 503)


def test_a_link_to_the_file_of_keys_stays_one(tmp_path: Path) -> None:
    file, link = KeysFile(tmp_path / "keys.json"), KeysFile(tmp_path / "link.json")
    file.add("one", (Scope.TRANSACTIONS,), 1_000)
    link.path.symlink_to(file.path)
    link.add("other", (Scope.TRANSACTIONS,), 1_000)
    link.revoke("one")
    assert [key.name for key in file.read() or ()] == ["other"]
    assert link.path.is_symlink()


def test_the_file_of_the_working_directory_is_noticed_by_a_running_service(
    directory_of_its_own: Path,
) -> None:
    with service() as (_, url):
        assert httpx.get(f"{url}/v1/watermark", trust_env=False).status_code == 200
        command = [sys.executable, "-m", "generator_service", "keys"]
        added = subprocess.run(
            [*command, "add", "someone"], check=True, capture_output=True, text=True
        )
        key = added.stdout.strip()
        assert re.fullmatch(r"gsk_[0-9a-f]{8}_[\w-]{43}", key)
        assert key not in added.stderr
        assert httpx.get(f"{url}/v1/watermark", trust_env=False).status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/v1/watermark", headers=headers, trust_env=False).is_success
        file = directory_of_its_own / ".generator-keys.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert key not in file.read_text()
        assert key[13:] not in file.read_text()
        listed = subprocess.run([*command, "list"], check=True, capture_output=True, text=True)
        assert "someone" in listed.stdout
        again = subprocess.run(
            [*command, "add", "someone"], check=False, capture_output=True, text=True
        )
        assert (again.returncode, again.stdout) == (1, "")
        assert "already" in again.stderr
        subprocess.run([*command, "revoke", "someone"], check=True, capture_output=True)
        # Without its last key it still needs one, and so it does without the file.
        for _ in range(2):
            answer = httpx.get(f"{url}/v1/watermark", headers=headers, trust_env=False)
            assert answer.status_code == 401
            file.unlink(missing_ok=True)
        # A generator that a program starts for itself has none.
        file.write_text("{}")
        with service("--local", GENERATOR_KEYS_FILE=str(file)) as (_, local):
            assert httpx.get(f"{local}/v1/watermark", trust_env=False).status_code == 200


@pytest.mark.parametrize("name", ["", "a b", "-a", "ü", "a" * 65, "a\n"])
def test_a_name_of_a_key_that_logs_could_not_carry_is_refused(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "generator_service", "keys", "add", "--", name]
    file = tmp_path / "keys.json"
    process = subprocess.run(
        command, env={"GENERATOR_KEYS_FILE": str(file)}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "cannot name a key" in process.stderr
    assert not file.exists()


@pytest.mark.parametrize("module", ["generator_service", "uvicorn"])
def test_a_file_of_keys_that_cannot_be_used_ends_it_with_one_line(
    tmp_path: Path, module: str
) -> None:
    app = () if module == "generator_service" else ("generator_service.app:app",)
    for content, reason in ((None, "does not exist"), ("{", "cannot be used"), ("", "no file")):
        file = tmp_path / "keys.json"
        if content:
            file.write_text(content)
        elif content == "":
            file = tmp_path
        code, why = failed("-m", module, *app, GENERATOR_KEYS_FILE=str(file))
        assert code == 2
        assert reason in why
        assert str(file) in why


# TLS.


def test_it_serves_https(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    with process(
        *("-m", "generator_service", "--port", "0"), GENERATOR_SSL_CERTFILE=str(certificate)
    ) as running:
        line = running.stdout.readline()
        announced = re.fullmatch(r"generator_service listening on https://127.0.0.1:(\d+)\n", line)
        assert announced, running.communicate(timeout=10)
        url = f"https://localhost:{announced[1]}"
        trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        answer = httpx.get(f"{url}/healthz", verify=trusted, trust_env=False)
        assert answer.json()["status"] == "ok"
        assert "server" not in answer.headers
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{announced[1]}/healthz", trust_env=False)


def test_a_certificate_that_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _certificate(tmp_path)
    cases = {
        "No such file": (tmp_path / "none.pem", None),
        "PEM": (_written(tmp_path / "text", "text"), None),
        "needs GENERATOR_SSL_CERTFILE": (None, tmp_path / "server.pem"),
        "SSL_KEYFILE=": (tmp_path / "server.pem", tmp_path / "none.pem"),
        "no key": (tmp_path / "ca.pem", None),
    }
    for reason, (certificate, key) in cases.items():
        for name, path in (("CERTFILE", certificate), ("KEYFILE", key)):
            monkeypatch.setenv(f"GENERATOR_SSL_{name}", str(path or ""))
        assert serve(None, 0) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert reason in message


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _certificate(directory: Path) -> Path:
    """Write `ca.pem` and `server.pem`, with its key, and return the latter."""
    from txn_platform_tests.support.served_tls import server_certificate

    return server_certificate(directory / "ca.pem", directory / "server.pem")


# Every response.


@pytest.mark.parametrize("path", ["/healthz", "/", "/docs", "/v1/nowhere", "/v1/watermark"])
def test_every_response_has_its_headers(open_one: httpx.Client, path: str) -> None:
    answer = open_one.get(path)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "'unsafe-inline'" not in answer.headers["Content-Security-Policy"].split("style-src")[0]
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_the_policy_of_a_page_has_the_digests_of_its_scripts(open_one: httpx.Client) -> None:
    import base64
    import hashlib

    for path in ("/", "/docs"):
        page = open_one.get(path)
        scripts = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
        assert scripts
        for script in scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in page.headers["Content-Security-Policy"]


def test_a_clients_own_id_of_a_request_is_used_if_a_log_can_carry_it(
    open_one: httpx.Client,
) -> None:
    def sent_back(given: bytes) -> str:
        return open_one.get("/healthz", headers={b"X-Request-ID": given}).headers["X-Request-ID"]

    assert sent_back(b"0af7651916cd43dd-8448.eb_211:c") == "0af7651916cd43dd-8448.eb_211:c"
    for given in (b"a b", b"a\tb", b"x" * 129, b"", "é".encode("latin-1"), b"{}", b'"', b"4111 1"):
        assert re.fullmatch("[0-9a-f]{32}", sent_back(given))


def test_the_access_log_has_routes_ids_and_keys_but_no_query_and_no_id_of_a_row(
    tmp_path: Path,
) -> None:
    file = KeysFile(tmp_path / "keys.json")
    key = file.add("reader", (Scope.TRANSACTIONS,), 2)
    given = {"GENERATOR_ACCESS_LOG": "true", "GENERATOR_KEYS_FILE": str(file.path)}
    with service(**given) as (running, url):
        headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "mine"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            client.get("/v1/transactions/an-id?secret=4111111111111111")
            client.get("/v1/nowhere/4111111111111111")
            client.get("/v1/watermark")
        running.send_signal(signal.SIGTERM)
        _, log = running.communicate(timeout=60)
    one, other, beyond = log.splitlines()
    assert re.search(
        r"GET /v1/transactions/\{transaction_id\} 404, \d+ bytes in [\d.]+ s, request mine,"
        r" key reader$",
        one,
    ), one
    assert "GET none 404" in other
    assert "GET none 429" in beyond
    assert beyond.endswith("key reader")
    assert key not in log
    assert "4111" not in log
    assert "an-id" not in log


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_key_that_cannot_be_shown_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "generator_service", "keys", "add", "someone"]
    given = os.environ | {"GENERATOR_KEYS_FILE": str(tmp_path / "keys.json")}
    with Path("/dev/full").open("wb") as full:
        added = subprocess.run(
            command, env=given, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert added.returncode == 1
    assert "Traceback" not in added.stderr
    assert KeysFile(tmp_path / "keys.json").read() == ()


def test_docs_can_be_turned_off(tmp_path: Path) -> None:
    settings = Settings.load(customers=500, merchants=100, docs=False)
    with served_app(create_app(settings)) as url:
        for path in ("/docs", "/docs/swagger/swagger-ui.css"):
            assert httpx.get(f"{url}{path}", trust_env=False).status_code == 404
        assert 'href="docs"' not in httpx.get(f"{url}/", trust_env=False).text
        assert httpx.get(f"{url}/openapi.json", trust_env=False).status_code == 200


# Metrics.


def test_metrics_count_requests_rows_and_bytes(open_one: httpx.Client) -> None:
    def metrics() -> dict[str, float]:
        text = open_one.get("/metrics").text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    of_route = f'route="{ROWS}"'
    requests = f'generator_requests_total{{method="GET",{of_route},status="200"}}'
    sent = f"generator_response_bytes_total{{{of_route}}}"
    before = metrics()
    answer = open_one.get(ROWS, params=MINUTE | {"format": "csv"})

    def counted(name: str) -> float:
        return metrics().get(name, 0) - before.get(name, 0)

    # A request counts when its response has ended, which a client can see before.
    assert eventually(lambda: counted(requests) == 1)
    assert counted(sent) == len(answer.content)
    assert counted("generator_rows_total") == len(answer.text.splitlines()) - 1
    assert counted(f"generator_request_seconds_count{{{of_route}}}") == 1
    assert metrics()["generator_computations_running"] == 0
    assert metrics()["generator_computations_queued"] == 0
    # A path that a client makes up is no label.
    open_one.get("/v1/made-up")
    assert "made-up" not in open_one.get("/metrics").text


def test_metrics_are_openmetrics_for_whoever_prefers_it(open_one: httpx.Client) -> None:
    assert open_one.get("/metrics").headers["Content-Type"].startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = open_one.get("/metrics", headers=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["new", "9.9", "1.x", "", "1.0.0; escaping=none"])
def test_metrics_are_written_for_any_version_that_is_asked_for(
    open_one: httpx.Client, kind: str, version: str
) -> None:
    answer = open_one.get("/metrics", headers={"Accept": f"{kind}; version={version}"})
    assert answer.status_code == 200
    assert re.search(r"version=(1\.0\.0|0\.0\.4);", answer.headers["Content-Type"])


# The description.


def test_the_description_says_who_may_ask(with_keys: Guarded, open_one: httpx.Client) -> None:
    guarded = with_keys.client.get("/openapi.json").json()
    assert guarded["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    operation = guarded["paths"][ROWS]["get"]
    assert operation["security"] == [{"key": ["transactions"]}]
    assert {"401", "403", "429"} <= operation["responses"].keys()
    assert "security" not in guarded["paths"]["/healthz"]["get"]
    # The forms of /docs are filled in all the same.
    examples = {each["name"]: each.get("example") for each in operation["parameters"]}
    assert examples["start"]
    unguarded = json.dumps(open_one.get("/openapi.json").json())
    assert "securitySchemes" not in unguarded
    assert '"security"' not in unguarded


def test_the_description_changes_with_the_first_key(tmp_path: Path) -> None:
    settings = Settings.load(customers=500, merchants=100)
    app = create_app(settings)
    file = KeysFile(tmp_path / "keys.json")
    app.state.keys = KnownKeys(file)
    with served_app(app) as url:
        assert "securitySchemes" not in httpx.get(f"{url}/openapi.json", trust_env=False).text
        file.add("one", (Scope.TRANSACTIONS,), 1_000)
        assert "securitySchemes" in httpx.get(f"{url}/openapi.json", trust_env=False).text


def test_the_description_has_the_bounds_of_the_settings() -> None:
    settings = Settings.load(customers=500, merchants=100, max_limit=77, default_limit=7)
    with served_app(create_app(settings)) as url:
        described = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    parameters = {each["name"]: each for each in described["paths"][ROWS]["get"]["parameters"]}
    assert parameters["limit"]["schema"]["anyOf"][0]["maximum"] == 77
    assert "744 hours" in parameters["end"]["description"]
