"""Addresses of the database and the broker of a Dagster instance, which hold a password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from txn_platform.http_addresses import require_host

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_DATABASE_SCHEMES: Final = frozenset({"postgresql", "postgresql+psycopg2"})
_BROKER_SCHEMES: Final = frozenset({"redis", "rediss"})
_NUMBER: Final = re.compile(r"/?|/[0-9]{1,4}")


def require_database(address: str) -> None:
    """Check the address of a Postgres.

    Raises:
        ValueError: it is none; says what it must be, and shows nothing of it.
    """
    must = (
        "must be written postgresql://user:password@host:5432/name, with %2F for a / of a password"
    )
    parts = _parts(address, must)
    if parts.scheme not in _DATABASE_SCHEMES or not parts.username or len(parts.path) < len("/n"):
        raise ValueError(must)


def require_broker(address: str) -> None:
    """Check the address of a Valkey or Redis.

    Raises:
        ValueError: it is none; says what it must be, and shows nothing of it.
    """
    must = "must be written redis://:password@host:6379/0, with %2F for a / of a password"
    parts = _parts(address, must)
    if parts.scheme not in _BROKER_SCHEMES or not _NUMBER.fullmatch(parts.path):
        raise ValueError(must)


def password_of(address: str) -> str:
    """The password in an address, as a server gets it; empty without one."""
    try:
        return unquote(urlsplit(address).password or "")
    except ValueError:
        return ""


def _parts(address: str, must: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        require_host(parts.hostname or "")
        # It is read when it is asked for.
        port = parts.port
    except ValueError:
        raise ValueError(must) from None
    if port == 0 or any(map(str.isspace, address)):
        raise ValueError(must)
    return parts
