"""A source of many hours over HTTP, which a test can make grow, fail and recover."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import override

from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.windows import Window
from txn_platform_tests.support.served_source import ServedSource, sent_frame, sent_row


def rows_of(window: Window, count: int = 2, **changes: str | None) -> list[dict[str, str | None]]:
    """Return rows of an hour that conform to the contract, unless they are changed."""
    hour = f"{window.start:%Y-%m-%dT%H}"
    number = int(window.start.timestamp()) // 3600 * 1_000
    return [
        sent_row(number + row, transaction_at=f"{hour}:00:{row:02}.000001Z", **changes)
        for row in range(count)
    ]


@dataclass
class HourlySource(ServedSource):
    """Has two rows in each hour, unless a test sets others.

    Attributes:
        hours: rows by partition key.
        statuses: error statuses by path.
        silent: partition keys whose control totals are refused.
        seconds: how long it takes for control totals.
        asked: the partition keys whose control totals were requested.
        watermark_text: an answer that replaces its watermark.
        pages: the answers of other paths.
    """

    hours: dict[str, list[dict[str, str | None]]] = field(
        default_factory=dict[str, list[dict[str, str | None]]]
    )
    statuses: dict[str, int] = field(default_factory=dict[str, int])
    silent: set[str] = field(default_factory=set[str])
    seconds: float = 0.0
    asked: list[str] = field(default_factory=list[str])
    watermark_text: str | None = None
    pages: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def rows_in(self, window: Window) -> list[dict[str, str | None]]:
        """Return the current rows of an hour; a test may change the list."""
        return self.hours.setdefault(window.partition_key, rows_of(window))

    def totals_of(self, window: Window) -> ControlTotals:
        """Return its control totals of an hour."""
        return ControlTotals.of(sent_frame(self.rows_in(window)))

    @override
    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        fixed = self.pages | (
            {"/v1/watermark": json.dumps({"watermark": self.watermark_text}).encode()}
            if self.watermark_text is not None
            else {}
        )
        if path in self.statuses or path in fixed:
            return self.statuses.get(path, 200), fixed.get(path, b"")
        if "start" not in query:
            return super().answer(path, query)
        hour = query["start"][:13].replace("T", "-")
        window = Window.of_partition(f"{hour}:00")
        if path == "/v1/control-totals":
            self.asked.append(window.partition_key)
            time.sleep(self.seconds)
            if window.partition_key in self.silent:
                return 500, b""
            return 200, self.totals_of(window).to_json().encode()
        return ServedSource(self.rows_in(window)).answer(path, query)
