"""Where the key of card tokens comes from. What is done with it is `protection.py`'s matter."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from txn_platform.errors import UserError
from txn_platform.protection import CardProtector

if TYPE_CHECKING:
    from pathlib import Path

    from txn_platform.settings import Settings


def card_protector(settings: Settings) -> CardProtector:
    """What turns card numbers into tokens and masks, under TXN_CARD_KEY or a key made once.

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
            draft = path.with_name(f"card-key.{os.getpid()}")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_hex(32))
            # Of two runs that make the first key at once, the later must take the earlier's.
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        return path.read_text()
    except OSError as error:
        raise UserError(
            f"the card key {path} can't be made or read ({error.strerror}): set TXN_CARD_KEY"
        ) from None
