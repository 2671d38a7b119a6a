"""The keys of card tokens: from the settings, from where they refer to, or kept in a file.

`rows/protection` turns card numbers into tokens with a key. `card_key_rotation` changes it. Here
are finding, checking and replacing keys.
"""

from __future__ import annotations

import base64
import hmac
import math
import os
import re
import secrets
import stat
import string
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from txn_platform.audit import audited
from txn_platform.errors import UserError
from txn_platform.permissions import with_roles
from txn_platform.private_files import (
    OF_OTHERS,
    make_private,
    make_private_directory,
    sync_directory,
    write_private_once,
)
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from txn_platform.settings import Settings

SHORTEST_KEY: Final = 16
"""Bytes that a key must have, whatever is allowed."""
STRONG_BITS: Final = 128
"""Bits of a key that are enough (NIST SP 800-57, part 1)."""
# No card number, so that this is no card's token.
_FINGERPRINT: Final = b"fingerprint of the card key"
_VARIABLE: Final = "TXN_CARD_KEY"
_PREVIOUS: Final = "TXN_CARD_KEY_PREVIOUS"
# A key that would be a reference is none: the reference would become the key.
_REFERENCE: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
_LIKE_REFERENCE: Final = re.compile(r".*://|\W*(?:file|arn|aws[-_]?sm):", re.IGNORECASE)
# The sets of characters that keys are made of, and the size of all others in ASCII.
_ALPHABETS: Final = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
_OTHER_CHARACTERS: Final = 33
_HEXADECIMAL: Final = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_SEPARATORS: Final = re.compile(r"^0x|[-:_ ]", re.IGNORECASE)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RANDOM_BITS_OF_UUID: Final = 122
# Fewer are very improbable in a random key, also in a hexadecimal one.
_FEWEST_CHARACTERS: Final = 8
_REPEATED: Final = 4
_ASK_SECONDS: Final = 10


@dataclass(frozen=True)
class CardKey:
    """A key of card tokens.

    Attributes:
        secret: the key itself, which nothing shows.
        place: where it comes from, for messages.
        weakness: why it can be guessed or may be known, as a phrase; empty if it is strong.
    """

    secret: bytes = field(repr=False)
    place: str
    weakness: str

    @property
    def fingerprint(self) -> str:
        """The key's id; see `fingerprint`."""
        return fingerprint(self.secret)


def card_key(settings: Settings) -> bytes:
    """The key of the settings, or else the one kept under `TXN_HOME`, made if it is absent.

    Raises:
        UserError: the key is too weak or can't be read, or there is none and the lake is shared.
    """
    return checked_card_key(settings).secret


def checked_card_key(settings: Settings) -> CardKey:
    """The key with its place, checked; see `card_key`.

    Raises:
        UserError: see `card_key`.
    """
    found = find_card_key(settings)
    if found.weakness and not settings.allow_weak_card_key:
        raise UserError(
            f"{found.place}: the card key {found.weakness}. Replace it by `txn rotate-card-key`"
            " (docs/security.md#replace-the-key), or keep it for now with"
            " TXN_ALLOW_WEAK_CARD_KEY=true",
            Section.CARD_KEY,
        )
    return found


def find_card_key(settings: Settings) -> CardKey:
    """The key, whether it is strong or not; see `card_key`.

    Raises:
        UserError: the key has too few bytes or can't be read, or there is none and the lake is
            shared.
    """
    if settings.card_key is None and _is_shared(settings):
        raise UserError(
            "TXN_CARD_KEY is not set: in a shared lake the card tokens need a key that does not"
            " live on one machine. Make one (openssl rand -hex 32) and keep it with your secrets",
            Section.CARD_KEY,
        )
    if settings.card_key is not None and not is_kept(settings):
        return _given(settings.card_key.get_secret_value(), settings.card_key_variable, settings)
    key = kept_card_key(settings.home)
    return _key(key, str(_kept_at(settings.home)), _kept_at(settings.home))


def is_kept(settings: Settings) -> bool:
    """Whether the key is the one under `TXN_HOME`, which the platform makes and replaces."""
    key = settings.card_key
    return key is None or key.get_secret_value() == _kept_at(settings.home).absolute().as_uri()


def previous_card_key(settings: Settings) -> CardKey | None:
    """The key that is valid beside the current one while keys change; None at other times.

    Raises:
        UserError: it can't be read.
    """
    if settings.card_key_previous is not None:
        return _given(settings.card_key_previous.get_secret_value(), _PREVIOUS, settings)
    path = _previous_at(settings.home)
    if not is_kept(settings) or not path.exists():
        return None
    return _key(_read(path, _VARIABLE), str(path), path)


def valid_fingerprints(settings: Settings) -> set[str]:
    """The fingerprints of the keys that windows may be published under: the current and previous.

    Returns:
        None of them if there is no key yet.

    Raises:
        UserError: see `card_key`.
    """
    if settings.card_key is None and (_is_shared(settings) or not _kept_at(settings.home).exists()):
        return set()
    previous = previous_card_key(settings)
    return {fingerprint(card_key(settings))} | ({previous.fingerprint} if previous else set())


def fingerprint(key: bytes) -> str:
    """The id of a key, which gives none of it away: 32 bits of a keyed digest, hexadecimal.

    So few bits do not tell a right guess of the key from a wrong one.
    """
    return hmac.digest(key, _FINGERPRINT, "sha256").hex()[:8]


def weakness(key: str) -> str:
    """Why a key can be guessed, as a phrase; empty if it looks random and is long enough.

    Characters are counted as if they were random ones of their alphabet, which is the most that
    they can be worth.
    """
    spelled = [list(map(ord, key)), *map(list, _bytes_of(key))]
    if len(set(key)) < _FEWEST_CHARACTERS or any(map(_can_be_foretold, spelled)):
        return "follows a pattern that can be guessed"
    if (bits := _most_bits(key)) < STRONG_BITS:
        return f"has {bits} bits at most, and needs {STRONG_BITS}"
    return ""


def kept_card_key(home: Path) -> str:
    """The key in the file `card-key` of a directory; both are made when they are absent.

    Raises:
        UserError: the file can't be made or read.
    """
    path = _kept_at(home)
    try:
        if not path.exists():
            make_private_directory(home)
            with audited("key_change", step="first") as line:
                write_private_once(path, secrets.token_hex(32))
                line["new"] = fingerprint(_read(path, _VARIABLE).encode())
    except OSError as error:
        raise _unreadable(path, str(error.strerror), _VARIABLE) from None
    return _read(path, _VARIABLE)


def card_key_for_processes(settings: Settings) -> str:
    """`TXN_CARD_KEY` for processes that are started with the AWS settings of another store.

    Raises:
        UserError: the key can't be read.
    """
    if settings.card_key is None:
        kept_card_key(settings.home)
        # Read when it is used, so that a change of the key reaches processes that run already.
        return _kept_at(settings.home).absolute().as_uri()
    given = settings.card_key.get_secret_value()
    match = _REFERENCE.fullmatch(given)
    if match is None or match[1].lower() == "file":
        return given
    return find_card_key(settings).secret.decode()


def begin_kept_rotation(home: Path) -> None:
    """Make a new kept key, and keep the one before as the previous key.

    It can end at any moment, and be called again: a rotation that has begun has one new key.

    Raises:
        UserError: the files can't be made.
    """
    kept, previous = _kept_at(home), _previous_at(home)
    following = kept.with_name(f"{kept.name}.next")
    kept_card_key(home)
    try:
        if not previous.exists():
            write_private_once(following, secrets.token_hex(32))
            with suppress(FileExistsError):
                os.link(kept, previous)
            # Others may have read it, and need not read it again.
            make_private(previous)
        with suppress(FileNotFoundError):
            following.replace(kept)
        sync_directory(home)
    except OSError as error:
        raise _unreadable(kept, str(error.strerror), _VARIABLE) from None


def end_kept_rotation(home: Path, previous: CardKey) -> Path | None:
    """Retire the previous key of a kept one; returns the file that still has it, if there is one.

    Raises:
        UserError: the file can't be renamed.
    """
    path = _previous_at(home)
    retired = _kept_at(home).with_name(f"card-key.{previous.fingerprint}")
    try:
        path.replace(retired)
        sync_directory(home)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, str(error.strerror), _PREVIOUS) from None
    return retired


def _given(value: str, variable: str, settings: Settings) -> CardKey:
    """The key that a variable holds or refers to."""
    value = value.strip()
    match = _REFERENCE.fullmatch(value)
    if match is None:
        if _is_path(value):
            raise _unknown_reference(variable)
        return _key(value, variable)
    scheme = match[1].lower()
    if scheme == "aws-sm":
        return _key(_from_secrets_manager(match[2], variable, settings), variable)
    parts = urlsplit(value)
    path = Path(unquote(parts.path))
    others = parts.netloc + parts.query + parts.fragment
    if scheme != "file" or others or not path.name or not str(path).isprintable():
        raise _unknown_reference(variable)
    return _key(_read(path, variable), f"{variable} ({path})", path)


def _is_path(text: str) -> bool:
    """Whether a text names a file that is there."""
    try:
        return "/" in text and Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _unknown_reference(place: str) -> UserError:
    return UserError(
        f"{place} is a reference that is not known: write aws-sm:// and the name of a secret of AWS"
        " Secrets Manager, file:// and the whole path of a file, or the key itself",
        Section.CARD_KEY,
    )


def _key(text: str, place: str, path: Path | None = None) -> CardKey:
    """A key from its text, and the file that holds it, if one does."""
    if _LIKE_REFERENCE.match(text):
        raise _unknown_reference(place)
    if len(text.encode()) < SHORTEST_KEY:
        raise UserError(
            f"{place}: the card key must have at least {SHORTEST_KEY} bytes. Make one (openssl rand"
            " -hex 32); `txn rotate-card-key` replaces one that is in use",
            Section.CARD_KEY,
        )
    weak = weakness(text)
    if path is not None and (mode := path.stat().st_mode & OF_OTHERS):
        others = "others" if mode & stat.S_IRWXO else "its group"
        weak = f"lies in a file that {others} may use: allow its owner alone (chmod 600 {path})"
    return CardKey(text.encode(), place, weak)


def _can_be_foretold(codes: list[int]) -> bool:
    """Whether half of a key's characters or bytes go on as those before, or end a repetition."""
    foretold, seen = 0, set[tuple[int, ...]]()
    for at in range(2, len(codes)):
        last = tuple(codes[max(0, at + 1 - _REPEATED) : at + 1])
        # Two series can take turns.
        foretold += last in seen or any(
            at >= 2 * step
            and codes[at] - codes[at - step] == codes[at - step] - codes[at - 2 * step]
            for step in (1, 2)
        )
        seen.add(last)
    return 2 * foretold >= len(codes)


def _bytes_of(key: str) -> list[bytes]:
    """The bytes that a key in hexadecimal or base64 stands for."""
    found: list[bytes] = []
    with suppress(ValueError):
        found.append(bytes.fromhex(_SEPARATORS.sub("", key)))
    with suppress(ValueError):
        found.append(base64.b64decode(key, validate=True))
    return found


def _most_bits(key: str) -> int:
    """How many bits a key of random characters has."""
    if _UUID.fullmatch(key):
        return _RANDOM_BITS_OF_UUID
    bare = _SEPARATORS.sub("", key)
    if _HEXADECIMAL.fullmatch(bare):
        return math.floor(len(bare) * math.log2(10 if bare.isdecimal() else 16))
    used = [each for each in _ALPHABETS if not set(key).isdisjoint(each)]
    # A short random text of letters and digits may have no digit.
    size = sum(map(len, {string.digits, *used}))
    size += _OTHER_CHARACTERS * (not set(key) <= set("".join(_ALPHABETS)))
    return math.floor(len(key) * math.log2(size))


def _read(path: Path, variable: str) -> str:
    try:
        return path.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise _unreadable(path, str(reason), variable) from None


def _unreadable(path: Path, reason: str, variable: str) -> UserError:
    return UserError(
        f"the card key {path} can't be made or read ({reason}): set {variable}, or TXN_HOME to a"
        " directory that can be written",
        Section.CARD_KEY,
    )


def _from_secrets_manager(name: str, variable: str, settings: Settings) -> str:
    """The text of a secret, by its name or ARN, with the credentials and region of the settings."""
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    from txn_platform.aws_session import aws_session, botocore_session
    from txn_platform.network import proxy_for

    def client(proxies: dict[str, str]) -> Any:
        return session.client(
            "secretsmanager",
            region_name=session.region_name or "us-east-1",
            verify=str(settings.ca_bundle) if settings.ca_bundle else True,
            config=Config(
                connect_timeout=_ASK_SECONDS,
                read_timeout=_ASK_SECONDS,
                retries={"total_max_attempts": 3},
                proxies=proxies,
            ),
        )

    try:
        session = aws_session(settings, botocore_session(settings))
        direct = client({})
        endpoint = direct.meta.endpoint_url
        proxy = proxy_for(endpoint)
        asked = client({urlsplit(endpoint).scheme: proxy.url}) if proxy else direct
        text: str | None = asked.get_secret_value(SecretId=name).get("SecretString")
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        reason = f"AWS Secrets Manager refused it ({code if code.isalnum() else 'no code'})"
    except (BotoCoreError, ValueError) as error:
        reason = f"AWS Secrets Manager can't be asked ({type(error).__name__})"
    else:
        if text is not None:
            return text.strip()
        reason = "it is binary, and must be text"
    raise UserError(
        f"{variable}: the secret {name} can't be read: {reason}. See to its name, to the region,"
        f" to the permission {with_roles('secretsmanager:GetSecretValue')}, and to"
        " AWS_ENDPOINT_URL_SECRETS_MANAGER if AWS_ENDPOINT_URL names another store",
        Section.CARD_KEY,
    )


def _is_shared(settings: Settings) -> bool:
    """Whether other machines may write to the lake."""
    both = settings.bucket is not None and settings.generator_url is not None
    return both and not settings.of_local_stack


def _kept_at(home: Path) -> Path:
    return home / "card-key"


def _previous_at(home: Path) -> Path:
    return home / "card-key.previous"
