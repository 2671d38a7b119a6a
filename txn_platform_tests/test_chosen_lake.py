"""The lake that `--lake` names, and the first hour beside what a lake has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform.errors import UserError
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake, require_first_hour
from txn_platform.lake.parquet import Encoding
from txn_platform.local.seaweedfs import available
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.support.served_source import ServedSource, sent_row, served
from txn_platform_tests.test_commands import SMALL, run, run_fresh, succeed

if TYPE_CHECKING:
    from click.testing import Result

    from txn_platform_tests.conftest import S3Endpoint

PUBLISHED = "s3_parquet_transactions"


def txn(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit | None)
    return result


@pytest.fixture(autouse=True)
def environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option sets variables of the process; the test puts them back."""
    for name in ("AWS_BUCKET_NAME", "TXN_LAKE_DIRECTORY", "TXN_LAKE_PREFIX"):
        monkeypatch.setenv(name, "")


def test_a_directory_or_a_folder_in_a_bucket_is_used_whatever_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", "payments")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    there = txn("quarantine", "--lake", "my lake")
    assert there.stdout == f"Nothing is quarantined in {tmp_path}/my lake.\n"
    for named, used in (
        ("s3://other/a/folder", "s3://other/a/folder"),
        ("s3://other/top/", "s3://other/top"),
        ("s3://other", "s3://other/top"),
    ):
        said = txn("quarantine", "--lake", named).stderr
        assert said.startswith(f"lake: {used} at http://127.0.0.1:1\n")


def test_the_command_that_status_says_to_type_has_the_lake() -> None:
    with served(ServedSource([sent_row(1)])) as source:
        environment = {"GENERATOR_URL": source.url}
        hours = ("--from", "2026-11-01-00:00", "--to", "2026-11-01-01:00")
        said = run("txn", "status", "--lake", "my lake", *hours, environment=environment)
    assert said.stderr.endswith(f"txn run {' '.join(hours)} --lake 'my lake'\n")


@pytest.mark.parametrize("lake", ["", "s3://", "gs://bucket/folder", "s3://a/b?c=d", "a-file"])
def test_what_is_no_lake_is_one_sentence(lake: str) -> None:
    Path("a-file").touch()
    result = txn("quarantine", "--lake", lake)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: --lake {lake!r} is no lake: name a directory, ")


def test_a_stack_that_never_was_is_one_sentence() -> None:
    result = txn("quarantine", "--lake", "stack")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no local stack has left an S3 in ")


@pytest.mark.skipif(not available(), reason="SeaweedFS is not installed")
def test_the_commands_after_the_demo_find_what_it_published() -> None:
    printed = succeed("txn", "demo", environment=SMALL)
    query, _, quarantine = [line[2:] for line in printed.splitlines() if line.startswith("  ")][-3:]
    assert (
        "USD"
        in subprocess.run(["sh", "-c", query], check=True, capture_output=True, text=True).stdout
    )
    assert quarantine.endswith("txn quarantine --lake stack")
    # It is in the S3 alone, which is started for the command and then stops.
    assert not Path(".txn/lake").exists()
    said = run("txn", "quarantine", "--lake", "stack")
    assert (said.returncode, said.stdout) == (
        0,
        f"Nothing is quarantined in {said.stderr.splitlines()[0].removeprefix('lake: ')}.\n",
    )
    assert "of the local stack" in said.stderr
    (hour,) = re.findall(r"^(\d{4}-\d\d-\d\d-\d\d:00) ", printed, re.MULTILINE)
    shown = run("txn", "status", "--lake", "stack", "--from", hour, "--to", hour, "--json")
    assert '"published"' in shown.stdout or '"changed"' in shown.stdout
    beside = run("txn", "quarantine").stderr
    assert "which is not looked at: `txn dev` serves it again, and so does --lake stack" in beside


def _publish(*keys: str) -> None:
    lake = open_lake(load_settings())
    for key in keys:
        with lake.stage(pa.schema({"number": pa.int64()}), Encoding(compression="zstd")) as writer:
            lake.publish(writer.finish(), object_key(PUBLISHED, Window.of_partition(key)))


def _require(first: str) -> None:
    lake = open_lake(load_settings())
    require_first_hour(lake, PUBLISHED, Window.of_partition(first).start)


def _holds_the_rule() -> None:
    _require("2026-11-01-00:00")
    _publish("2026-10-31-23:00", "2026-11-01-07:00", "2026-11-01-06:00")
    _require("2026-01-01-00:00")
    _require("2026-10-31-23:00")
    with pytest.raises(UserError, match="TXN_FIRST_HOUR=2026-11-01-00:00 is after the oldest"):
        _require("2026-11-01-00:00")


def test_a_first_hour_after_the_oldest_published_window_is_refused_in_a_directory() -> None:
    Path(".txn/lake", PUBLISHED, "event_date=notes").mkdir(parents=True)
    _holds_the_rule()


def test_a_first_hour_after_the_oldest_published_window_is_refused_in_a_bucket(
    s3_endpoint: S3Endpoint, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    stranger = f"{s3_environment['TXN_LAKE_PREFIX']}/{PUBLISHED}/event_date=2026-01-01/_SUCCESS"
    s3_endpoint.client().put_object(Bucket=s3_endpoint.bucket, Key=stranger, Body=b"")
    _holds_the_rule()


def test_a_run_and_doctor_refuse_a_first_hour_that_hides_published_windows() -> None:
    _publish("2026-10-31-23:00")
    with served(ServedSource([sent_row(number) for number in range(3)])) as source:
        environment = {
            "TXN_FIRST_HOUR": "2026-11-01-00:00",
            "GENERATOR_URL": source.url,
            "TXN_CARD_KEY": "a key of sixteen bytes and more",
        }
        ran = run_fresh("txn", "run", "--partition", "2026-11-01-00:00", environment=environment)
        looked = run_fresh("txn", "doctor", environment=environment)
    for said, printed in ((ran, ran.stderr), (looked, looked.stdout)):
        assert said.returncode == 1
        assert "is after the oldest published window, 2026-10-31-23:00 in" in printed
        assert "Traceback" not in printed
