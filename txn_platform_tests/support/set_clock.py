"""A clock that a test sets, in place of `datetime` in a module."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import ClassVar, override


class SetClock(datetime):
    """`datetime` whose `now` is `moment`, which a test assigns."""

    moment: ClassVar[datetime]

    @classmethod
    @override
    def now(cls, tz: tzinfo | None = None) -> datetime:  # pyright: ignore[reportIncompatibleMethodOverride] - of one kind
        return cls.moment
