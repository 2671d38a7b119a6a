"""The key of card tokens: from the settings, or made once and kept in a file.

`rows/protection` turns card numbers into tokens with it.
"""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from txn_platform.errors import UserError
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from txn_platform.settings import Settings

SHORTEST_KEY: Final = 16
"""Bytes that a key must have."""
# No card number, so that this is no card's token.
_FINGERPRINT: Final = b"fingerprint of the card key"


def card_key(settings: Settings) -> bytes:
    """`TXN_CARD_KEY`, or else the key kept under `TXN_HOME`, which is created if it is absent.

    Raises:
        UserError: the key is too short or can't be read, or there is none and the lake is shared.
    """
    if settings.card_key is not None:
        key = settings.card_key.get_secret_value()
        where = "TXN_CARD_KEY"
    elif _is_shared(settings):
        raise UserError(
            "TXN_CARD_KEY is not set: in a shared lake the card tokens need a key that does not"
            " live on one machine. Make one (openssl rand -hex 32) and keep it with your secrets",
            Section.CARD_KEY,
        )
    else:
        key = kept_card_key(settings.home)
        where = str(settings.home)
    if len(key.encode()) < SHORTEST_KEY:
        raise UserError(
            f"{where}: the card key must have at least {SHORTEST_KEY} bytes", Section.CARD_KEY
        )
    return key.encode()


def existing_fingerprint(settings: Settings) -> str | None:
    """The fingerprint of the key that `card_key` returns; None if there is none yet.

    Raises:
        UserError: see `card_key`.
    """
    if settings.card_key is None and (_is_shared(settings) or not _kept_at(settings.home).exists()):
        return None
    return fingerprint(card_key(settings))


def fingerprint(key: bytes) -> str:
    """Tells one key from another, and gives none away: 32 bits of a keyed digest, hexadecimal.

    So few bits do not tell a right guess of the key from a wrong one.
    """
    return hmac.digest(key, _FINGERPRINT, "sha256").hex()[:8]


def kept_card_key(home: Path) -> str:
    """The key in the file `card-key` of a directory; both are made when they are absent.

    Raises:
        UserError: the file can't be made or read.
    """
    path = _kept_at(home)
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            _make_once(path, secrets.token_hex(32))
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError(
            f"the card key {path} can't be made or read ({reason}): set TXN_CARD_KEY, or"
            " TXN_HOME to a directory that can be written",
            Section.CARD_KEY,
        ) from None


def _is_shared(settings: Settings) -> bool:
    """Whether other machines may write to the lake."""
    both = settings.bucket is not None and settings.generator_url is not None
    return both and not settings.of_local_stack


def _kept_at(home: Path) -> Path:
    return home / "card-key"


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
