"""The key of card tokens: from the settings, or made once and kept in a file.

`rows/protection` turns card numbers into tokens with it.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from txn_platform.errors import UserError

if TYPE_CHECKING:
    from txn_platform.settings import Settings

SHORTEST_KEY: Final = 16
"""Bytes that a key must have."""


def card_key(settings: Settings) -> bytes:
    """`TXN_CARD_KEY`, or else the key kept under `TXN_HOME`, which is created if it is absent.

    Raises:
        UserError: the key is too short or can't be read, or there is none and the lake is shared.
    """
    if settings.card_key is not None:
        key = settings.card_key.get_secret_value()
        where = "TXN_CARD_KEY"
    elif settings.bucket is not None and settings.generator_url is not None:
        raise UserError(
            "TXN_CARD_KEY is not set: in a shared lake the card tokens need a key that does not"
            " live on one machine. Make one (openssl rand -hex 32) and keep it with your secrets"
        )
    else:
        key = kept_card_key(settings.home)
        where = str(settings.home)
    if len(key.encode()) < SHORTEST_KEY:
        raise UserError(f"{where}: the card key must have at least {SHORTEST_KEY} bytes")
    return key.encode()


def kept_card_key(home: Path) -> str:
    """The key in the file `card-key` of a directory; both are made when they are absent.

    Raises:
        UserError: the file can't be made or read.
    """
    path = home / "card-key"
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            _make_once(path, secrets.token_hex(32))
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError(
            f"the card key {path} can't be made or read ({reason}): set TXN_CARD_KEY, or"
            " TXN_HOME to a directory that can be written"
        ) from None


def _make_once(path: Path, text: str) -> None:
    """Make a file that only its owner can read, unless another process makes it first."""
    # Two containers can have processes with the same id, so the draft has a random name.
    descriptor, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
