"""The directories of local state: what several processes make at once, and what cannot be used."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from txn_platform.card_key import kept_card_key
from txn_platform.cli import main
from txn_platform.errors import UserError
from txn_platform.homes import writable_home
from txn_platform.runs import dagster_instance
from txn_platform.settings import load_settings
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support import forked

if TYPE_CHECKING:
    from collections.abc import Callable

TOGETHER = 4
SMALL = {"GENERATOR_TPS": "0.1", "GENERATOR_CUSTOMERS": "500", "GENERATOR_MERCHANTS": "100"}


def all_at_once(
    tmp_path: Path, target: Callable[..., None], *arguments: list[str], environment: dict[str, str]
) -> list[str]:
    """Call the target in processes at once, one for each list of arguments: what they printed."""
    outputs = [tmp_path / f"output-{number}" for number, _ in enumerate(arguments)]
    processes = [
        forked.start(
            target,
            *given,
            environment={**os.environ, **environment},
            directory=tmp_path,
            stdout=output,
            stderr=output,
        )
        for given, output in zip(arguments, outputs, strict=True)
    ]
    for process in processes:
        process.join(200)
        process.kill()
    printed = [output.read_text() for output in outputs]
    assert [process.exitcode for process in processes] == [0] * len(processes), printed
    return printed


def open_together(barrier: str) -> None:
    """Wait until every process is here, and open the instance of DAGSTER_HOME."""
    Path(barrier, str(os.getpid())).touch()
    assert eventually(lambda: len(list(Path(barrier).iterdir())) == TOGETHER, within=120)
    with dagster_instance() as instance:
        assert instance.get_runs_count() == 0


def test_processes_that_open_a_new_dagster_home_at_once_all_succeed(tmp_path: Path) -> None:
    home, barrier = tmp_path / "dagster", tmp_path / "barrier"
    home.mkdir()
    barrier.mkdir()
    calls = [[str(barrier)]] * TOGETHER
    printed = all_at_once(tmp_path, open_together, *calls, environment={"DAGSTER_HOME": str(home)})
    assert not any("Traceback" in text for text in printed)
    for database in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
        with closing(sqlite3.connect(home / database)) as connection:
            (versions,) = connection.execute("select count(*) from alembic_version").fetchone()
        assert versions == 1, database


@pytest.mark.long
def test_runs_that_begin_at_once_with_a_new_dagster_home_all_succeed(tmp_path: Path) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    commands = [["txn", "run", "--partition", f"2026-11-0{day}-00:00"] for day in range(1, 9)]
    environment = {**SMALL, "DAGSTER_HOME": str(home)}
    printed = all_at_once(tmp_path, forked.program, *commands, environment=environment)
    assert not any("Traceback" in text for text in printed)
    assert len(list(tmp_path.glob(".txn/lake/s3_parquet_transactions/**/*.parquet"))) == 8


def make_key(barrier: str, kept: str) -> None:
    """Wait until every process is here, and print the card key that is kept."""
    Path(barrier, str(os.getpid())).touch()
    assert eventually(lambda: len(list(Path(barrier).iterdir())) == TOGETHER, within=120)
    # As in containers, every process has the same number.
    os.getpid = lambda: 1
    sys.stdout.write(kept_card_key(Path(kept)))


def test_processes_that_make_the_first_card_key_at_once_take_the_same(tmp_path: Path) -> None:
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    calls = [[str(barrier), str(tmp_path / "home")]] * TOGETHER
    keys = all_at_once(tmp_path, make_key, *calls, environment={})
    assert set(keys) == {(tmp_path / "home/card-key").read_text()}
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["card-key"]
    assert (tmp_path / "home/card-key").stat().st_mode & 0o777 == 0o600


def test_white_space_in_the_card_keys_file_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "card-key").write_text(" a key of sixteen bytes and more\r\n")
    assert kept_card_key(tmp_path) == "a key of sixteen bytes and more"
    (tmp_path / "card-key").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"card-key can't be made or read .*TXN_CARD_KEY"):
        kept_card_key(tmp_path)


def no_directory(home: Path) -> None:
    home.rmdir()


def broken_yaml(home: Path) -> None:
    (home / "dagster.yaml").write_text("storage: [")


def unknown_entry(home: Path) -> None:
    (home / "dagster.yaml").write_text("password: very-secret")


def wrong_type(home: Path) -> None:
    url = "postgresql://me:very-secret@nowhere/"
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: '{url}'}}")


def unknown_module(home: Path) -> None:
    (home / "dagster.yaml").write_text("compute_logs: {module: nowhere, class: X, config: {}}")


def unknown_level(home: Path) -> None:
    (home / "dagster.yaml").write_text("python_logs: {python_log_level: LOUD}")


def no_text(home: Path) -> None:
    (home / "dagster.yaml").write_bytes(b"\xff\xfe\x00")


def no_database(home: Path) -> None:
    (home / "history").mkdir()
    (home / "history/runs.db").write_bytes(b"no database" * 100)


def two_heads(home: Path) -> None:
    (home / "history").mkdir()
    with closing(sqlite3.connect(home / "history/runs.db")) as connection:
        connection.execute("create table alembic_version (version_num varchar(32) primary key)")
        connection.execute("insert into alembic_version values ('5771160a95ad'), ('6df03f4b1efb')")
        connection.commit()


REMEDIES = {
    no_directory: "DAGSTER_HOME names .* make the directory",
    broken_yaml: "check its dagster.yaml",
    unknown_entry: "check its dagster.yaml",
    wrong_type: "check its dagster.yaml",
    unknown_module: "nowhere.* check its dagster.yaml",
    unknown_level: "LOUD.* check its dagster.yaml",
    no_text: "check its dagster.yaml",
    no_database: "storage that it names",
    two_heads: "move both directories away",
}


@pytest.mark.parametrize("damage", REMEDIES)
def test_a_dagster_home_that_cannot_be_opened_is_said_in_one_message(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    damage(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with pytest.raises(UserError, match=REMEDIES[damage]) as raised, dagster_instance():
        pass
    assert "very-secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("home", ["/proc/txn", "/dev/null", "/sys"])
def test_a_home_that_cannot_be_written_is_said_before_anything_starts(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("without /proc there is no directory that root cannot write")
    monkeypatch.setenv("TXN_HOME", home)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 1
    assert "TXN_HOME" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_a_home_is_made_with_all_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXN_HOME", "a/b/c")
    assert writable_home(load_settings()) == tmp_path / "a/b/c"
    assert (tmp_path / "a/b/c").is_dir()
