"""The tables of `docs/scale.md` that are computed, from figures in `docs/scale/` and list prices.

`python -m txn_platform_tests.support.scale_page` writes them into the page. The page's text is
written by hand; `benchmarks/scale.py` and `benchmarks/history.py` measure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
_BEGIN = "<!-- made by python -m txn_platform_tests.support.scale_page -->\n"
_END = "<!-- end -->\n"

VISA_HOUR = 31_500_000
"""Rows: 276 billion payments in 2023, by the hour."""
HOURS_A_YEAR = 8_760
DAYS_A_MONTH = 365 / 12
GB_A_CORE = 2.0
"""Memory that a worker has for each core; docs/performance.md has the peaks."""
BUSY = 0.7
"""How much of a worker's core is used: its windows wait for the source and the store too."""


@dataclass(frozen=True)
class Price:
    """A list price of AWS in us-east-1, in dollars.

    Attributes:
        name: of the unit.
        dollars: of one unit.
        source: where it was read, and when.
    """

    name: str
    dollars: float
    source: str


S3_PAGE = "[S3 pricing](https://aws.amazon.com/s3/pricing/), June 2026"
FARGATE_PAGE = "[Fargate pricing](https://aws.amazon.com/fargate/pricing/), March 2026"
RDS_PAGE = "[RDS pricing](https://aws.amazon.com/rds/postgresql/pricing/), June 2026"
VALKEY_PAGE = "[ElastiCache pricing](https://aws.amazon.com/elasticache/pricing/), June 2026"

PRICES = {
    "storage": Price("S3 Standard, GB-month, the first 50 TB", 0.023, S3_PAGE),
    "storage_50": Price("S3 Standard, GB-month, the next 450 TB", 0.022, S3_PAGE),
    "storage_500": Price("S3 Standard, GB-month, over 500 TB", 0.021, S3_PAGE),
    "put": Price("S3, 1,000 PUT, COPY, POST or LIST", 0.005, S3_PAGE),
    "get": Price("S3, 1,000 GET and all others", 0.0004, S3_PAGE),
    "core": Price("Fargate, Linux on ARM, vCPU-hour", 0.03238, FARGATE_PAGE),
    "memory": Price("Fargate, Linux on ARM, GB-hour", 0.00356, FARGATE_PAGE),
    "postgres": Price("RDS for PostgreSQL, db.t4g.medium, hour", 0.065, RDS_PAGE),
    "postgres_gb": Price("RDS, gp3 storage, GB-month", 0.115, RDS_PAGE),
    "valkey": Price("ElastiCache for Valkey, serverless, GB-hour", 0.084, VALKEY_PAGE),
}
VALKEY_GB = 0.1
"""The least that is paid for."""


@dataclass(frozen=True)
class Line:
    """A figure of a window as a straight line over its rows.

    Attributes:
        none: of a window without rows.
        million: of each million rows.
    """

    none: float
    million: float

    @classmethod
    def of(cls, sizes: Sequence[dict[str, Any]], figure: Callable[[dict[str, Any]], float]) -> Line:
        """Fit it, by least squares of relative deviations."""
        rows = np.array([size["rows"] for size in sizes]) / 1e6
        values = np.array([max(figure(size), 1e-9) for size in sizes])
        terms = np.stack([np.ones(rows.size), rows], axis=1) / values[:, np.newaxis]
        none, million = np.linalg.lstsq(terms, np.ones(rows.size))[0]
        return cls(float(none), float(million))

    def at(self, rows: float) -> float:
        """Return the figure of a window with so many rows."""
        return max(self.none, 0) + self.million * rows / 1e6


@dataclass(frozen=True)
class Period:
    """So many hourly windows, each with so many rows."""

    title: str
    windows: int
    rows: int


PERIODS = (
    Period("ten years of default hours", 10 * HOURS_A_YEAR, 36_000),
    Period("a day of Visa", 24, VISA_HOUR),
    Period("a year of Visa", HOURS_A_YEAR, VISA_HOUR),
    Period("ten years of Visa", 10 * HOURS_A_YEAR, VISA_HOUR),
)


class Figures:
    """The measured figures.

    Args:
        folder: with the JSON files of the measurements.
    """

    def __init__(self, folder: Path) -> None:
        sizes = _read(folder / "windows.json")["sizes"]
        history = _read(folder / "history.json")
        self.cpu = Line.of(sizes, lambda size: size["cpu"])
        self.puts = Line.of(sizes, lambda size: _requests(size, "PUT", "POST"))
        self.gets = Line.of(sizes, lambda size: _requests(size, "GET", "HEAD"))
        self.stored = Line.of(sizes, lambda size: sum(size["bytes"].values()))
        self.published = Line.of(sizes, lambda size: size["bytes"]["s3_parquet_transactions"])
        self.history = history
        self.events = history["events"]
        # Tables that do not grow with the windows are left out.
        tables = [size for size in history["tables"].values() if size["rows"] >= history["windows"]]
        self.database_rows = sum(size["rows"] for size in tables) / history["windows"]
        self.database_bytes = sum(size["bytes"] for size in tables) / history["windows"]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def _requests(size: dict[str, Any], *methods: str) -> int:
    return sum(size["requests"].get(method, 0) for method in methods)


@dataclass(frozen=True)
class Cost:
    """The cost of a period.

    Attributes:
        period: which.
        core_hours: of workers.
        cores: that are busy all the time, if it is landed as it comes.
        puts: requests to the S3 that write or list.
        gets: all other requests.
        stored: bytes of all objects at its end.
        published: bytes of the published objects among them.
        events: of Dagster.
        database_rows: rows of Dagster's tables in Postgres.
        database_bytes: their bytes, with indices.
    """

    period: Period
    core_hours: float
    cores: float
    puts: float
    gets: float
    stored: float
    published: float
    events: float
    database_rows: float
    database_bytes: float

    @classmethod
    def of(cls, period: Period, figures: Figures) -> Cost:
        """Compute it from measured figures."""
        windows, rows = period.windows, period.rows
        cpu = figures.cpu.at(rows)
        return cls(
            period,
            windows * cpu / 3600,
            cpu / 3600,
            windows * figures.puts.at(rows),
            windows * figures.gets.at(rows),
            windows * figures.stored.at(rows),
            windows * figures.published.at(rows),
            windows * figures.events,
            windows * figures.database_rows,
            windows * figures.database_bytes,
        )

    @property
    def workers_dollars(self) -> float:
        """Workers on Fargate, by the hour."""
        hour = PRICES["core"].dollars + GB_A_CORE * PRICES["memory"].dollars
        return self.core_hours / BUSY * hour

    @property
    def requests_dollars(self) -> float:
        """Requests to the S3."""
        return (self.puts * PRICES["put"].dollars + self.gets * PRICES["get"].dollars) / 1000

    @property
    def months(self) -> float:
        """The length of the period."""
        return self.period.windows / 24 / DAYS_A_MONTH

    def storage_dollars(self, stored: float) -> float:
        """Objects of so many bytes for a month."""
        gb = stored / 1e9
        tiers = (("storage", 50_000.0), ("storage_50", 450_000.0), ("storage_500", np.inf))
        dollars = 0.0
        for name, size in tiers:
            part = min(gb, size)
            dollars += part * PRICES[name].dollars
            gb -= part
        return dollars

    @property
    def all_storage_dollars(self) -> float:
        """Storage of the whole period, in which the bytes grow evenly."""
        steps = 240
        mean = sum(
            self.storage_dollars(self.stored * (step + 0.5) / steps) for step in range(steps)
        )
        return mean / steps * self.months


def costs_table(figures: Figures) -> str:
    """Return a table of what each period costs."""
    costs = [Cost.of(period, figures) for period in PERIODS]
    rows: list[tuple[str, Callable[[Cost], str]]] = [
        ("windows", lambda cost: f"{cost.period.windows:,}"),
        ("rows", lambda cost: _large(cost.period.windows * cost.period.rows)),
        ("core-hours of workers", lambda cost: _large(cost.core_hours)),
        ("cores that keep up with the source", lambda cost: f"{cost.cores:.2g}"),
        ("S3: PUT, POST", lambda cost: _large(cost.puts)),
        ("S3: GET, HEAD", lambda cost: _large(cost.gets)),
        ("TB stored", lambda cost: _large(cost.stored / 1e12)),
        ("TB of them published", lambda cost: _large(cost.published / 1e12)),
        ("Dagster's events", lambda cost: _large(cost.events)),
        ("rows in Postgres", lambda cost: _large(cost.database_rows)),
        ("GB in Postgres", lambda cost: _large(cost.database_bytes / 1e9)),
        ("$, workers", lambda cost: _large(cost.workers_dollars)),
        ("$, requests to the S3", lambda cost: _large(cost.requests_dollars)),
        ("$, storage during the period", lambda cost: _large(cost.all_storage_dollars)),
        (
            "$ a month, storage at its end",
            lambda cost: _large(cost.storage_dollars(cost.stored)),
        ),
        (
            "$ a month, the published rows alone",
            lambda cost: _large(cost.storage_dollars(cost.published)),
        ),
        (
            "$ a month, Dagster's rows in Postgres",
            lambda cost: _large(cost.database_bytes / 1e9 * PRICES["postgres_gb"].dollars),
        ),
    ]
    return _table(
        ("", *(period.title for period in PERIODS)),
        [(name, *(shown(cost) for cost in costs)) for name, shown in rows],
    )


def prices_table() -> str:
    """Return a table of the prices."""
    return _table(
        ("list price, us-east-1", "$", "source"),
        [(price.name, f"{price.dollars:g}", price.source) for price in PRICES.values()],
        right=1,
    )


S3_PUTS_A_SECOND = 3_500
"""The rate for one prefix of a bucket, at least."""


def limits_table(figures: Figures) -> str:
    """Return a table of where each part ends, and what is done then."""
    largest = (3600 - figures.cpu.none) / figures.cpu.million * 1e6
    # The smallest windows ask for most.
    cores = S3_PUTS_A_SECOND / (figures.puts.at(0) / figures.cpu.at(0))
    queued = figures.history["queue"]
    a_year = figures.database_bytes * HOURS_A_YEAR / 1e9
    purged = figures.history["transitory_share"]
    slowest = max(page["seconds"] for page in figures.history["pages"])
    hour = f"an hour of {_large(largest)} rows keeps a core busy for an hour"
    split = (
        "a window uses two cores. Then the hour is split: one deployment for each part of the"
        " cards, each with its own source and `TXN_LAKE_PREFIX`"
    )
    queue = (
        f"the daemon reads all of it each time that a worker is free: {queued['seconds']:.1f} s for"
        f" {queued['runs']:,} runs"
    )
    log = f"{figures.events} events a window are {a_year:.1f} GB a year"
    deleted = f"transitory events are deleted, as above: {purged:.0%} of the bytes of events"
    requests = (
        f"{S3_PUTS_A_SECOND:,} PUT a second for each prefix are those of {_large(cores)} cores that"
        " land small windows"
    )
    message = "it holds a message of a kilobyte for each run that is launched, and no queue"
    return _table(
        ("part", "ends where", "first sign", "then"),
        [
            ("one window on one worker", hour, "the newest hour is late: `is_fresh` fails", split),
            (
                "the queue of runs",
                queue,
                "workers wait between runs",
                "a long backfill is submitted in parts: a quarter of a year, then the next",
            ),
            ("the event log", log, "the disk of Postgres; pages of runs are slow", deleted),
            (
                "the webserver's pages",
                f"the slowest of the pages above takes {slowest:.1f} s",
                "pages take longer",
                "Postgres gets memory for its indices; more webservers, which have no state",
            ),
            ("the broker", message, "", "other parts end long before"),
            (
                "requests to the S3",
                requests,
                "status 503, which is tried again",
                "S3 splits busy prefixes by itself; larger windows ask less often",
            ),
        ],
        right=0,
    )


def _large(value: float) -> str:
    """Return a number with three digits that count."""
    for unit, name in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:.3g}"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], right: int | None = None) -> str:
    line = [
        " ---: " if right in (None, index) and index else " --- " for index in range(len(names))
    ]
    lines = [f"| {' | '.join(row)} |" for row in (names, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(line)}|", *lines[1:]])


def with_tables(page: str, folder: Path | None = None) -> str:
    """Return the page with the tables of the current figures.

    Args:
        page: the text of the page.
        folder: with the measurements; by default the page's own.
    """
    figures = Figures(folder or PAGE.with_suffix(""))
    parts = page.split(_BEGIN)
    tables = (f"{costs_table(figures)}\n\n{prices_table()}", limits_table(figures))
    # `strict` finds a page with other sections.
    made = [
        f"\n{table}\n\n{_END}{part.partition(_END)[2]}"
        for table, part in zip(tables, parts[1:], strict=True)
    ]
    return _BEGIN.join([parts[0], *made])


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
