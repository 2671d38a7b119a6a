"""A scorecard: its measures, each with its target, and the data of its pictures; also as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from generator_service.simulator import VERSION

if TYPE_CHECKING:
    from generator_service.simulator import Window

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Line:
    """One measure of the sample, with its target range.

    Attributes:
        name: the property that is measured.
        value: None when the sample is too small.
        low: the lower bound, included; None for none.
        high: the upper bound, included; None for none.
        source: the publication of the range.
        note: a remark for the reader.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    source: str
    note: str = ""

    @property
    def in_range(self) -> bool:
        """Whether the value is within the bounds."""
        return (
            self.value is not None
            and (self.low is None or self.value >= self.low)
            and (self.high is None or self.value <= self.high)
        )

    def content(self) -> dict[str, object]:
        """Return the measure as a JSON object."""
        return {
            "property": self.name,
            "value": self.value,
            "target": {"low": self.low, "high": self.high},
            "in_range": self.in_range,
            "source": self.source,
            "note": self.note,
        }


@dataclass(frozen=True)
class Pictures:
    """The data of the pictures.

    Attributes:
        amounts: purchases by amount, ten bins for each power of ten: (lower edge in units of the
            currency, purchases).
        hours: mean rows of the 168 hours of the week, from Monday 00:00 UTC.
        ranks: (rank of a merchant, its purchases).
    """

    amounts: list[tuple[float, int]]
    hours: list[int]
    ranks: list[tuple[int, int]]


@dataclass(frozen=True)
class Scorecard:
    """The measures of a window, with its configuration and number of rows."""

    configuration: dict[str, object]
    configuration_hash: str
    window: Window
    rows: int
    lines: list[Line]
    pictures: Pictures

    @property
    def in_range(self) -> bool:
        """Whether every measure is within its bounds."""
        return all(line.in_range for line in self.lines)

    def to_json(self) -> str:
        """Return the scorecard as a JSON text."""
        content = {
            "generator_version": VERSION,
            "configuration_hash": self.configuration_hash,
            "configuration": self.configuration,
            "window": {
                "start": moment_text(self.window.start),
                "end": moment_text(self.window.end),
            },
            "rows": self.rows,
            "in_range": self.in_range,
            "lines": [line.content() for line in self.lines],
            "pictures": asdict(self.pictures),
        }
        return json.dumps(content, indent=2)


def moment_text(moment: int) -> str:
    """Return microseconds since the epoch as RFC 3339 in UTC, without the fraction."""
    return datetime.fromtimestamp(moment // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
