"""The lake: where an object lives, and how it gets there whole.

Two stores with one promise, a directory (here) and a bucket on S3 (`s3_lake`): an object is staged
as a local file, verified, and put in its place in one step. What is in the files is the assets'
matter.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import uuid
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast, override

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.arrow.dictionaries import as_batch, coded_schema, compacted, empty, in_one_piece
from txn_platform.errors import UserError
from txn_platform.windows import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from concurrent.futures import Future
    from io import BufferedWriter

    from txn_platform.settings import Settings

OBJECT_NAME: Final = "part-0.parquet"
STAGING_SUFFIX: Final = ".staging"
# A dictionary that is larger is given up for plain values, which cost more than it does.
_DICTIONARY_BYTES: Final = 64 << 20
# What a row group holds at most where single values are huge.
_ROW_GROUP_BYTES: Final = 512 << 20
# What is judged at once, with a few times its size in memory.
_BATCH_ROWS: Final = 1 << 18
# A full disk, a full quota, a file longer than allowed.
# An object that is replaced while it is opened is opened again, so often.
OPENINGS: Final = 5
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
)


def window_of_key(key: str) -> Window:
    """The window of an object's key, the other way around than `object_key`.

    Raises:
        UserError: it is not a window's.
    """
    _, _, path = key.partition("/")
    date, _, hour = path.removesuffix(f"/{OBJECT_NAME}").partition("/")
    if not date.startswith("event_date=") or not hour.startswith("event_hour="):
        raise UserError(f"{key} is not the object of an hour: move it out of the lake")
    stamp = f"{date.removeprefix('event_date=')}-{hour.removeprefix('event_hour=')}:00"
    return Window.of_partition(stamp)


def asset_of_key(key: str) -> str:
    """The asset of an object's key."""
    return key.partition("/")[0]


def object_key(asset: str, window: Window | None) -> str:
    """Where the lake keeps an asset's window, or an asset without windows, below its root."""
    if window is None:
        return f"{asset}/{OBJECT_NAME}"
    start = window.start
    return f"{asset}/event_date={start:%Y-%m-%d}/event_hour={start:%H}/{OBJECT_NAME}"


@dataclass(frozen=True)
class Staged:
    """A complete, verified Parquet file that is not yet in the lake.

    Attributes:
        path: the local file.
        rows: how many it holds.
        size: its bytes.
        sha256: its digest, hexadecimal.
    """

    path: Path
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class StoredObject:
    """An object that is in the lake.

    Attributes:
        uri: its address, `s3://...` or an absolute path.
        size: its bytes.
        superseded: it was published, and then another run put its own, whole, in its place; the
            size is that one's.
        unchanged: it held these very bytes before, so nothing was written.
    """

    uri: str
    size: int
    superseded: bool = False
    unchanged: bool = False


@dataclass(frozen=True)
class Capability:
    """What a store was seen to do, or not.

    Attributes:
        name: what it is called.
        works: whether the store does it.
        needed: whether the lake can't be used without.
        meaning: what that means for the user, and what to do about it.
    """

    name: str
    works: bool
    needed: bool
    meaning: str


@dataclass(frozen=True)
class Kept:
    """The objects and versions that a store keeps of an asset.

    Attributes:
        versions: for each key the object and older versions of it, by the store's names, the oldest
            first. A key that is empty now may have some. A store without versions has one without a
            name.
        markers: for each key what only says that it was deleted, likewise.
        unseen: why there may be more, and what to do; empty when there is not.
    """

    versions: dict[str, list[str]]
    markers: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    unseen: str = ""


@dataclass(frozen=True)
class Encoding:
    """How a Parquet file is laid out.

    Attributes:
        compression: pyarrow's name of the codec.
        level: of the codec, where it has levels.
        row_group_rows: rows a row group, the unit that readers skip and memory is bounded by.
        sorted_by: columns that the rows are ordered by, written to the footer for readers.
        coded: text columns whose values repeat, which come as dictionaries and stay so.
        near: columns of which each value is like the one before, written as differences.
        plain: columns whose values hardly repeat, for which a dictionary would be built in vain.
    """

    compression: Literal["lz4", "zstd"]
    level: int | None = None
    row_group_rows: int = 1 << 20
    sorted_by: tuple[str, ...] = ()
    coded: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()


class StagingWriter:
    """Writes record batches to a staged file, with memory bounded by two row groups.

    One is encoded in a thread while the next is gathered.

    A context manager: `finish` and `Lake.publish` within it, leaving it removes the file. Until
    then the file is locked, which is how `Lake.sweep` knows the files of processes that died.
    """

    def __init__(self, path: Path, schema: pa.Schema, encoding: Encoding, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        self._schema = schema
        self._encoding = encoding
        self._coded_schema = coded_schema(schema, encoding.coded)
        self._lock = _locked(path)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._encoding_now: Future[None] | None = None
        self._digest = hashlib.sha256()
        self._digested = 0
        self._syncer = ThreadPoolExecutor(1, "sync")
        self._syncing: Future[None] | None = None
        self._copied = False
        self.rows = 0

    @cached_property
    def _writer(self) -> pq.ParquetWriter:
        encoding, names = self._encoding, self._schema.names
        not_coded = [
            field.name for field in self._coded_schema if not pa.types.is_dictionary(field.type)
        ]
        without = {*encoding.plain, *encoding.near}
        # By name, pyarrow would leave out the values of lists, which fastparquet reads only from
        # a dictionary.
        dictionary: Any = [name for name in names if name not in without] if without else True
        delta = {
            name: "DELTA_BYTE_ARRAY"
            if pa.types.is_string(self._schema.field(name).type)
            else "DELTA_BINARY_PACKED"
            for name in encoding.near
        }
        writer = pq.ParquetWriter(
            self._path,
            self._coded_schema,
            compression=encoding.compression,
            compression_level=encoding.level,
            use_dictionary=dictionary,
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
            column_encoding=delta or None,
            # Of values that repeat all over the window, no statistics help a reader to skip.
            write_statistics=cast("Any", not_coded),
            write_page_index=True,
            store_decimal_as_integer=True,
            store_schema=False,
            sorting_columns=pq.SortingColumn.from_ordering(
                self._coded_schema, [(name, "ascending") for name in encoding.sorted_by]
            )
            if encoding.sorted_by
            else None,
        )
        # As pyarrow stores it itself, but without the dictionaries: readers get plain text.
        described = base64.b64encode(self._schema.serialize().to_pybytes()).decode("ascii")
        writer.add_key_value_metadata({"ARROW:schema": described})
        return writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # What can't be closed here was not finished, and goes.
        self._encoder.shutdown(cancel_futures=True)
        self._syncer.shutdown(cancel_futures=True)
        with contextlib.suppress(Exception):
            if not self._copied:
                self._writer.close()
        self._path.unlink(missing_ok=True)
        self._lock.close()
        if isinstance(error, OSError):
            with room_on_disk(self._path.parent):
                raise error

    def write(self, rows: pa.RecordBatch | pl.DataFrame) -> None:
        """Append rows; columns are put into the schema's order and types, never its values."""
        batch = as_batch(rows, self._coded_schema)
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

    def copy(self, source: LakeFile) -> Path:
        """Take a Parquet file as it is, to the byte, in place of rows; its schema is its own.

        Returns:
            The staged file, for reading.
        """
        source.copy_to(self._path)
        self.rows = pq.read_metadata(self._path).num_rows
        self._copied = True
        self._begin_sync()
        self._encoding_now = self._encoder.submit(self._digest_what_is_new)
        return self._path

    def annotate(self, metadata: dict[str, str]) -> None:
        """Add to the footer's key-value metadata."""
        self._writer.add_key_value_metadata(metadata)

    def finish(self) -> Staged:
        """Close the file and verify it.

        Raises:
            RuntimeError: the file does not hold what was written; nothing is published then.
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
        with self._path.open("rb") as file:
            self._begin_sync()
            self._digest_what_is_new()
            if self._syncing is not None:
                self._syncing.result()
                os.fsync(file.fileno())
        return Staged(self._path, self.rows, self._digested, self._digest.hexdigest())

    def _flush(self) -> None:
        self._wait()
        self._encoding_now = self._encoder.submit(self._encode, self._pending)
        self._pending = []
        self._pending_rows = self._pending_bytes = 0

    def _wait(self) -> None:
        """Until what was handed over is done; raises what went wrong with it."""
        if self._encoding_now is not None:
            self._encoding_now.result()
            self._encoding_now = None

    def _encode(self, rows: list[pa.RecordBatch]) -> None:
        table = pa.Table.from_batches(rows, self._coded_schema)
        rows.clear()
        # Only what has a dictionary must be in one piece, for there is one in a row group.
        columns = [
            compacted(in_one_piece(column)) if pa.types.is_dictionary(column.type) else column
            for column in table.columns
        ]
        table = pa.Table.from_arrays(columns, schema=self._coded_schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._begin_sync()
        self._digest_what_is_new()

    def _digest_what_is_new(self) -> None:
        """Read what came to the file since the last time: it only grows."""
        with self._path.open("rb") as file:
            file.seek(self._digested)
            hashlib.file_digest(file, lambda: self._digest)
            self._digested = file.tell()

    def _begin_sync(self) -> None:
        """Begin to bring to the disk what is written, so that little is left to wait for."""
        if not self._durable or (self._syncing is not None and not self._syncing.done()):
            return
        if self._syncing is not None:
            # The kernel tells of what went wrong once only.
            self._syncing.result()
        self._syncing = self._syncer.submit(self._sync)

    def _sync(self) -> None:
        with self._path.open("rb") as file:
            os.fdatasync(file.fileno())


class Lake(ABC):
    """A place for objects under keys; see `object_key` for the layout."""

    def __init__(self, staging: Path, *, durable: bool) -> None:
        """Args: staging: where; durable: whether what is staged must survive a power cut there."""
        self._staging = staging
        self._durable = durable

    def __reduce__(self) -> Any:
        raise UserError(
            "a lake and its files can't be stored by another IO manager: return rows, as a frame or"
            " a table"
        )

    def stage(self, schema: pa.Schema, encoding: Encoding) -> StagingWriter:
        """A writer of a file that `publish` can take.

        Raises:
            UserError: the lake could not take it afterwards.
        """
        self.require_writable()
        with room_on_disk(self._staging):
            self._staging.mkdir(parents=True, exist_ok=True)
            self.sweep()
            path = self._staging / f"{uuid.uuid4().hex}{STAGING_SUFFIX}"
            try:
                return StagingWriter(path, schema, encoding, durable=self._durable)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def sweep(self) -> int:
        """Remove what writers that died have left, here and in the store; how much it was."""
        removed = 0
        for path in self._staging.glob(f"*{STAGING_SUFFIX}"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
        return removed

    @abstractmethod
    def publish(self, staged: Staged, key: str, *, clear_cards: bool = False) -> StoredObject:
        """Put a staged file at a key, in place of what was there, in one step.

        An object that holds the same bytes already is left as it is.

        Args:
            staged: the file.
            key: where it goes.
            clear_cards: the file holds card numbers in clear; S3 encrypts it as it was told to.

        Raises:
            UserError: the store refused or can't be reached; what was at the key is still there.
        """

    @abstractmethod
    def require_writable(self) -> None:
        """Raise a `UserError` when objects can't be put here."""

    @abstractmethod
    def probe(self) -> Iterator[Capability]:
        """Try with small objects, which are removed, what the store can do, the needed first.

        Raises:
            UserError: the store can't be reached, or refuses.
        """

    @abstractmethod
    def uri(self, key: str) -> str:
        """The address of a key, for people and for other tools."""

    @abstractmethod
    def find(self, key: str) -> StoredObject | None:
        """The object at a key, as the store itself says; None when there is none."""

    @abstractmethod
    def digest(self, key: str) -> str | None:
        """The SHA-256 of the object at a key, hexadecimal; None when there is none."""

    @abstractmethod
    def open(self, key: str, coded: Collection[str] = ()) -> pq.ParquetFile:
        """The object at a key, for reading a column or a row group at a time.

        Args:
            key: where it is.
            coded: text columns to be read as dictionaries, those of them that it has.

        Raises:
            UserError: there is none, or the store can't be reached.
        """

    def open_with_digest(self, key: str, coded: Collection[str] = ()) -> tuple[pq.ParquetFile, str]:
        """The object at a key, and the SHA-256 of the same version of it; see `open`, `digest`.

        Raises:
            UserError: there is none, the store can't be reached, or other runs replace it all the
                time.
        """
        for _ in range(OPENINGS):
            version = self._version(key)
            file = self.open(key, coded)
            digest = self.digest(key)
            if digest is not None and self._version(key) == version:
                return file, digest
            file.close()
        raise UserError(f"{key} is replaced by other runs again and again: run it again")

    @abstractmethod
    def _version(self, key: str) -> object:
        """A mark of the object at a key, which no other one there has; None when there is none."""

    @abstractmethod
    def copy(self, key: str, path: Path) -> None:
        """Write the bytes of the object at a key, of one version of it, to a local file.

        Raises:
            UserError: there is none, or the store can't be reached.
        """

    @abstractmethod
    def scan(self, keys: list[str]) -> pl.LazyFrame:
        """The rows of several objects as one lazy frame."""

    @abstractmethod
    def keys(self, asset: str) -> list[str]:
        """The keys of all objects of an asset, or of a folder of it, ascending: hours by time."""

    @abstractmethod
    def kept(self, asset: str) -> Kept:
        """The objects and versions of an asset, also of objects that were removed or replaced.

        Raises:
            UserError: the store can't be reached, or refuses.
        """

    @abstractmethod
    def erase(self, key: str, versions: Sequence[str]) -> str:
        """Remove an object for good: the versions and markers that `kept` names, in their order.

        Returns:
            Why something of it stays, and what to do; empty when nothing does.

        Raises:
            UserError: the store can't be reached.
        """

    def absent(self, keys: Sequence[str]) -> list[str]:
        """Those of some keys of one asset at which there is no object.

        Raises:
            UserError: the store can't be reached.
        """
        if len(keys) < 2:
            return [key for key in keys if self.find(key) is None]
        # Listed at once: there may be thousands.
        there = set(self.keys(os.path.commonpath(keys)))
        return [key for key in keys if key not in there]

    def _missing(self, key: str) -> UserError:
        return UserError(
            f"{self.uri(key)} does not exist: materialize {asset_of_key(key)}"
            " for this partition first"
        )


@dataclass(frozen=True)
class LakeFile:
    """An object of the lake, to be read in pieces, or taken whole.

    Attributes:
        lake: which.
        key: where it is there.
    """

    lake: Lake
    key: str

    def parquet(self, coded: Collection[str] = ()) -> pq.ParquetFile:
        """See `Lake.open`."""
        return self.lake.open(self.key, coded)

    def parquet_with_digest(self, coded: Collection[str] = ()) -> tuple[pq.ParquetFile, str]:
        """See `Lake.open_with_digest`."""
        return self.lake.open_with_digest(self.key, coded)

    def copy_to(self, path: Path) -> None:
        """See `Lake.copy`."""
        self.lake.copy(self.key, path)


class DirectoryLake(Lake):
    """A lake in a local directory."""

    def __init__(self, root: Path) -> None:
        # Within the root, because a file can replace another in one step on one file system only.
        super().__init__(root / ".staging", durable=True)
        self._root = root
        # Of published files: the file's mark, and its digest.
        self._written: dict[str, tuple[tuple[int, int], str]] = {}

    @override
    def require_writable(self) -> None:
        try:
            self._staging.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the lake's directory {self._root} can't be made ({error.strerror}):"
                " set TXN_HOME to a place that can be written"
            ) from None

    @override
    def probe(self) -> Iterator[Capability]:
        self.require_writable()
        path = self._staging / f"probe-{uuid.uuid4().hex}"
        try:
            path.write_bytes(b"probe")
            path.replace(path.with_suffix(".replaced"))
            _sync_directory(self._staging)
            path.with_suffix(".replaced").unlink()
        except OSError as error:
            raise UserError(f"{self._root} can't be written: {error.strerror}") from None
        yield Capability("objects", works=True, needed=True, meaning="a file is replaced whole")

    @override
    def publish(self, staged: Staged, key: str, *, clear_cards: bool = False) -> StoredObject:
        target = self._root / key
        if _holds(target, staged):
            # The run that wrote it can have died before it synced the directory.
            _sync_directory(target.parent)
            self._written[key] = _mark(target), staged.sha256
            return StoredObject(str(target), staged.size, unchanged=True)
        # An entry is there after a power failure once the directory it stands in is written.
        entered = [target.parent]
        while not entered[-1].exists():
            entered.append(entered[-1].parent)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            mark = _mark(staged.path)
            staged.path.replace(target)
            for directory in entered:
                _sync_directory(directory)
        except OSError as error:
            raise UserError(f"{target} can't be written: {error.strerror}") from None
        self._written[key] = mark, staged.sha256
        return StoredObject(str(target), staged.size)

    @override
    def uri(self, key: str) -> str:
        return str(self._root / key)

    @override
    def find(self, key: str) -> StoredObject | None:
        path = self._root / key
        # Looked at once: between two looks it may be removed.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = path.stat()
            if stat.S_ISREG(found.st_mode):
                return StoredObject(str(path), found.st_size)
        return None

    @override
    def digest(self, key: str) -> str | None:
        path = self._root / key
        try:
            if key in self._written and self._written[key][0] == _mark(path):
                return self._written[key][1]
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    @override
    def _version(self, key: str) -> object:
        with contextlib.suppress(FileNotFoundError):
            return _mark(self._root / key)
        return None

    @override
    def open(self, key: str, coded: Collection[str] = ()) -> pq.ParquetFile:
        try:
            return open_parquet(self._root / key, coded)
        except FileNotFoundError:
            raise self._missing(key) from None

    @override
    def copy(self, key: str, path: Path) -> None:
        try:
            shutil.copyfile(self._root / key, path)
        except FileNotFoundError:
            raise self._missing(key) from None

    @override
    def scan(self, keys: list[str]) -> pl.LazyFrame:
        for key in self.absent(keys):
            raise self._missing(key)
        return pl.scan_parquet(
            [self._root / key for key in keys], hive_partitioning=False, glob=False
        )

    @override
    def keys(self, asset: str) -> list[str]:
        found = (Path(folder, OBJECT_NAME) for folder in _folders_with(self._root / asset))
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    @override
    def kept(self, asset: str) -> Kept:
        return Kept({key: [""] for key in self.keys(asset)})

    @override
    def erase(self, key: str, versions: Sequence[str]) -> str:
        try:
            (self._root / key).unlink(missing_ok=True)
        except OSError as error:
            return f"{self.uri(key)} can't be removed ({error.strerror}): allow it"
        return ""


def open_lake(settings: Settings) -> Lake:
    """The lake that the settings name: a bucket when there is one, else a directory.

    Raises:
        UserError: there are no credentials for the bucket.
    """
    if settings.bucket is None:
        return DirectoryLake((settings.home / "lake").absolute())
    from txn_platform.lake.s3 import open_s3_lake

    return open_s3_lake(settings)


@contextlib.contextmanager
def explained_reads(what: str) -> Generator[None]:
    """Put into words that a store failed while what is named was read.

    Raises:
        UserError: it did.
    """
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{what} could not be read: {reason}. Run it again") from None


@contextlib.contextmanager
def room_on_disk(directory: Path) -> Generator[None]:
    """Put into words that a directory's disk can't take any more.

    Raises:
        UserError: it can't.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ACCESS:
            raise UserError(
                f"{directory} can't be written ({os.strerror(error.errno)}): set TXN_HOME to a"
                " directory that can"
            ) from None
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"{directory} can't take more ({os.strerror(error.errno)}): make room there, or set"
            " TXN_HOME to a directory on a disk that has some"
        ) from None


def open_parquet(path: Path, coded: Collection[str] = ()) -> pq.ParquetFile:
    """A local Parquet file, as `Lake.open` gives one of the lake.

    Raises:
        FileNotFoundError: there is none.
    """
    # Opened once: what replaces the file meanwhile is another one.
    return parquet_of(pa.OSFile(str(path), "rb"), coded)


def parquet_of(source: pa.NativeFile, coded: Collection[str] = ()) -> pq.ParquetFile:
    """An open Parquet file, as `Lake.open` gives one of the lake."""
    footer = pq.ParquetFile(source).metadata
    names: Any = [name for name in footer.schema.names if name in coded]
    return pq.ParquetFile(source, metadata=footer, read_dictionary=names)


def read_batches(
    file: pq.ParquetFile, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in order, some hundred thousand at a time, at least one batch.

    Batches of one row group share their dictionaries.
    """
    schema = file.schema_arrow
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    if not file.metadata.num_rows:
        yield empty(schema)
    coded = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    plain = [name for name in schema.names if name not in coded]
    for group in range(file.num_row_groups):
        # Read in pieces, it would have the values of its dictionaries looked up for each.
        rows = file.read_row_group(group, columns=coded)
        start = 0
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=plain):
            pieces = rows.slice(start, batch.num_rows)
            start += batch.num_rows
            table = pa.Table.from_arrays([*pieces.columns, *batch.columns], names=[*coded, *plain])
            yield as_batch(table, schema)


def _folders_with(top: Path) -> Iterator[str]:
    """The folders at and below one that have an object, also behind links.

    Raises:
        UserError: one of them can't be read.
    """

    def refuse(error: OSError) -> None:
        if error.errno != errno.ENOENT:
            raise UserError(
                f"{error.filename} can't be read ({error.strerror}): allow it, or remove it"
            )

    for folder, below, names in os.walk(top, onerror=refuse, followlinks=True):
        if OBJECT_NAME in names:
            yield folder
        # A link to a folder that it is in would lead in a circle.
        above = f"{Path(folder).resolve()}/"
        below[:] = [
            name for name in below if not above.startswith(f"{Path(folder, name).resolve()}/")
        ]


def _locked(path: Path) -> BufferedWriter:
    """A new file that is locked before anybody can take it for a dead writer's."""
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        # Between the two, a sweep may have removed it.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


def _mark(path: Path) -> tuple[int, int]:
    """A mark that a file keeps when it is renamed, and that another file does not have."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def _holds(path: Path, staged: Staged) -> bool:
    """Whether a file has the bytes of a staged one; false for one that cannot be read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return (
            os.fstat(file.fileno()).st_size == staged.size
            and hashlib.file_digest(file, "sha256").hexdigest() == staged.sha256
        )
    return False


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
