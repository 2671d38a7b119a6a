"""The lake: where an object lives, and how it gets there whole.

Two stores with one promise, a directory and a bucket on S3: an object is staged as a local file,
verified, and put in its place in one step. What is in the files is the assets' matter.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import uuid
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast, override

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.columns import as_batch, coded_schema, compacted
from txn_platform.errors import UserError
from txn_platform.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from txn_platform.settings import Settings

OBJECT_NAME: Final = "part-0.parquet"
STAGING_SUFFIX: Final = ".staging"
# Below it one PUT, above it one multipart upload: both replace the object whole.
_MULTIPART_BYTES: Final = 64 << 20
_DIGEST_METADATA: Final = "sha256"
# A dictionary that is larger is given up for plain values, which cost more than it does.
_DICTIONARY_BYTES: Final = 64 << 20
# What a row group holds at most where single values are huge.
_ROW_GROUP_BYTES: Final = 512 << 20
_COPY_BYTES: Final = 8 << 20


def window_of_key(key: str) -> Window:
    """The window of an object's key, the other way around than `object_key`."""
    _, date, hour, _ = key.rsplit("/", 3)
    stamp = f"{date.removeprefix('event_date=')}-{hour.removeprefix('event_hour=')}:00"
    return Window.of_partition(stamp)


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
    """

    uri: str
    size: int


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

    def __init__(self, path: Path, schema: pa.Schema, encoding: Encoding) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._schema = schema
        self._encoding = encoding
        self._coded_schema = coded_schema(schema, encoding.coded)
        self._lock = path.open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._encoding_now: Future[None] | None = None
        self._copied = False
        self.rows = 0

    @cached_property
    def _writer(self) -> pq.ParquetWriter:
        encoding, names = self._encoding, self._schema.names
        not_coded = [name for name in names if name not in encoding.coded]
        dictionary: Any = [name for name in names if name not in {*encoding.plain, *encoding.near}]
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
            column_encoding=delta,
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

    def __exit__(self, *_: object) -> None:
        # What can't be closed here was not finished, and goes.
        self._encoder.shutdown(cancel_futures=True)
        with contextlib.suppress(Exception):
            if not self._copied:
                self._writer.close()
        self._path.unlink(missing_ok=True)
        self._lock.close()

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

    def copy(self, source: pa.NativeFile) -> None:
        """Take a Parquet file as it is, to the byte, in place of rows."""
        source.seek(0)
        with self._path.open("wb") as file:
            while chunk := source.read(_COPY_BYTES):
                file.write(chunk)
        self.rows = pq.read_metadata(self._path).num_rows
        self._copied = True

    def annotate(self, metadata: dict[str, str]) -> None:
        """Add to the footer's key-value metadata."""
        self._writer.add_key_value_metadata(metadata)

    def finish(self) -> Staged:
        """Close the file and verify it.

        Raises:
            RuntimeError: the file does not hold what was written; nothing is published then.
        """
        if not self._copied:
            if self._pending or not self.rows:
                self._flush()
            self._wait()
            self._writer.close()
        footer = pq.read_metadata(self._path)
        if footer.num_rows != self.rows:
            raise RuntimeError(f"staged {self.rows} rows, but the file has {footer.num_rows}")
        if not footer.schema.to_arrow_schema().equals(self._schema):
            raise RuntimeError("the staged file's schema is not the one it was written with")
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Staged(self._path, self.rows, self._path.stat().st_size, sha256)

    def _flush(self) -> None:
        self._wait()
        self._encoding_now = self._encoder.submit(self._encode, self._pending)
        self._pending = []
        self._pending_rows = self._pending_bytes = 0

    def _wait(self) -> None:
        """Until the row group that was handed over is written; raises what went wrong with it."""
        if self._encoding_now is not None:
            self._encoding_now.result()
            self._encoding_now = None

    def _encode(self, rows: list[pa.RecordBatch]) -> None:
        batch = as_batch(pa.Table.from_batches(rows, self._coded_schema), self._coded_schema)
        rows.clear()
        columns = [
            compacted(column) if isinstance(column, pa.DictionaryArray) else column
            for column in batch.columns
        ]
        table = pa.Table.from_arrays(columns, schema=self._coded_schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))


class Lake(ABC):
    """A place for objects under keys; see `object_key` for the layout."""

    def __init__(self, staging: Path) -> None:
        self._staging = staging

    def stage(self, schema: pa.Schema, encoding: Encoding) -> StagingWriter:
        """A writer of a file that `publish` can take.

        Raises:
            UserError: the lake could not take it afterwards.
        """
        self.require_writable()
        self.sweep()
        return StagingWriter(
            self._staging / f"{uuid.uuid4().hex}{STAGING_SUFFIX}", schema, encoding
        )

    def sweep(self) -> int:
        """Remove staged files whose writers are dead; how many."""
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
    def probe(self) -> None:
        """Write, read and remove a small object, to see whether it can be done.

        Raises:
            UserError: one of them failed.
        """

    @abstractmethod
    def uri(self, key: str) -> str:
        """The address of a key, for people and for other tools."""

    @abstractmethod
    def find(self, key: str) -> StoredObject | None:
        """The object at a key, as the store itself says; None when there is none."""

    @abstractmethod
    def open(self, key: str) -> pa.NativeFile:
        """The object at a key, for reading from any place in it.

        Raises:
            UserError: there is none, or the store can't be reached.
        """

    @abstractmethod
    def scan(self, keys: list[str]) -> pl.LazyFrame:
        """The rows of several objects as one lazy frame."""

    @abstractmethod
    def keys(self, asset: str) -> list[str]:
        """The keys of all objects of an asset, ascending, which is by time."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove an object for good."""

    def _missing(self, key: str) -> UserError:
        return UserError(
            f"{self.uri(key)} does not exist: materialize {key.partition('/')[0]}"
            " for this partition first"
        )


class DirectoryLake(Lake):
    """A lake in a local directory."""

    def __init__(self, root: Path) -> None:
        # Within the root, because a file can replace another in one step on one file system only.
        super().__init__(root / ".staging")
        self._root = root

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
    def probe(self) -> None:
        self.require_writable()
        path = self._staging / f"probe-{uuid.uuid4().hex}"
        try:
            path.write_bytes(b"probe")
            path.unlink()
        except OSError as error:
            raise UserError(f"{self._root} can't be written: {error.strerror}") from None

    @override
    def publish(self, staged: Staged, key: str, *, clear_cards: bool = False) -> StoredObject:
        target = self._root / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.path.replace(target)
            _sync_directory(target.parent)
        except OSError as error:
            raise UserError(f"{target} can't be written: {error.strerror}") from None
        return StoredObject(str(target), staged.size)

    @override
    def uri(self, key: str) -> str:
        return str(self._root / key)

    @override
    def find(self, key: str) -> StoredObject | None:
        path = self._root / key
        return StoredObject(str(path), path.stat().st_size) if path.is_file() else None

    @override
    def open(self, key: str) -> pa.NativeFile:
        if self.find(key) is None:
            raise self._missing(key)
        return pa.memory_map(str(self._root / key))

    @override
    def scan(self, keys: list[str]) -> pl.LazyFrame:
        for key in keys:
            if self.find(key) is None:
                raise self._missing(key)
        return pl.scan_parquet([self._root / key for key in keys], hive_partitioning=False)

    @override
    def keys(self, asset: str) -> list[str]:
        found = (self._root / asset).glob(f"**/{OBJECT_NAME}")
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    @override
    def remove(self, key: str) -> None:
        (self._root / key).unlink(missing_ok=True)


class S3Lake(Lake):
    """A lake in a bucket on S3 or a store that speaks its protocol."""

    def __init__(
        self,
        *,
        client: S3Client,
        bucket: str,
        prefix: str,
        staging: Path,
        readers: S3Readers,
        kms_key: str | None,
    ) -> None:
        super().__init__(staging)
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._readers = readers
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        )
        self._known_writable = False

    @override
    def require_writable(self) -> None:
        if not self._known_writable:
            self._call(self._client.head_bucket, Bucket=self._bucket)
            self._known_writable = True

    @override
    def probe(self) -> None:
        self.require_writable()
        place: Any = {"Bucket": self._bucket, "Key": f"{self._prefix}probe-{uuid.uuid4().hex}"}
        self._call(self._client.put_object, **place, Body=b"probe")
        body = self._call(self._client.get_object, **place)["Body"].read()
        self._call(self._client.delete_object, **place)
        if body != b"probe":
            raise UserError(f"{self.uri('')} gives back other bytes than were written there")

    @override
    def publish(self, staged: Staged, key: str, *, clear_cards: bool = False) -> StoredObject:
        from boto3.s3.transfer import TransferConfig

        # Uploads whole or not at all: a multipart upload that fails is aborted by the transfer.
        self._call(
            self._client.upload_file,
            str(staged.path),
            self._bucket,
            self._prefix + key,
            ExtraArgs={
                "ContentType": "application/vnd.apache.parquet",
                "Metadata": {_DIGEST_METADATA: staged.sha256},
                **(self._encryption if clear_cards else {}),
            },
            Config=TransferConfig(
                multipart_threshold=_MULTIPART_BYTES,
                multipart_chunksize=_MULTIPART_BYTES,
                max_concurrency=2,
            ),
        )
        stored = self._head(key)
        found = (
            (stored["ContentLength"], stored["Metadata"].get(_DIGEST_METADATA)) if stored else ()
        )
        if found != (staged.size, staged.sha256):
            raise UserError(
                f"{self.uri(key)} is not what was just written: another writer was there at the"
                " same time, or the store loses data. Run the partition again"
            )
        return StoredObject(self.uri(key), staged.size)

    @override
    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    @override
    def find(self, key: str) -> StoredObject | None:
        stored = self._head(key)
        return StoredObject(self.uri(key), stored["ContentLength"]) if stored else None

    @override
    def open(self, key: str) -> pa.NativeFile:
        if self.find(key) is None:
            raise self._missing(key)
        return self._readers.filesystem().open_input_file(f"{self._bucket}/{self._prefix}{key}")

    @override
    def scan(self, keys: list[str]) -> pl.LazyFrame:
        for key in keys:
            if self.find(key) is None:
                raise self._missing(key)
        return pl.scan_parquet(
            [self.uri(key) for key in keys],
            hive_partitioning=False,
            storage_options=self._readers.storage_options(),
        )

    @override
    def keys(self, asset: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}{asset}/"
        )
        found = self._call(lambda: [entry for page in pages for entry in page.get("Contents", [])])
        return sorted(
            entry["Key"].removeprefix(self._prefix)
            for entry in found
            if entry["Key"].endswith(f"/{OBJECT_NAME}")
        )

    @override
    def remove(self, key: str) -> None:
        self._call(self._client.delete_object, Bucket=self._bucket, Key=self._prefix + key)

    def _head(self, key: str) -> dict[str, Any] | None:
        return self._call(
            self._client.head_object,
            none_for=("404", "NoSuchKey"),
            Bucket=self._bucket,
            Key=self._prefix + key,
        )

    def _call(
        self, method: Callable[..., Any], *args: Any, none_for: tuple[str, ...] = (), **kwargs: Any
    ) -> Any:
        """Call the store, and put what it says into words."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return method(*args, **kwargs)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in none_for:
                return None
            raise UserError(self._explain(code)) from None
        except (BotoCoreError, Boto3Error) as error:
            # upload_file wraps what S3 answered into an error of its own.
            cause = error.__context__
            if isinstance(cause, ClientError):
                raise UserError(
                    self._explain(cause.response.get("Error", {}).get("Code", ""))
                ) from None
            raise UserError(f"the store of bucket {self._bucket!r} failed: {error}") from None

    def _explain(self, code: str) -> str:
        where = f"bucket {self._bucket!r}"
        match code:
            case "404" | "NoSuchBucket":
                return f"{where} does not exist: make it, or mend AWS_BUCKET_NAME"
            case "403" | "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch":
                return (
                    f"{where} refused the credentials ({code}): mend AWS_ACCESS_KEY_ID and"
                    " AWS_SECRET_ACCESS_KEY (or the profile), or let them read and write there"
                )
            case "301" | "PermanentRedirect" | "AuthorizationHeaderMalformed":
                return f"{where} is in another region: set AWS_REGION to the bucket's"
            case "ExpiredToken" | "ExpiredTokenException":
                return f"the credentials for {where} have expired: log in again"
            case "RequestTimeTooSkewed":
                return f"{where} refused the request because this machine's clock is wrong: set it"
            case _:
                return f"{where} answered with the error {code!r}"


class S3Readers:
    """The same credentials and endpoint, in the words of the libraries that read Parquet."""

    def __init__(self, client: S3Client, credentials: Any, endpoint_url: str | None) -> None:
        self._region = client.meta.region_name
        self._credentials = credentials
        self._endpoint_url = endpoint_url

    def filesystem(self) -> Any:
        """A `pyarrow.fs.S3FileSystem`."""
        from pyarrow.fs import S3FileSystem

        key = self._credentials.get_frozen_credentials()
        scheme, _, host = (self._endpoint_url or "https://").partition("://")
        return S3FileSystem(
            access_key=key.access_key,
            secret_key=key.secret_key,
            session_token=key.token,
            region=self._region,
            scheme="http" if scheme == "http" else "https",
            endpoint_override=host or None,
        )

    def storage_options(self) -> dict[str, str]:
        """Polars' storage options."""
        key = self._credentials.get_frozen_credentials()
        options = {
            "aws_access_key_id": key.access_key,
            "aws_secret_access_key": key.secret_key,
            "aws_region": self._region,
        }
        if key.token:
            options["aws_session_token"] = key.token
        if self._endpoint_url:
            options["aws_endpoint_url"] = self._endpoint_url
            options["aws_allow_http"] = "true"
        return options


def open_lake(settings: Settings) -> Lake:
    """The lake that the settings name: a bucket when there is one, else a directory.

    Raises:
        UserError: there are no credentials for the bucket.
    """
    if settings.bucket is None:
        return DirectoryLake((settings.home / "lake").absolute())
    client, readers = open_s3(settings, settings.bucket)
    return S3Lake(
        client=client,
        bucket=settings.bucket,
        prefix=settings.lake_prefix,
        staging=(settings.home / "staging").absolute(),
        readers=readers,
        kms_key=settings.raw_sse,
    )


def open_s3(settings: Settings, bucket: str) -> tuple[S3Client, S3Readers]:
    """A client of the store that has a bucket, and the same access for other libraries.

    Raises:
        UserError: there are no credentials for the bucket.
    """
    import boto3
    from botocore.config import Config

    session = boto3.Session(
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value()
        if settings.secret_access_key
        else None,
        aws_session_token=settings.session_token.get_secret_value()
        if settings.session_token
        else None,
        region_name=settings.region,
    )
    credentials = session.get_credentials()
    if credentials is None:
        raise UserError(
            f"there are no credentials for bucket {bucket!r}: set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, or log in with the AWS CLI"
        )
    client = session.client(
        "s3",
        region_name=session.region_name or "us-east-1",
        endpoint_url=settings.endpoint_url,
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 5},
            # Stores on an address without a domain have no names for buckets.
            s3={"addressing_style": "path"} if settings.endpoint_url else None,
        ),
    )
    return client, S3Readers(client, credentials, settings.endpoint_url)


def open_parquet(source: pa.NativeFile | Path, coded: Collection[str] = ()) -> pq.ParquetFile:
    """A Parquet file, for reading a row group or a column at a time.

    Args:
        source: what `Lake.open` gave, or a local file.
        coded: text columns to be read as dictionaries, those of them that the file has.
    """
    file = pq.ParquetFile(source, pre_buffer=True)
    names = [name for name in file.schema_arrow.names if name in coded]
    if not names:
        return file
    return pq.ParquetFile(
        source, metadata=file.metadata, pre_buffer=True, read_dictionary=cast("Any", names)
    )


def read_batches(
    file: pq.ParquetFile, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in order, a row group at a time, at least one batch.

    While one is worked on, the next is read.
    """
    schema = file.schema_arrow
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    if not file.num_row_groups:
        yield as_batch(schema.empty_table(), schema)
        return
    read = partial(file.read_row_group, columns=columns)
    with ThreadPoolExecutor(1, "read") as pool:
        following = pool.submit(read, 0)
        for group in range(1, file.num_row_groups):
            table = following.result()
            following = pool.submit(read, group)
            yield as_batch(table, schema)
        yield as_batch(following.result(), schema)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
