"""A lake in a local directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, override

import polars as pl

from txn_platform.errors import UserError
from txn_platform.lake.base import Capability, Kept, Lake, StoredObject
from txn_platform.lake.layout import OBJECT_NAME, asset_of_key
from txn_platform.lake.parquet import open_parquet
from txn_platform.lake.staging import STAGING_SUFFIX
from txn_platform.private_files import make_private, sync_directory
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import pyarrow.parquet as pq

    from txn_platform.lake.staging import Staged


class DirectoryLake(Lake):
    """A lake in a local directory."""

    def __init__(self, root: Path, home: Path | None = None) -> None:
        """Args: root: the directory; home: `TXN_HOME`, if it is in there."""
        # Within the root: a rename is atomic only within one file system.
        super().__init__(root / ".staging", durable=True, home=home)
        self._root = root
        # For published files: their identity, and their digest.
        self._written: dict[str, tuple[tuple[int, int], str]] = {}

    @override
    def require_writable(self) -> None:
        try:
            self._make_staging()
        except OSError as error:
            raise UserError(
                f"the lake's directory {self._root} can't be made ({error.strerror}):"
                " set TXN_HOME to a place that can be written",
                Section.DISK,
            ) from None

    @override
    def probe(self) -> Iterator[Capability]:
        self.require_writable()
        path = self._staging / f"probe-{uuid.uuid4().hex}"
        try:
            path.write_bytes(b"probe")
            path.replace(path.with_suffix(".replaced"))
            sync_directory(self._staging)
            path.with_suffix(".replaced").unlink()
        except OSError as error:
            raise UserError(
                f"{self._root} can't be written: {error.strerror}", Section.DISK
            ) from None
        yield Capability("objects", works=True, needed=True, meaning="a file is replaced whole")

    @override
    def publish(self, staged: Staged, key: str, *, clear_cards: bool = False) -> StoredObject:
        target = self._root / key
        if clear_cards:
            # As earlier versions made them.
            make_private(self._root / asset_of_key(key))
            make_private(target)
        if (same := _mark_of_same(target, staged)) is not None:
            # The run that wrote it may have died before it synced the directory.
            sync_directory(target.parent)
            self._written[key] = same, staged.sha256
            return StoredObject(str(target), staged.size, unchanged=True)
        # A new entry survives a power failure once its directory is synced.
        entered = [target.parent]
        while not entered[-1].exists():
            entered.append(entered[-1].parent)
        try:
            for directory in entered[-2::-1]:
                directory.mkdir(0o700 if clear_cards else 0o777, exist_ok=True)
            if not clear_cards:
                # As the umask had it for the folder. Some file systems have no permissions.
                with contextlib.suppress(PermissionError):
                    staged.path.chmod(target.parent.stat().st_mode & 0o666)
            mark = _mark(staged.path.stat())
            staged.path.replace(target)
            for directory in entered:
                sync_directory(directory)
        except OSError as error:
            raise UserError(f"{target} can't be written: {error.strerror}", Section.DISK) from None
        self._written[key] = mark, staged.sha256
        return StoredObject(str(target), staged.size)

    @override
    def put_text(self, name: str, content: str) -> None:
        target, encoded = self._root / name, content.encode()
        staged = self._staging / f"{uuid.uuid4().hex}{STAGING_SUFFIX}"
        try:
            with contextlib.suppress(FileNotFoundError):
                if target.read_bytes() == encoded:
                    return
            self.require_writable()
            with staged.open("wb") as file:
                # A file without a lock is of a process that died.
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
                staged.replace(target)
            sync_directory(self._root)
        except OSError as error:
            raise UserError(f"{target} can't be written: {error.strerror}", Section.DISK) from None
        finally:
            staged.unlink(missing_ok=True)

    @override
    def uri(self, key: str) -> str:
        return str(self._root / key)

    @override
    def find(self, key: str) -> StoredObject | None:
        path = self._root / key
        # One call: the file may be removed between two.
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(
                f"{path} can't be read ({error.strerror}): allow it", Section.DISK
            ) from None
        return StoredObject(str(path), found.st_size) if stat.S_ISREG(found.st_mode) else None

    @override
    def digest(self, key: str) -> str | None:
        path = self._root / key
        try:
            if key in self._written and self._written[key][0] == _mark(path.stat()):
                return self._written[key][1]
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    @override
    def _version(self, key: str) -> object:
        with contextlib.suppress(FileNotFoundError):
            return _mark((self._root / key).stat())
        return None

    @override
    def open(self, key: str, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
        try:
            return open_parquet(self._root / key, dictionary_encoded)
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
    def absent(self, keys: Sequence[str]) -> list[str]:
        # A look at each file is faster than a listing of its folders.
        return [key for key in keys if self.find(key) is None]

    @override
    def folders(self) -> list[str]:
        return [path.name for path in _folders_of(self._root, "")]

    @override
    def first_key(self, asset: str) -> str | None:
        for date in _folders_of(self._root / asset, "event_date="):
            for hour in _folders_of(date, "event_hour="):
                if (hour / OBJECT_NAME).exists():
                    return (hour / OBJECT_NAME).relative_to(self._root).as_posix()
        return None

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


def _folders_with(top: Path) -> Iterator[str]:
    """The folders at and below one that have an object, following links.

    Raises:
        UserError: one of them can't be read.
    """

    def refuse(error: OSError) -> None:
        if error.errno != errno.ENOENT:
            raise UserError(
                f"{error.filename} can't be read ({error.strerror}): allow it, or remove it",
                Section.DISK,
            )

    for folder, below, names in os.walk(top, onerror=refuse, followlinks=True):
        if OBJECT_NAME in names:
            yield folder
        # A link to a parent folder would loop.
        above = f"{Path(folder).resolve()}/"
        below[:] = [
            name for name in below if not above.startswith(f"{Path(folder, name).resolve()}/")
        ]


def _folders_of(folder: Path, beginning: str) -> list[Path]:
    """The folders in a folder whose names begin so, ascending; none if it can't be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith(beginning))
    except OSError:
        return []


def _mark(found: os.stat_result) -> tuple[int, int]:
    """The identity of a file, which a rename keeps and no other file has."""
    return found.st_ino, found.st_mtime_ns


def _mark_of_same(path: Path, staged: Staged) -> tuple[int, int] | None:
    """The mark of a file with the bytes of a staged file; None for another or unreadable one.

    From the open file, because another run may replace the one at the path at any time.
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        found = os.fstat(file.fileno())
        if (
            found.st_size == staged.size
            and hashlib.file_digest(file, "sha256").hexdigest() == staged.sha256
        ):
            return _mark(found)
    return None
