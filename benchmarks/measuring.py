"""Shared parts of the measurements: a generator, a store, measured processes, a page.

This module measures, and writes results to the screen and into docs/. Each script decides what it
measures. Linux only, because it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pyarrow.parquet as pq
import urllib3
from pyarrow import fs
from rich.console import Console
from rich.table import Table

from txn_platform.local.processes import generator_url, start_generator
from txn_platform.local.seaweedfs import REGION, SeaweedFS
from txn_platform.windows import Window, iso

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WINDOW = Window.of_partition("2026-11-18-01:00")
"""An hour of an ordinary Wednesday whose rate is the year's mean: it has 3,600 x tps rows."""

OURS = ("s3_parquet_transactions", "quarantined_transactions")
"""The folders of the platform's lake in which each row is once."""

PROGRAMS = Path(sys.executable).parent
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

_OTHERS_SETTINGS = ("AWS_", "DAGSTER_", "DELTA_", "DLT_", "GENERATOR_", "TXN_")
_POLL_SECONDS = 0.05
_LOOKING_SHARE = 0.02
_LAST_CHARACTERS = 4_000
_BUCKET = "benchmarks"
_KEYS = {"access_key": "key-of-benchmarks", "secret_key": "secret-of-benchmarks"}


def clean_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without the machine's own settings, and with `more`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_OTHERS_SETTINGS)
    }
    return {
        **kept,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        **more,
    }


class Measured(NamedTuple):
    """The cost of a command: seconds on the clock from its start to its end, and memory.

    `peak_mb` is the most its tree of processes held at once, in 10^6 bytes: the kernel's own
    high-water mark of the largest one's resident set, or the sum of their proportional sets, in
    which a page that they share counts once, whichever is more. Pages of mapped files are in both.
    The sum is read every 50 ms, but for a fiftieth of the time at the most: to find it the
    kernel goes through every page, on the cores that are measured.
    """

    seconds: float
    peak_mb: float


def measure(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Measured:
    """Run a command in a directory; SystemExit, with the end of its output, when it fails."""
    # Earlier writes go to the disk before the clock starts.
    os.sync()
    output = directory / "output.txt"
    with output.open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=environment,
        )
        with Watch(process.pid) as watch:
            try:
                status = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            seconds = time.monotonic() - started
    if status:
        last = output.read_text(errors="replace")[-_LAST_CHARACTERS:]
        raise SystemExit(f"{' '.join(command)}\nfailed with status {status}:\n{last}")
    return Measured(seconds, watch.peak_mb)


class Watch:
    """Reads the memory of a tree of processes while its block runs.

    Attributes:
        peak_mb: as in `Measured`.
    """

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        pause = _POLL_SECONDS
        while not self._over.wait(pause):
            began = time.thread_time()
            tree = _tree(self._pid)
            sizes = [kilobytes(pid, "status", "VmHWM") for pid in tree]
            if len(tree) > 1:
                sizes.append(sum(kilobytes(pid, "smaps_rollup", "Pss") for pid in tree))
            self.peak_mb = max(self.peak_mb, *(each * 1024 / 1e6 for each in sizes))
            pause = max(_POLL_SECONDS, (time.thread_time() - began) / _LOOKING_SHARE)


def _tree(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/children"))
        started = [int(number) for task in tasks for number in task.read_text().split()]
    except OSError:  # the process, or one of its threads, has ended meanwhile
        started = []
    return [pid, *(below for number in started for below in _tree(number))]


def kilobytes(pid: int, file: str, field: str) -> int:
    """Return a figure of a file of /proc about a process; 0 if that has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # it ended meanwhile
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


class Stored(NamedTuple):
    """The size of a lake: rows of some of its tables, bytes of the first, bytes of everything."""

    rows: int
    published_bytes: int
    all_bytes: int


@dataclass(frozen=True)
class Lake:
    """An empty lake.

    Attributes:
        directory: the working directory of its writer, also for S3.
        variables: the platform's settings that name it.
        root: its root, for `files`.
        files: the file system to read it with.
    """

    directory: Path
    variables: dict[str, str]
    root: str
    files: fs.FileSystem

    def stored(self, *tables: str) -> Stored:
        """Return the size of the Parquet files below folders of these names."""
        found = self.files.get_file_info(fs.FileSelector(self.root, recursive=True))
        files = [file for file in found if file.is_file]
        parquet = [
            (file, set(Path(file.path).parts)) for file in files if file.extension == "parquet"
        ]
        return Stored(
            sum(
                pq.read_metadata(file.path, filesystem=self.files).num_rows
                for file, folders in parquet
                if folders & set(tables)
            ),
            sum(file.size for file, folders in parquet if tables[0] in folders),
            sum(file.size for file in files),
        )


@contextmanager
def directory_lake() -> Iterator[Lake]:
    """A lake in a new directory, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="txn-bench-") as name:
        root = Path(name, "home", "lake")
        root.mkdir(parents=True)
        yield Lake(Path(name), {"TXN_HOME": str(root.parent)}, str(root), fs.LocalFileSystem())


@contextmanager
def s3_lake() -> Iterator[Lake]:
    """A lake on a new SeaweedFS, which is removed afterwards and whose memory does not count."""
    with tempfile.TemporaryDirectory(prefix="txn-bench-") as name:
        work = Path(name, "work")
        work.mkdir()
        store = SeaweedFS.start(Path(name, "s3"), Path(name, "logs"), bucket=_BUCKET, **_KEYS)
        with store:
            address = store.endpoint_url
            files = fs.S3FileSystem(
                **_KEYS, endpoint_override=address, region=REGION, allow_bucket_creation=False
            )
            variables = {
                "AWS_BUCKET_NAME": _BUCKET,
                "AWS_ACCESS_KEY_ID": _KEYS["access_key"],
                "AWS_SECRET_ACCESS_KEY": _KEYS["secret_key"],
                "AWS_REGION": REGION,
                "AWS_ENDPOINT_URL": address,
                "TXN_CARD_KEY": "a key that only the benchmarks have",
                "TXN_HOME": str(work / "home"),
                "TXN_LAKE_PREFIX": "lake",
            }
            yield Lake(work, variables, f"{_BUCKET}/lake", files)


LAKES = {"directory": directory_lake, "S3": s3_lake}


@contextmanager
def served(rows: int, defects: str = "") -> Iterator[dict[str, str]]:
    """Serve a generator with about so many rows in WINDOW.

    Yields:
        The environment of contenders that use it.
    """
    variables = clean_environment(GENERATOR_TPS=str(rows / 3600), GENERATOR_DEFECTS=defects)
    with tempfile.TemporaryDirectory(prefix="txn-bench-") as directory:
        log = Path(directory, "generator.log")
        with start_generator(log=log, environment=variables) as generator:
            yield {**variables, "GENERATOR_URL": generator_url(generator)}


def rows_sent(url: str, start: datetime, end: datetime) -> int:
    """Return the number of rows that the source states."""
    path = f"{url}/v1/control-totals?start={iso(start)}&end={iso(end)}"
    return json.loads(urllib3.request("GET", path, timeout=600).data)["rows"]


def materialize(partition: str) -> list[str]:
    """Return the platform's command, as a user types it."""
    return [
        *(str(PROGRAMS / "dagster"), "asset", "materialize", "-m", "txn_platform.definitions"),
        *("--select", "*", "--partition", partition),
    ]


def page_option(parser: argparse.ArgumentParser, page: Path = PAGE) -> None:
    """Add the option for another page; a missing page fails before anything is measured."""

    def existing(name: str) -> Path:
        if not Path(name).is_file():
            raise argparse.ArgumentTypeError(f"{name} is not a file: copy {page} there")
        return Path(name)

    parser.add_argument("--page", type=existing, default=page, help="where the results go")


def conditions(*packages: str) -> dict[str, Any]:
    """Return the date, machine and versions of a measurement, for the page."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _first("/proc/cpuinfo", "model name"),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(int(_first("/proc/meminfo", "MemTotal").split()[0]) / 1e6),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
    }


def _first(path: str, field: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return platform.machine()


class Grid(NamedTuple):
    """A table for the screen and for the page; the first column is text."""

    title: str
    names: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def print(self) -> None:
        """Print the table, unless it is empty."""
        if not self.rows:
            return
        table = Table(title=self.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for index, name in enumerate(self.names):
            table.add_column(name, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        # Files and pipes have no width: lines stay whole.
        Console(width=None if sys.stdout.isatty() else 200).print(table)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        line = "|".join([" --- ", *[" ---: "] * (len(self.names) - 1)])
        rows = "\n".join(f"| {' | '.join(row)} |" for row in self.rows)
        return f"{self.title}:\n\n| {' | '.join(self.names)} |\n|{line}|\n{rows}"


class Target(NamedTuple):
    """A figure and its target."""

    name: str
    value: float
    bound: float
    least: bool
    """Whether the bound is the least value rather than the most."""

    def row(self) -> tuple[str, ...]:
        """Return a row of a table."""
        held = self.value >= self.bound if self.least else self.value <= self.bound
        sign = "≥" if self.least else "≤"
        result = "held" if held else "MISSED"
        value = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.3g}"
        return self.name, value, f"{sign} {self.bound:,}", result


def targets_grid(targets: Sequence[Target]) -> Grid:
    """Return a table of figures and their targets."""
    names = ("figure", "measured", "target", "")
    return Grid("Against the targets", names, [target.row() for target in targets])


def write_results(
    page: Path, name: str, results: dict[str, Any], grids: Sequence[Grid], picture: str | None
) -> Path:
    """Store the results as JSON beside the page, and write them into its section of this name.

    Args:
        page: has the lines `<!-- NAME: begin -->` and `<!-- NAME: end -->`; the text between them
            is replaced.
        name: of the section and the JSON.
        results: what was measured; `conditions` are in it.
        grids: the results as tables.
        picture: the description of the picture NAME.png, if there is one.

    Returns:
        The directory of JSON and picture.
    """
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    machine, versions = results["machine"], results["versions"]
    parts = [
        f"Measured {results['made']} on {machine['cpu']}, {machine['cores']} cores,"
        f" {machine['memory_gb']} GB, {machine['system']}; "
        + ", ".join(f"{package} {number}" for package, number in versions.items())
        + ".",
        *(grid.markdown() for grid in grids if grid.rows),
    ]
    if picture:
        parts.append(f"![{picture}]({folder.name}/{name}.png)")
    begin, end = (f"<!-- {name}: {edge} -->\n" for edge in ("begin", "end"))
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no section {name}: put {begin.strip()} and {end.strip()}")
    page.write_text(f"{before}{begin}{'\n\n'.join(parts)}\n{end}{after}", "utf-8")
    return folder
