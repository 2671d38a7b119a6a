"""The generator under load: abandoned, slow, huge, half-sent, cancelled and forged requests.

Each scenario runs for some seconds against one service of the default settings, on the loopback
interface. Meanwhile another process asks for `/healthz` and for a small window ten times a second,
and the memory of the service is read. After its last client has left, the service must be idle.

    python benchmarks/load.py [--seconds N] [--page FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
from measuring import (
    Grid,
    Target,
    Watch,
    clean_environment,
    conditions,
    page_option,
    targets_grid,
    write_results,
)

from txn_platform.local.processes import generator_url, start_generator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

PACKAGES = ("uvicorn", "starlette", "pyarrow")
MONTH = "start=2026-10-01T00:00:00Z&end=2026-11-01T00:00:00Z"
SMALL = "/v1/transactions?start=2026-11-01T00:00:00Z&end=2026-11-01T00:01:00Z&format=ndjson"
STREAMS = ("arrow", "parquet", "csv", "ndjson")
# Every kind of answer that is computed from a month of rows.
MONTHS = (
    *(f"/v1/transactions?{MONTH}&format={form}" for form in STREAMS),
    f"/v1/transactions?{MONTH}&limit=50000",
    f"/v1/transactions?{MONTH}&limit=50000&defects=duplicate_id:0.01",
    f"/v1/control-totals?{MONTH}&defects=all:0.01",
    f"/v1/defects?{MONTH}&defects=all:0.01",
    "/v1/scorecard?rows=1000000",
    "/v1/customers?format=csv",
)
_PROBE_SECONDS = 0.1
_IDLE_SHARE = 0.05
_IDLE_WITHIN = 60
# The service returns memory to the system a second after its last large answer.
_RELEASE_SECONDS = 2
_READ_BYTES = 2**16
_HEADER_BYTES = 100_000_000


@dataclass
class Load:
    """A scenario while it runs.

    Attributes:
        host: of the service.
        port: of the service.
        until: the moment at which clients leave, by the loop's clock.
        statuses: how often each status was answered; "closed" is no answer.
    """

    host: str
    port: int
    until: float
    statuses: Counter[str] = field(default_factory=Counter)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the service."""
        return await asyncio.open_connection(self.host, self.port, limit=_READ_BYTES)

    async def send(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request."""
        reader, writer = await self.open()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        return reader, writer

    async def read_status(self, reader: asyncio.StreamReader) -> None:
        """Count the status of an answer."""
        line = await reader.readline()
        self.statuses[line.split()[1].decode() if line else "closed"] += 1

    async def client(self, path: str, *, bytes_a_second: float = 0, stay: float = 0) -> None:
        """Ask, read all or a few bytes a second, and leave at the end or after `stay` seconds."""
        reader, writer = await self.send(path)
        leave = asyncio.get_running_loop().time() + stay if stay else self.until
        try:
            async with asyncio.timeout_at(min(leave, self.until)):
                await self.read_status(reader)
                while await reader.read(int(bytes_a_second) or _READ_BYTES):
                    if bytes_a_second:
                        await asyncio.sleep(1)
        except TimeoutError:
            self.statuses["left"] += 1
        except ConnectionError:
            self.statuses["closed"] += 1
        finally:
            writer.transport.abort()


async def abandoned(load: Load) -> None:
    """45 requests for a month, whose clients leave after a fifth of a second."""
    paths = [MONTHS[number % len(MONTHS)] for number in range(45)]
    await asyncio.gather(*(load.client(path, stay=0.2) for path in paths))


async def scorecards(load: Load) -> None:
    """12 scorecards of a million rows at once."""
    starts = [f"2026-10-{day:02}T00:00:00Z" for day in range(1, 13)]
    paths = [f"/v1/scorecard?start={start}&end=2026-11-01T00:00:00Z" for start in starts]
    await asyncio.gather(*map(load.client, paths))


async def longest(load: Load) -> None:
    """100 windows of the greatest length in each format, at once."""
    paths = [path for path in MONTHS[: len(STREAMS) + 1] for _ in range(100)]
    await asyncio.gather(*map(load.client, paths))


async def slow(load: Load) -> None:
    """100 readers of a byte a second, of a month and of an hour, in each format."""
    hour = MONTH.replace("2026-11-01T00", "2026-10-01T01")
    paths = [*MONTHS[:5], *(path.replace(MONTH, hour) for path in MONTHS[:5])]
    await asyncio.gather(
        *(load.client(paths[number % len(paths)], bytes_a_second=1) for number in range(100))
    )


async def huge_header(load: Load) -> None:
    """A header of 100 MB."""
    reader, writer = await load.open()
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-Huge: ")
    try:
        for _ in range(_HEADER_BYTES // _READ_BYTES):
            writer.write(b"x" * _READ_BYTES)
            await writer.drain()
        writer.write(b"\r\n\r\n")
        await load.read_status(reader)
    except ConnectionError:
        with suppress(ConnectionError):
            await load.read_status(reader)
    finally:
        writer.transport.abort()


async def half_sent(load: Load) -> None:
    """300 heads that are never complete."""

    async def client() -> None:
        reader, writer = await load.open()
        try:
            async with asyncio.timeout_at(load.until):
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: here\r\nX: ")
                end = asyncio.ensure_future(reader.read(1))
                while not end.done():
                    writer.write(b"x")
                    await asyncio.wait([end], timeout=1)
            load.statuses["closed"] += 1
        except TimeoutError:
            load.statuses["left"] += 1
        finally:
            writer.transport.abort()

    await asyncio.gather(*(client() for _ in range(300)))


async def cancelling(load: Load) -> None:
    """50 clients that ask and leave, again and again."""
    chance = random.Random(0)  # noqa: S311 - no secret
    time_of = asyncio.get_running_loop().time

    async def client() -> None:
        while time_of() < load.until:
            await load.client(chance.choice(MONTHS), stay=chance.uniform(0.01, 1))

    await asyncio.gather(*(client() for _ in range(50)))


async def forged(load: Load) -> None:
    """100 cursors with a position far beyond the rows, signed with other keys."""
    reader, writer = await load.send(f"/v1/transactions?{MONTH}&limit=10")
    answer = await reader.read()
    writer.transport.abort()
    document = json.loads(answer[answer.index(b"\r\n\r\n") + 4 :])
    path = document["next"].partition("&cursor=")[0]
    cursor = base64.urlsafe_b64decode(document["next"].partition("&cursor=")[2] + "==")
    content = cursor[16:].replace(b"position=10", b"position=999999999999999")
    chance = random.Random(0)  # noqa: S311 - no secret
    cursors = [
        base64.urlsafe_b64encode(chance.randbytes(16) + content).decode().rstrip("=")
        for _ in range(100)
    ]
    await asyncio.gather(*(load.client(f"{path}&cursor={each}") for each in cursors))


SCENARIOS: dict[str, Callable[[Load], Awaitable[None]]] = {
    "45 abandoned months": abandoned,
    "12 scorecards": scorecards,
    "500 of the longest windows": longest,
    "100 readers of a byte a second": slow,
    "a header of 100 MB": huge_header,
    "300 half-sent heads": half_sent,
    "50 clients cancelling": cancelling,
    "100 forged cursors": forged,
}


def probe(host: str, port: int, orders: Connection) -> None:
    """Ask for health and a small window until told to stop; send the seconds of all answers."""
    seconds: dict[str, list[float]] = {"/healthz": [], SMALL: []}
    orders.send(None)
    while not orders.poll(_PROBE_SECONDS) or not seconds[SMALL]:
        for path, found in seconds.items():
            begun = time.perf_counter()
            connection = http.client.HTTPConnection(host, port, timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            found.append(time.perf_counter() - begun if answer.status == 200 else float("inf"))
    orders.send((seconds["/healthz"], seconds[SMALL]))


@dataclass(frozen=True)
class Result:
    """A scenario's measurements.

    Attributes:
        statuses: how often each status was answered.
        peak_mb: the most memory of the service so far, 10^6 bytes.
        health: the slowest answer of /healthz, seconds.
        small: the 99th percentile of a small window, seconds.
        idle: seconds from the last client's leaving until the service was idle.
        after_mb: the memory of the service then.
    """

    statuses: dict[str, int]
    peak_mb: float
    health: float
    small: float
    idle: float
    after_mb: float


def run(scenario: Callable[[Load], Awaitable[None]], url: str, pid: int, seconds: float) -> Result:
    """Run a scenario."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), int(parts.port or 0)
    ours, theirs = multiprocessing.Pipe()
    prober = multiprocessing.get_context("spawn").Process(target=probe, args=(host, port, theirs))
    prober.start()
    ours.recv()
    service = psutil.Process(pid)

    async def clients() -> Load:
        load = Load(host, port, asyncio.get_running_loop().time() + seconds)
        await scenario(load)
        return load

    with Watch(pid) as watch:
        load = asyncio.run(clients())
        left = time.monotonic()
        ours.send(None)
        health, small = ours.recv()
        prober.join()
        idle = idle_after(service, left)
        time.sleep(_RELEASE_SECONDS)
    return Result(
        dict(load.statuses),
        watch.peak_mb,
        max(health),
        statistics.quantiles(small, n=100, method="inclusive")[-1] if small[1:] else small[0],
        idle,
        service.memory_info().rss / 1e6,
    )


def idle_after(service: psutil.Process, since: float) -> float:
    """Return the seconds until the service uses less than a twentieth of a core."""
    service.cpu_percent()
    while (now := time.monotonic()) < since + _IDLE_WITHIN:
        if service.cpu_percent(0.25) < 100 * _IDLE_SHARE:
            return now - since
    return float("inf")


def main() -> None:
    """Run all scenarios, print the tables, and store them as JSON and page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="of a scenario, at the most")
    page_option(parser)
    asked = parser.parse_args()
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="txn-bench-") as directory:
        log = Path(directory, "generator.log")
        with start_generator(log=log, environment=clean_environment()) as generator:
            url, pid = generator_url(generator), service_pid()
            start_mb = psutil.Process(pid).memory_info().rss / 1e6
            for name, scenario in SCENARIOS.items():
                results[name] = run(scenario, url, pid, asked.seconds)
                print(name, results[name], flush=True)
    found = list(results.values())
    targets = [
        Target("peak MB", max(result.peak_mb for result in found), 1_500, False),
        Target("seconds, the slowest /healthz", max(each.health for each in found), 1, False),
        Target("seconds, p99 of a small window", max(each.small for each in found), 2, False),
        Target("seconds until idle", max(each.idle for each in found), 5, False),
        Target("MB at the end / at the start", found[-1].after_mb / start_mb, 1.5, False),
    ]
    rows = [
        (
            name,
            ", ".join(f"{count} {status}" for status, count in sorted(each.statuses.items())),
            *(f"{figure:,.0f}" for figure in (each.peak_mb, each.after_mb)),
            *(f"{figure:.2f}" for figure in (each.health, each.small, each.idle)),
        )
        for name, each in results.items()
    ]
    names = ("load", "answers", "peak MB", "MB after", "health s", "small s", "idle s")
    title = f"The generator of the default settings, {start_mb:,.0f} MB when it has started"
    grids = [Grid(title, names, rows), targets_grid(targets)]
    for grid in grids:
        grid.print()
    document: dict[str, Any] = {
        **conditions(*PACKAGES),
        "start_mb": start_mb,
        "results": {name: vars(result) for name, result in results.items()},
        "targets": [target._asdict() for target in targets],
    }
    write_results(asked.page, "load", document, grids, None)


def service_pid() -> int:
    """Return the process of the service, which this one has started."""
    started = psutil.Process().children()
    return next(each.pid for each in started if "generator_service" in each.cmdline())


if __name__ == "__main__":
    main()
