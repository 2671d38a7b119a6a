"""Measure a backfill over one, two and four workers, into docs/cluster.md.

Each backfill has a cluster of its own: `txn cluster`, and `txn run --submit` for the windows. The
published rows are compared with the totals of the source, window by window. A second series has a
source that waits instead of a worker that computes: there the cores of the machine are no limit.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import pyarrow.dataset as ds
import urllib3
from measuring import (
    PROGRAMS,
    Grid,
    Target,
    clean_environment,
    conditions,
    page_option,
    targets_grid,
    write_results,
)
from pyarrow import fs

from txn_platform.windows import Window, iso
from txn_platform_tests.support.cluster_world import running_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGE: Final = Path(__file__).parents[1] / "docs" / "cluster.md"
FIRST: Final = datetime(2026, 11, 1, tzinfo=UTC)
# Requests of a run that a source with latency answers late, one after the other.
_REQUESTS: Final = 4


def backfill(workers: int, count: int, variables: Mapping[str, str]) -> float:
    """Run windows over workers, and return the seconds from the command's start to its end.

    Raises:
        SystemExit: a window did not end right.
    """
    windows = [Window(FIRST + timedelta(hours=hour)) for hour in range(count)]
    given = clean_environment(TXN_FIRST_HOUR=windows[0].partition_key, **variables)
    with (
        tempfile.TemporaryDirectory(prefix="txn-bench-", ignore_cleanup_errors=True) as name,
        running_cluster(Path(name, "home"), given, "--workers", str(workers)) as (_, told),
    ):
        environment = given | told
        command = [str(PROGRAMS / "txn"), "run", "--submit"]
        command += ["--from", windows[0].partition_key, "--to", windows[-1].partition_key]
        began = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
        require_right(windows, environment)
    return seconds


def require_right(windows: Sequence[Window], environment: Mapping[str, str]) -> None:
    """Compare what is published with the totals of the source; SystemExit if they differ."""
    files = fs.S3FileSystem(
        access_key=environment["AWS_ACCESS_KEY_ID"],
        secret_key=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=environment["AWS_ENDPOINT_URL_S3"],
        region=environment["AWS_REGION"],
    )
    published = ds.dataset(  # noqa: F841 - DuckDB finds it by its name
        f"{environment['AWS_BUCKET_NAME']}/lake/s3_parquet_transactions",
        filesystem=files,
        format="parquet",
        exclude_invalid_files=True,
    )
    rows = duckdb.sql(
        "select epoch_us(transaction_at) // 3600000000, transaction_type, count(*), sum(amount)"
        " from published group by 1, 2"
    ).fetchall()
    found: dict[int, dict[str, tuple[int, Decimal]]] = {}
    for hour, kind, number, amount in rows:
        found.setdefault(hour, {})[kind] = (number, amount)
    for window in windows:
        path = f"/v1/control-totals?start={iso(window.start)}&end={iso(window.end)}"
        answer = urllib3.request("GET", environment["GENERATOR_URL"] + path, timeout=600)
        sent = json.loads(answer.data)
        there = found.pop(int(window.start.timestamp()) // 3600, {})
        amounts = {kind: Decimal(amount) for kind, amount in sent["amount_by_type"].items()}
        if sum(number for number, _ in there.values()) != sent["rows"] or amounts != {
            kind: amount for kind, (_, amount) in there.items()
        }:
            raise SystemExit(f"{window.partition_key} is not published as the source has it")
    if found:
        raise SystemExit(f"{len(found)} hours are published that were not asked for")


def series(
    kept: Path, name: str, workers: Sequence[int], count: int, variables: Mapping[str, str]
) -> None:
    """Measure the same backfill over several numbers of workers, and keep the seconds of each."""
    for number in workers:
        seconds = round(backfill(number, count, variables), 1)
        results = read(kept)
        results.setdefault(f"{name} {count}", {})[str(number)] = seconds
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
        print(f"{count} windows, {number} workers: {seconds} s", file=sys.stderr)


def read(kept: Path) -> dict[str, Any]:
    """Return what was measured before."""
    return json.loads(kept.read_text("utf-8")) if kept.exists() else {}


def grid(title: str, measured: Mapping[str, float]) -> Grid:
    """Return the table of a series."""
    alone = measured["1"]
    return Grid(
        title,
        ("workers", "seconds", "times one worker", "efficiency"),
        [
            (
                number,
                f"{seconds:.0f}",
                f"{alone / seconds:.2f}",
                f"{alone / seconds / int(number):.0%}",
            )
            for number, seconds in sorted(measured.items(), key=lambda each: int(each[0]))
        ],
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--waiting-windows", type=int, default=24)
    parser.add_argument("--wait", type=float, default=20, help="seconds of the source a window")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", choices=["computing", "waiting"])
    page_option(parser, PAGE)
    options = parser.parse_args()
    small = {"GENERATOR_TPS": "1", "GENERATOR_CUSTOMERS": "20000", "GENERATOR_MERCHANTS": "2000"}
    # Ended in this way, it removes its cluster.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # A series may be measured in several runs.
    kept = options.page.with_suffix("") / "cluster.json"
    if options.only != "waiting":
        series(kept, "computing", options.workers, options.windows, small)
    if options.only != "computing":
        latency = {"GENERATOR_FAULTS": f"latency={options.wait / _REQUESTS:g}:first1"}
        series(kept, "waiting", options.workers, options.waiting_windows, small | latency)
    results = read(kept)
    results |= conditions("dagster", "celery")
    grids: list[Grid] = []
    computing = results.get(f"computing {options.windows}", {})
    if "1" in computing:
        title = f"{options.windows} windows of 3,600 rows, on {os.cpu_count()} cores"
        grids.append(grid(title, computing))
    waiting = results.get(f"waiting {options.waiting_windows}", {})
    if {"1", "4"} <= waiting.keys():
        title = (
            f"{options.waiting_windows} windows of a source that waits {options.wait:g} s a window"
        )
        grids.append(grid(title, waiting))
        name = "4 workers, times one worker, with the source that waits"
        target = Target(name, waiting["1"] / waiting["4"], 3.2, least=True)
        grids.append(targets_grid([target]))
    for each in grids:
        each.print()
    write_results(options.page, "cluster", results, grids, None)


if __name__ == "__main__":
    main()
