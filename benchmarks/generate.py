"""How fast `txn generate` writes Parquet, against tpchgen-cli writing TPC-H's lineitem.

Both write zstd level 1 to a file, alternating in one run; a row of the table is the median, with
the peak resident memory of the largest process.

    python benchmarks/generate.py [--runs N] [--hours H]

Needs the extra `bench`. The default of 278 hours is about ten million rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq


def measured(command: list[str], directory: Path, pattern: str) -> tuple[int, float, float]:
    """Run a command that writes Parquet files: rows, seconds, peak MB."""
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=directory)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"{command[0]} failed with status {os.waitstatus_to_exitcode(status)}")
    rows = 0
    for path in directory.rglob(pattern):
        rows += pq.read_metadata(path).num_rows
        path.unlink()
    # Linux counts in kilobytes, macOS in bytes.
    return rows, seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)


def main() -> None:
    """Run both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--hours", type=int, default=278)
    asked = parser.parse_args()
    start = datetime(2026, 11, 1, tzinfo=UTC)
    end = start + timedelta(hours=asked.hours)
    programs = Path(sys.executable).parent
    window = ["--start", start.isoformat(), "--end", end.isoformat()]
    contenders = {
        "txn generate": [str(programs / "txn"), "generate", *window, "-o", "rows.parquet"],
        "tpchgen-cli": [
            str(programs / "tpchgen-cli"),
            *("parquet", "-s", "1", "--tables=lineitem", "-c", "ZSTD(1)"),
        ],
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(asked.runs):
            for name, command in contenders.items():
                rows, seconds, peak = measured(command, Path(directory), "*.parquet")
                rates[name].append(rows / seconds)
                peaks[name].append(peak)
                print(f"{name}: {rows:,} rows in {seconds:.2f} s, {peak:.0f} MB")
    ours, theirs = (statistics.median(rates[name]) for name in contenders)
    for name in contenders:
        rate, peak = statistics.median(rates[name]), max(peaks[name])
        print(f"{name:14} {rate / 1e6:6.2f} M rows/s   peak {peak:5.0f} MB")
    print(f"ratio          {ours / theirs:6.2f}")


if __name__ == "__main__":
    main()
