"""SIGKILL at random moments of `txn run`, of the generator and of the S3 server.

A window changes between two contents again and again; each time something is killed meanwhile, and
then every object must be the whole old or the whole new one, the next run must complete the window,
the totals must reconcile, and nothing may be left behind.

    python benchmarks/kills.py [--kills N] [--seed S] [--store directory|s3] [--tps N]

Of ten kills eight hit a run (one of them cold, with a generator of its own), one or two the
generator, and one the S3 server. With `--tps 400` the raw objects are large enough to be uploaded
in parts.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from txn_platform_tests.support.chaos import (
    DirectoryStore,
    Kill,
    Killing,
    S3Server,
    S3Store,
    Source,
    Violation,
    World,
    moments,
    version_of,
)

PARTITION = "2026-11-01-18:00"


def victims(kills: int, store: str, chance: random.Random) -> list[str]:
    """Return the processes to kill, in a random order."""
    servers = ["generator", "S3 server" if store == "s3" else "generator"]
    of_ten = [*["run"] * 7, "cold run", *servers]
    chosen = [of_ten[number % len(of_ten)] for number in range(kills)]
    chance.shuffle(chosen)
    return chosen


def main() -> None:
    """Kill, check, and print the results; exit code 1 when the promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=["directory", "s3"], default="directory")
    parser.add_argument("--tps", type=int, default=2)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)  # noqa: S311 - no secret
    console = Console()
    met: Counter[Kill] = Counter()
    violations: list[str] = []
    with ExitStack() as running:
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory()))
        sources = [
            running.enter_context(Source(SEED=str(seed), TPS=str(asked.tps))) for seed in (1, 2)
        ]
        old, new = (
            version_of(source, PARTITION, scratch / f"version-{number}")
            for number, source in enumerate(sources)
        )
        server = running.enter_context(S3Server(scratch / "s3")) if asked.store == "s3" else None

        def begin() -> Killing:
            directory = scratch / f"world-{len(violations)}"
            store = S3Store(server.endpoint) if server else DirectoryStore(directory)
            return Killing(World(directory, store), (old, new), PARTITION)

        killing = begin()
        planned = victims(asked.kills, asked.store, chance)
        shares = {victim: moments(planned.count(victim), chance) for victim in sorted({*planned})}
        for victim in track(planned, f"killing, {asked.store}", console=console):
            share = shares[victim].pop()
            try:
                if victim == "generator":
                    met[killing.generator(share)] += 1
                elif victim == "S3 server" and server:
                    met[killing.server(share, server)] += 1
                else:
                    met[killing.run(share, cold=victim == "cold run")] += 1
            except Violation as violation:
                message = f"{victim} killed at {share:.0%} of a run: {violation}"
                violations.append(message)
                console.print(message, markup=False)
                killing = begin()
    table = Table("killed", "when the run had", "the run", "times", title=f"{asked.kills} kills")
    for kill in sorted(met, key=lambda kill: (kill.victim, kill.step, kill.ended)):
        table.add_row(kill.victim, kill.step, kill.ended, str(met[kill]))
    console.print(table)
    console.print(f"{len(violations)} violations of the promise")
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
