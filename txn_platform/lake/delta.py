"""The published windows as a Delta table: one transaction a window, through `deltalake`.

Here are its location, the commit of a window, which happens once, and its maintenance. The table
follows the Parquet objects of the lake. `defs/io_managers` decides when a window is committed.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.addresses import s3_uri
from txn_platform.backoff import Backoff, Retries
from txn_platform.contract.card_forms import CARD_MASKS, DEFAULT_MASK, card_form
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.lake.bucket import StoreLimits
from txn_platform.lake.probe import race
from txn_platform.lake.s3_access import open_bucket
from txn_platform.lake.store_errors import denied_permission
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow.parquet as pq
    from deltalake import DeltaTable

    from txn_platform.contract.card_forms import CardForm
    from txn_platform.contract.model import Contract
    from txn_platform.lake.bucket import Bucket
    from txn_platform.lake.s3_access import S3Access
    from txn_platform.settings import Settings
    from txn_platform.windows import Window

PARTITION_COLUMNS: Final = ("event_date", "event_hour")
# Longer than any commit or query takes.
KEEP: Final = timedelta(days=7)

# Two columns of the window, which Parquet objects of the lake have in their key only. Delta stores
# the description of a column as "comment".
_OF_WINDOW: Final = (
    pa.field(
        "event_date",
        pa.date32(),
        nullable=False,
        metadata={"comment": "The day of the window, UTC"},
    ),
    pa.field(
        "event_hour",
        pa.int32(),
        nullable=False,
        metadata={"comment": "The hour of the window, 0 to 23, UTC"},
    ),
)
_BATCH_ROWS: Final = 1 << 17
_ROW_GROUP_ROWS: Final = 1 << 18
# Retries of the log entry alone, after commits of other windows. They read and write no data.
_LOG_RETRIES: Final = 100
# Retries of the whole commit, after a commit of the same window or a compaction.
_BACKOFF: Final = Backoff(attempts=20, first_pause=0.05, longest_pause=1.0)
# Readers start at the last checkpoint. `deltalake` makes one as often by default.
_CHECKPOINT_EVERY: Final = 100
# The field of a log entry with the random id of its commit.
_COMMIT: Final = "commit"
_LONGEST_CONFIRMATION: Final = 10.0
# The error of `deltalake` for a commit that it has just made and does not find.
_NOT_THERE: Final = re.compile(r"Requested snapshot version \d+ is not available")
_LONGEST_CAUSE: Final = 400
# Writers of a probe that commit at the same time, and commits of each.
_WRITERS: Final = 4
_ROUNDS: Final = 3
_CONNECTION: Final = {
    "connect_timeout": "5s",
    "timeout": "60s",
    "max_retries": "5",
    "retry_timeout": "60s",
}


@dataclass(frozen=True)
class Committed:
    """The outcome of a window's commit.

    Attributes:
        version: of the table that has the window.
        changed: False if the table had the same content before.
    """

    version: int
    changed: bool


@dataclass(frozen=True)
class Optimized:
    """The outcome of `DeltaLake.optimize`.

    Attributes:
        version: of the table afterwards.
        merged: number of files that were merged into fewer.
        removed: number of deleted files, which no kept version needs.
    """

    version: int
    merged: int
    removed: int


class _LostCommitError(Exception):
    """The store accepted a commit, and has none or another in its place."""


class DeltaLake:
    """The Delta table of published windows, partitioned by `PARTITION_COLUMNS`.

    Several processes may commit and optimize at the same time.
    """

    def __init__(
        self,
        uri: str,
        s3: tuple[Bucket, S3Access] | None,
        card_form: CardForm = CARD_MASKS[DEFAULT_MASK],
        contract: Contract = TRANSACTIONS,
    ) -> None:
        """At `s3://bucket/folder` with access to the store, or in a directory without.

        Args:
            uri: of the table.
            s3: access to its bucket; None for a directory.
            card_form: of its card numbers, which a new table describes.
            contract: of its rows.
        """
        self.uri = uri
        self._contract = contract
        self._schema = _described(contract, card_form)
        # A table keeps the descriptions that it was created with, and refuses rows with others.
        self._written = pa.schema([field.remove_metadata() for field in self._schema])
        self._s3 = s3
        bucket, _, self._folder = uri.removeprefix("s3://").partition("/")
        self._address = s3_uri(bucket, self._folder) if s3 else uri

    def require_usable(self) -> None:
        """Create the table if there is none yet.

        Raises:
            UserError: it cannot be read or created, or the table there has other columns.
        """
        self._load()

    def probe(self) -> None:
        """Check that the location accepts commits, also of several processes at once.

        Raises:
            UserError: it does not.
        """
        self.require_usable()
        if self._s3 is not None:
            bucket = self._s3[0]
            fault = race(bucket, f"{self._folder}/_")
            if fault:
                raise UserError(
                    f"the store of the Delta table {self.uri} does not keep a promise that commits"
                    f" rest on (If-None-Match): {fault}. Of runs that commit at once, one can be"
                    " lost: use another store, or run one window at a time",
                    Section.DELTA,
                )
        self._race_commits()

    def _race_commits(self) -> None:
        """Let several writers commit to a table of their own, and check that it has all commits."""
        from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake

        name = f"_probe-{uuid.uuid4().hex}"
        address, options = f"{self._address}/{name}", self._storage_options()
        start = threading.Barrier(_WRITERS)

        def write(number: int) -> None:
            start.wait()
            for round_ in range(_ROUNDS):
                write_deltalake(
                    address,
                    pa.table({"number": [number * _ROUNDS + round_]}),
                    mode="append",
                    storage_options=options,
                    commit_properties=CommitProperties(max_commit_retries=_LOG_RETRIES),
                )

        try:
            schema = Schema.from_arrow(pa.schema([pa.field("number", pa.int64())]))
            self._call(DeltaTable.create, address, schema, storage_options=options)
            with ThreadPoolExecutor(_WRITERS) as pool:
                self._call(list, pool.map(write, range(_WRITERS)))
            table = self._call(DeltaTable, address, storage_options=options)
            found = pa.table(table.scan()).num_rows
        except _LostCommitError:
            found = 0
        finally:
            self._remove_folder(name)
        if found != _WRITERS * _ROUNDS:
            raise UserError(
                f"the store of the Delta table {self.uri} loses commits: of {_WRITERS * _ROUNDS}"
                f" by {_WRITERS} writers at once {found} are there. Use another store, or run one"
                " window at a time",
                Section.DELTA,
            )

    def _remove_folder(self, name: str) -> None:
        if self._s3 is None:
            shutil.rmtree(Path(self.uri, name), ignore_errors=True)
        else:
            bucket = self._s3[0]
            for key in bucket.list_objects(f"{self._folder}/{name}/"):
                bucket.erase(key)

    def commit(self, file: pq.ParquetFile, window: Window, sha256: str) -> Committed:
        """Replace one window by the rows of a file in one transaction, unless it has them already.

        The table remembers the digest of each window's file (as a `txn` action of the Delta
        protocol), and it counts the window's rows: when both agree, the content is the same.

        Args:
            file: rows of the contract's `published_schema`, read in batches of bounded size.
            window: that they are all of.
            sha256: the file's digest, hexadecimal.

        Raises:
            UserError: the table can't be read or written, or each time it was tried others changed
                the same window, or the store lost the commit; nothing is committed then.
        """
        from deltalake import (
            CommitProperties,
            PostCommitHookProperties,
            Transaction,
            WriterProperties,
            write_deltalake,
        )

        application, content = _identity(window, sha256)

        def attempt(table: DeltaTable) -> Committed:
            if _has(table, window, sha256, file.metadata.num_rows):
                return Committed(table.version(), changed=False)
            commit = uuid.uuid4().hex
            write_deltalake(
                table,
                pa.RecordBatchReader.from_batches(
                    self._written, _batches(file, window, self._written)
                ),
                mode="overwrite",
                predicate=f"event_date = '{window.start:%Y-%m-%d}' AND"
                f" event_hour = {window.start.hour}",
                writer_properties=WriterProperties(
                    compression="ZSTD", compression_level=3, max_row_group_size=_ROW_GROUP_ROWS
                ),
                commit_properties=CommitProperties(
                    custom_metadata={
                        "window": window.partition_key,
                        "sha256": sha256,
                        _COMMIT: commit,
                    },
                    max_commit_retries=_LOG_RETRIES,
                    app_transactions=[Transaction(application, content)],
                ),
                # A checkpoint would contain this commit even if the log had lost it.
                post_commithook_properties=PostCommitHookProperties(create_checkpoint=False),
            )
            version = table.version()
            self._confirm(version, commit)
            if version % _CHECKPOINT_EVERY == 0:
                self._open(version=version).create_checkpoint()
            return Committed(version, changed=True)

        return self._until_no_conflict(attempt)

    def lookup(self) -> Callable[[Window, str, int], bool]:
        """A function that says whether the table, as it is now, has the content of a window.

        It takes the window, and the digest and the number of rows of its published file. Nothing is
        created if there is no table yet.

        Raises:
            UserError: the table can't be read.
        """
        from deltalake.exceptions import TableNotFoundError

        try:
            table = self._call(self._open, passing=TableNotFoundError)
        except TableNotFoundError:
            return lambda _window, _sha256, _rows: False
        return partial(_has, table)

    def optimize(self, keep: timedelta) -> Optimized:
        """Merge small files of a window into larger ones, and delete files that no version needs.

        Args:
            keep: how long files stay after the table ceased to need them. Older versions than this
                can no longer be read; a commit or a query that takes longer than this may lose its
                files.

        Raises:
            UserError: there is no table, or it can't be read or written.
        """
        from deltalake import CommitProperties, PostCommitHookProperties

        def compact(table: DeltaTable) -> int:
            before, commit = table.version(), uuid.uuid4().hex
            metrics = table.optimize.compact(
                commit_properties=CommitProperties(custom_metadata={_COMMIT: commit}),
                post_commithook_properties=PostCommitHookProperties(create_checkpoint=False),
            )
            if table.version() != before:
                self._confirm(table.version(), commit)
            return metrics["numFilesRemoved"]

        def vacuum(table: DeltaTable) -> tuple[int, int]:
            removed = table.vacuum(
                retention_hours=int(keep.total_seconds()) // 3600,
                dry_run=False,
                enforce_retention_duration=False,
                post_commithook_properties=PostCommitHookProperties(create_checkpoint=False),
                # Also files of killed commits, which the log does not name.
                full=True,
            )
            return table.version(), len(removed)

        if not self.exists():
            raise UserError(
                f"there is no Delta table at {self.uri} yet: run a window first", Section.DELTA
            )
        merged = self._until_no_conflict(compact)
        # By the current log, even if the entry of the compaction was lost.
        version, removed = self._until_no_conflict(vacuum)
        return Optimized(version, merged, removed)

    def exists(self) -> bool:
        """Whether the table exists.

        Raises:
            UserError: its location cannot be read.
        """
        from deltalake.exceptions import TableNotFoundError

        try:
            self._call(self._open, passing=TableNotFoundError)
        except TableNotFoundError:
            return False
        return True

    def _storage_options(self) -> dict[str, str]:
        if self._s3 is None:
            return {}
        options = self._s3[1].storage_options() | _CONNECTION
        return {name: str(value) for name, value in options.items()}

    def _until_no_conflict[T](self, attempt: Callable[[DeltaTable], T]) -> T:
        from deltalake.exceptions import CommitFailedError

        retries = Retries(_BACKOFF)
        while True:
            table = self._load()
            try:
                return self._call(attempt, table, passing=(CommitFailedError, _LostCommitError))
            except (CommitFailedError, _LostCommitError) as error:
                # If only the answer was lost, the next attempt finds our own entry in the log.
                lost = isinstance(error, _LostCommitError)
                cause = "the store lost a commit" if lost else "another writer committed first"
                if not retries.again(f"{self.uri}: {cause}"):
                    break
        if lost:
            raise UserError(
                f"the store of the Delta table {self.uri} took a commit {retries.attempt} times,"
                " and had none or another's in its place afterwards: it loses commits. Use another"
                " store, or run one window at a time",
                Section.DELTA,
            )
        raise UserError(
            f"the Delta table {self.uri} was changed by others each of the {retries.attempt} times"
            " that it was tried to: run it again when fewer others do",
            Section.DELTA,
        )

    def _confirm(self, version: int, commit: str) -> None:
        """Check that the log has a commit that was just made, and keeps it.

        Raises:
            _LostCommitError: it has none, or another in its place.
        """
        made = time.time()
        entry = self._entry(version)
        if entry.get(_COMMIT) == commit and self._s3 is not None:
            # Some stores check for an entry first and write it later. Another writer may have
            # passed the check before our entry was there. Its request takes about as long as ours.
            duration = made - entry["timestamp"] / 1000
            time.sleep(min(max(0.0, 2 * duration), _LONGEST_CONFIRMATION))
            entry = self._entry(version)
        if entry.get(_COMMIT) != commit:
            raise _LostCommitError

    def _entry(self, version: int) -> dict[str, Any]:
        """The log entry of a version; empty if there is no such version."""
        name = f"_delta_log/{version:020}.json"
        if self._s3 is None:
            try:
                content = Path(self.uri, name).read_bytes()
            except FileNotFoundError:
                return {}
        else:
            bucket = self._s3[0]
            place: Any = {"Bucket": bucket.name, "Key": f"{self._folder}/{name}"}
            answer = bucket.call(
                lambda: {"content": bucket.client.get_object(**place)["Body"].read()},
                none_for=("404", "NoSuchKey"),
            )
            content = answer["content"] if answer else b""
        try:
            actions: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]
        except ValueError:
            return {}
        return next((action["commitInfo"] for action in actions if "commitInfo" in action), {})

    def _open(self, **options: Any) -> DeltaTable:
        from deltalake import DeltaTable

        return DeltaTable(self._address, storage_options=self._storage_options(), **options)

    def _load(self) -> DeltaTable:
        """The current table, created if there is none."""
        from deltalake import CommitProperties, DeltaTable, Schema
        from deltalake.exceptions import CommitFailedError, TableNotFoundError

        wanted = Schema.from_arrow(self._schema)
        try:
            table = self._call(self._open, passing=TableNotFoundError)
        except TableNotFoundError:
            self._require_empty()
            # Another process may create it first.
            with suppress(CommitFailedError):
                self._call(
                    DeltaTable.create,
                    self._address,
                    wanted,
                    mode="ignore",
                    partition_by=list(PARTITION_COLUMNS),
                    name=f"{self._contract.name}s",
                    configuration={
                        # Within an hour the ranges of other columns do not help to skip files, and
                        # the log has ranges of decimals as floats.
                        "delta.dataSkippingStatsColumns": ",".join(self._contract.order)
                    },
                    storage_options=self._storage_options(),
                    # A second attempt would create it again as its own next version.
                    commit_properties=CommitProperties(max_commit_retries=0),
                    passing=CommitFailedError,
                )
            try:
                # Read it back, whichever process created it.
                table = self._call(self._open, passing=TableNotFoundError)
            except TableNotFoundError:
                raise UserError(
                    f"the store of the Delta table {self.uri} took a new table, and does not have"
                    " it: it loses data. Use another store",
                    Section.DELTA,
                ) from None
        columns = {(field.name, str(field.type), field.nullable) for field in wanted.fields}
        differing = columns ^ {(f.name, str(f.type), f.nullable) for f in table.schema().fields}
        if differing or table.metadata().partition_columns != list(PARTITION_COLUMNS):
            names = ", ".join(sorted({name for name, _, _ in differing})) or "its partitions"
            raise UserError(
                f"the Delta table {self.uri} is not as in the contract ({names}): name a new place"
                " in DELTA_LAKE_S3_PATH, and run the windows again to fill it",
                Section.DELTA,
            )
        return table

    def _require_empty(self) -> None:
        """Check that the folder has no other files, which `optimize` would delete.

        Raises:
            UserError: it has some.
        """
        if self._s3 is None:
            place = Path(self.uri)
            names = self._call(
                lambda: [entry.name for entry in place.iterdir()] if place.is_dir() else []
            )
        else:
            bucket, folder = self._s3[0], f"{self._folder}/"
            listed = bucket.call(
                lambda: bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=folder)
            )
            names = [entry["Key"].removeprefix(folder) for entry in listed.get("Contents", [])]
        # Delta ignores files whose names begin like this.
        others = [name for name in names if name and not name.startswith(("_", "."))]
        if others and not self.exists():
            raise UserError(
                f"the folder of the Delta table {self.uri} holds {others[0]}, and no table:"
                " `txn optimize` would delete it; set DELTA_LAKE_S3_PATH to an empty folder",
                Section.DELTA,
            )

    def _call(
        self,
        method: Callable[..., Any],
        *args: Any,
        passing: type[Exception] | tuple[type[Exception], ...] = (),
        **kwargs: Any,
    ) -> Any:
        """Call `deltalake` and explain its errors, except those in `passing`."""
        from deltalake.exceptions import DeltaError

        try:
            return method(*args, **kwargs)
        except passing:
            raise
        except (DeltaError, OSError) as error:
            # The store accepted a commit, and does not have it.
            if _NOT_THERE.search(str(error)):
                raise _LostCommitError from None
            # The text of the error contains the store's answer.
            code = re.search(r"<Code>(\w+)</Code>", str(error))
            said = _explain(code[1] if code else "", str(error))
            raise UserError(f"the Delta table {self.uri} {said}", Section.DELTA) from None


def _described(contract: Contract, form: CardForm) -> pa.Schema:
    """The table's columns, with the form of its card numbers."""
    fields = [
        field.with_metadata({"comment": (field.metadata or {})[b"description"].decode()})
        for field in contract.published_schema
    ]
    schema = pa.schema([*fields, *_OF_WINDOW])
    return contract.with_card_metadata(schema, {"comment": form.description})


def open_delta(settings: Settings, contract: Contract = TRANSACTIONS) -> DeltaLake | None:
    """The Delta table that the settings name; None if they name none.

    Raises:
        UserError: the extra is not installed, there are no credentials for the bucket, the
            directory cannot be created, or the table would contain the lake's objects.
    """
    place = settings.delta_path
    if place is None:
        return None
    try:
        import deltalake  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise UserError(
            "DELTA_LAKE_S3_PATH is set, but the package deltalake is not installed: install"
            " txn-platform with its extra `delta`, or unset the variable",
            Section.DELTA,
        ) from None
    form = card_form(settings.card_policy, settings.card_mask)
    _require_apart(place, settings)
    if not place.startswith("s3://"):
        directory = Path(place).absolute()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the directory {directory} of the Delta table can't be made ({error.strerror}):"
                " set DELTA_LAKE_S3_PATH to a place that can be written",
                Section.DELTA,
            ) from None
        return DeltaLake(str(directory), None, form, contract)
    name = place.removeprefix("s3://").partition("/")[0]
    bucket, access = open_bucket(settings, name, StoreLimits())
    return DeltaLake(place, (bucket, access), form, contract)


def require_delta(delta: DeltaLake | None) -> DeltaLake:
    """The table, for commands that need one.

    Raises:
        UserError: the settings name none.
    """
    if delta is None:
        raise UserError(
            "there is no Delta table: set DELTA_LAKE_S3_PATH to where it is to be", Section.DELTA
        )
    return delta


def optimized(
    tables: Sequence[DeltaLake], keep: timedelta
) -> Iterator[tuple[DeltaLake, Optimized]]:
    """Optimize the tables that exist, one after another.

    Args:
        tables: of all feeds; not each of them has landed rows yet.
        keep: as for `DeltaLake.optimize`.

    Raises:
        UserError: none of them exists, or one can't be read or written.
    """
    for table in [table for table in tables if table.exists()] or tables[:1]:
        yield table, table.optimize(keep)


def _require_apart(place: str, settings: Settings) -> None:
    """Check that the lake is not in the table's folder, where `optimize` would delete its objects.

    Raises:
        UserError: they are.
    """
    if settings.bucket is not None:
        lake, table = f"s3://{settings.bucket}/{settings.lake_prefix}".rstrip("/"), place
    elif not place.startswith("s3://"):
        lake, table = str(settings.directory.resolve()), str(Path(place).resolve())
    else:
        return
    if f"{lake}/".startswith(f"{table}/"):
        raise UserError(
            f"the lake {lake} is in the folder of the Delta table, {table}, where `txn optimize`"
            " would delete its objects: set DELTA_LAKE_S3_PATH to a folder of its own",
            Section.DELTA,
        )


def _identity(window: Window, sha256: str) -> tuple[str, int]:
    """The window as application id and the content as version of Delta's `txn` action."""
    # A version is a signed number of 64 bits.
    return f"txn_platform/{window.partition_key}", int(sha256[:16], 16) >> 1


def _has(table: DeltaTable, window: Window, sha256: str, rows: int) -> bool:
    """Whether a version of the table has the rows of a window's file."""
    application, content = _identity(window, sha256)
    same = table.transaction_version(application) == content
    return same and _rows_of(table, window) == rows


def _rows_of(table: DeltaTable, window: Window) -> int:
    """The number of rows of a window, from the table's log."""
    files: Any = pa.table(table.get_add_actions(flatten=True))
    its_own = pc.and_(
        pc.equal(files["partition.event_date"], pa.scalar(window.start.date(), pa.date32())),
        pc.equal(files["partition.event_hour"], pa.scalar(window.start.hour, pa.int32())),
    )
    return pc.sum(files.filter(its_own)["num_records"]).as_py() or 0


def _batches(file: pq.ParquetFile, window: Window, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    date = pa.scalar(window.start.date(), pa.date32())
    hour = pa.scalar(window.start.hour, pa.int32())
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        yield pa.RecordBatch.from_arrays(
            [
                *batch.columns,
                pa.repeat(date, batch.num_rows),
                pa.repeat(hour, batch.num_rows),
            ],
            schema=schema,
        )


def _explain(code: str, said: str) -> str:
    """Explain an error of the store to a user, by its code or its text."""
    permission = denied_permission(said)
    if code == "NoSuchBucket":
        text = "is in a bucket that does not exist: make it, or fix DELTA_LAKE_S3_PATH"
    elif permission or code in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        text = (
            f"refused the credentials ({code or 'AccessDenied'}):"
            f"{f' allow them {permission}, or' if permission else ''}"
            " fix AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile)"
        )
    elif "No files in log segment" in said:
        text = "does not have in its log what it took: it loses data. Use another store"
    elif code == "ExpiredToken":
        text = "refused the credentials, which have expired: log in again"
    elif "<html" in said.lower():
        text = (
            "is not answered by an S3, but with a web page: fix AWS_ENDPOINT_URL, or see to the"
            " proxy or gateway in front of the store"
        )
    else:
        # A chain of causes, one per line, the first one last, with colour codes.
        plain = re.sub(r"\x1b\[[0-9]*m|↳", "", said)
        causes = [line.strip() for line in plain.splitlines() if line.strip()]
        cause = f"{causes[0]} ... {causes[-1]}"[:_LONGEST_CAUSE]
        text = f"can't be read or written: {cause}. Look at the place and at AWS_ENDPOINT_URL"
    return text
