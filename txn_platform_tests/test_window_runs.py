"""`txn run` over many hours: what it skips, how it goes on, and how it ends.

The commands that are killed or interrupted are real processes.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform.local.stack import DAGSTER_YAML
from txn_platform.windows import Window
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.other_api import use_api

if TYPE_CHECKING:
    from collections.abc import Iterator

TXN = Path(sys.executable).with_name("txn")
PUBLISHED = Path(".txn/lake/s3_parquet_transactions")
END = datetime(2026, 11, 20, tzinfo=UTC)


def newest(count: int) -> list[str]:
    """The keys of the newest complete hours, oldest first."""
    return [Window(END - timedelta(hours=age)).partition_key for age in range(count, 0, -1)]


def published() -> dict[str, int]:
    """By file, the published objects' times of change."""
    return {str(path): path.stat().st_mtime_ns for path in PUBLISHED.rglob("*.parquet")}


def outcomes(*arguments: str, code: int = 0) -> dict[str, str]:
    """By partition, how a run in this process ended."""
    result = CliRunner().invoke(main, ["run", "--json", *arguments])
    assert result.exit_code == code, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {line["partition"]: line["outcome"] for line in lines}


@contextmanager
def running(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [TXN, "run", *arguments],
        **{"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("count", [6, pytest.param(48, marks=pytest.mark.long)])
def test_a_killed_command_is_run_again_for_the_rest_and_names_the_bad_hour(
    count: int, source: HourlySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = newest(count)
    bad = keys[-2]
    source.hours[bad] = rows_of(Window.of_partition(bad), amount="a lot")
    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with running("--last", str(count)) as process:
        assert eventually(lambda: len(published()) >= count // 2, within=240)
        process.kill()
    before = published()
    assert count // 2 <= len(before) < count - 1

    with running("--last", str(count), "--json") as process:
        stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 1
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["partition"] for line in lines] == keys
    skipped = [line for line in lines if line["outcome"] == "skipped"]
    assert {line["uri"] for line in skipped} == {str(Path(path).absolute()) for path in before}
    assert {line["partition"] for line in lines if line["outcome"] == "failed"} == {bad}
    assert len(published()) == count - 1
    assert before.items() <= published().items()
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"Error: {bad}: the window is not published, because checks failed")
    rest = count - len(before)
    assert f"{rest} of {rest}, " in stderr
    assert "Traceback" not in stderr
    # The record of the killed run has ended too, so that it blocks nothing.
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert all(run.is_finished for run in instance.get_runs())


def test_a_table_at_the_end_counts_and_names_the_hours(source: HourlySource) -> None:
    first, bad, last = newest(3)
    source.hours[bad] = rows_of(Window.of_partition(bad), amount="a lot")
    outcomes("--partition", last)
    result = CliRunner().invoke(main, ["run", "--last", "3"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{first}  published  2 rows, 0 quarantined, ")
    table = [line.split() for line in lines[1:]]
    assert table[0][:2] == ["outcome", "windows"]
    assert [(row[0], row[1], row[-1]) for row in table[1:]] == [
        ("published", "1", first),
        ("skipped", "1", last),
        ("failed", "1", bad),
    ]
    assert "1 of 3 hours are published as they should be: skipped" in result.stderr
    assert "1 of 2, 2 rows, " in result.stderr
    assert re.search(r"^2 of 2, 2 rows, [\d,]+ rows/s, ETA 0:00:00$", result.stderr, re.MULTILINE)


def test_what_is_as_it_should_be_is_skipped(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = newest(2)
    first, last = keys
    assert outcomes("--last", "2") == dict.fromkeys(keys, "published")
    assert outcomes("--last", "2") == dict.fromkeys(keys, "skipped")
    assert outcomes("--last", "2", "--force") == dict.fromkeys(keys, "published")
    assert outcomes("--partition", last) == {last: "published"}
    # A late row, also one that is quarantined.
    source.hours[first] = rows_of(Window.of_partition(first), 40)
    assert outcomes("--from", first, "--to", last) == {first: "published", last: "skipped"}
    source.hours[first][-1]["amount"] = "a lot"
    assert outcomes("--last", "2") == {first: "published", last: "skipped"}
    assert outcomes("--last", "2") == dict.fromkeys(keys, "skipped")
    for variable, value in (
        ("TXN_CARD_KEY", "another key of bytes and more"),
        ("TXN_CARD_MASK", "last4"),
        ("TXN_CARD_POLICY", "clear"),
    ):
        monkeypatch.setenv(variable, value)
        assert outcomes("--last", "2") == dict.fromkeys(keys, "published"), variable
        assert outcomes("--last", "2") == dict.fromkeys(keys, "skipped"), variable
    # An object that is gone is published again, whatever was recorded of it.
    next(PUBLISHED.rglob("event_hour=23/*.parquet")).unlink()
    assert outcomes("--last", "2") == {first: "skipped", last: "published"}
    alone = CliRunner().invoke(main, ["run"])
    assert (alone.exit_code, alone.stdout) == (0, "")
    assert f"{last} is published as it should be: skipped (--force runs it)" in alone.stderr


def test_an_hour_of_another_contract_or_of_an_earlier_version_is_run(source: HourlySource) -> None:
    (key,) = newest(1)
    assert outcomes() == {key: "published"}
    (path,) = PUBLISHED.rglob("*.parquet")
    table = pq.read_table(path)
    notes = dict(table.schema.metadata or {}) | dict(pq.read_metadata(path).metadata or {})
    notes.pop(b"ARROW:schema", None)
    for changed in (notes | {b"contract_version": b"0"}, {b"card_policy": b"token"}):
        pq.write_table(table.replace_schema_metadata(changed), path)
        assert outcomes() == {key: "published"}
        assert outcomes() == {key: "skipped"}
    assert source.rows_in(Window.of_partition(key))


def test_without_control_totals_a_published_hour_is_skipped(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_api(monkeypatch, lag=timedelta(0))
    key = newest(1)[0]
    assert outcomes("--from", key, "--to", key) == {key: "published"}
    source.hours[key].append(source.hours[key][0] | {"transaction_id": "another"})
    assert outcomes("--from", key, "--to", key) == {key: "skipped"}


def test_ctrl_c_stops_after_the_hour_that_runs(source: HourlySource) -> None:
    source.seconds = 1
    with running("--last", "3") as process:
        assert eventually(lambda: bool(source.asked), within=120)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Ctrl-C: stops after this hour. A second Ctrl-C stops at once." in stderr
    assert stderr.splitlines()[-1] == (
        "Stopped by Ctrl-C: 1 published, 0 skipped, 0 failed, 2 not run."
        " The same command runs the rest."
    )
    assert len(published()) == 1
    assert stdout.splitlines()[-1].split()[:3] == ["not", "run", "2"]
    assert "Traceback" not in stderr


@pytest.mark.parametrize("last", [1, 2], ids=["the first of the only hour", "a second"])
def test_ctrl_c_stops_at_once(last: int, source: HourlySource, tmp_path: Path) -> None:
    source.seconds = 200
    home = tmp_path / "dagster"
    home.mkdir()
    with running(*("--last", str(last)), env={**os.environ, "DAGSTER_HOME": str(home)}) as process:
        assert eventually(lambda: bool(source.asked), within=120)
        said = ""
        if last == 2:
            process.send_signal(signal.SIGINT)
            while "A second Ctrl-C" not in said:
                said += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert f"0 published, 0 skipped, 0 failed, {last} not run." in said
    assert "Traceback" not in said
    assert not list(Path(".txn/lake").rglob("*.parquet"))
    assert not list(Path(".txn/lake/.staging").iterdir())
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert run.is_finished


def test_a_terminal_shows_how_far_it_is(source: HourlySource) -> None:
    terminal, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    # Each window takes longer than the display needs to be drawn.
    source.seconds = 0.5
    with running("--last", "2", env=environment, stderr=side) as process:
        os.close(side)
        shown = b""
        while True:
            try:
                shown += os.read(terminal, 4096)
            except OSError:
                break
        stdout = process.communicate(timeout=60)[0]
    os.close(terminal)
    assert process.returncode == 0
    assert stdout.count("  published  2 rows") == 2
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\s+", " ", shown.decode())
    text = re.sub(r" +", " ", text)
    assert f"0 of 2, 0 rows: {newest(2)[0]}: raw transactions" in text
    assert re.search(r"1 of 2, 2 rows, [\d,]+ rows/s, ETA 0:\d\d:\d\d", text)


def test_runs_are_recorded_in_the_local_stack_if_there_is_one(source: HourlySource) -> None:
    home = Path(".txn/dagster").absolute()
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(DAGSTER_YAML.read_text())
    good, bad = newest(2)
    source.hours[bad] = rows_of(Window.of_partition(bad), amount="a lot")
    assert outcomes("--last", "2", code=1) == {good: "published", bad: "failed"}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        asset = dg.AssetKey("s3_parquet_transactions")
        assert instance.get_materialized_partitions(asset) == {good}
        statuses = {run.tags["dagster/partition"]: run.status.value for run in instance.get_runs()}
    assert statuses == {good: "SUCCESS", bad: "FAILURE"}


BOUNDS = {
    "no hour": (["--from", "yesterday"], "--from: partition 'yesterday' is not an hour: write it"),
    "half past": (
        ["--from", "2026-11-01-00:00", "--to", "2026-11-01-00:30"],
        "--to: partition '2026-11-01-00:30' is not an hour: write it as 2026-11-01-00:00 (UTC)",
    ),
    "no day": (["--from", "2026-02-30"], "--from: partition '2026-02-30"),
    "before the first": (
        ["--from", "2025-12-31-23:00"],
        "--from: partition '2025-12-31-23:00' is before the first one, 2026-01-01-00:00",
    ),
    "exchanged": (
        ["--from", "2026-11-02", "--to", "2026-11-01-05:00"],
        "--from 2026-11-02-00:00 is later than --to 2026-11-01-05:00: exchange them",
    ),
    "in the future": (
        ["--from", "2026-11-01", "--to", "2099-01-01"],
        "--to: partition '2099-01-01-23:00' is not over yet: the newest that is over is ",
    ),
    "not complete at the source": (
        ["--from", "2026-11-19", "--to", "2026-11-20-00:00"],
        "--to 2026-11-20-00:00 is not complete: the source has complete hours up to 2026-11-20T00",
    ),
}


@pytest.mark.parametrize("command", ["run", "status"])
@pytest.mark.parametrize("case", BOUNDS)
def test_a_bound_that_is_wrong_is_said_in_one_sentence(
    command: str, case: str, source: HourlySource
) -> None:
    arguments, message = BOUNDS[case]
    result = CliRunner().invoke(main, [command, *arguments])
    assert result.exit_code == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith(f"Error: {message}")
    assert result.stdout == ""
    assert not source.asked


@pytest.mark.parametrize(
    "arguments",
    [
        ["--partition", "2026-11-01-00:00", "--last", "2"],
        ["--last", "2", "--from", "2026-11-01"],
        ["--from", "2026-11-01", "--partition", "2026-11-01-00:00"],
        ["--to", "2026-11-01"],
        ["--last", "0"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit_together_are_refused(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 2
    assert "Error: " in result.stderr


def test_an_error_names_the_hour_also_if_no_source_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENERATOR_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TXN_SOURCE_ATTEMPTS", "3")
    result = CliRunner().invoke(main, ["run", "--partition", "2026-11-01-00:00"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(
        "Error: 2026-11-01-00:00: no source answers at http://127.0.0.1:1: "
    )
