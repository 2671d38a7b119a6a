"""Processes that run at the same time: one window from different sources, then different windows.

In the first part every object must be the result of one of the sources, and the published object
must be one that a run reports. In the second part nothing may be lost.

    python benchmarks/races.py [--processes N] [--rounds N] [--partitions N] [--store directory|s3]
                               [--tps N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import track

from txn_platform_tests.support.chaos import (
    DirectoryStore,
    S3Server,
    S3Store,
    Source,
    Violation,
    World,
    race,
    side_by_side,
    version_of,
)

PARTITION = "2026-11-01-18:00"


def main() -> None:
    """Race, check, and print the results; exit code 1 when the promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--partitions", type=int, default=24)
    parser.add_argument("--store", choices=["directory", "s3"], default="directory")
    parser.add_argument("--tps", type=int, default=2)
    asked = parser.parse_args()
    console = Console()
    violations = 0
    published: list[int] = []
    with ExitStack() as running:
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory()))
        server = running.enter_context(S3Server(scratch / "s3")) if asked.store == "s3" else None

        def world(name: str) -> World:
            directory = scratch / name
            store = S3Store(server.endpoint) if server else DirectoryStore(directory)
            return World(directory, store)

        sources = [
            running.enter_context(Source(SEED=str(seed), TPS=str(asked.tps)))
            for seed in range(asked.processes)
        ]
        versions = [
            version_of(source, PARTITION, scratch / f"version-{number}")
            for number, source in enumerate(track(sources, "learning versions", console=console))
        ]
        racing = world("race")
        for number in track(range(asked.rounds), "racing", console=console):
            try:
                published.append(race(racing, versions, PARTITION))
            except Violation as violation:
                violations += 1
                console.print(str(violation), markup=False)
                racing = world(f"race-{number}")
        partitions = [
            f"2026-11-{2 + number // 24:02}-{number % 24:02}:00"
            for number in range(asked.partitions)
        ]
        apart = world("apart")
        apart.delta = f"s3://{server.endpoint.bucket}/delta" if server else str(scratch / "delta")
        try:
            side_by_side(apart, sources[0], partitions, asked.processes)
        except Violation as violation:
            violations += 1
            console.print(str(violation), markup=False)
    console.print(
        f"{asked.rounds} races of {asked.processes} processes for one window:"
        f" {sum(published)} runs published, the others said that they did not"
    )
    console.print(
        f"{asked.partitions} windows by {asked.processes} processes at once, and to Delta"
    )
    console.print(f"{violations} violations of the promise")
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
