"""Kill each process of `txn cluster` in the middle of a backfill, and check every window.

    python benchmarks/outages.py [--windows N] [--workers N] [--seconds S] [--queued N]

One after the other are killed: a process of a worker in mid-window, a whole worker with its machine
(it stays away), the daemon, the broker, Postgres and the webserver (each away for 10 s). Each
window must then be published once and as the source has it, and Dagster must show what the bucket
has. One window has bad data: it must fail once and hold nothing back. Last, runs of a year are
queued, and the run of the newest hour must start within 30 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import dagster as dg
from rich.console import Console
from rich.table import Table

from txn_platform.windows import Window
from txn_platform_tests.support.cluster_world import ClusterWorld, SlowSource
from txn_platform_tests.support.hourly_source import rows_of
from txn_platform_tests.support.served_source import served

_FIRST: Final = datetime(2026, 11, 1, tzinfo=UTC)
# Each process that is killed, and for how many seconds it stays away.
_OUTAGES: Final = (
    ("a process of worker 1", 0.0),
    ("worker 2", 60.0),
    ("the daemon", 10.0),
    ("the broker", 10.0),
    ("Postgres", 10.0),
    ("the webserver", 10.0),
)
_STARTS_WITHIN: Final = 30.0
_STARTED, _FAILED, _DONE = (
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.SUCCESS,
)


def main() -> None:
    """Kill, check, and print the results; exit code 1 when something was not right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="that the source takes")
    parser.add_argument("--queued", type=int, default=8760, help="runs of history, at last")
    asked = parser.parse_args()
    console = Console()
    windows = [Window(_FIRST + timedelta(hours=number)) for number in range(asked.windows)]
    source = SlowSource([], watermark=windows[-1].end + timedelta(hours=1), pause=asked.seconds)
    # After the last outage, so that no run of it is lost.
    bad = windows[-2]
    source.hours[bad.partition_key] = rows_of(bad, 3, country="XX")
    with (
        tempfile.TemporaryDirectory() as scratch,
        served(source),
        ClusterWorld.running(Path(scratch) / "home", source, workers=asked.workers) as world,
    ):
        faults = _outages(world, windows, bad, console)
        faults += _newest_first(world, windows, asked.queued, console)
    for fault in faults:
        console.print(fault, markup=False)
    console.print(f"{len(faults)} faults")
    sys.exit(bool(faults))


def _outages(
    world: ClusterWorld, windows: list[Window], bad: Window, console: Console
) -> list[str]:
    ends = ["--from", windows[0].partition_key, "--to", windows[-1].partition_key]
    lost: dict[str, list[str]] = {}
    with world.submitting(*ends) as command:
        for what, down in _OUTAGES:
            world.comes_true(lambda: len(world.runs(_STARTED)) > 1, "two runs", within=300)
            time.sleep(1)
            console.print(f"killing {what}")
            lost[what] = world.kill(what, down=down)
            done = len(world.runs(_DONE))
            world.comes_true(
                lambda done=done: len(world.runs(_DONE)) > done + 1 or not command.alive,
                "runs go on",
                within=400,
            )
        world.comes_true(lambda: not command.alive, "the command has ended", within=1_500)
        console.print(command.output(), markup=False)
    table = Table("killed", "runs then", "s until the last lost one was queued again", "and ran")
    for what, runs in lost.items():
        delays = world.delays(what, runs) or ()
        table.add_row(what, str(len(runs)), *(f"{delay:.0f}" for delay in delays))
    console.print(table)
    return [*_faults(world, windows, bad)]


def _faults(world: ClusterWorld, windows: list[Window], bad: Window) -> list[str]:
    """Where the cluster is not as it must be after all."""
    faults = [f"{run.run_id} is {run.status}" for run in world.runs() if not run.is_finished]
    expected = {window.partition_key for window in windows if window != bad}
    if world.stored() != expected:
        faults.append(f"the bucket differs by {sorted(world.stored() ^ expected)}")
    if world.materialized() != expected:
        faults.append(f"Dagster differs by {sorted(world.materialized() ^ expected)}")
    for window in windows:
        ended = [record.dagster_run.status for record in world.runs_of(window)]
        if window == bad:
            faults += [] if ended == [_FAILED] else [f"the bad window ended as {ended}"]
        elif ended.count(_DONE) != 1:
            faults.append(f"{window.partition_key} ended as {ended}")
        elif not world.is_right(window):
            faults.append(f"{window.partition_key} is not as the source has it")
    return faults


def _newest_first(
    world: ClusterWorld, windows: list[Window], queued: int, console: Console
) -> list[str]:
    """Queue runs of history, and ask for the newest hour."""
    (template, *_) = world.runs(_DONE)
    for number in range(queued):
        key = Window(_FIRST - timedelta(hours=number + 1)).partition_key
        tags = {**template.tags, "dagster/partition": key, "dagster/priority": "0"}
        tags.pop("dagster-celery/task_id", None)
        world.instance.add_run(
            template._replace(
                run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.QUEUED, tags=tags
            )
        )
    world.comes_true(lambda: len(world.runs(_STARTED)) > 1, "history runs", within=120)
    newest = Window(windows[-1].end)
    with world.submitting("--partition", newest.partition_key):
        world.comes_true(
            lambda: any(record.start_time for record in world.runs_of(newest)),
            "the newest hour runs",
            within=300,
        )
    (record, *_) = world.runs_of(newest)
    waited = (record.start_time or 0) - record.create_timestamp.timestamp()
    left = world.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    console.print(f"the newest hour ran {waited:.1f} s after its request, before {left:,} others")
    return [] if waited < _STARTS_WITHIN else [f"the newest hour waited {waited:.0f} s"]


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
