"""`txn status`: each state that an hour can have, as a calendar and as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform.windows import Window
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.other_api import use_api

if TYPE_CHECKING:
    from click.testing import Result

TXN = Path(sys.executable).with_name("txn")
PUBLISHED = Path(".txn/lake/s3_parquet_transactions")
DAY = "2026-11-19"
KEYS = [f"{DAY}-{hour:02}:00" for hour in range(24)]


def txn(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def states(*arguments: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """By partition, what `txn status` says."""
    result = txn("status", "--json", *arguments)
    assert result.exit_code == code, result.output
    return {line["partition"]: line for line in map(json.loads, result.stdout.splitlines())}


def publish(*keys: str) -> None:
    for key in keys:
        result = txn("run", "--partition", key)
        assert result.exit_code == 0, result.output


def test_every_state_is_told(source: HourlySource, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("dagster").absolute()
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("TXN_MAX_QUARANTINE", "0.5")
    published, changed, outdated, failed, unknown = KEYS[:5]
    source.hours[published] = rows_of(Window.of_partition(published), 3)
    source.hours[published].append({**source.hours[published][0], "transaction_id": "no id"})
    monkeypatch.setenv("TXN_CARD_KEY", "the first of two card keys")
    publish(outdated)
    monkeypatch.setenv("TXN_CARD_KEY", "the other of two card keys")
    publish(published, changed, unknown)
    source.hours[changed].append(rows_of(Window.of_partition(changed), 3)[-1])
    source.hours[failed] = rows_of(Window.of_partition(failed), amount="a lot")
    assert txn("run", "--partition", failed).exit_code == 1
    source.silent.add(unknown)
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")

    found = states("--from", DAY, "--to", DAY, code=1)
    assert list(found) == KEYS
    assert {key: state["state"] for key, state in found.items()} == {
        **dict.fromkeys(KEYS, "missing"),
        published: "published",
        changed: "changed",
        outdated: "outdated",
        failed: "failed",
        unknown: "unknown",
    }
    assert found[published] == {
        "partition": published,
        "state": "published",
        "reason": "",
        "rows": 3,
        "quarantined": 1,
        "quarantine_rate": 0.25,
        "uri": str((PUBLISHED / f"event_date={DAY}/event_hour=00/part-0.parquet").absolute()),
    }
    assert "rows: 2 against 3" in found[changed]["reason"]
    assert found[outdated]["reason"] == "published under another card key"
    assert "2 of 2 rows are quarantined" in found[failed]["reason"]
    assert "control-totals" in found[unknown]["reason"] or "status 500" in found[unknown]["reason"]
    assert found[KEYS[-1]]["rows"] is None


def test_a_failed_hour_that_is_published_since_is_not_failed(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path("dagster").absolute()
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    key = KEYS[-1]
    good = rows_of(Window.of_partition(key))
    source.hours[key] = rows_of(Window.of_partition(key), amount="a lot")
    assert txn("run", "--partition", key).exit_code == 1
    assert states("--from", key)[key]["state"] == "failed"
    source.hours[key] = good
    publish(key)
    assert states("--from", key)[key]["state"] == "published"
    # A later run that fails leaves the good object as the source had it.
    source.hours[key] = rows_of(Window.of_partition(key), amount="a lot")
    assert txn("run", "--partition", key).exit_code == 1
    assert states("--from", key)[key]["state"] == "failed"
    source.hours[key] = good
    assert states("--from", key)[key]["state"] == "published"


def test_without_an_instance_an_hour_that_was_landed_and_not_published_is_failed(
    source: HourlySource,
) -> None:
    key = KEYS[-1]
    source.hours[key] = rows_of(Window.of_partition(key), amount="a lot")
    assert txn("run").exit_code == 1
    found = states("--from", key)[key]
    assert (found["state"], found["reason"]) == (
        "failed",
        "it was landed, and then not published",
    )


def test_a_source_that_does_not_answer_makes_nothing_green(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(KEYS[0])
    monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    result = txn("status", "--from", KEYS[0], "--to", KEYS[1])
    assert result.exit_code == 1
    assert "Error: no source answers at http://127.0.0.1:1" in result.stderr
    assert result.stdout.splitlines()[1].split() == [DAY, "?.", "2", "0.00%"]
    assert source.asked


def test_the_calendar_has_a_row_for_each_day_and_names_what_is_to_do(source: HourlySource) -> None:
    publish(KEYS[3], KEYS[4])
    result = txn("status")
    assert result.exit_code == 0, result.output
    heading, *lines = result.stdout.splitlines()
    assert heading.split() == ["day", "0", "6", "12", "18", "rows", "quarantined"]
    first = datetime(2026, 11, 13, tzinfo=UTC)
    days = [f"{first + timedelta(days=day):%Y-%m-%d}" for day in range(7)]
    assert [line.split()[0] for line in lines[:7]] == days
    assert lines[5].split() == ["2026-11-18", "." * 24]
    assert lines[6].split() == [DAY, "...##" + "." * 19, "4", "0.00%"]
    assert "#  published" in re.sub(" +", "  ", result.stdout)
    assert f"2026-11-13-00:00 to {KEYS[2]}, {KEYS[5]} to {KEYS[-1]}: it was not" in result.stdout
    assert result.stderr.splitlines()[-1].endswith(
        f": txn run --from 2026-11-13-00:00 --to {KEYS[-1]}"
    )


@pytest.mark.parametrize(("columns", "no_color"), [(20, ""), (40, "1"), (200, "")])
def test_a_terminal_of_any_width_cuts_nothing_off(
    columns: int, no_color: str, source: HourlySource
) -> None:
    publish(KEYS[0])
    terminal, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": no_color}
    command = [TXN, "status", "--from", KEYS[0]]
    with subprocess.Popen(
        command, env=environment, stdout=side, stderr=subprocess.DEVNULL
    ) as process:
        os.close(side)
        output = b""
        while True:
            try:
                output += os.read(terminal, 4096)
            except OSError:
                break
    os.close(terminal)
    assert process.returncode == 0
    coloured = re.search(rb"\x1b\[[0-9;]*3\d", output) is not None
    assert coloured == (not no_color)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).splitlines()
    assert max(map(len, lines)) <= columns
    text = "".join(re.sub(r"\s", "", line) for line in lines)
    assert text.count("#") == 2
    assert "…" not in text
    assert source.asked


def test_a_source_without_control_totals_has_published_hours(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_api(monkeypatch)
    publish(KEYS[0])
    found = states("--from", KEYS[0], "--to", KEYS[1])
    assert [state["state"] for state in found.values()] == ["published", "missing"]
    assert source.rows_in(Window.of_partition(KEYS[0]))


def test_a_damaged_object_is_not_green_and_the_next_run_repairs_it(source: HourlySource) -> None:
    publish(KEYS[0])
    (path,) = PUBLISHED.rglob("*.parquet")
    path.write_bytes(b"no Parquet")
    found = states("--from", KEYS[0], "--to", KEYS[0], code=1)[KEYS[0]]
    assert (found["state"], found["reason"]) == (
        "unknown",
        f"{path.absolute()} is no whole Parquet file: run the window again",
    )
    assert txn("run", "--from", KEYS[0], "--to", KEYS[0]).exit_code == 0
    assert states("--from", KEYS[0], "--to", KEYS[0])[KEYS[0]]["state"] == "published"
    assert source.asked


@pytest.mark.parametrize("s3_endpoint", ["moto"], indirect=True)
def test_hours_of_a_bucket_that_a_new_delta_table_lacks_are_run_again(
    source: HourlySource, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TXN_CARD_KEY", "a key of sixteen bytes and more")
    bounds = ("--from", KEYS[0], "--to", KEYS[1])
    publish(KEYS[0])
    assert [state["state"] for state in states(*bounds).values()] == ["published", "missing"]
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(Path("delta").absolute()))
    before = states(*bounds)[KEYS[0]]
    assert (before["state"], before["reason"]) == ("outdated", "the Delta table does not have it")
    assert txn("run", *bounds).exit_code == 0
    assert {state["state"] for state in states(*bounds).values()} == {"published"}
    again = txn("run", *bounds)
    assert again.exit_code == 0
    assert "2 of 2 hours are published as they should be: skipped" in again.stderr
    assert source.asked
