"""Ranges of windows as the options of commands name them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from txn_platform.errors import UserError
from txn_platform.settings import load_first_hour
from txn_platform.windows import WINDOW_LENGTH, Window, full_hour, iso

if TYPE_CHECKING:
    from collections.abc import Callable

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INTO_LAST_HOUR: Final = timedelta(hours=23)
# A range without a first window is a week, with the day of its last.
_DAYS_BEFORE: Final = timedelta(days=6)


def newest(count: int, watermark: datetime) -> list[Window]:
    """The newest windows that are complete, oldest first, so many or as many as there are.

    Args:
        count: how many, at least one.
        watermark: of the source.

    Raises:
        UserError: there is none yet.
    """
    end = _end(watermark)
    count = min(count, (end - load_first_hour()) // WINDOW_LENGTH)
    if count < 1:
        raise UserError(f"the source has no complete hour yet: its watermark is {iso(watermark)}")
    return [Window(end - WINDOW_LENGTH * age) for age in range(count, 0, -1)]


def parse_range(first: str | None, last: str | None) -> Callable[[datetime], list[Window]]:
    """The windows that `--from` and `--to` name, both included, as hours or as days.

    Args:
        first: of the range; None for the day six days before the last.
        last: of the range; None for the newest that is complete.

    Returns:
        A function that gives the windows by the watermark of the source. It raises a `UserError` if
            some are not complete.

    Raises:
        UserError: one names no hour or a wrong one, or they are in the wrong order.
    """
    start = None if first is None else _bound("--from", first, timedelta(0))
    end = None if last is None else _bound("--to", last, _INTO_LAST_HOUR)
    if start is not None and end is not None and end < start:
        raise UserError(
            f"--from {start.partition_key} is later than --to {end.partition_key}: exchange them"
        )

    def windows(watermark: datetime) -> list[Window]:
        complete = newest(1, watermark)[0]
        for option, bound in (("--from", start), ("--to", end)):
            if bound is not None and bound > complete:
                raise UserError(
                    f"{option} {bound.partition_key} is not complete: the source has complete hours"
                    f" up to {iso(watermark)}"
                )
        to = end or complete
        since = start or Window(max(_day(to) - _DAYS_BEFORE, load_first_hour()))
        return [
            Window(since.start + WINDOW_LENGTH * number)
            for number in range((to.end - since.start) // WINDOW_LENGTH)
        ]

    return windows


def _bound(option: str, text: str, into_day: timedelta) -> Window:
    """The window of a bound.

    Args:
        option: its name.
        text: an hour or a day.
        into_day: from the start of a day to the hour that it stands for.

    Raises:
        UserError: it names none, or one that is not over.
    """
    try:
        window = Window.of_partition(f"{text}-00:00" if _DATE.fullmatch(text) else text)
    except UserError as error:
        raise UserError(f"{option}: {error}") from None
    if _DATE.fullmatch(text):
        window = Window(window.start + into_day)
    now = full_hour(datetime.now(UTC))
    if window.start >= now:
        raise UserError(
            f"{option}: partition {window.partition_key!r} is not over yet: the newest that is over"
            f" is {Window(now - WINDOW_LENGTH).partition_key}"
        )
    try:
        return window.require_from(load_first_hour())
    except UserError as error:
        raise UserError(f"{option}: {error}") from None


def _end(watermark: datetime) -> datetime:
    """The end of the newest complete window; hours that our clock has not ended do not count."""
    return full_hour(min(watermark, datetime.now(UTC)))


def _day(window: Window) -> datetime:
    return window.start.replace(hour=0)
