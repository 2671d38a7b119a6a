"""The promise of a lake: an object is staged, verified, and put in its place in one step.

Two stores keep it, a directory (`directory`) and a bucket on S3 (`s3`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import polars as pl

from txn_platform.errors import UserError
from txn_platform.lake.layout import asset_of_key
from txn_platform.lake.staging import STAGING_SUFFIX, Staged, StagingWriter, room_on_disk
from txn_platform.lake.store_errors import denied_permission
from txn_platform.private_files import make_private_directory
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from txn_platform.lake.parquet import Encoding


# How often an object is opened again that another run replaces meanwhile.
OPENINGS: Final = 5


@dataclass(frozen=True)
class StoredObject:
    """An object that is in the lake.

    Attributes:
        uri: its address, `s3://...` or an absolute path.
        size: in bytes.
        superseded: it was published, and another run has replaced it since; `size` is the size of
            that run's object.
        unchanged: it had the same bytes before, so nothing was written.
    """

    uri: str
    size: int
    superseded: bool = False
    unchanged: bool = False


@dataclass(frozen=True)
class Capability:
    """The result of probing one ability of a store.

    Attributes:
        name: of the ability.
        works: whether the store has it.
        needed: whether the lake cannot be used without it.
        meaning: the consequence for the user, and the remedy.
    """

    name: str
    works: bool
    needed: bool
    meaning: str


@dataclass(frozen=True)
class Kept:
    """The objects and versions that a store keeps of an asset.

    Attributes:
        versions: for each key the ids of all versions of its object, the oldest first. A deleted
            object may have some. In a store without versions the id is empty.
        markers: for each key the ids of its delete markers, the oldest first.
        unseen: why there may be more, and what to do; empty if the list is complete.
    """

    versions: dict[str, list[str]]
    markers: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    unseen: str = ""


class Lake(ABC):
    """A place for objects under keys; see `object_key` for the layout."""

    def __init__(self, staging: Path, *, durable: bool, home: Path | None = None) -> None:
        """Args:
        staging: the directory of staged files.
        durable: whether staged files must survive a power cut.
        home: `TXN_HOME`, if the staging directory is in it.
        """
        self._staging = staging
        self._durable = durable
        self._home = home
        self._writers = WeakSet[StagingWriter]()

    def __reduce__(self) -> Any:
        raise UserError(
            "a lake and its files can't be stored by another IO manager: return rows, as a frame or"
            " a table",
            Section.OWN_ASSET,
        )

    def stage(self, schema: pa.Schema, encoding: Encoding) -> StagingWriter:
        """A writer of a file for `publish`.

        Raises:
            UserError: nothing can be published in this lake.
        """
        self.require_writable()
        with room_on_disk(self._staging):
            self._make_staging()
            self.sweep()
            path = self._staging / f"{uuid.uuid4().hex}{STAGING_SUFFIX}"
            try:
                writer = StagingWriter(path, schema, encoding, durable=self._durable)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        self._writers.add(writer)
        return writer

    def discard_staged(self) -> None:
        """Remove the staged files of this process that were not published.

        A step that failed may not leave the contexts of its writers until the process ends.
        """
        for writer in list(self._writers):
            writer.discard()

    def _make_staging(self) -> None:
        """Make the directory of staged files, which may hold card numbers, for its owner alone."""
        if self._home is not None:
            make_private_directory(self._home)
        make_private_directory(self._staging)

    def sweep(self) -> int:
        """Remove files and uploads of writers that died; returns their number."""
        removed = 0
        for path in self._staging.glob(f"*{STAGING_SUFFIX}"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
        return removed

    @abstractmethod
    def publish(self, staged: Staged, key: str, *, clear_cards: bool = False) -> StoredObject:
        """Put a staged file at a key, and replace the object there in one step.

        An object with the same bytes is left as it is.

        Args:
            staged: the file.
            key: of the object.
            clear_cards: the file has card numbers in clear; S3 encrypts it as the settings say.

        Raises:
            UserError: the store refused or can't be reached; the object at the key is unchanged.
        """

    @abstractmethod
    def put_text(self, name: str, content: str) -> None:
        """Put a small text beside the tables, and replace the one there in one step.

        A text that is there already is left as it is.

        Args:
            name: of the object, below the root.
            content: the text, written as UTF-8.

        Raises:
            UserError: the store refused or can't be reached.
        """

    @abstractmethod
    def require_writable(self) -> None:
        """Raise a `UserError` if objects cannot be put here."""

    @abstractmethod
    def probe(self) -> Iterator[Capability]:
        """Probe the store with small objects, which are removed: the needed abilities first.

        Raises:
            UserError: the store can't be reached, or refuses.
        """

    @abstractmethod
    def uri(self, key: str) -> str:
        """The address of a key, for people and for other tools."""

    def browser_address(self, key: str) -> str | None:  # noqa: ARG002 - for subclasses
        """The address at which a browser shows the object of a key, if there is one."""
        return None

    @abstractmethod
    def find(self, key: str) -> StoredObject | None:
        """The object at a key, asked of the store; None if there is none.

        Raises:
            UserError: the store can't be reached, or refuses.
        """

    @abstractmethod
    def digest(self, key: str) -> str | None:
        """The SHA-256 of the object at a key, hexadecimal; None if there is none."""

    @abstractmethod
    def open(self, key: str, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
        """The object at a key, for reading a column or a row group at a time.

        Args:
            key: of the object.
            dictionary_encoded: text columns to read as dictionaries, if the object has them.

        Raises:
            UserError: there is none, or the store can't be reached.
        """

    def open_with_digest(
        self, key: str, dictionary_encoded: Collection[str] = ()
    ) -> tuple[pq.ParquetFile, str]:
        """The object at a key, and the SHA-256 of the same version of it; see `open`, `digest`.

        Raises:
            UserError: there is none, the store can't be reached, or other runs keep replacing it.
        """
        for _ in range(OPENINGS):
            version = self._version(key)
            file = self.open(key, dictionary_encoded)
            digest = self.digest(key)
            if digest is not None and self._version(key) == version:
                return file, digest
            file.close()
        raise UserError(
            f"{key} is replaced by other runs again and again: run it again",
            Section.OBJECT_REPLACED,
        )

    @abstractmethod
    def _version(self, key: str) -> object:
        """Identifies the version of the object at a key; None if there is none."""

    @abstractmethod
    def copy(self, key: str, path: Path) -> None:
        """Write the bytes of one version of the object at a key to a local file.

        Raises:
            UserError: there is none, or the store can't be reached.
        """

    @abstractmethod
    def scan(self, keys: list[str]) -> pl.LazyFrame:
        """The rows of several objects as one lazy frame."""

    @abstractmethod
    def keys(self, asset: str) -> list[str]:
        """The keys of all objects of an asset, or of a folder of it, ascending, so by time."""

    @abstractmethod
    def folders(self) -> list[str]:
        """The names right below the lake's root: of assets, and of others' folders.

        Raises:
            UserError: the store can't be reached.
        """

    @abstractmethod
    def first_key(self, asset: str) -> str | None:
        """The first of an asset's `keys`, the oldest window, without listing all of them.

        Raises:
            UserError: the store can't be reached.
        """

    @abstractmethod
    def kept(self, asset: str) -> Kept:
        """The objects and versions of an asset, also of removed and replaced objects.

        Raises:
            UserError: the store can't be reached, or refuses.
        """

    @abstractmethod
    def erase(self, key: str, versions: Sequence[str]) -> str:
        """Remove an object for good: the versions and markers that `kept` names, in their order.

        Returns:
            Why a part of it remains, and what to do; empty if nothing remains.

        Raises:
            UserError: the store can't be reached.
        """

    def absent(self, keys: Sequence[str]) -> list[str]:
        """The keys without an object, out of keys of one asset.

        Raises:
            UserError: the store can't be reached.
        """
        if len(keys) < 2:
            return [key for key in keys if self.find(key) is None]
        # One listing instead of a request per key: there may be thousands.
        there = set(self.keys(os.path.commonpath(keys)))
        return [key for key in keys if key not in there]

    def _missing(self, key: str) -> UserError:
        return UserError(
            f"{self.uri(key)} does not exist: materialize {asset_of_key(key)}"
            " for this partition first",
            Section.INPUT_MISSING,
        )


@dataclass(frozen=True)
class LakeFile:
    """An object of the lake, to be read in pieces or copied as a file.

    Attributes:
        lake: that has it.
        key: of the object.
    """

    lake: Lake
    key: str

    def parquet(self, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
        """See `Lake.open`."""
        return self.lake.open(self.key, dictionary_encoded)

    def parquet_with_digest(
        self, dictionary_encoded: Collection[str] = ()
    ) -> tuple[pq.ParquetFile, str]:
        """See `Lake.open_with_digest`."""
        return self.lake.open_with_digest(self.key, dictionary_encoded)

    def copy_to(self, path: Path) -> None:
        """See `Lake.copy`."""
        self.lake.copy(self.key, path)


@contextlib.contextmanager
def explained_reads(what: str) -> Generator[None]:
    """Explain errors of a store during a read of the named object.

    Raises:
        UserError: the store failed.
    """
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        if permission := denied_permission(str(error)):
            raise UserError(
                f"{what} could not be read, since the store refused the credentials: allow them"
                f" {permission}",
                Section.STORE_REFUSES,
            ) from None
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{what} could not be read: {reason}. Run it again", Section.STORE_SILENT
        ) from None
