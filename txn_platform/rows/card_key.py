"""The key of card tokens: from the settings, or made once and kept. `protection` uses it."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from txn_platform.errors import UserError
from txn_platform.rows.protection import CardProtector

if TYPE_CHECKING:
    from txn_platform.settings import Settings


def card_protector(settings: Settings) -> CardProtector:
    """Turns card numbers into tokens and masks, under TXN_CARD_KEY or a key made once.

    Raises:
        UserError: there is no key and none may be made, or it is too short, or can't be read.
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
    try:
        return CardProtector(key.encode())
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def kept_card_key(home: Path) -> str:
    """The key kept in a directory, which is made when there is none.

    Raises:
        UserError: it can't be made or read.
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
    """Make a file that only its owner reads; of several who do so at once, the first wins."""
    # Processes of two containers can have one number, so the draft's name is random.
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
