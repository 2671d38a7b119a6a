"""A day of windows under 2 % transport faults, 1 % defects, late rows, and a restart of everything.

The windows are run as the source had them a minute after the last one ended; halfway every process
(runs, generator, S3 server) is killed and started again. Then windows with late rows are run
again. After both, published = sent - quarantined must hold in every window, to the cent.

    python benchmarks/soak.py [--windows N] [--processes N] [--faults SHARE] [--defects TEXT]
                              [--seed S] [--store directory|s3] [--tps N]
"""

from __future__ import annotations

import argparse
import random
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from txn_platform.windows import Window, iso
from txn_platform_tests.support.chaos import (
    DirectoryStore,
    S3Server,
    S3Store,
    Soak,
    Source,
    Violation,
    World,
)
from txn_platform_tests.support.faulty_proxy import FaultyProxy

FIRST = datetime(2026, 11, 1, tzinfo=UTC)


def main() -> None:
    """Soak, check, and print the results; exit code 1 when the promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--faults", type=float, default=0.02)
    parser.add_argument("--defects", default="all:0.01")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=["directory", "s3"], default="directory")
    parser.add_argument("--tps", type=int, default=10)
    asked = parser.parse_args()
    console = Console()
    starts = [FIRST + timedelta(hours=number) for number in range(asked.windows)]
    as_of = iso(starts[-1] + timedelta(hours=1, minutes=1))
    chance = random.Random(asked.seed)  # noqa: S311 - no secret
    with ExitStack() as running:
        scratch = Path(running.enter_context(tempfile.TemporaryDirectory()))
        source = running.enter_context(Source(DEFECTS=asked.defects, TPS=str(asked.tps)))
        proxy = running.enter_context(FaultyProxy(source.url, asked.faults, chance))
        server = running.enter_context(S3Server(scratch / "s3")) if asked.store == "s3" else None
        store = S3Store(server.endpoint) if server else DirectoryStore(scratch / "world")
        soak = Soak(
            World(scratch / "world", store),
            source,
            proxy,
            [Window(start).partition_key for start in starts],
            processes=asked.processes,
            server=server,
        )
        try:
            with console.status("soaking"):
                soak.before_the_late_rows(as_of)
                grown = soak.after_the_late_rows(as_of)
        except Violation as violation:
            raise SystemExit(str(violation)) from None
        console.print(
            f"{asked.windows} windows reconciled, {grown} of them again with late rows;"
            f" {soak.restarted} runs killed in the restart"
        )
        console.print("requests:", ", ".join(f"{kind} {n}" for kind, n in proxy.faults.items()))


if __name__ == "__main__":
    main()
