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
# So many digits of any script may be a card number.
_FEWEST_DIGITS: Final = 9
_LAST_DIGITS: Final = 4


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
    digits = [index for index, character in enumerate(short) if character.isnumeric()]
    if len(digits) < _FEWEST_DIGITS:
        return repr(short)
    hidden = set(digits[:-_LAST_DIGITS])
    return repr("".join("*" if index in hidden else each for index, each in enumerate(short)))
