"""The error for users: something that they can fix, in one message.

Bugs are not of this kind: they keep their own types and their tracebacks.
"""

from __future__ import annotations

import re
from typing import Final

from txn_platform.redaction import redacted
from txn_platform.runbook import Section

_LONGEST_NAME: Final = 60
# A long word of letters and several digits is a token rather than a name.
_TOKEN: Final = re.compile(r"(?=\S*[A-Za-z])(?=\S*\d\S*\d\S*\d)[\w+/=~-]{16,}")
_DIGITS: Final = re.compile(r"\d(?=(?:\W*\d){4})")


class UserError(Exception):
    """An error that a user can fix: one or two sentences on the fault, its place and the remedy.

    Whatever went into the message, it is redacted: an address has neither name, password, path nor
    query, and there is no card number.

    Attributes:
        section: of the runbook, which explains what to do.
    """

    section = Section.SETTINGS

    def __init__(self, message: str, section: Section | None = None) -> None:
        super().__init__(redacted(message))
        if section is not None:
            self.section = section


def shown(name: str) -> str:
    """A name from the source in a form for messages: short, printable, no number and no token."""
    name = _TOKEN.sub("…", name)
    short = name[:_LONGEST_NAME] + "…" * (len(name) > _LONGEST_NAME)
    hidden = _DIGITS.sub("*", short) if sum(map(str.isdigit, short)) > 8 else short
    return repr(hidden)
