"""Commands print the lake and the source that they use."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from txn_platform.cli import main
from txn_platform.doctor import examine
from txn_platform.misspelt import misspelt
from txn_platform.settings import load_settings
from txn_platform_tests.support.announced_stack import announced_stack
from txn_platform_tests.support.other_api import ROWS_ALONE, use_api
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

if TYPE_CHECKING:
    from collections.abc import Iterator

QUERY_KEY = "key-in-query"


def txn(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit | None)
    return result


@contextmanager
def stack_with_s3(home: Path) -> Iterator[str]:
    """A local stack with an S3 that does not answer: its endpoint."""
    endpoint = "http://127.0.0.1:1"
    home.mkdir()
    keys = {"AWS_ACCESS_KEY_ID": "id-of-stack", "AWS_SECRET_ACCESS_KEY": "key-of-stack"}
    (home / "s3-keys.json").write_text(json.dumps(keys))
    with announced_stack(
        home,
        AWS_BUCKET_NAME="transactions",
        AWS_ENDPOINT_URL_S3=endpoint,
        AWS_REGION="us-east-1",
        TXN_FIRST_HOUR="2026-10-01-00:00",
        GENERATOR_URL="http://127.0.0.1:2",
    ):
        yield endpoint


COMMANDS = [["quarantine"], ["expire", "--older-than", "1d"], ["doctor"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_says_which_lake_it_looks_at(command: list[str], tmp_path: Path) -> None:
    said = txn(*command).stderr.splitlines()
    assert said[0] == f"lake: {tmp_path}/.txn/lake"
    assert (command == ["doctor"]) == (
        said[1:] == ["source: a generator, started for this command"]
    )


def test_nothing_quarantined_names_the_lake(tmp_path: Path) -> None:
    assert txn("quarantine").stdout == f"Nothing is quarantined in {tmp_path}/.txn/lake.\n"


def test_a_run_says_its_lake_and_source_and_no_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:1")
    use_api(monkeypatch, f"/tx?key={QUERY_KEY}&from={{start}}")
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    result = txn("run", "--partition", "2026-11-01-00:00")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:2] == [
        f"lake: {tmp_path}/.txn/lake",
        "source: http://127.0.0.1:1",
    ]
    assert QUERY_KEY not in result.output


def test_a_bucket_is_named_with_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", "payments")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    said = txn("quarantine").stderr
    assert said.startswith("lake: s3://payments/lake at http://127.0.0.1:1\n")


@pytest.mark.usefixtures("no_pauses")
def test_the_lake_of_a_local_stack_is_used_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They are for another store.
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of-the-environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:3")
    monkeypatch.setenv("AWS_CA_BUNDLE", "absent.pem")
    with stack_with_s3(tmp_path / ".txn") as endpoint:
        settings = load_settings()
        said = txn("quarantine").stderr
        source = txn("run", "--partition", "2026-09-30-23:00").stderr
    assert settings.of_local_stack
    assert (settings.bucket, settings.endpoint_url) == ("transactions", endpoint)
    assert settings.access_key_id == "id-of-stack"
    assert settings.secret_access_key is not None
    assert settings.secret_access_key.get_secret_value() == "key-of-stack"
    assert (settings.session_token, settings.profile, settings.ca_bundle) == (None, None, None)
    assert said.startswith(f"lake: s3://transactions/lake at {endpoint}, of the local stack\n")
    assert "note:" not in said
    assert "before the first one, 2026-10-01-00:00" in source
    assert not load_settings().of_local_stack
    assert load_settings().access_key_id == "of-the-environment"


def test_the_generator_of_the_stack_is_the_source_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    with announced_stack(tmp_path / ".txn", GENERATOR_URL="http://127.0.0.1:2"):
        said = txn("run", "--last", "1").stderr.splitlines()
        assert said[0] == f"lake: {tmp_path}/.txn/lake, of the local stack"
        assert said[1] == "source: http://127.0.0.1:2, of the local stack"
        monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:3")
        monkeypatch.setenv("TXN_FIRST_HOUR", "2026-02-01-00:00")
        settings = load_settings()
    assert settings.generator_url == "http://127.0.0.1:3"
    assert settings.first_hour == datetime(2026, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize("place", ["environment", ".env", "directory"])
def test_a_lake_that_is_named_is_used_and_the_stack_that_runs_is_mentioned(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "environment":
        monkeypatch.setenv("AWS_BUCKET_NAME", "payments")
    elif place == ".env":
        Path(".env").write_text("AWS_BUCKET_NAME=payments\n")
    else:
        monkeypatch.setenv("TXN_LAKE_DIRECTORY", "payments")
    with stack_with_s3(tmp_path / ".txn") as endpoint:
        said = txn("quarantine").stderr.splitlines()
    assert said[0].startswith("lake: ")
    assert "payments" in said[0]
    lake = f"s3://transactions/lake at {endpoint}"
    assert said[1].startswith(
        f"note: `txn dev`, `txn demo` or `txn cluster` runs here with the lake {lake}, "
    )
    assert "unset AWS_BUCKET_NAME and TXN_LAKE_DIRECTORY" in said[1]


def test_the_data_of_a_local_stack_that_does_not_run_is_mentioned_and_not_chosen(
    tmp_path: Path,
) -> None:
    with stack_with_s3(tmp_path / ".txn"):
        pass
    (tmp_path / ".txn/seaweedfs").mkdir()
    (tmp_path / ".txn/seaweedfs/ports.json").write_text("{}")
    said = txn("quarantine").stderr
    assert said.startswith(f"lake: {tmp_path}/.txn/lake\n")
    assert "has left data of the lake s3://transactions/lake in" in said
    assert "`txn dev` serves it again" in said


def test_a_stack_that_starts_is_mentioned_and_not_chosen(tmp_path: Path) -> None:
    with announced_stack(tmp_path / ".txn", GENERATOR_URL="http://127.0.0.1:2"):
        (tmp_path / ".txn/stack.json").unlink()
        said = txn("quarantine").stderr
    assert said.startswith(f"lake: {tmp_path}/.txn/lake\n")
    assert "starts or ends here" in said


def test_a_local_stack_that_is_named_is_not_mentioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stack_with_s3(tmp_path / ".txn") as endpoint:
        monkeypatch.setenv("AWS_BUCKET_NAME", "transactions")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        said = txn("expire", "--older-than", "1d").stderr
    assert "note:" not in said


def test_doctor_asks_a_source_that_has_no_watermark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of such a source the hours are known by the clock: nothing has been asked by then."""
    monkeypatch.setenv("TXN_CARD_KEY", "a key of sixteen bytes")
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    use_api(monkeypatch, f"{ROWS_ALONE}&key={QUERY_KEY}")
    monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:1")
    (closed,) = [each for each in examine() if each.subject == "source"]
    assert not closed.good
    there = ServedSource([sent_row(number) for number in range(3)])
    with served(there):
        monkeypatch.setenv("GENERATOR_URL", there.url)
        (found,) = [each for each in examine() if each.subject == "source"]
    assert found.good, found.message
    assert "states no control totals, and gave 3 rows" in found.message
    assert any("transactions" in request for request in there.requests)
    assert QUERY_KEY not in closed.message + found.message


def test_doctor_opens_dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "missing"))
    (found,) = [each for each in examine() if each.subject == "dagster"]
    assert not found.good
    (tmp_path / "missing").mkdir()
    (found,) = [each for each in examine() if each.subject == "dagster"]
    assert found.good, found.message
    assert (tmp_path / "missing/history/runs.db").exists()


def test_variables_that_are_nearly_settings_are_pointed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = {
        "TXN_CARDKEY": "TXN_CARD_KEY",
        "TNX_CARD_KEY": "TXN_CARD_KEY",
        "GENERATOR_ULR": "GENERATOR_URL",
        "GENERATOR_TSP": "GENERATOR_TPS",
        "AWS_BUCKET": "AWS_BUCKET_NAME",
        "AWS_ENDPOINT": "AWS_ENDPOINT_URL",
        "AWS_S3_ENDPOINT_URL": "AWS_ENDPOINT_URL",
        "AWS_SECRET_KEY": "AWS_SECRET_ACCESS_KEY",
        "DELTA_LAKE_PATH": "DELTA_LAKE_S3_PATH",
        "DAGSTER_HOEM": "DAGSTER_HOME",
    }
    right = {
        "TXN_MAX_QUARANTINE": "0.5",
        "txn_max_quarantine": "0.5",
        "GENERATOR_SERVICE_HOST": "10.0.0.1",
        "GENERATOR_SERVICE_PORT_HTTP": "80",
        "GENERATOR_PORT_8000_TCP_ADDR": "10.0.0.1",
        "AWS_PROFILE": "x",
        "AWS_DEFAULT_PROFILE": "x",
        "AWS_ENDPOINT_URL_STS": "x",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "UNRELATED": "x",
    }
    for name, value in {**dict.fromkeys(wrong, "very-secret"), **right}.items():
        monkeypatch.setenv(name, value)
    Path(".env").write_text("TXN_HOEM=very-secret\nTXN_NOTHING_LIKE_IT_AT_ALL=very-secret\n")
    said = list(misspelt(["GENERATOR_TPS", "GENERATOR_URL"]))
    for name, nearest in wrong.items():
        assert f"{name} in the environment is no setting: write {nearest}" in said
    assert "TXN_HOEM in .env is no setting: write TXN_HOME" in said
    assert any(line.startswith("TXN_NOTHING_LIKE_IT_AT_ALL in .env is no") for line in said)
    assert len(said) == len(wrong) + 2
    assert "very-secret" not in str(said)
    notes = [line for line in txn("doctor").stdout.splitlines() if line.startswith("note")]
    assert any("GENERATOR_TSP" in line and "GENERATOR_TPS" in line for line in notes)


def test_the_port_that_kubernetes_sets_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENERATOR_PORT", "tcp://10.0.0.1:8000")
    start, end = "2026-11-01T00:00:00Z", "2026-11-01T00:00:01Z"
    said = txn("generate", "--start", start, "--end", end).stderr
    assert said.startswith("Error: GENERATOR_PORT=tcp://10.0.0.1:8000 cannot be used: ")
    assert "enableServiceLinks" in said
