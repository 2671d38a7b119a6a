"""Staging: writing a Parquet file and verifying it before it is in the lake."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.arrow.dictionaries import as_batch, combined, compacted, encoded_schema
from txn_platform.errors import UserError
from txn_platform.private_files import open_new_private
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Future
    from io import BufferedWriter
    from pathlib import Path

    import polars as pl

    from txn_platform.lake.parquet import Encoding


STAGING_SUFFIX: Final = ".staging"
# Dictionary page limit; above it Parquet falls back to plain encoding.
_DICTIONARY_BYTES: Final = 64 << 20
# Limits the size of a row group where single values are huge.
_ROW_GROUP_BYTES: Final = 512 << 20
# A full disk, a full quota, a file longer than allowed.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
)


@dataclass(frozen=True)
class Staged:
    """A complete, verified Parquet file that is not yet in the lake.

    Attributes:
        path: the local file.
        rows: their number.
        size: in bytes.
        sha256: its digest, hexadecimal.
        seconds: from the opening of its writer to its completion.
    """

    path: Path
    rows: int
    size: int
    sha256: str
    seconds: float


class StagingWriter:
    """Writes record batches to a staged file, with memory bounded by two row groups.

    A thread encodes one row group while the next is gathered.

    Call `finish` and `Lake.publish` within its context. Leaving the context removes the file. Until
    then the file is locked: `Lake.sweep` removes unlocked files, whose processes have died.
    """

    def __init__(self, path: Path, schema: pa.Schema, encoding: Encoding, *, durable: bool) -> None:
        self._path = path
        self._schema = schema
        self._encoding = encoding
        self._encoded_schema = encoded_schema(schema, encoding.dictionary_encoded)
        self._lock = _locked(path)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._encoding_now: Future[None] | None = None
        self._written = _WrittenFile(path, durable=durable)
        self._copied = False
        self.rows = 0
        self._begun = time.monotonic()

    @cached_property
    def _writer(self) -> pq.ParquetWriter:
        return _parquet_writer(self._path, self._schema, self._encoding)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.discard()
        if isinstance(error, OSError):
            with room_on_disk(self._path.parent):
                raise error

    def discard(self) -> None:
        """Remove the file unless it was published. Doing so again does nothing."""
        try:
            self._encoder.shutdown(cancel_futures=True)
            self._written.close()
            # If it cannot be closed, it was not finished.
            with contextlib.suppress(Exception):
                if not self._copied:
                    self._writer.close()
        finally:
            # Also after a second Ctrl-C.
            self._path.unlink(missing_ok=True)
            self._lock.close()

    def write(self, rows: pa.RecordBatch | pl.DataFrame) -> None:
        """Append rows. Columns are put into the order and types of the schema; values stay."""
        batch = as_batch(rows, self._encoded_schema)
        while batch.num_rows:
            part = batch.slice(0, self._encoding.row_group_rows - self._pending_rows)
            batch = batch.slice(part.num_rows)
            self._pending.append(part)
            self._pending_rows += part.num_rows
            self._pending_bytes += part.nbytes
            self.rows += part.num_rows
            if (
                self._pending_rows == self._encoding.row_group_rows
                or self._pending_bytes > _ROW_GROUP_BYTES
            ):
                self._flush()

    def copy(self, fill: Callable[[Path], None]) -> Path:
        """Stage a copy of a Parquet file, byte for byte, in place of rows. It keeps its schema.

        Args:
            fill: writes the file to a path, as `LakeFile.copy_to` does.

        Returns:
            The staged file, for reading.
        """
        fill(self._path)
        self.rows = pq.read_metadata(self._path).num_rows
        self._copied = True
        self._encoding_now = self._encoder.submit(self._written.catch_up)
        return self._path

    def annotate(self, metadata: dict[str, str]) -> None:
        """Add to the footer's key-value metadata."""
        self._writer.add_key_value_metadata(metadata)

    def finish(self) -> Staged:
        """Close the file and verify it.

        Raises:
            RuntimeError: the file's rows or schema differ from those that were written.
        """
        if not self._copied and (self._pending or not self.rows):
            self._flush()
        self._wait()
        if not self._copied:
            self._writer.close()
        footer = pq.read_metadata(self._path)
        if footer.num_rows != self.rows:
            raise RuntimeError(f"staged {self.rows} rows, but the file has {footer.num_rows}")
        if not self._copied and not footer.schema.to_arrow_schema().equals(self._schema):
            raise RuntimeError("the staged file's schema is not the one it was written with")
        size, sha256 = self._written.complete()
        return Staged(self._path, self.rows, size, sha256, time.monotonic() - self._begun)

    def _flush(self) -> None:
        self._wait()
        self._encoding_now = self._encoder.submit(self._encode, self._pending)
        self._pending = []
        self._pending_rows = self._pending_bytes = 0

    def _wait(self) -> None:
        """Wait for the encoder, and raise its error if there is one."""
        if self._encoding_now is not None:
            self._encoding_now.result()
            self._encoding_now = None

    def _encode(self, rows: list[pa.RecordBatch]) -> None:
        table = pa.Table.from_batches(rows, self._encoded_schema)
        rows.clear()
        # A row group has one dictionary per column, so only these columns are combined.
        columns = [
            compacted(combined(column)) if pa.types.is_dictionary(column.type) else column
            for column in table.columns
        ]
        table = pa.Table.from_arrays(columns, schema=self._encoded_schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._written.catch_up()


class _WrittenFile:
    """The digest of a growing file, and its way to the disk, both kept up with its writer."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        self._digest = hashlib.sha256()
        self._digested = 0
        self._syncer = ThreadPoolExecutor(1, "sync")
        self._syncing: Future[None] | None = None

    def catch_up(self) -> None:
        """Start to sync the new bytes in a thread, so that the end waits less, and digest them."""
        self._begin_sync()
        with self._path.open("rb") as file:
            file.seek(self._digested)
            hashlib.file_digest(file, lambda: self._digest)
            self._digested = file.tell()

    def complete(self) -> tuple[int, str]:
        """Digest and sync the whole file; returns its size and its SHA-256 in hexadecimal."""
        self.catch_up()
        if self._syncing is not None:
            self._syncing.result()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        return self._digested, self._digest.hexdigest()

    def close(self) -> None:
        """End its thread."""
        self._syncer.shutdown(cancel_futures=True)

    def _begin_sync(self) -> None:
        if not self._durable or (self._syncing is not None and not self._syncing.done()):
            return
        if self._syncing is not None:
            # The kernel reports a write error only once.
            self._syncing.result()
        self._syncing = self._syncer.submit(self._sync)

    def _sync(self) -> None:
        with self._path.open("rb") as file:
            # macOS has no fdatasync.
            sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
            sync(file.fileno())


def _parquet_writer(path: Path, schema: pa.Schema, encoding: Encoding) -> pq.ParquetWriter:
    written = encoded_schema(schema, encoding.dictionary_encoded)
    plain_columns = [field.name for field in written if not pa.types.is_dictionary(field.type)]
    without = {*encoding.plain, *encoding.delta_encoded}
    # By name, pyarrow would leave out the values of lists, which fastparquet reads only from a
    # dictionary.
    dictionary: Any = [name for name in schema.names if name not in without] if without else True
    delta = {
        name: "DELTA_BYTE_ARRAY"
        if pa.types.is_string(schema.field(name).type)
        else "DELTA_BINARY_PACKED"
        for name in encoding.delta_encoded
    }
    writer = pq.ParquetWriter(
        path,
        written,
        compression=encoding.compression,
        compression_level=encoding.level,
        use_dictionary=dictionary,
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
        column_encoding=delta or None,
        # Statistics of values that repeat throughout the window do not help a reader to skip.
        write_statistics=cast("Any", plain_columns),
        write_page_index=True,
        store_decimal_as_integer=True,
        store_schema=False,
        sorting_columns=pq.SortingColumn.from_ordering(
            written, [(name, "ascending") for name in encoding.sorted_by]
        )
        if encoding.sorted_by
        else None,
    )
    # As pyarrow stores it, but without the dictionaries: readers get plain text.
    described = base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")
    writer.add_key_value_metadata({"ARROW:schema": described})
    return writer


@contextlib.contextmanager
def room_on_disk(directory: Path) -> Generator[None]:
    """Explain errors of a directory that cannot be written.

    Raises:
        UserError: there is no access, or no room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ACCESS:
            raise UserError(
                f"{directory} can't be written ({os.strerror(error.errno)}): set TXN_HOME to a"
                " directory that can",
                Section.DISK,
            ) from None
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{directory} can't take more ({os.strerror(error.errno)}): make room there, or set"
            " TXN_HOME to a directory on a disk that has some",
            Section.DISK,
        ) from None


def _locked(path: Path) -> BufferedWriter:
    """A new file that is locked before a sweep can remove it."""
    while True:
        file = open_new_private(path)
        fcntl.flock(file, fcntl.LOCK_EX)
        # A sweep may have removed it before the lock was taken.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()
