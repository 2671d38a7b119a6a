"""The service as a process: its start, its output, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from generator_service.server import serve
from generator_service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = {"GENERATOR_TPS": "1", "GENERATOR_CUSTOMERS": "500", "GENERATOR_MERCHANTS": "100"}
LISTENING = re.compile(r"generator_service listening on (http://127\.0\.0\.1:\d+)\n")
HOUR = "start=2026-11-01T00:00:00Z&end=2026-11-01T01:00:00Z"
MONTH = "start=2026-10-01T00:00:00Z&end=2026-11-01T00:00:00Z"
WITHIN = 60


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Python with arguments and pipes for input and output; killed after the test."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | SMALL | environment,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def service(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service on a free port, and its address."""
    with process("-m", "generator_service", "--port", "0", *arguments, **environment) as running:
        said = LISTENING.fullmatch(running.stdout.readline())
        assert said, running.communicate(timeout=WITHIN)[1]
        yield running, said[1]


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False)


def failed(*arguments: str, **environment: str) -> tuple[int, str]:
    """Return the exit code of a process that must not start, and its one line of output."""
    with process(*arguments, **environment) as running:
        said, why = running.communicate(timeout=WITHIN)
        assert said == ""
        assert why.endswith("\n")
        assert why.count("\n") == 1
        return running.returncode, why


def test_it_prints_one_line_when_it_is_ready():
    with service("--until-stdin-closes") as (running, url):
        assert get(f"{url}/healthz").json()["status"] == "ok"
        assert get(f"{url}/nowhere").status_code == 404
        said, complaints = running.communicate(timeout=WITHIN)
        assert (said, complaints) == ("", "")


def test_its_connections_have_bounds():
    with service() as (_, url):
        answer = httpx.get(f"{url}/healthz", headers={"X": "x" * 70_000}, trust_env=False)
        assert answer.status_code == 431
        assert get(f"{url}/healthz").status_code == 200


def test_it_does_not_import_pandas():
    with service() as (running, url):
        assert get(f"{url}/v1/transactions?{HOUR}&format=arrow").status_code == 200
        mapped = {file.path for file in psutil.Process(running.pid).memory_maps()}
        assert any("/pyarrow/" in path for path in mapped)
        assert not any("/pandas/" in path for path in mapped)


def test_it_ends_when_its_stdin_ends():
    # A connection that is kept alive does not hold it.
    with (
        service("--until-stdin-closes") as (running, url),
        httpx.Client(trust_env=False) as client,
    ):
        client.get(f"{url}/healthz")
        running.stdin.close()
        assert running.wait(WITHIN) == 0


def test_without_the_option_it_outlives_its_stdin():
    with service() as (running, url):
        running.stdin.close()
        assert get(f"{url}/healthz").status_code == 200
        assert running.poll() is None


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
def test_it_ends_with_its_stdin_though_a_stream_is_open(form: str):
    with (
        service("--until-stdin-closes") as (running, url),
        httpx.stream(
            "GET", f"{url}/v1/transactions?{MONTH}&format={form}", trust_env=False
        ) as response,
    ):
        assert response.status_code == 200
        running.stdin.close()
        assert running.wait(WITHIN) == 0
        # A part of an answer must not look complete.
        with pytest.raises(httpx.TransportError):
            response.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(number: signal.Signals):
    with service() as (running, url):
        get(f"{url}/healthz")
        running.send_signal(number)
        said, complaints = running.communicate(timeout=WITHIN)
        assert (running.returncode, said, complaints) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_though_a_stream_is_open(number: signal.Signals):
    with (
        service() as (running, url),
        httpx.stream(
            "GET", f"{url}/v1/transactions?{MONTH}&format=ndjson", trust_env=False
        ) as response,
    ):
        chunks = response.iter_raw()
        assert next(chunks)
        running.send_signal(number)
        assert running.wait(WITHIN) == 0
        assert "Traceback" not in running.stderr.read()


def test_a_port_in_use_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        code, why = failed("-m", "generator_service", "--port", port)
    assert code == 1
    assert f"127.0.0.1:{port}" in why
    assert "Address already in use" in why
    assert "--port" in why


def test_a_host_that_is_none_is_said_in_one_line():
    code, why = failed("-m", "generator_service", "--host", "no-such-host.invalid")
    assert code == 1
    assert "no-such-host.invalid" in why


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("GENERATOR_TPS", "fast", "a valid number"),
        ("GENERATOR_TPS", "-1", "tps must be between"),
        ("GENERATOR_SEED", "1.5", "a valid integer"),
        ("GENERATOR_PRESET", "unreal", "realistic, handbook"),
        ("GENERATOR_LOCALE", "xx_XX", "such as en_US"),
        ("GENERATOR_PORT", "70000", "less than or equal to 65535"),
        ("GENERATOR_MAX_WINDOW_HOURS", "0", "greater than or equal to 1"),
        ("GENERATOR_DEFAULT_LIMIT", "60000", "GENERATOR_MAX_LIMIT=50000"),
        ("GENERATOR_ACCESS_LOG", "perhaps", "a valid boolean"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_what_is_allowed(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        Settings.load()
    assert f"{name}={value} cannot be used" in str(error.value)
    assert allowed in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_setting_ends_it_with_one_line():
    code, why = failed("-m", "generator_service", GENERATOR_TPS="fast")
    assert code == 2
    assert "GENERATOR_TPS=fast" in why


def test_a_bad_setting_is_named_under_uvicorn_too():
    code, why = failed("-m", "uvicorn", "generator_service.app:app", GENERATOR_TPS="fast")
    assert code == 2
    assert "GENERATOR_TPS=fast" in why


def test_a_bad_port_on_the_command_line_is_refused():
    with process("-m", "generator_service", "--port", "http") as running:
        _, why = running.communicate(timeout=WITHIN)
    assert running.returncode == 2
    assert "'http' is no port" in why
    assert "Traceback" not in why


def test_settings_come_from_the_environment_before_dotenv(directory_of_its_own: Path):
    def configuration(**environment: str) -> str:
        with service(**environment) as (_, url):
            return get(f"{url}/healthz").json()["configuration"]

    (directory_of_its_own / ".env").write_text("GENERATOR_SEED=7\nOTHER=1\n")
    from_file = configuration()
    assert from_file == configuration(GENERATOR_SEED="7")
    assert from_file != configuration(GENERATOR_SEED="8")


def test_two_processes_answer_with_the_same_bytes():
    def content() -> bytes:
        with service() as (_, url):
            return get(f"{url}/v1/transactions?{HOUR}&format=parquet").content

    assert content() == content()


def test_uvicorn_can_run_it():
    with process("-m", "uvicorn", "generator_service.app:app", "--port", "0") as running:
        running_on = re.compile(r"Uvicorn running on (http://\S+)")
        url = next(match[1] for line in running.stderr if (match := running_on.search(line)))
        assert len(get(f"{url}/v1/transactions/sample?count=3").json()["data"]) == 3


def test_importing_it_reads_no_settings():
    with process("-c", "import generator_service.app", GENERATOR_TPS="fast") as running:
        assert running.communicate(timeout=WITHIN) == ("", "")
        assert running.returncode == 0


def test_the_access_log_is_off_until_turned_on_and_never_on_stdout():
    with service(GENERATOR_ACCESS_LOG="true") as (running, url):
        get(f"{url}/healthz")
        running.send_signal(signal.SIGTERM)
        said, log = running.communicate(timeout=WITHIN)
        assert said == ""
        assert "GET /healthz" in log


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "http://here", "no such host"])
def test_a_host_that_is_none_is_said_in_one_message(host: str, capsys: pytest.CaptureFixture[str]):
    assert serve(host, 0) == 1
    assert f"cannot listen on {host}:0: " in capsys.readouterr().err


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:8000", "udp://10.0.0.1:8000"])
def test_the_port_that_kubernetes_sets_is_explained(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GENERATOR_PORT", value)
    with pytest.raises(SettingsError, match=r"^GENERATOR_PORT=.*`enableServiceLinks: false`"):
        Settings.load()
    assert Settings.load(port=8001).port == 8001


def test_white_space_around_a_setting_does_not_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GENERATOR_SEED", " 7\n")
    monkeypatch.setenv("GENERATOR_LOCALE", "\ufeffde_DE ")
    monkeypatch.setenv("GENERATOR_TPS", " \t")
    settings = Settings.load()
    assert (settings.seed, settings.locale, settings.tps) == (7, "de_DE", 10)


def test_a_service_whose_output_has_no_room_serves_all_the_same():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "generator_service", "--port", "0", "--until-stdin-closes"]
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | SMALL,
        ) as running,
    ):
        line = running.stderr.readline()
        said = re.match(r"generator_service listening on (http://\S+); .*No space", line)
        assert said
        assert get(f"{said[1]}/healthz").status_code == 200
        running.stdin.close()
        assert running.stderr.read() == ""
    assert running.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="its memory is described in /proc")
def test_its_threads_share_few_arenas_of_memory():
    # glibc gives each thread that allocates 64 MB of addresses, if it may.
    with service(GENERATOR_TPS="50") as (running, url), ThreadPoolExecutor(12) as clients:
        streams = [f"{url}/v1/transactions?{HOUR}&format=ndjson&limit=50000"] * 24
        assert all(response.is_success for response in clients.map(get, streams))
        maps = Path(f"/proc/{running.pid}/smaps").read_text(encoding="utf-8").splitlines()
    sizes = [int(line.split()[1]) for line in maps if line.startswith("Size:")]
    assert sum(60_000 < size <= 65_536 for size in sizes) <= 4, sizes
