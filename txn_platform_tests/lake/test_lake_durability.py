"""A published file survives a power cut: the tests observe the order of writes and syncs.

The steps are seen from outside, as calls of the operating system: what is written is synced before
it gets its name, and every directory that got an entry is synced afterwards. A step that fails
publishes nothing.
"""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from txn_platform.errors import UserError
from txn_platform.lake.base import Lake, LakeFile, StoredObject
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding
from txn_platform.settings import load_settings
from txn_platform.windows import Window

_SCHEMA = pa.schema([pa.field("number", pa.int64(), nullable=False)])
_ENCODING = Encoding(compression="zstd", row_group_rows=100)
_KEY = object_key("asset", Window(datetime(2026, 11, 1, 14, tzinfo=UTC)))
_LATER = object_key("asset", Window(datetime(2026, 11, 1, 15, tzinfo=UTC)))


@dataclass
class Steps:
    """Calls of the operating system in their order, each with what it was called on.

    Attributes:
        seen: `fsync` of a path; `rename` of what is then at a path; `write` of the last byte.
        failing: raises before the named call, and says on which path.
    """

    root: Path
    seen: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    failing: Callable[[str, str], None] = lambda _, __: None

    def name(self, path: str | Path) -> str:
        relative = Path(path).relative_to(self.root).as_posix()
        return "staged" if relative.endswith(".staging") and "/" in relative else relative

    def did(self, call: str, path: str | Path) -> None:
        name = self.name(path)
        self.failing(call, name)
        self.seen.append((call, name))


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.setenv("TXN_HOME", str(tmp_path / "home"))
    steps = Steps(tmp_path)
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def observed_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(tmp_path):
            size = os.fstat(descriptor).st_size
            steps.did("fsync", path)
            if path.is_file():
                steps.seen[-1] = (f"fsync {size}", steps.seen[-1][1])
        fsync(descriptor)

    def observed(move: Callable[..., None]) -> Callable[..., None]:
        def moved(source: Any, target: Any, **kwargs: Any) -> None:
            inode = Path(source).stat().st_ino
            steps.did("rename", target)
            move(source, target, **kwargs)
            assert Path(target).stat().st_ino == inode, "replaced by a copy"

        return moved

    monkeypatch.setattr(os, "fsync", observed_fsync)
    monkeypatch.setattr(os, "rename", observed(rename))
    monkeypatch.setattr(os, "replace", observed(replace))
    return steps


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="names open files by /proc"
)


def _publish(lake: Lake, key: str = _KEY, rows: int = 250) -> StoredObject:
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.write(pl.DataFrame({"number": range(rows)}))
        return lake.publish(writer.finish(), key)


def _copy(lake: Lake, source: str, key: str) -> StoredObject:
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        writer.copy(LakeFile(lake, source).copy_to)
        return lake.publish(writer.finish(), key)


def _up_to(folder: str) -> list[tuple[str, str]]:
    """The sync of a new folder, and of each above it up to the one that stood before."""
    parts = Path(folder).parts
    return [("fsync", str(Path(*parts[:count]))) for count in range(len(parts), 0, -1)]


def test_a_file_is_synced_whole_before_its_name_and_every_new_folder_after(steps: Steps) -> None:
    lake = open_lake(load_settings())
    stored = _publish(lake)
    folder = "home/lake/asset/event_date=2026-11-01/event_hour=14"
    assert steps.seen[:2] == [
        (f"fsync {stored.size}", "staged"),
        ("rename", f"{folder}/part-0.parquet"),
    ]
    # The lake's root was made when the file was staged: what stands above it is not new.
    after = [step for step in steps.seen[2:] if step[1] in {name for _, name in _up_to(folder)}]
    assert set(after) >= set(_up_to(folder)[:4])
    assert len(steps.seen) == 2 + len(after)


def test_in_a_folder_that_stands_only_what_is_new_is_synced(steps: Steps) -> None:
    lake = open_lake(load_settings())
    _publish(lake)
    steps.seen.clear()
    _publish(lake, _LATER)
    day = "home/lake/asset/event_date=2026-11-01"
    assert steps.seen[1:] == [
        ("rename", f"{day}/event_hour=15/part-0.parquet"),
        ("fsync", f"{day}/event_hour=15"),
        ("fsync", day),
    ]
    steps.seen.clear()
    stored = _publish(lake, _LATER, rows=3)
    assert steps.seen == [
        (f"fsync {stored.size}", "staged"),
        ("rename", f"{day}/event_hour=15/part-0.parquet"),
        ("fsync", f"{day}/event_hour=15"),
    ]


def test_a_copy_is_synced_as_well(steps: Steps) -> None:
    lake = open_lake(load_settings())
    _publish(lake)
    steps.seen.clear()
    stored = _copy(lake, _KEY, _LATER)
    assert steps.seen[:2] == [
        (f"fsync {stored.size}", "staged"),
        ("rename", "home/lake/asset/event_date=2026-11-01/event_hour=15/part-0.parquet"),
    ]


@pytest.mark.parametrize("how", [_publish, lambda lake: _copy(lake, _LATER, _KEY)])
@pytest.mark.parametrize("call", ["fsync staged", "rename", "fsync folder"])
@pytest.mark.parametrize("before", [True, False], ids=["replaced", "new"])
def test_a_step_that_fails_fails_the_publication(
    steps: Steps, how: Callable[[Lake], object], call: str, *, before: bool
) -> None:
    lake = open_lake(load_settings())
    _publish(lake, _LATER)
    if before:
        _publish(lake, rows=7)

    def fail(step: str, name: str) -> None:
        wanted, _, place = call.partition(" ")
        if step == wanted and (not place or (name == "staged") == (place == "staged")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    steps.failing = fail
    with pytest.raises((OSError, UserError), match=os.strerror(errno.EIO)):
        how(lake)
    steps.failing = lambda _, __: None
    # Only when the file has its name already, the failing step leaves it there.
    if call != "fsync folder":
        found = lake.find(_KEY)
        assert (found is not None) == before
        if found is not None:
            assert pq.read_metadata(found.uri).num_rows == 7
    assert not list(steps.root.rglob("?*.staging"))


def test_what_is_encoded_is_brought_to_the_disk_while_rows_still_come(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sync has little left to write."""
    synced: list[int] = []
    fdatasync = getattr(os, "fdatasync", os.fsync)

    def observed(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", observed, raising=False)
    stored = _publish(open_lake(load_settings()), rows=1_000)
    assert synced
    assert 0 < synced[0] < stored.size


def test_a_system_without_fdatasync_publishes_as_well(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "fdatasync", raising=False)
    lake = open_lake(load_settings())
    stored = _publish(lake, rows=1_000)
    assert lake.find(_KEY) == stored


def test_a_file_that_is_not_whole_is_not_published(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The footer of the closed file is read back, and must match the written rows."""
    lake = open_lake(load_settings())
    _publish(lake, rows=7)
    other = steps.root / "other.parquet"
    for table, message in (
        (pa.table({"number": range(249)}, schema=_SCHEMA), "249"),
        (pa.table({"other": range(250)}), "schema"),
    ):
        pq.write_table(table, other)
        with lake.stage(_SCHEMA, _ENCODING) as writer:
            writer.write(pl.DataFrame({"number": range(250)}))
            close = pq.ParquetWriter.close

            def replaced(self: pq.ParquetWriter, close: Any = close) -> None:
                close(self)
                (path,) = (steps.root / "home/lake/.staging").glob("?*.staging")
                shutil.copyfile(other, path)

            with monkeypatch.context() as patched:
                patched.setattr(pq.ParquetWriter, "close", replaced)
                with pytest.raises(RuntimeError, match=message):
                    writer.finish()
    found = lake.find(_KEY)
    assert found is not None
    assert pq.read_metadata(found.uri).num_rows == 7
