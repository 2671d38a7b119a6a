"""A staged file: what its footer says, and how its writer fails."""

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from txn_platform.errors import UserError
from txn_platform.lake.base import Lake
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding
from txn_platform.lake.staging import room_on_disk
from txn_platform.settings import load_settings
from txn_platform.windows import Window

_SCHEMA = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("kind", pa.string()),
    ]
)
_ENCODING = Encoding(
    compression="zstd",
    row_group_rows=100,
    sorted_by=("number",),
    dictionary_encoded=("kind",),
    plain=("text",),
)
_KEY = object_key("asset", Window(datetime(2026, 11, 1, 14, tzinfo=UTC)))


def _rows(count: int, first: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "number": range(first, first + count),
            "text": [f"text {number}" for number in range(count)],
            "kind": ["a", "b"] * (count // 2),
        }
    )


def _publish(lake: Lake) -> None:
    """Two row groups and a half."""
    with lake.stage(_SCHEMA, _ENCODING) as writer:
        for rows in (_rows(100), _rows(100), _rows(50)):
            writer.write(rows)
        lake.publish(writer.finish(), _KEY)


@pytest.fixture
def footer() -> Any:
    """Of a file of two and a half row groups."""
    with open_lake(load_settings()).stage(_SCHEMA, _ENCODING) as writer:
        for first in (0, 120):
            writer.write(_rows(120 + first // 12, first))
        return pq.read_metadata(writer.finish().path)


def test_row_groups_are_full_but_for_the_last(footer: Any) -> None:
    assert [footer.row_group(number).num_rows for number in range(footer.num_row_groups)] == [
        100,
        100,
        50,
    ]


def test_statistics_are_of_columns_that_differ_by_row_group(footer: Any) -> None:
    """Values that repeat all over a window help no reader to skip."""
    columns = [footer.row_group(1).column(place) for place in range(3)]
    assert [column.is_stats_set for column in columns] == [True, True, False]
    assert (columns[0].statistics.min, columns[0].statistics.max) == (100, 199)


def test_encodings_are_those_that_were_asked_for(footer: Any) -> None:
    columns = [footer.row_group(1).column(place) for place in range(3)]
    assert [column.has_dictionary_page for column in columns] == [True, False, True]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert [
        (column.column_index, column.descending) for column in footer.row_group(0).sorting_columns
    ] == [(0, False)]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_row_group_that_fails_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Each is encoded in a thread: the first, the second, and the one of `finish`."""
    written: list[int] = []
    write: Any = pq.ParquetWriter.write_table

    def fail(self: Any, *arguments: Any, **options: Any) -> None:
        written.append(1)
        if len(written) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        write(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    lake = open_lake(load_settings())
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        _publish(lake)
    assert lake.find(_KEY) is None


def test_a_writer_that_is_given_up_closes_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Any] = []
    close: Any = pq.ParquetWriter.close

    def noted(self: Any) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(pq.ParquetWriter, "close", noted)
    writer = open_lake(load_settings()).stage(_SCHEMA, _ENCODING)
    with suppress(KeyError), writer:
        writer.write(_rows(250))
        raise KeyError
    assert len(closed) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_with_its_remedy(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(UserError, match=r"can't take more .*: make room there, or set TXN_HOME"),
        room_on_disk(tmp_path),
    ):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_a_directory_that_refuses_is_said_with_its_remedy(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(UserError, match=r"can't be written .*: set TXN_HOME to a directory"),
        room_on_disk(tmp_path),
    ):
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOENT])
def test_another_error_of_the_disk_stays_as_it_is(tmp_path: Path, code: int) -> None:
    with pytest.raises(OSError, match=os.strerror(code)), room_on_disk(tmp_path):
        raise OSError(code, os.strerror(code))
