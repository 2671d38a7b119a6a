"""The lake: objects appear complete or not at all, in a directory and on two kinds of S3."""

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from txn_platform.arrow.dictionaries import is_same
from txn_platform.errors import UserError
from txn_platform.lake.base import Lake, StoredObject
from txn_platform.lake.layout import object_key, window_of_key
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding, open_parquet, read_batches
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.conftest import S3Endpoint

_SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False), pa.field("text", pa.string())])
_ENCODING = Encoding(compression="zstd", row_group_rows=100, sorted_by=("number",))
_KEY = object_key("asset", Window(datetime(2026, 11, 1, 14, tzinfo=UTC)))


def _rows(count: int, text: str = "a") -> pl.DataFrame:
    return pl.DataFrame({"text": [text] * count, "number": range(count)})


def _publish(lake: Lake, *frames: pl.DataFrame, key: str = _KEY) -> StoredObject:
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        for frame in frames:
            writer.write(frame)
        return lake.publish(writer.finish(), key)


@pytest.fixture(params=["directory", "moto", "seaweedfs"])
def lake(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
) -> Lake:
    """An empty lake of each kind, opened through the environment."""
    if request.param != "directory":
        endpoint = s3_servers(request.param)
        monkeypatch.setenv("AWS_BUCKET_NAME", endpoint.bucket)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)
        monkeypatch.setenv("TXN_LAKE_PREFIX", s3_prefix)
    return open_lake(load_settings())


def test_layout_is_the_one_that_was_promised() -> None:
    assert _KEY == "asset/event_date=2026-11-01/event_hour=14/part-0.parquet"


@pytest.mark.parametrize("times", [1, 4])
def test_a_file_and_its_digest_are_of_one_version(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Also when other runs replace it each time between the two questions."""
    _publish(lake, _rows(1))
    open_once, replaced = lake.open, list(range(2, 2 + times))

    def opened(key: str, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
        file = open_once(key, dictionary_encoded)
        if replaced:
            _publish(open_lake(load_settings()), _rows(replaced.pop(0)))
        return file

    monkeypatch.setattr(lake, "open", opened)
    file, digest = lake.open_with_digest(_KEY, ["text"])
    assert (file.metadata.num_rows, digest) == (1 + times, lake.digest(_KEY))
    assert pa.types.is_dictionary(file.schema_arrow.field("text").type)
    replaced += range(10, 20)
    with pytest.raises(UserError, match="replaced by other runs again and again: run it again"):
        lake.open_with_digest(_KEY)


def test_what_is_absent_has_no_file_and_no_digest(lake: Lake) -> None:
    with pytest.raises(UserError, match="does not exist"):
        lake.open_with_digest(_KEY)


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(load_settings())
    _publish(lake, _rows(1))
    folder = Path(lake.uri(_KEY)).parent.parent
    look = os.scandir

    def refused(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=f"{folder} can't be read .Permission denied.: allow it"):
        lake.keys("asset")


def test_objects_in_a_folder_that_cannot_be_read_are_not_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake = open_lake(load_settings())
    _publish(lake, _rows(1))
    other = object_key("asset", Window(datetime(2026, 11, 1, 15, tzinfo=UTC)))
    assert lake.absent([_KEY, other]) == [other]
    look = Path.stat

    def refused(path: Path, **options: Any) -> os.stat_result:
        if path.as_posix().endswith(_KEY):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(UserError, match=f"{_KEY} can't be read .Permission denied.: allow it"):
        lake.absent([other, _KEY])


def test_what_is_published_can_be_read_back(lake: Lake) -> None:
    stored = _publish(lake, _rows(150), _rows(30, "b"))
    assert lake.find(_KEY) == stored
    assert stored.uri.endswith(_KEY)
    # By the publisher, and by another process.
    for reader in (lake, open_lake(load_settings())):
        with reader.open(_KEY) as file:
            assert file.schema_arrow.equals(_SCHEMA)
            assert file.metadata.num_row_groups == 2
            assert pl.DataFrame(file.read())["number"].to_list() == [*range(150), *range(30)]
    assert lake.scan([_KEY]).select(pl.len()).collect().item() == 180


def test_a_later_object_replaces_the_earlier_whole(lake: Lake) -> None:
    _publish(lake, _rows(50))
    stored = _publish(lake, _rows(7, "new"))
    assert lake.find(_KEY) == stored
    assert set(lake.scan([_KEY]).collect()["text"]) == {"new"}


def test_the_same_bytes_are_not_written_again(lake: Lake, tmp_path: Path) -> None:
    assert not _publish(lake, _rows(50)).unchanged
    # Also by another process, which has not put it there.
    for writer in (lake, open_lake(load_settings())):
        again = _publish(writer, _rows(50))
        assert again.unchanged
        assert again == replace(lake.find(_KEY) or again, unchanged=True)
        assert writer.scan([_KEY]).collect().height == 50
        copied = tmp_path / "copied"
        writer.copy(_KEY, copied)
        assert pq.read_metadata(copied).num_rows == 50
    assert not _publish(lake, _rows(50, "b")).unchanged
    assert set(lake.scan([_KEY]).collect()["text"]) == {"b"}


def test_the_digest_of_an_object_is_known_to_who_wrote_it_and_to_others(
    lake: Lake, tmp_path: Path
) -> None:
    assert lake.digest(_KEY) is None
    for rows in (_rows(50), _rows(50), _rows(7, "new")):
        _publish(lake, rows)
        copied = tmp_path / "copied"
        lake.copy(_KEY, copied)
        digest = hashlib.sha256(copied.read_bytes()).hexdigest()
        assert lake.digest(_KEY) == open_lake(load_settings()).digest(_KEY) == digest


def test_the_digest_is_of_what_is_there_now() -> None:
    lake = open_lake(load_settings())
    path = Path(_publish(lake, _rows(50)).uri)
    path.write_bytes(b"another's")
    assert lake.digest(_KEY) == hashlib.sha256(b"another's").hexdigest()


def test_the_digest_is_of_another_runs_object_that_came_while_the_same_one_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake = open_lake(load_settings())
    path = Path(_publish(lake, _rows(50)).uri)

    def replaced_by_another_run(_: Path) -> None:
        draft = path.with_suffix(".draft")
        draft.write_bytes(b"another's")
        draft.replace(path)

    monkeypatch.setattr("txn_platform.lake.directory.sync_directory", replaced_by_another_run)
    assert _publish(lake, _rows(50)).unchanged
    assert lake.digest(_KEY) == hashlib.sha256(b"another's").hexdigest()


def test_a_damaged_file_of_the_same_size_is_written_again() -> None:
    lake = open_lake(load_settings())
    path = Path(_publish(lake, _rows(50)).uri)
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    assert not _publish(lake, _rows(50)).unchanged
    assert path.read_bytes() == good


def test_several_objects_are_one_frame(lake: Lake) -> None:
    keys = [object_key("asset", Window(datetime(2026, 11, 1, hour, tzinfo=UTC))) for hour in (1, 2)]
    for number, key in enumerate(keys):
        _publish(lake, _rows(number + 3, str(number)), key=key)
    assert lake.scan(keys).collect()["text"].to_list() == ["0"] * 3 + ["1"] * 4


def test_no_rows_are_an_object_too(lake: Lake) -> None:
    _publish(lake, _rows(0))
    assert lake.scan([_KEY]).collect().height == 0


def test_what_is_not_there_is_named(lake: Lake) -> None:
    assert lake.find(_KEY) is None
    for read in (lake.open, lambda key: lake.scan([key])):
        with pytest.raises(UserError, match=r"part-0\.parquet does not exist: materialize asset"):
            read(_KEY)


def test_nothing_stays_behind_after_publishing_or_failing(lake: Lake, tmp_path: Path) -> None:
    _publish(lake, _rows(5))
    frames = iter([_rows(500), _rows(5).with_columns(pl.lit("x").alias("number"))])
    with pytest.raises(pa.ArrowInvalid):
        _publish(lake, *frames)
    assert not list(tmp_path.rglob("?*.staging"))
    assert set(lake.scan([_KEY]).collect()["text"]) == {"a"}


def test_a_disk_that_fails_while_rows_still_come_is_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_HOME", str(tmp_path))
    synced: list[int] = []

    def fail_once(_: int) -> None:
        synced.append(1)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    # The kernel reports the error once. Later calls succeed, although data is lost.
    monkeypatch.setattr(os, "fdatasync", fail_once, raising=False)
    lake = open_lake(load_settings())
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        _publish(lake, *(_rows(100) for _ in range(5)))
    assert lake.find(_KEY) is None
    assert not list(tmp_path.rglob("?*.staging"))


def _text(lake: Lake, name: str) -> tuple[str, object]:
    """A text beside the tables, and what changes whenever it is written."""
    settings = load_settings()
    if settings.bucket is None:
        path = Path(lake.uri(name))
        return path.read_text("utf-8"), path.stat().st_ino
    secret = settings.secret_access_key
    assert settings.endpoint_url
    assert settings.access_key_id
    assert secret
    store = S3Endpoint(
        settings.endpoint_url, settings.access_key_id, secret.get_secret_value(), settings.bucket
    )
    found = store.client().get_object(Bucket=settings.bucket, Key=f"{settings.lake_prefix}/{name}")
    return found["Body"].read().decode(), found["LastModified"]


def test_a_text_is_written_once_and_replaced_when_it_differs(lake: Lake) -> None:
    lake.put_text("about.json", "{}")
    first = _text(lake, "about.json")
    assert first[0] == "{}"
    # The store's clock counts seconds.
    time.sleep(0 if load_settings().bucket is None else 1.1)
    open_lake(load_settings()).put_text("about.json", "{}")
    assert _text(lake, "about.json") == first
    open_lake(load_settings()).put_text("about.json", '"é"')
    assert _text(lake, "about.json")[0] == '"é"'
    assert lake.keys("asset") == []
    assert lake.sweep() == 0


def test_a_text_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    lake = open_lake(load_settings())
    lake.put_text("about.json", "{}")
    target = Path(lake.uri("about.json"))
    target.unlink()
    target.mkdir()
    (target / "file").touch()
    with pytest.raises(UserError, match=r"about.json can't be written: \w+"):
        lake.put_text("about.json", "{}")
    assert not list(tmp_path.rglob("?*.staging"))


def test_probe_leaves_nothing(lake: Lake, tmp_path: Path) -> None:
    list(lake.probe())
    assert not list(tmp_path.rglob("*probe*"))


def test_the_same_rows_are_the_same_bytes(lake: Lake) -> None:
    digests = set()
    for cut in (0, 1, 99, 100, 101, 250):
        with lake.stage(_SCHEMA, _ENCODING) as writer:
            frame = _rows(250)
            writer.write(frame[:cut])
            writer.write(frame[cut:])
            digests.add(writer.finish().sha256)
    assert len(digests) == 1


@pytest.mark.parametrize("columns", [None, ["text", "number"], ["number"], ["text"]])
def test_a_file_is_read_in_batches_that_share_the_dictionaries_of_their_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: list[str] | None
) -> None:
    table = pa.table({"number": range(250), "text": [str(row // 20) for row in range(250)]})
    pq.write_table(table, tmp_path / "file.parquet", row_group_size=100)
    monkeypatch.setattr("txn_platform.lake.parquet._BATCH_ROWS", 40)
    file = open_parquet(tmp_path / "file.parquet", ["text"])
    batches = list(read_batches(file, columns))
    assert [batch.num_rows for batch in batches] == [40, 40, 20, 40, 40, 20, 40, 10]
    names = columns or table.schema.names
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows == table.select(names).to_pylist()
    if "text" in names:
        values = [batch.column("text").dictionary for batch in batches]
        alike = [is_same(one, other) for one, other in pairwise(values)]
        assert alike == [True, True, False, True, True, False, True]


def test_a_file_without_rows_is_one_batch(tmp_path: Path) -> None:
    pq.write_table(pa.schema([("text", pa.string())]).empty_table(), tmp_path / "file.parquet")
    (batch,) = read_batches(open_parquet(tmp_path / "file.parquet", ["text"]))
    assert (batch.num_rows, batch.schema.names) == (0, ["text"])


_STAGE_AND_WAIT = """
import sys
from txn_platform.lake.opening import open_lake
from txn_platform.settings import load_settings
from txn_platform_tests.lake.test_lake import _ENCODING, _SCHEMA, _rows

with open_lake(load_settings()).stage(_SCHEMA, _ENCODING) as writer:
    writer.write(_rows(500))
    print("staged", flush=True)
    sys.stdin.read()
"""


def test_files_of_killed_writers_are_swept_and_of_live_ones_kept(tmp_path: Path) -> None:
    with ExitStack() as stack:
        command = [sys.executable, "-c", _STAGE_AND_WAIT]
        writers = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"staged\n"
        assert len(list(tmp_path.rglob("?*.staging"))) == 2
        writers[0].kill()
        writers[0].wait()
        lake = open_lake(load_settings())
        assert lake.sweep() == 1
        assert lake.sweep() == 0
        assert len(list(tmp_path.rglob("?*.staging"))) == 1
        writers[1].communicate()
        assert writers[1].returncode == 0
    assert not list(tmp_path.rglob("?*.staging"))


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run sweeps between the creation and the lock of a new file."""
    lake = open_lake(load_settings())
    lock = fcntl.flock
    swept: list[int] = []

    def sweep_first(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX and not swept:
            swept.append(0)
            swept[0] = lake.sweep()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        assert swept == [1]
        assert lake.sweep() == 0
        writer.write(_rows(3))
        lake.publish(writer.finish(), _KEY)
    assert lake.scan([_KEY]).collect().height == 3


def test_other_readers_read_it_too(tmp_path: Path) -> None:
    stored = _publish(open_lake(load_settings()), _rows(250))
    count, total = duckdb.sql(f"select count(*), sum(number) from '{stored.uri}'").fetchall()[0]  # noqa: S608
    assert (count, total) == (250, sum(range(250)))
    assert pq.ParquetFile(stored.uri).metadata.row_group(0).sorting_columns[0].column_index == 0
    assert tmp_path in Path(stored.uri).parents


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_BUCKET_NAME": "no-such-bucket"}, "'no-such-bucket' does not exist"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "refused the credentials"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "failed: .*127.0.0.1:9"),
    ],
)
def test_a_store_that_refuses_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    s3_servers: Callable[[str], S3Endpoint],
    change: dict[str, str],
    message: str,
) -> None:
    endpoint = s3_servers("seaweedfs")
    environment = {
        "AWS_BUCKET_NAME": endpoint.bucket,
        "AWS_ACCESS_KEY_ID": endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
        "AWS_ENDPOINT_URL": endpoint.url,
    }
    for name, value in (environment | change).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as raised:
        open_lake(load_settings()).stage(_SCHEMA, _ENCODING)
    assert "secret-of" not in str(raised.value)


def test_a_directory_that_cannot_be_made_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lake").touch()
    monkeypatch.setenv("TXN_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"can't be made .*: set TXN_HOME"):
        open_lake(load_settings()).stage(_SCHEMA, _ENCODING)


def test_objects_are_listed_by_time_and_can_be_removed(lake: Lake) -> None:
    windows = [Window(datetime(2026, 11, day, hour, tzinfo=UTC)) for day, hour in ((2, 3), (1, 23))]
    for window in windows:
        _publish(lake, _rows(1), key=object_key("asset", window))
    _publish(lake, _rows(1), key=object_key("asset_of_another_name", windows[0]))
    keys = lake.keys("asset")
    assert [window_of_key(key) for key in keys] == sorted(windows)
    assert not lake.erase(keys[0], [""])
    assert lake.keys("asset") == keys[1:]
    assert lake.keys("absent") == []


def test_an_object_that_is_removed_while_it_is_looked_for_is_there_or_not(tmp_path: Path) -> None:
    lake = open_lake(load_settings())
    path = Path(lake.uri(_KEY))
    path.parent.mkdir(parents=True)
    ended = threading.Event()

    def remove_and_make() -> None:
        while not ended.is_set():
            path.touch()
            path.unlink()

    remover = threading.Thread(target=remove_and_make)
    remover.start()
    try:
        found = {lake.find(_KEY) for _ in range(20_000)}
        while len(found) < 2:
            found.add(lake.find(_KEY))
    finally:
        ended.set()
        remover.join()
    assert found == {None, StoredObject(str(path), 0)}
