"""The Delta table has each window once and complete, also with concurrent writers.

Tables are read back by `deltalake` itself, with a handle of the test's own. The issues named here
are delta-rs's.
"""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, Schema, write_deltalake

from txn_platform.backoff import Backoff
from txn_platform.cli import main
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.definitions import build_defs
from txn_platform.defs.resources import GeneratorResource
from txn_platform.doctor import examine
from txn_platform.errors import UserError
from txn_platform.lake.delta import Committed, DeltaLake, open_delta, require_delta
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation
from txn_platform_tests.support.run_resources import run_resources
from txn_platform_tests.support.served_handler import served_by
from txn_platform_tests.support.served_source import ServedSource, sent_row, served
from txn_platform_tests.test_commands import run

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_FIRST = Window(datetime(2026, 11, 1, tzinfo=UTC))
_NOON = Window(datetime(2026, 11, 1, 12, tzinfo=UTC))
_LATER = Window(datetime(2026, 11, 2, 3, tzinfo=UTC))


@dataclass(frozen=True)
class Place:
    """The location of a table, and how a test reads it."""

    uri: str
    options: dict[str, str]

    def table(self) -> DeltaTable:
        return DeltaTable(self.uri, storage_options=self.options)

    def rows(self, window: Window | None = None) -> pa.Table:
        """The rows of a window, or of all windows, ordered by id."""
        table: Any = pa.table(self.table().scan())
        table = table.cast(
            pa.schema(
                [
                    *TRANSACTIONS.published_schema,
                    ("event_date", pa.date32()),
                    ("event_hour", pa.int32()),
                ]
            )
        ).sort_by("transaction_id")
        return table if window is None else self.in_window(table, window)

    @staticmethod
    def in_window(rows: pa.Table, window: Window) -> pa.Table:
        return rows.filter(
            (pc.field("event_date") == window.start.date())
            & (pc.field("event_hour") == window.start.hour)
        )

    def history(self) -> list[dict[str, Any]]:
        """The history of the table, oldest first."""
        return self.table().history()[::-1]


@pytest.fixture(params=["directory", "moto", "seaweedfs"])
def place(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
) -> Place:
    """An empty location, set in the environment. Its name has characters that need escapes."""
    options: dict[str, str] = {}
    uri = str(tmp_path / "ein Tisch é")
    if request.param != "directory":
        endpoint = s3_servers(request.param)
        uri = f"s3://{endpoint.bucket}/{s3_prefix}/ein Tisch é"
        credentials = {
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_ENDPOINT_URL": endpoint.url,
        }
        for name, value in credentials.items():
            monkeypatch.setenv(name, value)
        options = {**credentials, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", uri)
    return Place(uri, options)


# For tests to which a second kind of store would add nothing.
_ONE_STORE = pytest.mark.parametrize("place", ["directory", "seaweedfs"], indirect=True)


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    """The same in a directory only."""
    uri = str(tmp_path / "table")
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", uri)
    return Place(uri, {})


def _delta() -> DeltaLake:
    return _opened(os.environ["DELTA_LAKE_S3_PATH"])


@cache
def _opened(place: str) -> DeltaLake:
    """One per test, each with its own location: creating a client of S3 is slow."""
    delta = open_delta(load_settings())
    assert delta is not None
    assert delta.uri == place
    return delta


def _values(field: "pa.Field[Any]", window: Window, count: int, tag: str) -> list[Any]:
    if pa.types.is_timestamp(field.type):
        return [window.start + timedelta(microseconds=number + 1) for number in range(count)]
    if pa.types.is_decimal(field.type):
        largest = Decimal("9999999999999999.99")
        return [largest - Decimal(number).scaleb(-2) for number in range(count)]
    if pa.types.is_boolean(field.type):
        return [number % 2 == 0 for number in range(count)]
    if pa.types.is_floating(field.type):
        return [number / 3 for number in range(count)]
    return [
        None if field.nullable and number % 3 else f"{tag} é {field.name} {number:07}"
        for number in range(count)
    ]


def _table(window: Window, count: int, tag: str) -> pa.Table:
    """Rows with edge cases of every type; the tag distinguishes contents."""
    columns = [
        pa.array(_values(field, window, count, tag), field.type)
        for field in TRANSACTIONS.published_schema
    ]
    return pa.table(columns, schema=TRANSACTIONS.published_schema)


def _stage(window: Window, count: int, tag: str) -> tuple[Path, str]:
    """A file as the lake publishes it, and its digest."""
    path = Path(f"{tag}-{window.start:%d-%H}-{count}.parquet").absolute()
    if not path.exists():
        pq.write_table(_table(window, count, tag), path, store_decimal_as_integer=True)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _commit(window: Window, count: int, tag: str, delta: DeltaLake | None = None) -> Committed:
    path, sha256 = _stage(window, count, tag)
    with pq.ParquetFile(path) as file:
        return (delta or _delta()).commit(file, window, sha256)


def _tags(rows: pa.Table) -> Counter[str]:
    return Counter(text.partition(" ")[0] for text in rows["transaction_id"].to_pylist())


# The rows of a table.


def test_every_type_survives(place: Place) -> None:
    assert _commit(_NOON, 100, "a") == Committed(1, changed=True)
    rows = place.rows()
    assert rows.select(TRANSACTIONS.published_schema.names).equals(
        _table(_NOON, 100, "a").sort_by("transaction_id")
    )
    assert set(rows["event_date"].to_pylist()) == {date(2026, 11, 1)}
    assert set(rows["event_hour"].to_pylist()) == {12}


def test_columns_are_the_contracts_with_their_meaning(directory: Place) -> None:
    _delta().require_usable()
    fields = {field.name: field for field in directory.table().schema().fields}
    assert list(fields) == [*TRANSACTIONS.published_schema.names, "event_date", "event_hour"]
    assert str(fields["amount"].type) == 'PrimitiveType("decimal(18,2)")'
    assert str(fields["transaction_at"].type) == 'PrimitiveType("timestamp")'
    assert {name for name, field in fields.items() if field.nullable} == {
        field.name for field in TRANSACTIONS.published_schema if field.nullable
    }
    for column in TRANSACTIONS.published_schema:
        assert fields[column.name].metadata["comment"].encode() == column.metadata[b"description"]
    assert directory.table().metadata().partition_columns == ["event_date", "event_hour"]


def test_rows_are_committed_whichever_mask_the_table_was_made_with(
    directory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rows, mask in enumerate(["none", "first6last4", "last4"], start=1):
        monkeypatch.setenv("TXN_CARD_MASK", mask)
        assert _commit(_NOON, rows, mask, require_delta(open_delta(load_settings()))).changed
        assert _tags(directory.rows()) == {mask: rows}


def test_the_log_has_no_amounts(directory: Place) -> None:
    """If there are statistics, they are floats."""
    _commit(_NOON, 10, "a")
    entry = Path(directory.uri, "_delta_log", f"{1:020}.json").read_text(encoding="utf-8")
    (added,) = [line["add"] for line in map(json.loads, entry.splitlines()) if "add" in line]
    assert set(json.loads(added["stats"])["minValues"]) == {"transaction_at", "transaction_id"}


@_ONE_STORE
def test_the_same_content_again_adds_nothing(place: Place) -> None:
    first = _commit(_NOON, 10, "a")
    assert _commit(_NOON, 10, "a") == Committed(first.version, changed=False)
    assert place.table().version() == first.version


def test_changed_content_replaces_its_window_and_no_other(place: Place) -> None:
    """Issues 4126, where the old rows stayed, and 3939, where the second overwrite failed."""
    _commit(_LATER, 5, "other")
    for number, tag in enumerate(["a", "b", "a", "c"]):
        assert _commit(_NOON, 10 - number, tag).changed
        assert _tags(place.rows()) == {tag: 10 - number, "other": 5}
    assert len(place.table().file_uris()) == 2


@_ONE_STORE
def test_a_window_can_become_empty_and_stays_so(place: Place) -> None:
    _commit(_LATER, 5, "other")
    for count in (0, 10, 0):
        _commit(_NOON, count, "a")
        assert place.rows(_NOON).num_rows == count
        assert not _commit(_NOON, count, "a").changed
    assert place.rows().num_rows == 5


def test_rows_that_others_removed_are_put_back(directory: Place) -> None:
    """The rows in the table count, not only the record of what was committed."""
    _commit(_NOON, 10, "a")
    directory.table().delete("event_hour = 12")
    assert _commit(_NOON, 10, "a").changed
    assert directory.rows().num_rows == 10


# At the same time.


class _Interrupted:
    """A file whose reading triggers an event: after the table is loaded, before the commit."""

    def __init__(self, file: pq.ParquetFile, event: Callable[[], object]) -> None:
        self.metadata = file.metadata
        self.file = file
        self.event = event
        self.reads = 0

    def iter_batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        self.reads += 1
        if self.reads == 1:
            # Not in this thread, which is one of `deltalake`'s own.
            thread = threading.Thread(target=self.event)
            thread.start()
            thread.join()
        return self.file.iter_batches(**options)


def _commit_while(window: Window, count: int, tag: str, event: Callable[[], object]) -> int:
    """Commit a window during an event; returns how often its rows were written."""
    path, sha256 = _stage(window, count, tag)
    with pq.ParquetFile(path) as file:
        interrupted = _Interrupted(file, event)
        committed = _delta().commit(cast("pq.ParquetFile", interrupted), window, sha256)
    assert _delta().commit(pq.ParquetFile(path), window, sha256) == Committed(
        committed.version, changed=False
    )
    return interrupted.reads


@_ONE_STORE
@pytest.mark.parametrize(("before", "meanwhile"), [(None, 7), ("old", 7), ("old", 0)])
def test_of_two_at_once_the_last_wins_whole(
    place: Place, before: str | None, meanwhile: int
) -> None:
    """Issue 3622: the later overwrite must notice the earlier."""
    _delta().require_usable()
    if before:
        _commit(_NOON, 5, before)
    reads = _commit_while(_NOON, 10, "last", lambda: _commit(_NOON, meanwhile, "first"))
    assert reads == 2
    assert _tags(place.rows()) == {"last": 10}


@_ONE_STORE
def test_the_same_content_twice_at_once_is_there_once(place: Place) -> None:
    _commit_while(_NOON, 10, "a", lambda: _commit(_NOON, 10, "a"))
    assert _tags(place.rows()) == {"a": 10}
    assert place.table().version() == 1


@_ONE_STORE
def test_another_window_at_once_costs_nothing(place: Place) -> None:
    assert _commit_while(_NOON, 10, "a", lambda: _commit(_LATER, 5, "b")) == 1
    assert _tags(place.rows()) == {"a": 10, "b": 5}


def _append(place: Place, window: Window, tag: str) -> None:
    """Add a small file to a window, as a writer that is not ours could."""
    rows = _table(window, 2, tag)
    rows = rows.append_column("event_date", pa.array([window.start.date()] * 2))
    rows = rows.append_column("event_hour", pa.array([window.start.hour] * 2, pa.int32()))
    write_deltalake(place.table(), rows, mode="append")


def test_compaction_at_once_doubles_nothing(directory: Place) -> None:
    for tag in ("a", "b", "c"):
        _delta().require_usable()
        _append(directory, _NOON, tag)
    merged: list[int] = []
    _commit_while(
        _NOON, 10, "new", lambda: merged.append(_delta().optimize(timedelta(days=7)).merged)
    )
    assert merged == [3]
    assert _tags(directory.rows()) == {"new": 10}


_COMMITTER = """
import json, os, signal, sys, time

import pyarrow.parquet as pq

from txn_platform.lake.delta import open_delta
from txn_platform.settings import load_settings
from txn_platform.windows import Window

for line in sys.stdin:
    order = json.loads(line)
    os.environ.update(order["environment"])
    ready, go = os.pipe()
    all_forked = []
    for windows in order["work"]:
        forked = os.fork()
        if not forked:
            os.close(go)
            os.read(ready, 1)
            for key, path, sha256 in windows:
                with pq.ParquetFile(path) as file:
                    open_delta(load_settings()).commit(file, Window.of_partition(key), sha256)
            os._exit(0)
        all_forked.append(forked)
    os.close(ready)
    os.close(go)
    began = time.monotonic()
    if order["kill_after"] is not None:
        time.sleep(order["kill_after"])
        for forked in all_forked:
            os.kill(forked, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) for forked in all_forked]
    print(json.dumps({"codes": codes, "seconds": time.monotonic() - began}), flush=True)
"""

type _Work = list[tuple[Window, int, str]]


@pytest.fixture(scope="module")
def committer() -> Iterator[subprocess.Popen[str]]:
    """A process with all imports, which forks processes that commit at the same time."""
    with subprocess.Popen(
        [sys.executable, "-c", _COMMITTER],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _in_processes(
    committer: subprocess.Popen[str], *work: _Work, kill_after: float | None = None
) -> tuple[list[int], float]:
    """Commit lists of windows, one process per list; returns exit codes and seconds."""
    order = {
        "work": [
            [
                (window.partition_key, *map(str, _stage(window, count, tag)))
                for window, count, tag in windows
            ]
            for windows in work
        ],
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith(("AWS_", "DELTA_"))
        },
        "kill_after": kill_after,
    }
    assert committer.stdin is not None
    assert committer.stdout is not None
    committer.stdin.write(json.dumps(order) + "\n")
    committer.stdin.flush()
    answer = json.loads(committer.stdout.readline())
    return answer["codes"], answer["seconds"]


def test_the_table_is_made_once(directory: Place) -> None:
    """All writers that find no table at the same time create one version."""
    for number in range(5):
        delta = DeltaLake(f"{directory.uri}/{number}", None)
        together = threading.Barrier(6)

        def require(delta: DeltaLake = delta, together: threading.Barrier = together) -> None:
            together.wait()
            delta.require_usable()

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(require) for _ in range(6)]:
                done.result()
        assert DeltaTable(delta.uri).version() == 0


def test_processes_lose_nothing(place: Place, committer: subprocess.Popen[str]) -> None:
    """All of them also create the table."""
    windows = [Window(_NOON.start + timedelta(hours=number)) for number in range(15)]
    work: list[_Work] = [[(window, 5, "a") for window in windows[first::5]] for first in range(5)]
    codes, _ = _in_processes(committer, *work)
    assert codes == [0] * 5
    rows = place.rows()
    assert rows.num_rows == 75
    for window in windows:
        expected = _table(window, 5, "a")["transaction_at"].to_pylist()
        found = place.in_window(rows, window)
        assert found["transaction_at"].to_pylist() == expected
    history = place.history()
    assert [entry["version"] for entry in history] == list(range(16))
    assert sorted(entry["window"] for entry in history[1:]) == [w.partition_key for w in windows]
    assert len(place.table().file_uris()) == 15


@_ONE_STORE
def test_processes_with_one_window_leave_one_of_them(
    place: Place, committer: subprocess.Popen[str]
) -> None:
    codes, _ = _in_processes(committer, *[[(_NOON, 5 + n, f"p{n}")] for n in range(4)])
    assert codes == [0] * 4
    ((tag, count),) = _tags(place.rows()).items()
    assert count == 5 + int(tag[1:])
    assert len(place.history()) == 5


# Stores that break their promises.


@pytest.fixture
def faulty(
    monkeypatch: pytest.MonkeyPatch,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
) -> Iterator[FaultyStore]:
    """A proxy in front of the store that the environment names; without a table."""
    endpoint = s3_servers("moto")
    with FaultyStore(endpoint.url) as store:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        monkeypatch.setenv("DELTA_LAKE_S3_PATH", f"s3://{endpoint.bucket}/{s3_prefix}")
        yield store


def _options() -> dict[str, str]:
    of_store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**of_store, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


def _commit_at_once(count: int) -> tuple[set[str], set[str]]:
    """Commit windows, each by a writer of its own: which were reported, and which are there."""
    windows = [Window(_NOON.start + timedelta(hours=number)) for number in range(count)]
    staged = [_stage(window, 2, "a") for window in windows]
    deltas = [require_delta(open_delta(load_settings())) for _ in windows]
    together = threading.Barrier(count)

    def commit(number: int) -> str:
        path, sha256 = staged[number]
        together.wait()
        with pq.ParquetFile(path) as file:
            deltas[number].commit(file, windows[number], sha256)
        return windows[number].partition_key

    reported: set[str] = set()
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(commit, number) for number in range(count)]:
            with suppress(UserError):
                reported.add(done.result())
    table: Any = pa.table(Place(os.environ["DELTA_LAKE_S3_PATH"], _options()).table().scan())
    found = zip(table["event_date"].to_pylist(), table["event_hour"].to_pylist(), strict=True)
    return reported, {f"{day:%Y-%m-%d}-{hour:02}:00" for day, hour in found}


def test_what_is_reported_is_there_where_the_last_writer_wins(faulty: FaultyStore) -> None:
    """The store checks for an entry first, and writes later."""
    faulty.check_then_write = 0.05
    reported, found = _commit_at_once(6)
    assert len(reported) == 6
    assert reported <= found


@pytest.mark.long
@pytest.mark.parametrize("pause", [0.02, 0.3])
def test_what_thirty_report_is_there_where_the_last_writer_wins(
    faulty: FaultyStore, pause: float
) -> None:
    faulty.check_then_write = pause
    reported, found = _commit_at_once(30)
    assert len(reported) > 20
    assert reported <= found


def _after_the_entry(store: FaultyStore, event: Callable[[], object]) -> None:
    """Trigger an event at the write of the next commit's entry, which follows its data."""

    def at_the_data() -> None:
        store.after[Operation.PUT] = event

    store.after[Operation.PUT] = at_the_data


def _replace(client: "S3Client", version: int, content: str | None = None) -> None:
    """Replace the entry of a version by another writer's entry, or a part of one."""
    bucket, _, folder = os.environ["DELTA_LAKE_S3_PATH"].removeprefix("s3://").partition("/")
    entry = {"commitInfo": {"timestamp": 0, "operation": "WRITE", "commit": "another"}}
    client.put_object(
        Bucket=bucket,
        Key=f"{folder}/_delta_log/{version:020}.json",
        Body=(content or json.dumps(entry)).encode(),
    )


@pytest.mark.parametrize("when", ["at once", "after it was read back"])
def test_an_entry_that_another_writer_replaced_is_committed_again(
    faulty: FaultyStore, s3_servers: Callable[[str], S3Endpoint], when: str
) -> None:
    _commit(_NOON, 5, "a")
    client = s3_servers("moto").client()

    def at_the_entry() -> None:
        if when == "at once":
            _replace(client, 2)
        else:
            faulty.after[Operation.GET] = lambda: _replace(client, 2)

    _after_the_entry(faulty, at_the_entry)
    assert _commit(_LATER, 7, "b") == Committed(3, changed=True)
    assert _commit(_LATER, 7, "b") == Committed(3, changed=False)


def test_a_compaction_that_another_writer_replaced_is_made_again(
    faulty: FaultyStore, s3_servers: Callable[[str], S3Endpoint]
) -> None:
    """According to the log, the table still has the small files."""
    _commit(_NOON, 5, "a")
    place = Place(os.environ["DELTA_LAKE_S3_PATH"], _options())
    for tag in ("b", "c"):
        _append(place, _NOON, tag)
    before = place.rows()
    client = s3_servers("moto").client()
    _after_the_entry(faulty, lambda: _replace(client, 4))
    done = _delta().optimize(timedelta(0))
    assert (done.merged, done.removed) == (3, 4)
    assert place.rows().equals(before)
    assert len(place.table().file_uris()) == 1


@pytest.mark.parametrize("first", ["table", "commit"])
def test_a_store_that_takes_and_has_not_is_an_error(
    faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr("txn_platform.lake.delta._BACKOFF", Backoff(3, 0.01, 0.02))
    if first == "commit":
        _delta().require_usable()
    faulty.fail(Operation.PUT, Fault.LOST)
    with pytest.raises(UserError, match=r"it loses (data|commits)\. Use another store"):
        _commit(_NOON, 5, "a")
    assert faulty.seen[Operation.PUT] in {1, 1 + 2 * 3}


def test_a_checkpoint_is_made_of_what_is_confirmed(
    directory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("txn_platform.lake.delta._CHECKPOINT_EVERY", 2)
    for number in range(3):
        _commit(Window(_NOON.start + timedelta(hours=number)), 5, "a")
    log = Path(directory.uri, "_delta_log")
    assert [path.name for path in log.glob("*.checkpoint.parquet")] == [
        f"{2:020}.checkpoint.parquet"
    ]
    assert directory.rows().num_rows == 15


# Killed.


@_ONE_STORE
def test_a_killed_commit_leaves_the_old_version_or_the_new(
    place: Place, committer: subprocess.Popen[str]
) -> None:
    whole = ("first", 2_000)
    codes, span = _in_processes(committer, [(_NOON, 2_000, "first")])
    assert codes == [0]
    for number in range(4):
        tag = f"new{number}"
        after = span * random.uniform(number, number + 1) / 4  # noqa: S311
        _in_processes(committer, [(_NOON, 2_000, tag)], kill_after=after)
        (found,) = _tags(place.rows()).items()
        assert found in {whole, (tag, 2_000)}
        whole = found
    assert _commit(_NOON, 7, "last").changed
    assert _tags(place.rows()) == {"last": 7}


# Kept small.


def test_optimizing_keeps_the_rows(place: Place) -> None:
    _commit(_LATER, 5, "later")
    _commit(_NOON, 10, "a")
    for tag in ("b", "c"):
        _append(place, _NOON, tag)
    before = place.rows()
    done = _delta().optimize(timedelta(days=7))
    assert (done.merged, done.removed) == (3, 0)
    assert len(place.table().file_uris()) == 2
    assert place.rows().equals(before)
    done = _delta().optimize(timedelta(0))
    assert (done.merged, done.removed) == (0, 3)
    assert place.rows().equals(before)
    assert place.table().version() == done.version
    # Rows that others added are not the window's content: it is committed again.
    assert _commit(_NOON, 10, "a").changed
    assert not _commit(_LATER, 5, "later").changed
    assert _tags(place.rows()) == {"a": 10, "later": 5}


def test_files_that_killed_commits_left_are_removed_in_time(directory: Place) -> None:
    _commit(_NOON, 10, "a")
    (kept,) = Path(directory.uri).rglob("*.parquet")
    left = kept.with_name(f"part-00000-of-a-commit-that-was-killed{kept.suffix}")
    left.write_bytes(kept.read_bytes())
    assert _delta().optimize(timedelta(days=7)).removed == 0
    assert _delta().optimize(timedelta(0)).removed == 1
    assert list(Path(directory.uri).rglob("*.parquet")) == [kept]
    assert directory.rows().num_rows == 10


# Commands and readers of users.


def test_optimize_is_a_command(directory: Place) -> None:
    result = run("txn", "optimize")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"table: {directory.uri}\n"
        f"Error: there is no Delta table at {directory.uri} yet: run a window first\n"
    )
    _commit(_NOON, 10, "a")
    _append(directory, _NOON, "b")
    result = run("txn", "optimize", "--keep", "1d")
    assert re.fullmatch(
        rf"{re.escape(directory.uri)}, version \d+: 2 files merged, 0 deleted\n", result.stdout
    )


def test_optimize_refuses_what_makes_no_sense(
    directory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = CliRunner().invoke(main, ["optimize", "--keep", "0d"])
    assert refused.exit_code == 2
    assert "--keep must be at least 1d" in refused.output
    monkeypatch.delenv("DELTA_LAKE_S3_PATH")
    refused = CliRunner().invoke(main, ["optimize"])
    assert refused.exit_code == 1
    assert "there is no Delta table: set DELTA_LAKE_S3_PATH" in refused.output


@pytest.mark.parametrize(
    ("name", "is_in_the_way"),
    [("part-0.parquet", True), ("notes.txt", True), ("_SUCCESS", False), (".DS_Store", False)],
)
def test_a_table_is_made_only_where_optimize_deletes_nothing_of_others(
    directory: Place, name: str, *, is_in_the_way: bool
) -> None:
    Path(directory.uri).mkdir()
    Path(directory.uri, name).write_text("not of a table")
    if is_in_the_way:
        with pytest.raises(UserError, match=f"holds {name}, and no table"):
            _commit(_NOON, 1, "a")
        assert [path.name for path in Path(directory.uri).iterdir()] == [name]
    else:
        _commit(_NOON, 1, "a")
        assert len(directory.rows()) == 1


def _run_optimize_delta() -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return (
            build_defs()
            .resolve_job_def("optimize_delta")
            .execute_in_process(instance=instance, raise_on_error=False)
        )


def test_optimize_is_a_job(directory: Place) -> None:
    result = _run_optimize_delta()
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_failure_data.user_failure_data is not None
    assert "run a window first" in (failed.step_failure_data.user_failure_data.description or "")
    _commit(_NOON, 10, "a")
    _append(directory, _NOON, "b")
    result = _run_optimize_delta()
    assert result.success
    (output,) = [event for event in result.all_events if event.is_successful_output]
    said = {name: value.value for name, value in output.step_output_data.metadata.items()}
    assert said.keys() == {"version", "merged", "removed"}
    assert said["merged"] == 2
    assert len(directory.table().file_uris()) == 1


def _materialize(source: ServedSource) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return (
            build_defs()
            .resolve_job_def("land_transactions")
            .execute_in_process(
                instance=instance,
                partition_key=_FIRST.partition_key,
                resources=run_resources(GeneratorResource(url=source.url)),
                raise_on_error=False,
            )
        )


def _messages(result: dg.ExecuteInProcessResult) -> list[str]:
    return [
        event.step_failure_data.user_failure_data.description or ""
        for event in result.all_events
        if event.is_step_failure and event.step_failure_data.user_failure_data
    ]


def _publish(source: ServedSource) -> dict[str, Any]:
    """Materialize the window; the metadata of what is published."""
    result = _materialize(source)
    assert _messages(result) == []
    assert result.success
    (published,) = result.asset_materializations_for_node("s3_parquet_transactions")
    return {name: value.value for name, value in published.metadata.items()}


def _in_parquet() -> list[tuple[Any, ...]]:
    """The lake's published rows as DuckDB reads them."""
    names = ", ".join(TRANSACTIONS.published_schema.names)
    return duckdb.sql(
        f"select {names} from '.txn/lake/s3_parquet_transactions/**/*.parquet'"  # noqa: S608
        " order by transaction_id"
    ).fetchall()


def _in_delta(place: Place) -> list[tuple[Any, ...]]:
    rows = place.rows(_FIRST).select(TRANSACTIONS.published_schema.names)
    return [tuple(row.values()) for row in rows.to_pylist()]


@pytest.fixture
def source() -> Iterator[ServedSource]:
    """A source with 100 rows in the window."""
    with served(ServedSource([sent_row(number) for number in range(100)])) as served_source:
        yield served_source


def test_what_is_published_is_in_the_table(place: Place, source: ServedSource) -> None:
    _commit(_NOON, 5, "a")
    metadata = _publish(source)
    assert metadata["delta_table"] == place.uri
    assert metadata["delta_version"] == place.table().version() == 2
    assert len(_in_delta(place)) == 100
    assert _in_delta(place) == _in_parquet()

    _publish(source)
    assert place.table().version() == 2

    source.rows[3]["amount"] = "123456.78"
    del source.rows[7]
    _publish(source)
    assert place.table().version() == 3
    assert len(_in_delta(place)) == 99
    assert _in_delta(place) == _in_parquet()


def test_a_table_that_fell_behind_is_mended_by_the_next_run(
    directory: Place, source: ServedSource
) -> None:
    """The Parquet object is published first, the table second."""
    _publish(source)
    source.rows[3]["amount"] = "123456.78"
    # Blocks the next data file, so writing fails, but opening the table does not.
    files, aside = Path(directory.uri, "event_date=2026-11-01"), Path(directory.uri, "aside")
    files.rename(aside)
    files.touch()
    (message,) = _messages(_materialize(source))
    assert directory.uri in message
    files.unlink()
    aside.rename(files)
    assert Decimal("123456.78") in {row[10] for row in _in_parquet()}
    assert Decimal("123456.78") not in {row[10] for row in _in_delta(directory)}
    _publish(source)
    assert _in_delta(directory) == _in_parquet()


# Faults.


def test_without_the_package_it_is_said_what_to_install(
    directory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(UserError, match=r"deltalake is not installed: install .*extra `delta`"):
        open_delta(load_settings())


def test_a_place_that_cannot_be_used_is_said_before_anything_is_published(
    source: ServedSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(tmp_path / "file" / "table"))
    (message,) = _messages(_materialize(source))
    assert re.match(r"the directory .*/file/table .* can't be made .*: set DELTA_LAKE", message)
    assert not list(tmp_path.rglob("s3_parquet_transactions/**/*.parquet"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"DELTA_LAKE_S3_PATH": "s3://no-such-bucket/table"}, "a bucket that does not exist"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, r"refused the credentials \(SignatureDoesNotMatch\)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials for"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "can't be read or written: .*refused"),
        ({"DELTA_LAKE_S3_PATH": "s3://transactions"}, "DELTA_LAKE_S3_PATH: .*s3://bucket/folder"),
        ({"DELTA_LAKE_S3_PATH": "gs://a/b"}, "DELTA_LAKE_S3_PATH: .*s3://bucket/folder"),
    ],
)
def test_a_store_that_refuses_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    change: dict[str, str],
    message: str,
) -> None:
    endpoint = s3_servers("seaweedfs")
    environment = {
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
        "AWS_ENDPOINT_URL": endpoint.url,
        "DELTA_LAKE_S3_PATH": f"s3://{endpoint.bucket}/{s3_prefix}",
    }
    for name, value in (environment | change).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as raised:
        require_delta(open_delta(load_settings())).require_usable()
    assert "secret-of" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_table_of_other_columns_is_left_alone(directory: Place) -> None:
    schema = Schema.from_arrow(pa.schema([("amount", pa.float64()), ("event_date", pa.date32())]))
    DeltaTable.create(directory.uri, schema)
    with pytest.raises(
        UserError, match=r"is not as in the contract \(amount, .*DELTA_LAKE_S3_PATH"
    ):
        _commit(_NOON, 5, "a")
    assert directory.table().version() == 0


class _ForgetsConditions(BaseHTTPRequestHandler):
    """A proxy that makes a store ignore conditional requests, like an older one."""

    store: str

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name: value for name, value in self.headers.items() if name != "If-None-Match"}
        request = Request(
            self.store + self.path, self.rfile.read(length), headers, method=self.command
        )
        try:
            answer = urlopen(request)
        except HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name not in {"Transfer-Encoding", "Connection", "Content-Length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_GET = do_PUT = do_DELETE = do_POST = do_HEAD = _pass_on  # noqa: N815


@pytest.mark.parametrize("fault", ["the last wins", "commits are lost"])
def test_doctor_says_no_to_a_store_that_loses_commits(faulty: FaultyStore, fault: str) -> None:
    """The probe needs concurrent writers: single writes succeed."""
    if fault == "the last wins":
        faulty.check_then_write = 0.02
    else:
        _delta().require_usable()
        faulty.fail(Operation.PUT, Fault.LOST)
    with pytest.raises(UserError, match=r"[Uu]se another store|do not have|does not") as raised:
        _delta().probe()
    assert "another store" in str(raised.value)


def test_doctor_tells_stores_that_can_from_those_that_cannot(
    s3_servers: Callable[[str], S3Endpoint], s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = s3_servers("moto")
    handler = type("Handler", (_ForgetsConditions,), {"store": endpoint.url})
    with (
        served(ServedSource([])) as transactions,
        served_by(handler) as forgetful,
    ):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
        monkeypatch.setenv("DELTA_LAKE_S3_PATH", f"s3://{endpoint.bucket}/{s3_prefix}")
        monkeypatch.setenv("GENERATOR_URL", transactions.url)
        said: list[tuple[bool, str]] = []
        for url in (endpoint.url, forgetful):
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            (found,) = [finding for finding in examine() if finding.subject == "delta"]
            said.append((found.good, found.message))
    assert said[0] == (
        True,
        f"s3://{endpoint.bucket}/{s3_prefix} takes commits, also several at once",
    )
    assert not said[1][0]
    assert "If-None-Match" in said[1][1]
    stored = endpoint.client().list_objects_v2(Bucket=endpoint.bucket, Prefix=s3_prefix)
    assert not [entry for entry in stored.get("Contents", []) if "_probe" in entry.get("Key", "")]
