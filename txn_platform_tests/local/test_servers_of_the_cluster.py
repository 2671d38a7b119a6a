"""Postgres and Valkey of the cluster: loopback and passwords only; restarts of what has ended."""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.storage.event_log.base import EventLogStorage

from txn_platform.errors import UserError
from txn_platform.local import postgres, restarts, valkey
from txn_platform.local.postgres import Postgres
from txn_platform.local.processes import ManagedProcess, free_ports
from txn_platform.local.restarts import Restarts
from txn_platform.local.valkey import Valkey
from txn_platform_tests.conftest import eventually, of_family

psycopg2 = pytest.importorskip("psycopg2")
redis = pytest.importorskip("redis")

PASSWORD = "0123456789abcdef"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Path]]:
    directory = tmp_path_factory.mktemp("database") / "postgres"
    (port,) = free_ports(1)
    log = directory.parent / "postgres.log"
    server = Postgres.start(directory, log, port=port, password=PASSWORD)
    with server.process:
        server.wait()
        yield server, directory
    postgres.remove(directory)


def listening(process: ManagedProcess) -> set[str]:
    found = of_family(process.pid, lambda each: each.net_connections())
    return {one.laddr.ip for each in found for one in each if one.status == psutil.CONN_LISTEN}


def test_the_database_asks_for_its_password_and_listens_on_loopback_only(
    database: tuple[Postgres, Path],
) -> None:
    server, directory = database
    with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute("show unix_socket_directories")
        assert cursor.fetchone() == ("",)
        cursor.execute("select rolname from pg_authid where rolcanlogin")
        assert cursor.fetchall() == [("dagster",)]
        cursor.execute("select left(rolpassword, 13) from pg_authid where rolcanlogin")
        assert cursor.fetchall() == [("SCRAM-SHA-256",)]
        cursor.execute("select type, auth_method from pg_hba_file_rules")
        assert {method for _, method in cursor.fetchall()} == {"scram-sha-256"}
    for wrong in (server.url.replace(PASSWORD, "guessed"), server.url.replace(f":{PASSWORD}", "")):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(wrong)
    assert listening(server.process) == {"127.0.0.1"}
    assert PASSWORD not in repr(server)
    # Nobody else enters the directory, or finds the password in the list of processes.
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    commands = of_family(server.process.pid, lambda each: each.cmdline())
    assert PASSWORD not in str(commands)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_the_database_of_root_runs_as_another_user_in_a_folder_of_its_own(
    database: tuple[Postgres, Path],
) -> None:
    server, directory = database
    folder = Path((directory / "folder").read_text().strip())
    assert directory not in folder.parents
    assert folder.stat().st_uid != 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    supervisor, *below = of_family(server.process.pid, lambda each: each.uids().effective)
    assert supervisor == 0
    assert set(below) == {folder.stat().st_uid}


def test_the_states_of_checks_in_the_database_are_those_of_dagsters_own_storage(
    database: tuple[Postgres, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text(
        "storage:\n  custom:\n    module: txn_platform.workers.storage\n"
        "    class: PostgresStorage\n    config: {postgres_url: {env: DAGSTER_POSTGRES_URL}}\n"
    )
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", database[0].url)
    hours = dg.HourlyPartitionsDefinition("2026-11-01-00:00", "2026-11-02-00:00")

    @dg.asset(
        partitions_def=hours,
        check_specs=[
            dg.AssetCheckSpec(name, asset="published", partitions_def=hours)
            for name in ("is_right", "is_new")
        ],
    )
    def published(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        is_right = context.partition_key != "2026-11-01-02:00"
        return dg.MaterializeResult(
            check_results=[
                dg.AssetCheckResult(check_name="is_right", passed=is_right),
                dg.AssetCheckResult(check_name="is_new", passed=True),
            ]
        )

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for hour in range(4):
            key = f"2026-11-01-{hour:02}:00"
            assert dg.materialize([published], instance=instance, partition_key=key).success
        # The newest materialization of an hour has no check.
        again = dg.AssetMaterialization("published", partition="2026-11-01-01:00")
        instance.report_runless_asset_event(again)
        keys = [(spec.key, hours) for spec in published.check_specs]
        storage = instance.event_log_storage
        found = storage.get_asset_check_state(keys)
        assert found == EventLogStorage.get_asset_check_state(storage, keys)
    told = {
        status.value: sorted(subset.value.get_partition_keys())
        for status, subset in found[keys[0][0]].subsets.items()
        if not subset.is_empty
    }
    assert told == {
        "SUCCEEDED": ["2026-11-01-00:00", "2026-11-01-03:00"],
        "FAILED": ["2026-11-01-02:00"],
    }


def test_the_database_survives_a_kill_with_its_rows(database: tuple[Postgres, Path]) -> None:
    server, _ = database
    with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
        cursor.execute("create table kept as select 7 as number")
    connection.close()
    said: list[str] = []
    watching = Restarts([server.process], said.append)
    (postmaster,) = psutil.Process(server.process.pid).children()
    postmaster.kill()

    def number() -> bool:
        watching.look()
        if not said:
            return False
        try:
            with psycopg2.connect(server.url) as connection, connection.cursor() as cursor:
                cursor.execute("select number from kept")
                return cursor.fetchone() == (7,)
        except psycopg2.OperationalError:
            return False

    assert eventually(number)
    assert said[0].startswith(
        "Postgres ended with exit code 137. It starts again in 1 s. Its log: "
    )


def test_a_broker_asks_for_its_password_and_keeps_what_it_was_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = Valkey.start(tmp_path / "valkey", tmp_path / "log", port=port, password=PASSWORD)
    with server.process:
        server.wait()
        assert listening(server.process) == {"127.0.0.1"}
        for url in (server.url.replace(PASSWORD, "guessed"), f"redis://127.0.0.1:{port}/0"):
            with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
        with redis.Redis.from_url(server.url) as client:
            client.rpush("queue", "run")
        said: list[str] = []
        watching = Restarts([server.process], said.append)
        os.kill(psutil.Process(server.process.pid).children()[0].pid, signal.SIGKILL)
        assert eventually(lambda: watching.look() or bool(said))

        def kept() -> bool:
            watching.look()
            with redis.Redis.from_url(server.url) as client:
                try:
                    return client.lrange("queue", 0, -1) == [b"run"]
                except redis.RedisError:
                    return False

        assert eventually(kept)
    assert stat.S_IMODE((tmp_path / "valkey" / "valkey.conf").stat().st_mode) == 0o600


def test_pauses_grow_while_a_process_ends_soon_after_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(restarts.time, "monotonic", lambda: now)

    class Ending:
        name, log, exit_code, starts = "It", tmp_path / "log", 1, 0

        def start_again(self) -> None:
            self.starts += 1

    said: list[str] = []
    process = Ending()
    watching = Restarts([process], said.append)  # pyright: ignore[reportArgumentType]
    for _ in range(7):
        watching.look()
        now += 30
        watching.look()
    assert [line.split(" in ")[1].split(" s.")[0] for line in said] == [
        *("1", "2", "4", "8", "16", "30", "30"),
    ]
    assert process.starts == 7
    process.exit_code = None
    now += 100
    watching.look()
    process.exit_code = 0
    watching.look()
    assert said[-1].startswith("It ended with exit code 0. It starts again in 1 s.")


@pytest.mark.parametrize(
    ("start", "name"), [(Postgres.start, "Postgres"), (Valkey.start, "Valkey")]
)
def test_a_server_that_is_not_installed_is_named(
    start: type[Postgres.start], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_PACKAGE", "absent")
    monkeypatch.setattr(valkey, "files", lambda _: [])
    with pytest.raises(
        UserError, match=f"{name} is not installed: run pip install .*--use-settings"
    ):
        start(tmp_path / "data", tmp_path / "log", port=1, password=PASSWORD)
    assert not (tmp_path / "data").exists()
