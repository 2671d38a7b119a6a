"""The text that messages, logs and events may show: no secret and no card number.

`shown_address` is the one form of an address. `redacted` gives this form to each address in a text,
and hides card numbers. `quoted` is for text of another server.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import count
from typing import Final

# In an address of these schemes the path is a place, without secrets.
_STORES: Final = frozenset({"s3", "s3a", "s3n", "gs", "file"})
_SERVERS: Final = frozenset({"http", "https"})
_HIDDEN: Final = "…"
# Each pattern starts only where a word does, so that its time grows as the length of the text.
# A password may have the characters that end an address in a sentence.
_ADDRESS: Final = re.compile(
    r"(?<![a-z0-9+.-])[0-9+.-]*+[a-z][a-z0-9+.-]*+://(?:[^\s@]{0,4096}+@)?[^\s'\"<>`]*+",
    re.IGNORECASE,
)
# The part of a word up to an @ with a host after it.
_BEFORE_HOST: Final = re.compile(r"(?<![^\s@])[^\s@]++@(?=[\w\[])")
_NAME_AND_COLON: Final = re.compile(r"(?<![^\s:@/])[^\s:@/]++:(?!//)(?!@)")
_HIDDEN_SCHEME: Final = f"://{_HIDDEN} "
# Of a header and of a query.
_CREDENTIAL: Final = re.compile(
    r"(\bbearer\s++|(?<![\w-])(?=[\w-]++=)"
    r"[\w-]*?(?:token|secret|passw|signature|credential|api[_-]?key)[\w-]*+=)"
    r"(?=[a-z]*+[^\sa-z])[^\s&'\"<>,;()…]++",
    re.IGNORECASE,
)
_AFTER_ADDRESS: Final = ".,:;!?)}"
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
# The query of a path alone, as urllib3 writes it.
_WITH_QUERY: Final = re.compile(r"(?<![^\s'\"<>])[^\s'\"<>?]*+\?[^\s'\"<>]++")
_PATH: Final = re.compile(r"(?<![\w:/])/")

# A store's answer in a library's error: it can repeat the request, with its keys.
_DOCUMENT: Final = re.compile(r"<(?:\?xml|!doctype|error|html)\b", re.IGNORECASE)
# Digests and UUIDs are kept. Groups of a card number may have separators between them.
_NUMBER: Final = re.compile(
    r"(?P<kept>\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b(?=[0-9]*[a-f])[0-9a-f]{32,128}\b)|\d(?:[\s._/\u00ad\u034f\u200b-\u200f\u2010-\u2015\u2060-\u2064\u20e3\ufe0f\ufeff-]{0,2}\d){12,}"
)
_CARD_DIGITS: Final = range(13, 20)
# More digits are hidden without a search for a card number among them.
_MOST_DIGITS: Final = 400

_WORD: Final = re.compile(r"[^\s\"'{}\[\]()<>,;:!?|]+")
# A word of a sentence. Tokens have digits, other characters, mixed case, or are longer.
_PLAIN: Final = re.compile(r"(?:[A-Z]?[a-z]{1,15}|[A-Z]{1,6})\.?")
# A secret can follow these words.
_TELLING: Final = re.compile(
    r"[^=]*(?:key|token|secret|passw|passphrase|passcode|credential|authori|cookie)[^=]*=?"
    r"|pwd|bearer|basic|auth|session|signature|pin|otp|cvv|cvc|login|user|username",
    re.IGNORECASE,
)
_HIDDEN_AFTER_TELLING: Final = 2
_QUOTED_CHARACTERS: Final = 200


def shown_address(address: str) -> str:
    """The form of an address that may be shown.

    Of a server it is scheme, host and port, with `/…` for a path: a path can hold a token, as in
    a webhook. The place of an object (`s3://bucket/key`) is whole. Of all others, and where a
    name or password may stand in another part, it is the scheme alone.

    Args:
        address: any text with `://`.
    """
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    server = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme in _STORES and not {":", "@"} & set(server):
        return address
    beyond = rest[len(server) :]
    host = server.rpartition("@")[2]
    # `user:pa/ss@host` looks like a host, a port and a path.
    if scheme not in _SERVERS or "@" in beyond or not _HOST.fullmatch(host):
        return f"{scheme}://{_HIDDEN}"
    has_path = beyond[:1] == "/" and beyond[1:2] not in {"", "?", "#"}
    return f"{scheme}://{host}{f'/{_HIDDEN}' if has_path else ''}"


def redacted(text: str) -> str:
    """A text whose addresses have their shown form, without queries, documents and card numbers.

    Names with passwords, bearer tokens and values of tokens and secrets are hidden too.
    """
    text = _without_document(text)
    text = _ADDRESS.sub(_shown_in_text, text)
    text = _WITH_QUERY.sub(_without_query, text)
    text = _BEFORE_HOST.sub(_without_user_info, text)
    text = _CREDENTIAL.sub(rf"\1{_HIDDEN}", text)
    return _NUMBER.sub(_shown_number, text)


def quoted(text: str) -> str:
    """The beginning of another server's text: its plain words, on one line.

    All else can be a token, a number or a name, and is `…`, as are the words after *password* and
    the like.
    """
    hidden_until = 0

    def shown(word: re.Match[str]) -> str:
        nonlocal hidden_until
        position = next(positions)
        tells = _TELLING.fullmatch(word[0]) is not None
        is_plain = _PLAIN.fullmatch(word[0]) and (tells or position > hidden_until)
        if tells:
            hidden_until = position + _HIDDEN_AFTER_TELLING
        return word[0] if is_plain else _HIDDEN

    positions = count(1)
    shown_text = _WORD.sub(shown, text[: 10 * _QUOTED_CHARACTERS])
    line = " ".join("".join(filter(_is_printable, shown_text)).split())
    line = re.sub(rf"{_HIDDEN}(?:[^\w{_HIDDEN}]*{_HIDDEN})+", _HIDDEN, line)
    return line if len(line) <= _QUOTED_CHARACTERS else f"{line[:_QUOTED_CHARACTERS]}{_HIDDEN}"


def _is_printable(character: str) -> bool:
    return character.isprintable() or character.isspace()


def _without_document(text: str) -> str:
    found = _DOCUMENT.search(text)
    end = text.rfind(">")
    if found is None or end < found.end():
        return text
    return f"{text[: found.start()]}{_HIDDEN}{text[end + 1 :]}"


def _shown_in_text(found: re.Match[str]) -> str:
    start = len(found[0]) - len(found[0].lstrip("0123456789+.-"))
    # The bracket of an IPv6 address belongs to it.
    sentence = _AFTER_ADDRESS if "[" in found[0] else f"{_AFTER_ADDRESS}]"
    address = found[0][start:].rstrip(sentence)
    behind = found[0][start + len(address) :]
    return f"{found[0][:start]}{shown_address(address)}{behind}"


def _without_query(found: re.Match[str]) -> str:
    path = _PATH.search(found[0])
    query = -1 if path is None else found[0].find("?", path.end())
    return found[0] if query < 0 or "=" not in found[0][query:] else found[0][:query]


def _without_user_info(found: re.Match[str]) -> str:
    if found.string.endswith(_HIDDEN_SCHEME, 0, found.start()):
        return f"{_HIDDEN}@"
    name = _NAME_AND_COLON.search(found[0])
    return found[0] if name is None else f"{found[0][: name.start()]}{_HIDDEN}@"


def _shown_number(found: re.Match[str]) -> str:
    if found["kept"] is not None:
        return found[0]
    digits = [unicodedata.decimal(character) for character in found[0] if character.isdecimal()]
    is_card = len(digits) > _MOST_DIGITS or any(
        _has_check_digit(digits[start : start + length])
        for length in _CARD_DIGITS
        for start in range(len(digits) - length + 1)
    )
    return _HIDDEN if is_card else found[0]


def _has_check_digit(digits: list[int]) -> bool:
    """Whether the last digit is right by Luhn's formula (ISO/IEC 7812-1)."""
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
