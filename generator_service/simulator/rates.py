"""The expected number of rows of each minute: hours of the week, paydays and seasons.

A cell is a UTC minute, counted from the epoch. The simulated economy uses its locale's standard
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from generator_service.simulator.randomness import Floats, Integers

MINUTES_OF_DAY = 1440
MINUTES_OF_WEEK = 7 * MINUTES_OF_DAY
_THURSDAY = 3 * MINUTES_OF_DAY
"""The epoch was a Thursday; weeks here begin on Monday."""

CYCLE = 146_097
"""Days in 400 years, after which the calendar repeats, weekdays included."""

STANDING_DAYS = 28
"""Standing orders fall on the first 28 days of a month, so that every month has all of them."""


@dataclass(frozen=True)
class HourClass:
    """Customers who are active at the same hours.

    share is of the population's activity. peaks are (hour, width in hours, height) bumps of a day,
    weekdays the activity of Monday to Sunday.
    """

    name: str
    share: float
    peaks: tuple[tuple[float, float, float], ...]
    weekdays: tuple[float, ...]


HOUR_CLASSES = (
    HourClass(
        "office",
        0.42,
        ((8.0, 0.8, 0.6), (12.5, 0.9, 1.3), (18.2, 1.7, 1.3), (12.5, 4.0, 0.35)),
        (0.86, 0.9, 0.95, 1.0, 1.35, 1.4, 0.95),
    ),
    HourClass(
        "daytime",
        0.30,
        ((10.8, 1.7, 1.2), (15.0, 2.2, 1.0)),
        (0.95, 0.98, 1.0, 1.05, 1.2, 1.3, 0.75),
    ),
    HourClass(
        "evening",
        0.22,
        ((13.0, 2.5, 0.6), (19.5, 2.2, 1.4), (22.2, 1.2, 0.5)),
        (0.75, 0.8, 0.9, 1.0, 1.45, 1.6, 1.0),
    ),
    HourClass(
        "night",
        0.06,
        ((21.5, 2.2, 1.0), (1.0, 1.5, 0.5), (16.5, 2.0, 0.7), (6.5, 1.5, 0.5)),
        (0.85, 0.9, 0.95, 1.0, 1.25, 1.35, 0.95),
    ),
)
_FLOOR = 0.012
"""The lowest activity of a class at night, as a share of its peak."""

# January to December; Sparkov's contrast between December and the first months, halved.
_SEASON = (0.86, 0.88, 0.95, 0.97, 1.0, 1.02, 1.0, 1.0, 0.98, 1.0, 1.06, 1.28)
_PAYDAYS = {1: 1.12, 2: 1.08, 3: 1.04, 15: 1.10, 16: 1.06, 25: 1.05, 26: 1.04, 28: 1.06}


def _class_curves() -> Floats:
    """Return each hour class's activity by minute of the week: (classes, 10080)."""
    hours = np.arange(MINUTES_OF_DAY) / 60.0
    curves = np.empty((len(HOUR_CLASSES), MINUTES_OF_WEEK))
    for row, hour_class in enumerate(HOUR_CLASSES):
        day = np.zeros(MINUTES_OF_DAY)
        for peak, width, height in hour_class.peaks:
            away = np.abs(hours - peak)
            away = np.minimum(away, 24.0 - away) / width
            day += height * np.exp(-0.5 * away * away)
        day += _FLOOR * day.max()
        # The weights of weekdays blend over the hours around midnight.
        noons = np.arange(-1, 8) * 24.0 + 14.0
        weights = np.array([hour_class.weekdays[weekday % 7] for weekday in range(-1, 8)])
        blend = np.interp(np.arange(MINUTES_OF_WEEK) / 60.0, noons, weights)
        curve = np.tile(day, 7) * blend
        curves[row] = curve * (hour_class.share / curve.mean())
    return curves


class Calendar:
    """Expected activity by cell, and the local calendar of cells.

    Activity has mean 1 over the 400 years after which calendars repeat.
    """

    def __init__(self, utc_offset: int) -> None:
        """Use the standard time that is `utc_offset` minutes ahead of UTC."""
        self._offset = utc_offset
        curves = _class_curves()
        self.week: Floats = curves.sum(axis=0)
        # Cumulative shares, 0 to 65536, of the hour classes but the last, by minute of the week.
        edges = np.cumsum(curves, axis=0)[:-1] / self.week * 65536.0
        self.class_edges: Integers = np.rint(edges).astype(np.int64).T.copy()
        days = np.arange(CYCLE).astype("datetime64[D]")
        months = days.astype("datetime64[M]")
        self._day_of_month: npt.NDArray[np.int64] = (days - months).astype(np.int64) + 1
        season = np.array(_SEASON)[months.astype(np.int64) % 12]
        payday = np.ones(32)
        payday[list(_PAYDAYS)] = list(_PAYDAYS.values())
        factor = season * payday[self._day_of_month]
        daily = self.week.reshape(7, MINUTES_OF_DAY).mean(axis=1)
        weekday = (np.arange(CYCLE) + 3) % 7
        self._day_factor: Floats = factor / (factor * daily[weekday]).mean()

    def local(self, cells: Integers) -> Integers:
        """Return the cells in local time."""
        return cells + self._offset

    def minute_of_week(self, cells: Integers) -> Integers:
        """Return minutes since Monday 00:00 local time, 0 to 10079."""
        return (cells + (self._offset + _THURSDAY)) % MINUTES_OF_WEEK

    def activity(self, cells: Integers) -> Floats:
        """Return the expected activity of cells, relative to the mean."""
        days = (cells + self._offset) // MINUTES_OF_DAY % CYCLE
        return self.week[self.minute_of_week(cells)] * self._day_factor[days]

    def minute_of_month(self, cells: Integers) -> Integers:
        """Return the minute of a 28-day month, or 28 * 1440 on the days after the 28th."""
        local = cells + self._offset
        days = local // MINUTES_OF_DAY
        minute = (self._day_of_month[days % CYCLE] - 1) * MINUTES_OF_DAY + local % MINUTES_OF_DAY
        return np.minimum(minute, STANDING_DAYS * MINUTES_OF_DAY)
