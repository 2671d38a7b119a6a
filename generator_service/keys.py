"""API keys: their file, which holds hashes only, and the keys that a running service knows.

A key is `gsk_<id>_<secret>`. The secret has 256 random bits, so one round of SHA-256 suffices:
there is nothing to guess. `access.py` decides what a key may ask for.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import math
import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

_PREFIX = "gsk"
_ID_BYTES = 4
_SECRET_BYTES = 32
_MADE_PUBLIC = stat.S_IWGRP | stat.S_IWOTH
# A file of keys is read at once: more than ten thousand of them.
_LARGEST_FILE = 1 << 22

DEFAULT_REQUESTS_PER_MINUTE = 3_000
"""The limit of a key that is added without another."""


class Scope(StrEnum):
    """A part of the service that a key may ask for."""

    TRANSACTIONS = "transactions"
    REFERENCE = "reference"
    FAULTS = "faults"
    METRICS = "metrics"


class KeysError(Exception):
    """The keys cannot be read or changed; the message is one sentence."""


type KeyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class Key(BaseModel):
    """A key without its secret.

    Attributes:
        id: the part of the key that names it.
        name: who uses it.
        sha256: the SHA-256 of the whole key, in hex.
        scopes: what it may ask for.
        requests_per_minute: how many requests each process of the service allows it.
        created: when it was added, RFC 3339.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    name: KeyName
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    requests_per_minute: int = Field(ge=1, le=1_000_000)
    created: str


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[Key, ...]


class KeysFile:
    """The file of the keys. A change replaces it, so that a reader never sees half of one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Key, ...] | None:
        """Return the keys; None when there is no file.

        Raises:
            KeysError: it cannot be read, is no file of keys, or others may write it.
        """
        try:
            content = self._content()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(str(error.strerror)) from None
        try:
            keys = _Document.model_validate_json(content).keys
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise self._unreadable(f"{where + ': ' if where else ''}{first['msg']}") from None
        if len({key.id for key in keys}) < len(keys) or len({key.name for key in keys}) < len(keys):
            raise self._unreadable("it has an id or a name twice")
        return keys

    def _content(self) -> bytes:
        # Non-blocking: a pipe must not hold the service.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._unreadable("it is no file")
            if status.st_mode & _MADE_PUBLIC:
                raise self._unreadable("others than its owner may write it: chmod 600 it")
            if status.st_size > _LARGEST_FILE:
                raise self._unreadable(f"it has more than {_LARGEST_FILE:,} bytes")
            return os.read(descriptor, _LARGEST_FILE)
        finally:
            os.close(descriptor)

    def version(self) -> object:
        """Return what changes whenever the file does."""
        try:
            status = self.path.stat()
        except OSError as error:
            return error.errno
        return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size

    def add(self, name: str, scopes: tuple[Scope, ...], requests_per_minute: int) -> str:
        """Add a key, and return it: it is stored nowhere.

        Raises:
            KeysError: the name is taken or not allowed, or the file cannot be read or written.
        """
        with self._changing() as keys:
            if any(key.name == name for key in keys):
                raise KeysError(
                    f"there is a key called {name} already: revoke it first, or choose another name"
                )
            known = {key.id for key in keys}
            while (identifier := secrets.token_hex(_ID_BYTES)) in known:
                pass
            whole = f"{_PREFIX}_{identifier}_{secrets.token_urlsafe(_SECRET_BYTES)}"
            try:
                added = Key(
                    id=identifier,
                    name=name,
                    sha256=_digest(whole),
                    scopes=scopes,
                    requests_per_minute=requests_per_minute,
                    created=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            except ValidationError:
                raise KeysError(
                    f"{name!r} cannot name a key: use up to 64 letters, digits, and . _ @ -, with a"
                    " letter or digit first"
                ) from None
            keys.append(added)
        return whole

    def revoke(self, name: str) -> Key:
        """Remove the key with a name or an id, and return it.

        Raises:
            KeysError: there is none, or the file cannot be read or written.
        """
        with self._changing() as keys:
            found = [key for key in keys if name in {key.name, key.id}]
            if not found:
                raise KeysError(f"no key in {self.path} has the name or the id {name}")
            keys.remove(found[0])
        return found[0]

    @contextmanager
    def _changing(self) -> Generator[list[Key]]:
        """Yield the keys as a list, and write the list at the end of the block."""
        # A link stays: other services may read the same file by its own name.
        path = self.path.resolve()
        try:
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            # Two commands at once change it one after the other.
            fcntl.flock(directory, fcntl.LOCK_EX)
            keys = list(self.read() or ())
            yield keys
            self._write(keys, path, directory)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            os.close(directory)

    def _write(self, keys: list[Key], path: Path, directory: int) -> None:
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(part, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(_Document(keys=tuple(keys)).model_dump_json(indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        os.fsync(directory)

    def _unreadable(self, reason: str) -> KeysError:
        return KeysError(f"the file of keys {self.path} cannot be used: {reason.rstrip('.')}")

    def _unwritable(self, error: OSError) -> KeysError:
        return KeysError(f"the file of keys {self.path} cannot be written: {error.strerror}")


@dataclass
class _Allowance:
    """The requests that a key may still make; it grows with time, up to a minute's."""

    requests: float
    at: float


class KnownKeys:
    """The keys as the file has them now, for a running service.

    It looks at the file for each request, and reads it when it has changed.

    Args:
        file: the file; None for a service without keys.
        must_exist: whether a service without the file is an error.
        monotonic: a clock in seconds.
    """

    def __init__(
        self,
        file: KeysFile | None,
        *,
        must_exist: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._must_exist = must_exist
        self._monotonic = monotonic
        self._version: object = None
        self._keys: dict[str, Key] = {}
        self._required = False
        self._allowances: dict[str, _Allowance] = {}

    def required(self) -> bool:
        """Return whether requests need a key: there is a file, or there was one since the start.

        Raises:
            KeysError: the file cannot be used.
        """
        if self._file is None:
            return False
        version = self._file.version()
        if version != self._version:
            keys = self._file.read()
            if keys is None and self._must_exist:
                raise KeysError(
                    f"the file of keys {self._file.path} does not exist: add a key (python -m"
                    " generator_service keys add), or unset GENERATOR_KEYS_FILE"
                )
            self._required = self._required or keys is not None
            self._keys = {key.id: key for key in keys or ()}
            self._allowances = {
                id_: left for id_, left in self._allowances.items() if id_ in self._keys
            }
            self._version = version
        return self._required

    def find(self, token: str) -> Key | None:
        """Return the key that a client sent; None when it is none of the service's."""
        parts = token.split("_", 2)
        key = self._keys.get(parts[1]) if len(parts) == 3 else None
        # An unknown id takes as long as a wrong secret.
        known = key.sha256 if key is not None else _digest("")
        return key if hmac.compare_digest(known, _digest(token)) else None

    def wait(self, key: Key) -> int:
        """Count a request of a key; return 0, or after how many seconds the next is allowed."""
        now = self._monotonic()
        most, rate = key.requests_per_minute, key.requests_per_minute / 60
        left = self._allowances.setdefault(key.id, _Allowance(most, now))
        left.requests = min(most, left.requests + (now - left.at) * rate)
        left.at = now
        if left.requests < 1:
            return math.ceil((1 - left.requests) / rate)
        left.requests -= 1
        return 0


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
