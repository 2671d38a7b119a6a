"""The error for users: something that they can fix, in one message.

Bugs are not of this kind: they keep their own types and their tracebacks.
"""

from __future__ import annotations

import re
from typing import Final

from txn_platform.runbook import Section

# The name and password in any address; the query of an HTTP address, or of a path alone.
_USER_INFO: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#'\"@]*@", re.IGNORECASE)
_QUERIES: Final = (
    re.compile(r"(\bhttps?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*", re.IGNORECASE),
    re.compile(r"((?<![\w:/])/[^\s?'\"<>]*)\?[^\s'\"<>=]*=[^\s'\"<>]*"),
)
_LONGEST_NAME: Final = 60
_DIGITS: Final = re.compile(r"\d(?=(?:\W*\d){4})")


class UserError(Exception):
    """An error that a user can fix: one or two sentences on the fault, its place and the remedy.

    Whatever went into the message, it shows no query of an address and no name and password in
    one: sources take keys there.

    Attributes:
        section: of the runbook, which explains what to do.
    """

    section = Section.SETTINGS

    def __init__(self, message: str, section: Section | None = None) -> None:
        super().__init__(without_queries(message))
        if section is not None:
            self.section = section


def without_queries(text: str) -> str:
    """A text whose addresses have no query, no fragment, no name and no password."""
    text = _USER_INFO.sub(r"\1", text)
    for query in _QUERIES:
        text = query.sub(r"\1", text)
    return text


def shown(name: str) -> str:
    """A name from the source in a form for messages: short, printable, without digits."""
    short = name[:_LONGEST_NAME] + "…" * (len(name) > _LONGEST_NAME)
    hidden = _DIGITS.sub("*", short) if sum(map(str.isdigit, short)) > 8 else short
    return repr(hidden)
