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

import polars as pl

from txn_platform.errors import UserError
from txn_platform.lake.layout import asset_of_key
from txn_platform.lake.staging import STAGING_SUFFIX, Staged, StagingWriter, room_on_disk

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from txn_platform.lake.parquet import Encoding


# An object that is replaced while it is opened is opened again, so often.
OPENINGS: Final = 5


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
    """An ability that a store was seen to have, or to lack.

    Attributes:
        name: what it is called.
        works: whether the store does it.
        needed: whether the lake can't be used without.
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
        versions: for each key the object and older versions of it, by the store's names, the oldest
            first. A key that is empty now may have some. A store without versions has one without a
            name.
        markers: for each key what only says that it was deleted, likewise.
        unseen: why there may be more, and what to do; empty when there is not.
    """

    versions: dict[str, list[str]]
    markers: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    unseen: str = ""


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
    def open(self, key: str, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
        """The object at a key, for reading a column or a row group at a time.

        Args:
            key: where it is.
            dictionary_encoded: text columns to be read as dictionaries, those of them that it has.

        Raises:
            UserError: there is none, or the store can't be reached.
        """

    def open_with_digest(
        self, key: str, dictionary_encoded: Collection[str] = ()
    ) -> tuple[pq.ParquetFile, str]:
        """The object at a key, and the SHA-256 of the same version of it; see `open`, `digest`.

        Raises:
            UserError: there is none, the store can't be reached, or other runs replace it all the
                time.
        """
        for _ in range(OPENINGS):
            version = self._version(key)
            file = self.open(key, dictionary_encoded)
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
    """Put into words that a store failed while what is named was read.

    Raises:
        UserError: it did.
    """
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{what} could not be read: {reason}. Run it again") from None
