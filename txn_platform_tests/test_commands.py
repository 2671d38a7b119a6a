"""The commands that users type, from the entry points that are installed, in an empty directory.

Each program is also started as a fresh process with all its imports, and so are commands that a
signal ends or that have a terminal. The others are forked from a process that has imported them.
These tests hold the promises of the commands; the parts behind them have their own tests. Servers
with a user interface are in `test_command_servers.py`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform.contract.descriptors import CONTRACT_NAME, PACKAGE_NAME
from txn_platform.local.seaweedfs import SeaweedFS, available
from txn_platform.windows import Window
from txn_platform_tests.conftest import S3Endpoint, eventually, gone
from txn_platform_tests.support import forked
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PARTITION = "2026-11-01-00:00"
WINDOW = "event_date=2026-11-01/event_hour=00/part-0.parquet"
PUBLISHED = f"s3_parquet_transactions/{WINDOW}"
OBJECTS = {
    PUBLISHED,
    f"raw_transactions/{WINDOW}",
    f"validated_transactions/{WINDOW}",
    f"quarantined_transactions/{WINDOW}",
    PACKAGE_NAME,
    CONTRACT_NAME,
}
LAKE = Path(".txn/lake")
MATERIALIZE = ("dagster", "asset", "materialize", "-m", "txn_platform.definitions", "--select", "*")
SMALL = {"GENERATOR_TPS": "1", "GENERATOR_CUSTOMERS": "500", "GENERATOR_MERCHANTS": "100"}

CARD_KEY = "a key of sixteen bytes and more"

# Every process that a command starts has the command's mark in its environment.
MARK = "STARTED_BY_TEST"


def started_by(mark: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and not gone(process):
                found.append(process)
    return found


@contextmanager
def started(
    *command: str, environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """An installed command, running; when the block ends it has ended, and all that it started."""
    mark = uuid.uuid4().hex
    program = Path(sys.executable).with_name(command[0])
    with subprocess.Popen(
        [program, *command[1:]],
        env={**os.environ, **(environment or {}), MARK: mark},
        **{"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    ) as process:
        try:
            yield process
            process.wait(60)
            assert eventually(lambda: not started_by(mark)), started_by(mark)
        finally:
            for left in started_by(mark):
                with suppress(psutil.Error):
                    left.kill()


def run(
    *command: str, environment: Mapping[str, str] | None = None, cwd: str = "."
) -> subprocess.CompletedProcess[str]:
    """A command, from start to end, forked from a process that has imported what it needs."""
    mark = uuid.uuid4().hex
    directory = Path(cwd).absolute()
    with TemporaryDirectory(prefix="printed-") as printed:
        outputs = (Path(printed, "stdout"), Path(printed, "stderr"))
        process = forked.start(
            forked.program,
            *command,
            environment={**os.environ, **(environment or {}), MARK: mark},
            directory=directory,
            stdout=outputs[0],
            stderr=outputs[1],
        )
        try:
            process.join(200)
            assert process.exitcode is not None, f"{command} hangs: {outputs[1].read_text()}"
            assert eventually(lambda: not started_by(mark)), started_by(mark)
            stdout, stderr = (output.read_text() for output in outputs)
        finally:
            process.kill()
            for left in started_by(mark):
                with suppress(psutil.Error):
                    left.kill()
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def run_fresh(
    *command: str, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """An installed command, from start to end, with all that it imports."""
    with started(*command, environment=environment, **options) as process:
        stdout, stderr = process.communicate(timeout=200)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def succeed(
    *command: str,
    environment: Mapping[str, str] | None = None,
    by: Callable[..., subprocess.CompletedProcess[str]] = run,
    **options: Any,
) -> str:
    """The standard output of the command."""
    result = by(*command, environment=environment, **options)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def stored(lake: Path = LAKE) -> set[str]:
    """Every file that a lake in a directory has, staged ones too."""
    return {str(path.relative_to(lake)) for path in lake.rglob("*") if path.is_file()}


def stored_in(endpoint: S3Endpoint, prefix: str) -> set[str]:
    listing = endpoint.client().list_objects_v2(Bucket=endpoint.bucket, Prefix=f"{prefix}/")
    return {item["Key"].removeprefix(f"{prefix}/") for item in listing.get("Contents", [])}


def body_of(endpoint: S3Endpoint, key: str) -> bytes:
    return endpoint.client().get_object(Bucket=endpoint.bucket, Key=key)["Body"].read()


@pytest.mark.parametrize("defects", [pytest.param("", marks=pytest.mark.long), "all:0.05"])
def test_a_run_does_not_import_pandas(defects: str) -> None:
    """Which takes a tenth of a small one; who annotates an input with it has imported it."""
    environment = SMALL | {"GENERATOR_DEFECTS": defects, "PYTHONPROFILEIMPORTTIME": "1"}
    command = (*MATERIALIZE, "--partition", PARTITION)
    result = run_fresh(*command, environment=environment)
    assert result.returncode == 0, result.stderr
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", result.stderr, re.MULTILINE))
    assert "pyarrow" in imported
    assert "pandas" not in imported


def test_materialize_without_any_setting_publishes_one_typed_object_to_the_directory() -> None:
    succeed(*MATERIALIZE, "--partition", PARTITION, by=run_fresh)
    assert stored() == OBJECTS
    assert not list(Path(".txn/staging").glob("*"))
    path = LAKE / PUBLISHED

    schema = pq.read_schema(path)
    assert schema.field("amount").type == pa.decimal128(18, 2)
    assert schema.field("transaction_at").type == pa.timestamp("us", "UTC")

    frame = pd.read_parquet(path)
    assert str(frame["transaction_at"].dtype) == "datetime64[us, UTC]"
    assert all(isinstance(amount, Decimal) for amount in frame["amount"])
    assert pd.Timestamp("2026-11-01T00:00Z") <= frame["transaction_at"].min()
    assert frame["transaction_at"].max() < pd.Timestamp("2026-11-01T01:00Z")
    typed = pd.read_parquet(path, dtype_backend="pyarrow").dtypes
    assert typed["amount"] == pd.ArrowDtype(pa.decimal128(18, 2))
    assert typed["transaction_at"] == pd.ArrowDtype(pa.timestamp("us", "UTC"))

    relation = duckdb.read_parquet(str(path))
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    assert types["amount"] == "DECIMAL(18,2)"
    assert types["transaction_at"] == "TIMESTAMP WITH TIME ZONE"
    counted = relation.aggregate("count(*), sum(amount)").fetchall()
    assert counted == [(len(frame), sum(frame["amount"]))]


@pytest.mark.parametrize(
    "s3_endpoint", ["seaweedfs", pytest.param("moto", marks=pytest.mark.long)], indirect=True
)
def test_materialize_with_a_bucket_in_the_environment_writes_there_only(
    s3_endpoint: S3Endpoint, s3_environment: dict[str, str], s3_prefix: str
) -> None:
    succeed(*MATERIALIZE, "--partition", PARTITION, environment={**SMALL, **s3_environment})
    assert stored_in(s3_endpoint, s3_prefix) == OBJECTS
    assert not LAKE.exists()
    assert not list(Path(".txn/staging").glob("*"))
    schema = pq.read_schema(io.BytesIO(body_of(s3_endpoint, f"{s3_prefix}/{PUBLISHED}")))
    assert schema.field("amount").type == pa.decimal128(18, 2)
    assert schema.field("transaction_at").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize(
    "s3_endpoint", ["moto", pytest.param("seaweedfs", marks=pytest.mark.long)], indirect=True
)
def test_run_with_a_bucket_in_the_env_file_writes_there_only(
    s3_endpoint: S3Endpoint, s3_environment: dict[str, str], s3_prefix: str, generator_url: str
) -> None:
    settings = {**s3_environment, "GENERATOR_URL": generator_url, "TXN_CARD_KEY": CARD_KEY}
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    (line,) = succeed("txn", "run", "--partition", PARTITION, "--json").splitlines()
    assert stored_in(s3_endpoint, s3_prefix) == OBJECTS
    assert json.loads(line)["uri"] == f"s3://{s3_endpoint.bucket}/{s3_prefix}/{PUBLISHED}"
    assert not LAKE.exists()


def test_a_partition_is_published_to_the_byte_again_in_any_order_by_any_process_and_command() -> (
    None
):
    environment = {**SMALL, "TXN_CARD_KEY": CARD_KEY}

    def publish(directory: str, partition: str, command: tuple[str, ...]) -> bytes:
        Path(directory).mkdir(exist_ok=True)
        succeed(*command, "--partition", partition, environment=environment, cwd=directory)
        objects = Path(directory, LAKE).glob("s3_parquet_transactions/**/*.parquet")
        (published,) = (path for path in objects if f"event_hour={partition[11:13]}" in path.parts)
        return published.read_bytes()

    earlier, later = PARTITION, "2026-11-01-01:00"
    first = publish("forward", earlier, ("txn", "run"))
    second = publish("forward", later, ("txn", "run"))
    assert first != second
    assert publish("forward", earlier, MATERIALIZE) == first
    assert publish("backward", later, ("txn", "run")) == second


def test_run_json_is_one_object_that_accounts_for_every_row() -> None:
    rows = [sent_row(number) for number in range(20)]
    rows[3]["amount"] = "a lot"
    rows[7]["card_number"] = "4111111111111112"
    with served(ServedSource(rows)) as source:
        settings = {"GENERATOR_URL": source.url, "TXN_MAX_QUARANTINE": "0.5"}
        (line,) = succeed(
            "txn", "run", "--partition", PARTITION, "--json", environment=settings
        ).splitlines()
    summary = json.loads(line)
    assert set(summary) == {
        *("partition", "sent", "validated", "quarantined", "reasons", "published"),
        *("amounts", "seconds", "uri", "outcome"),
    }
    assert summary["outcome"] == "published"
    assert summary["partition"] == PARTITION
    assert (summary["sent"], summary["validated"], summary["quarantined"]) == (20, 18, 2)
    assert sum(summary["reasons"].values()) == 2
    assert summary["seconds"] > 0
    table = pq.read_table(summary["uri"])
    assert summary["published"] == table.num_rows == 18
    assert summary["amounts"] == {"USD": str(sum(table["amount"].to_pylist()))}


def test_too_many_bad_rows_fail_the_command_and_leave_the_window_as_it_was(tmp_path: Path) -> None:
    there = ServedSource([sent_row(number) for number in range(20)])
    with served(there):
        settings = {"GENERATOR_URL": there.url, "DAGSTER_HOME": str(tmp_path)}
        command = [*MATERIALIZE, "--partition", PARTITION]
        succeed(*command, environment=settings)
        before = {path: path.read_bytes() for path in Path(".txn/lake").rglob("*.parquet")}
        there.rows[3]["amount"], there.rows[4]["amount"] = "a lot", "more"
        result = run(*command, environment=settings)
    assert result.returncode == 1
    assert "2 of 20 rows are quarantined, 10.00%, and 5.00% is allowed" in result.stderr
    assert "Traceback" not in result.stderr
    # The raw zone has what was landed: it is the evidence.
    changed = {path.parts[2] for path, body in before.items() if path.read_bytes() != body}
    assert changed == {"raw_transactions"}
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        (record,) = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey("validated_transactions"), "quarantine_share"), limit=1
        )
    assert record.status.value == "FAILED"


def test_run_last_takes_the_newest_complete_hours_oldest_first() -> None:
    hour = timedelta(hours=1)
    before = datetime.now(UTC)
    output = succeed("txn", "run", "--last", "2", "--json", environment=SMALL)
    after = datetime.now(UTC)
    older, newer = (
        datetime.strptime(json.loads(line)["partition"], "%Y-%m-%d-%H:%M").replace(tzinfo=UTC)
        for line in output.splitlines()
    )
    assert newer - older == hour
    assert before - 2 * hour < newer <= after - hour


def test_run_shows_progress_on_a_terminal_and_prints_a_table_that_nothing_is_cut_off_from(
    source: HourlySource,
) -> None:
    window = Window.of_partition(PARTITION)
    source.hours[PARTITION] = rows_of(window, 50) + rows_of(window, 55, currency="EUR")[50:]
    # The step takes longer than the display needs to be drawn.
    source.seconds = 0.5
    terminal, side = pty.openpty()
    environment = {"COLUMNS": "40", "TERM": "xterm"}
    with started(
        "txn", "run", "--partition", PARTITION, environment=environment, stderr=side
    ) as process:
        os.close(side)
        progress = read_terminal(terminal)
        output = process.stdout.read()
    assert process.returncode == 0
    assert f"{PARTITION}: raw transactions" in progress
    heading, units, figures, uri = output.splitlines()
    names = ["partition", "sent", "validated", "quarantined", "published", "amount", "s"]
    assert heading.split() == [*names[:-2], "sum", "of", "run"]
    assert units.split() == ["UTC", *["rows"] * 4, "amounts", "s"]
    cells = figures.split()
    summary = dict(zip(names, [*cells[:5], " ".join(cells[5:-1]), cells[-1]], strict=True))
    table = pl.read_parquet(uri)
    assert summary["partition"] == PARTITION
    assert summary["published"] == summary["sent"] == f"{table.height:,}"
    by_currency = table.group_by("currency").agg(pl.len(), pl.col("amount").sum())
    (most, _, total), *others = by_currency.sort("len", descending=True).rows()
    assert summary["amount"] == f"{total:,} {most}" + (f" +{len(others)}" if others else "")


def read_terminal(descriptor: int) -> str:
    """All that is written to a terminal until the last writer has closed it."""
    output = b""
    with suppress(OSError):
        while chunk := os.read(descriptor, 4096):
            output += chunk
    os.close(descriptor)
    return output.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_a_signal_ends_leaves_no_process_and_the_next_succeeds(number: int) -> None:
    command = ("txn", "run", "--partition", PARTITION)
    with started(*command, environment={"GENERATOR_TPS": "300"}) as process:
        assert eventually(lambda: bool(list(LAKE.rglob("*.staging"))), within=60)
        (generator,) = psutil.Process(process.pid).children()
        assert not gone(generator)
        process.send_signal(number)
        stderr = process.communicate(timeout=60)[1]
        assert eventually(lambda: gone(generator))
    assert process.returncode == (1 if number == signal.SIGINT else -number)
    assert "Traceback" not in stderr
    assert not list(LAKE.rglob("*.parquet"))
    succeed(*command, environment=SMALL)
    assert stored() == OBJECTS


def test_a_run_that_dagster_refuses_leaves_no_process() -> None:
    """Its generator is begun before Dagster looks at the partition."""
    result = run_fresh(*MATERIALIZE, "--partition", "2026-11-01-99:00", environment=SMALL)
    assert result.returncode == 1
    assert "2026-11-01-99:00" in result.stderr
    assert stored() == set()


def test_a_port_that_there_is_not_leaves_no_key_in_what_dagster_keeps(tmp_path: Path) -> None:
    secret = "key-in-query"
    result = run(
        *(*MATERIALIZE, "--partition", PARTITION),
        environment={
            "DAGSTER_HOME": str(tmp_path),
            "GENERATOR_URL": f"http://127.0.0.1:99999/{secret}",
        },
    )
    assert result.returncode == 1
    assert "GENERATOR_URL: must name a host, and must have a port" in result.stderr
    assert "Traceback" not in result.stderr
    assert secret not in result.stdout + result.stderr
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert kept
    assert not any(secret.encode() in content for content in kept)


# Unlike moto, it looks at the keys.
with_seaweedfs = pytest.mark.parametrize("s3_endpoint", ["seaweedfs"], indirect=True)
NOWHERE = "http://127.0.0.1:1"
ERRORS = {
    "no such bucket": (
        {"AWS_BUCKET_NAME": "no-such-bucket"},
        r"bucket 'no-such-bucket' does not exist: .*AWS_BUCKET_NAME",
    ),
    "wrong keys": (
        {"AWS_SECRET_ACCESS_KEY": "not-the-secret"},
        r"bucket 'transactions' refused the credentials .*AWS_SECRET_ACCESS_KEY",
    ),
    "no store": (
        {"AWS_ENDPOINT_URL": NOWHERE},
        rf"store of bucket 'transactions' .*{NOWHERE}",
    ),
    "no generator": (
        {"GENERATOR_URL": NOWHERE, "TXN_SOURCE_ATTEMPTS": "3"},
        rf"no source answers at {NOWHERE}: .*GENERATOR_URL",
    ),
    "bad setting": (
        {"TXN_MAX_QUARANTINE": "most"},
        r"value that is not allowed: TXN_MAX_QUARANTINE: .*number",
    ),
    "bad setting of the generator": (
        {"GENERATOR_URL": "", "GENERATOR_TPS": "many"},
        r"GENERATOR_TPS=many cannot be used: .*number",
    ),
    "partition in the future": (
        ["--partition", "2099-01-01-00:00"],
        r"partition '2099-01-01-00:00' is not an hour that is over: write it as 20[-\d]+:00, which",
    ),
    "malformed partition": (
        ["--partition", "2026-11-01"],
        r"partition '2026-11-01' is not an hour.*: write it as 20",
    ),
    "unknown option": (["--no-such-option"], r"[Nn]o such option.*--no-such-option"),
}


# Dagster reports in three ways: what a step raised, what a resource raised, and a partition that
# it refuses. One of each is enough every time.
BY_DAGSTER = {"no store", "bad setting of the generator", "malformed partition"}
COMMANDS = [
    pytest.param(
        command,
        error,
        id=f"{error}-{name}",
        marks=() if name == "run" or error in BY_DAGSTER else pytest.mark.long,
    )
    for error in ERRORS
    for name, command in (("run", ("txn", "run")), ("materialize", MATERIALIZE))
]


@pytest.mark.parametrize(("command", "error"), COMMANDS)
@with_seaweedfs
def test_what_a_user_can_fix_is_said_in_one_message_and_nothing_is_written(
    command: tuple[str, ...],
    error: str,
    s3_endpoint: S3Endpoint,
    s3_environment: dict[str, str],
    generator_url: str,
) -> None:
    fault, message = ERRORS[error]
    environment = {**s3_environment, "GENERATOR_URL": generator_url, "TXN_CARD_KEY": CARD_KEY}
    arguments = ["--partition", PARTITION]
    if isinstance(fault, dict):
        environment |= fault
    else:
        arguments += fault
    result = run(*command, *arguments, environment=environment)
    output = result.stdout + result.stderr
    assert result.returncode != 0
    # Dagster says it of the step, and again of the run; before that each retry is logged.
    said = {found.group() for found in re.finditer(f".*{message}.*", output)}
    said = {line for line in said if not re.search(r"attempt \d+ of \d+, trying again", line)}
    assert "max-keys" not in output
    assert len(said) == 1, output
    assert "Traceback" not in output
    assert "Stack Trace" not in output
    if command[0] == "txn":
        assert result.stdout == ""
        assert output.count("Error: ") == 1
    assert not [path for path in Path(".txn").rglob("*") if path.suffix in {".parquet", ".staging"}]
    assert not stored_in(s3_endpoint, s3_environment["TXN_LAKE_PREFIX"])


@with_seaweedfs
def test_doctor_finds_nothing_to_fix_where_a_run_would_succeed(
    s3_endpoint: S3Endpoint, s3_environment: dict[str, str]
) -> None:
    lines = succeed("txn", "doctor", environment={**SMALL, **s3_environment}).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", "settings"],
        ["ok", "card"],
        ["ok", "source"],
        ["ok", "lake"],
        *[["ok", "store"]] * 10,
        # No default encryption of the raw zone.
        ["note", "store"],
    ]
    assert not stored_in(s3_endpoint, s3_environment["TXN_LAKE_PREFIX"])


def test_doctor_says_of_each_thing_what_to_fix() -> None:
    result = run(
        *("txn", "doctor"),
        environment={
            "GENERATOR_URL": NOWHERE,
            "TXN_SOURCE_ATTEMPTS": "3",
            "AWS_BUCKET_NAME": "transactions",
        },
    )
    assert result.returncode == 1
    lake = "lake: s3://transactions/lake at the endpoint of the AWS profile, or AWS"
    assert result.stderr.splitlines() == [lake, f"source: {NOWHERE}"]
    settings, card_key, source, lake = result.stdout.splitlines()
    assert settings.startswith("ok    settings")
    assert re.match(r"FAIL  card key +TXN_CARD_KEY is not set: .*Make one", card_key)
    assert re.match(rf"FAIL  source +no source answers at {NOWHERE}: .*GENERATOR_URL", source)
    assert re.match(r"FAIL  lake +there are no credentials .*AWS_ACCESS_KEY_ID", lake)


def test_doctor_names_a_setting_that_is_not_allowed() -> None:
    result = run("txn", "doctor", environment={"TXN_MAX_QUARANTINE": "most"})
    assert result.returncode == 1
    assert re.fullmatch(r"FAIL  settings +.*TXN_MAX_QUARANTINE.*\n", result.stdout)


def summary_of(printed: str) -> tuple[str, str]:
    """The figures of the demo's hour, and the address of its object."""
    lines = printed.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.startswith("partition"))
    assert lines[heading].split()[:2] == ["partition", "sent"]
    # Units are below the heading.
    return lines[heading + 2], lines[heading + 3]


@pytest.mark.skipif(not available(), reason="SeaweedFS is not installed")
def test_demo_ends_with_the_summary_of_the_newest_hour_and_its_object_is_in_the_bucket() -> None:
    # Nothing of the machine's own reaches the servers of the demo.
    others = {
        "AWS_PROFILE": "absent",
        "AWS_CA_BUNDLE": "absent.pem",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "",
        "no_proxy": "",
    }
    printed = succeed("txn", "demo", environment={**SMALL, **others})
    figures, uri = summary_of(printed)
    hour = datetime.strptime(figures.split()[0], "%Y-%m-%d-%H:%M").replace(tzinfo=UTC)
    assert timedelta(hours=1) <= datetime.now(UTC) - hour < timedelta(hours=3)
    assert not LAKE.exists()
    # TXN_CARD_POLICY=clear leaves card numbers in clear in it.
    assert Path(".txn/demo.parquet").stat().st_mode & 0o777 == 0o600

    keys = json.loads(Path(".txn/s3-keys.json").read_text())
    key = uri.removeprefix("s3://transactions/")
    with SeaweedFS.start(
        Path(".txn/seaweedfs").absolute(),
        Path("logs").absolute(),
        bucket="transactions",
        access_key=keys["AWS_ACCESS_KEY_ID"],
        secret_key=keys["AWS_SECRET_ACCESS_KEY"],
    ) as server:
        endpoint = S3Endpoint(server.endpoint_url, *keys.values(), bucket="transactions")
        table = pq.read_table(io.BytesIO(body_of(endpoint, key)))
    assert figures.split()[1] == f"{table.num_rows:,}"


def test_demo_in_the_directory_ends_with_the_summary_whatever_bucket_the_env_file_names() -> None:
    Path(".env").write_text(f"AWS_BUCKET_NAME=elsewhere\nAWS_ENDPOINT_URL={NOWHERE}\n")
    output = succeed("txn", "demo", "--directory", environment=SMALL)
    figures, path = summary_of(output)
    table = pq.read_table(path)
    assert figures.split()[1] == f"{table.num_rows:,}"
    # The rows shown are of the object, whole, and never show a card number.
    first = table.slice(0, 1).to_pylist()[0]
    # Cells are padded to the width of their column.
    assert f"{first['card_number']} {first['merchant_name']}" in " ".join(output.split())
    assert "*" in first["card_number"]


GENERATE = ("txn", "generate", "--start", "2026-11-01T00:00:00Z", "--end")
READERS: dict[str, Callable[[bytes], list[dict[str, Any]]]] = {
    "csv": lambda content: list(csv.DictReader(io.StringIO(content.decode(), newline=""))),
    "ndjson": lambda content: [json.loads(line) for line in content.splitlines()],
    "arrow": lambda content: pa.ipc.open_stream(content).read_all().to_pylist(),
    "parquet": lambda content: pd.read_parquet(io.BytesIO(content)).to_dict("records"),
}


def facts(row: dict[str, Any]) -> tuple[Any, ...]:
    """The same of a row in every format."""
    moment, fraud = row["transaction_at"], row["is_fraud"]
    return (
        row["transaction_id"],
        datetime.fromisoformat(moment) if isinstance(moment, str) else moment,
        Decimal(row["amount"]),
        row["merchant_name"],
        fraud == "true" if isinstance(fraud, str) else fraud,
    )


def test_generate_makes_the_same_rows_in_every_format_for_a_file_and_a_pipe() -> None:
    found: dict[str, list[tuple[Any, ...]]] = {}
    command = (*GENERATE, "2026-11-01T01:30:00+01:00")
    for form, read in READERS.items():
        if form == "parquet":
            piped = run_fresh(*command, "--format", form, environment=SMALL, text=False)
            assert (piped.returncode, piped.stderr) == (0, b"")
            content = piped.stdout
        else:
            in_process = CliRunner().invoke(main, [*command[1:], "--format", form], env=SMALL)
            assert (in_process.exit_code, in_process.stderr) == (0, "")
            content = in_process.stdout_bytes
        found[form] = [facts(row) for row in read(content)]
    assert found["csv"] == found["ndjson"] == found["arrow"] == found["parquet"]
    moments = [moment for _, moment, *_ in found["csv"]]
    assert len(moments) > 100
    assert moments == sorted(moments)
    assert moments[-1] < datetime(2026, 11, 1, 0, 30, tzinfo=UTC)

    succeed(*command, "-o", "rows", environment=SMALL)
    assert Path("rows").read_bytes() == content
    assert [path.name for path in Path().iterdir()] == ["rows"]


def test_generate_ends_quietly_when_its_reader_has_seen_enough() -> None:
    command = (*GENERATE, "2026-12-01T00:00:00Z", "--format", "csv")
    with started(*command) as process:
        assert process.stdout.readline().startswith("transaction_id,")
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["2026-11-01T00:00:00Z"], "--end must be after --start"),
        (["2026-11-01T01:00:00"], "'2026-11-01T01:00:00' is not a time with a zone: write 2026"),
        (["soon"], "'soon' is not a time with a zone"),
        (["2026-11-01T01:00:00Z", "-o", "nowhere/rows"], "nowhere/rows cannot be written: No such"),
        (["2026-11-01T01:00:00Z", "--format", "xlsx"], "'xlsx' is not one of"),
        (["9999-12-31T00:00:00Z"], "A window lies between 1971-01-01 and 9999-01-01"),
    ],
)
def test_generate_says_what_to_fix_and_writes_nothing(arguments: list[str], message: str) -> None:
    result = run(*GENERATE, *arguments, environment=SMALL)
    assert result.returncode != 0
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    assert not list(Path().iterdir())


def test_generate_does_not_write_bytes_to_a_terminal() -> None:
    terminal, side = pty.openpty()
    command = (*GENERATE, "2026-11-01T01:00:00Z")
    with started(*command, environment=SMALL, stdout=side) as process:
        os.close(side)
        assert read_terminal(terminal) == ""
        assert "parquet is not for a terminal: name a file (-o)" in process.stderr.read()
    assert process.returncode == 2


def test_help_is_given_without_loading_what_only_the_work_needs() -> None:
    program = """
import sys
from txn_platform.cli import main
for arguments in [[], *([name] for name in main.commands)]:
    main([*arguments, "--help"], standalone_mode=False)
heavy = {"boto3", "dagster", "numpy", "pandas", "polars", "pyarrow", "pydantic", "rich", "urllib3"}
print("loaded:", *(heavy & set(sys.modules)))
"""
    output = succeed("python", "-c", program, by=run_fresh)
    assert output.endswith("loaded:\n")
    assert output.count("Usage: ") == len(main.commands) + 1


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"], []])
def test_txn_alone_says_what_there_is(arguments: list[str]) -> None:
    result = run_fresh("txn", *arguments)
    assert result.returncode == 2
    assert "Usage: txn [OPTIONS] COMMAND" in result.stderr
    assert all(argument in result.stderr for argument in arguments)


def test_partition_and_last_exclude_each_other() -> None:
    result = run("txn", "run", "--partition", PARTITION, "--last", "2")
    assert result.returncode == 2
    assert "--partition, --last and --from exclude each other" in result.stderr
