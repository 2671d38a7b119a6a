"""The proxy of `deploy/` lets the right people in, and bounds what one client address may take."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from dotenv import dotenv_values

import txn_platform
from txn_platform.local.processes import ManagedProcess, free_ports, generator_url
from txn_platform.local.seaweedfs_keys import inner_keys
from txn_platform_tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(txn_platform.__file__).parents[1] / "deploy"
OPERATORS = "dagster.example.com"
VIEWERS = "view.dagster.example.com"
GENERATOR = "generator.example.com"
NAMES = {3000: "operators", 3001: "viewers", 4180: "sign_in"}
NGINX = shutil.which("nginx")

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


class _Upstream(BaseHTTPRequestHandler):
    """Says who it is and what it got. As oauth2-proxy, it takes the cookie as the user's group."""

    name = ""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        status = 200
        if parts.path == "/oauth2/auth":
            group = self.headers.get("Cookie", "").removeprefix("group=")
            (allowed,) = parse_qs(parts.query)["allowed_groups"]
            status = 401 if not group else 202 if group in allowed.split(",") else 403
        elif parts.path == "/oauth2/sign_in":
            status = 302
        self.send_response(status)
        body = json.dumps({"name": self.name, "path": self.path, **self.headers}).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


class _Proxy:
    """A client of the proxy, which names a host as a browser does."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(verify=False, timeout=30)  # noqa: S501 - the test's own server

    def send(
        self, host: str, path: str = "/", method: str = "GET", **headers: str
    ) -> httpx.Response:
        return self._client.request(
            method,
            f"https://127.0.0.1:{self.port}{path}",
            headers={"Host": host, **headers},
            extensions={"sni_hostname": host},
        )


@contextmanager
def _generator(directory: Path) -> Iterator[tuple[str, str]]:
    """The port of a generator with the settings of `deploy/`, and a key of it."""
    (port,) = free_ports(1)
    environment = {
        **os.environ,
        **dotenv_values(DEPLOY / "generator.env"),
        "GENERATOR_PORT": str(port),
        "GENERATOR_KEYS_FILE": f"{directory}/keys.json",
        "GENERATOR_CURSOR_KEY": "a secret of a store of secrets",
        "GENERATOR_CUSTOMERS": "200",
        "GENERATOR_MERCHANTS": "100",
    }
    command = [sys.executable, "-m", "generator_service"]
    added = subprocess.run(
        [*command, "keys", "add", "platform"],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    generator = ManagedProcess(
        "generator", [*command, "--until-stdin-closes"], environment=environment, watches_stdin=True
    )
    with generator:
        assert generator_url(generator) == f"http://127.0.0.1:{port}"
        yield str(port), added.stdout.strip()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Proxy]:
    directory = tmp_path_factory.mktemp("nginx")
    inner_keys(directory)
    configuration = (DEPLOY / "nginx.conf").read_text()
    upstreams = (DEPLOY / "upstreams.conf").read_text()
    port, plain = free_ports(2)
    with ExitStack() as running:
        for real, name in NAMES.items():
            handler = type(name, (_Upstream,), {"name": name})
            server = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            running.callback(server.shutdown)
            upstreams = upstreams.replace(f"127.0.0.1:{real};", f"127.0.0.1:{server.server_port};")
        generator, key = running.enter_context(_generator(directory))
        upstreams = upstreams.replace("127.0.0.1:8000;", f"127.0.0.1:{generator};")
        (directory / "upstreams.conf").write_text(upstreams)
        configuration = configuration.replace("listen 443", f"listen 127.0.0.1:{port}")
        configuration = configuration.replace("listen 80", f"listen 127.0.0.1:{plain}")
        configuration = re.sub(r"/etc/nginx/tls/\S+;", f"{directory}/tls.pem;", configuration)
        own = "".join(
            f"{kind}_temp_path {directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = configuration.replace("http {", f"http {{ access_log off; {own}", 1)
        (directory / "nginx.conf").write_text(configuration)
        options = f"daemon off; master_process off; pid {directory}/pid;"
        command = [str(NGINX), "-c", f"{directory}/nginx.conf", "-e", "stderr", "-g", options]
        process = running.enter_context(ManagedProcess("nginx", command))
        client = _Proxy(port, key)

        def answers() -> bool:
            try:
                return client.send(GENERATOR, "/healthz").is_success
            except httpx.TransportError:
                return False

        process.wait_until(answers, timeout=60)
        yield client


@needs_nginx
@pytest.mark.parametrize(
    ("host", "group", "expected"),
    [
        (OPERATORS, "dagster-operators", "operators"),
        (VIEWERS, "dagster-operators", "viewers"),
        (VIEWERS, "dagster-viewers", "viewers"),
        (OPERATORS, "dagster-viewers", 403),
        (OPERATORS, "others", 403),
        (VIEWERS, "others", 403),
    ],
)
def test_a_group_gets_its_webserver_and_no_other(
    proxy: _Proxy, host: str, group: str, expected: str | int
) -> None:
    for path, method in (("/runs", "GET"), ("/graphql", "POST"), ("/graphql", "GET")):
        answer = proxy.send(host, path, method, Cookie=f"group={group}")
        if isinstance(expected, int):
            assert answer.status_code == expected
        else:
            assert (answer.json()["name"], answer.json()["Host"]) == (expected, host)


@needs_nginx
@pytest.mark.parametrize("host", [OPERATORS, VIEWERS])
def test_a_websocket_of_its_own_pages_is_led_through(proxy: _Proxy, host: str) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Cookie": "group=dagster-operators"}
    got = proxy.send(host, "/graphql", **upgrade, Origin=f"https://{host}").json()
    assert (got["Upgrade"], got["Connection"]) == ("websocket", "upgrade")
    for origin in ("https://evil.example", "null"):
        assert proxy.send(host, "/graphql", **upgrade, Origin=origin).status_code == 403


@needs_nginx
@pytest.mark.parametrize("host", [OPERATORS, VIEWERS])
def test_nobody_is_let_in_without_a_sign_in(proxy: _Proxy, host: str) -> None:
    answer = proxy.send(host, "/runs?status=failed")
    assert answer.json()["name"] == "sign_in"
    assert answer.json()["X-Auth-Request-Redirect"] == f"https://{host}/runs?status=failed"
    assert proxy.send(host, "/graphql", "POST").status_code == 401
    # Only nginx asks oauth2-proxy, and a client cannot say who it is.
    assert proxy.send(host, "/signed-in", Cookie="group=dagster-operators").status_code == 404
    assert proxy.send(host, **{"X-Forwarded-User": "operator"}).json()["name"] == "sign_in"


@needs_nginx
@pytest.mark.parametrize("host", [OPERATORS, VIEWERS])
@pytest.mark.parametrize(
    ("request_line", "origin", "status"),
    [
        ("POST /graphql", f"https://{OPERATORS}", {OPERATORS: 200, VIEWERS: 403}),
        ("POST /graphql", f"https://{VIEWERS}", {OPERATORS: 403, VIEWERS: 200}),
        ("POST /graphql", "https://evil.example", 403),
        ("POST /graphql", "null", 403),
        ("POST /report_asset_materialization/a", f"http://{OPERATORS}", 403),
        ("GET /graphql", f"https://{OPERATORS}.evil.example", 403),
        ("GET /graphql?query=mutation{a}", None, 405),
        ("GET /%67raphql?que%72y=mutation{a}", None, 405),
        ("HEAD /graphql?query=mutation{a}", None, 405),
        ("PUT /graphql", None, 405),
    ],
)
def test_another_site_and_a_query_by_get_are_refused(
    proxy: _Proxy, host: str, request_line: str, origin: str | None, status: int | dict[str, int]
) -> None:
    method, path = request_line.split()
    headers = {"Cookie": "group=dagster-operators"} | ({"Origin": origin} if origin else {})
    answer = proxy.send(host, path, method, **headers)
    assert answer.status_code == (status if isinstance(status, int) else status[host])


@needs_nginx
def test_a_name_that_leads_here_by_chance_gets_no_connection(proxy: _Proxy) -> None:
    with pytest.raises(httpx.ConnectError):
        _Proxy(proxy.port, "").send("evil.example")
    # On a connection that is open.
    assert proxy.send("evil.example").status_code == 421


@needs_nginx
def test_the_generator_answers_for_a_key_alone_and_its_metrics_stay_inside(proxy: _Proxy) -> None:
    path = "/v1/transactions?start=2026-11-01T00:00:00Z&end=2026-11-01T00:01:00Z&limit=1"
    answer = proxy.send(GENERATOR, path, **proxy.key)
    assert len(answer.json()["data"]) == 1
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])
    assert proxy.send(GENERATOR, path).status_code == 401
    assert proxy.send(GENERATOR, path, Authorization="Bearer another").status_code == 401
    for address in ("/metrics", "/docs"):
        assert proxy.send(GENERATOR, address, **proxy.key).status_code == 404


@needs_nginx
def test_one_client_address_is_slowed_down_at_the_generator(proxy: _Proxy) -> None:
    def statuses() -> Counter[int]:
        with ThreadPoolExecutor(4) as pool:
            return Counter(
                pool.map(lambda _: proxy.send(GENERATOR, "/healthz").status_code, range(400))
            )

    assert eventually(lambda: statuses().keys() == {200, 429})
    assert eventually(lambda: proxy.send(GENERATOR, "/healthz").status_code == 200)


def test_oauth2_proxy_keeps_its_cookie_and_has_no_secret() -> None:
    settings = tomllib.loads((DEPLOY / "oauth2-proxy.cfg").read_text())
    nginx = (DEPLOY / "nginx.conf").read_text() + (DEPLOY / "upstreams.conf").read_text()
    assert not [name for name in settings if "secret" in name]
    assert f"server {settings['http_address']};" in nginx
    assert settings["cookie_secure"]
    assert settings["cookie_httponly"]
    assert settings["cookie_samesite"] == "lax"
    # The generator is no place for the cookie.
    assert settings["cookie_domains"] == [OPERATORS]
    assert settings["whitelist_domains"] == [OPERATORS, VIEWERS]
    assert f"server_name {OPERATORS} {VIEWERS};" in nginx
    for group in settings["allowed_groups"]:
        assert group in nginx
