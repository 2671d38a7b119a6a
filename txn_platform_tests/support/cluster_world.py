"""A running `txn cluster` with a source of a test's own, whose processes can be killed."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, override
from unittest.mock import patch

import boto3
import dagster as dg
import psutil
from botocore.config import Config

from txn_platform.local import postgres
from txn_platform.local.processes import ManagedProcess, free_ports
from txn_platform.reading import read_transactions
from txn_platform_tests.support.hourly_source import HourlySource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from txn_platform.windows import Window

PUBLISHED: Final = "s3_parquet_transactions"
_TXN: Final = Path(sys.executable).with_name("txn")
_PARTITION: Final = "dagster/partition"
_SUPERVISOR: Final = "supervisor.py"
# An argument that each process has, and no other.
_ARGUMENT: Final = {
    "the daemon": "dagster._daemon",
    "the webserver": "txn_platform.webserver",
    "the broker": "valkey-server",
    "Postgres": "postgres",
}


@dataclass
class SlowSource(HourlySource):
    """Sends the rows of an hour after some seconds.

    Attributes:
        pause: seconds.
    """

    pause: float = 3.0

    @override
    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        if path == "/v1/transactions":
            time.sleep(self.pause)
        return super().answer(path, query)


@dataclass
class ClusterWorld:
    """A cluster, its source, and its state as Dagster and the bucket have it.

    Attributes:
        source: of the windows.
        process: `txn cluster`.
        variables: that make commands use the cluster.
        instance: Dagster's.
        kills: the time of each kill, by what was killed.
    """

    source: SlowSource
    process: ManagedProcess
    variables: Mapping[str, str]
    instance: dg.DagsterInstance
    kills: dict[str, float] = field(default_factory=dict[str, float])

    @classmethod
    @contextmanager
    def running(
        cls, home: Path, source: SlowSource, *options: str, workers: int
    ) -> Iterator[ClusterWorld]:
        """Run a cluster, and make this process one that uses it."""
        given = {"GENERATOR_URL": source.url, "TXN_FIRST_HOUR": "2026-01-01-00:00"}
        environment = {**os.environ, **given}
        arguments = ["--workers", str(workers), "--use-settings", *options]
        with (
            running_cluster(home, environment, *arguments) as (process, told),
            patch.dict(os.environ, variables := told | given),
            dg.DagsterInstance.get() as instance,
        ):
            yield cls(source, process, variables, instance)

    def submitting(self, *arguments: str) -> ManagedProcess:
        """Start `txn run --submit` with these arguments."""
        return ManagedProcess(
            "txn run", [str(_TXN), "run", "--submit", *arguments], environment=dict(os.environ)
        )

    def worker(self, number: int) -> psutil.Process:
        """The main process of a worker."""
        return self._process(f"worker-{number}@%h")

    def kill(self, what: str, *, down: float = 0.0) -> list[str]:
        """Send SIGKILL, and again while it comes back within so many seconds.

        Args:
            what: `the daemon`, `the webserver`, `the broker`, `Postgres`, `worker 1` with its
                processes, or `a process of worker 1`.
            down: seconds.

        Returns:
            The ids of the runs that were being executed.
        """
        runs = [run.run_id for run in self.runs(dg.DagsterRunStatus.STARTED)]
        self.kills[what] = time.time()
        while True:
            for process in self._victims(what):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            if time.time() - self.kills[what] >= down:
                return runs
            time.sleep(1)

    def _victims(self, what: str) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess, LookupError):
            if what.startswith("a process of"):
                return self.worker(int(what[-1])).children()
            if what.startswith("worker"):
                worker = self.worker(int(what[-1]))
                # The parent first: it would notice the end of the others.
                return [worker, *worker.children(recursive=True)]
            return [self._process(_ARGUMENT[what])]
        return []

    def _process(self, argument: str) -> psutil.Process:
        """The process with this argument that a supervisor started."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                # Valkey writes its address behind its name.
                arguments = [Path(each.partition(" ")[0]).name for each in process.cmdline()]
                is_supervised = any(
                    each.endswith(_SUPERVISOR) for each in psutil.Process(process.ppid()).cmdline()
                )
                if is_supervised and argument in arguments:
                    return process
        raise LookupError(argument)

    def runs(self, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        """The runs with one of these statuses, or all; asked again while Postgres is away."""
        wanted = dg.RunsFilter(statuses=list(statuses)) if statuses else None
        return self._answered(lambda: list(self.instance.get_runs(wanted)))

    def runs_of(self, window: Window) -> list[dg.RunRecord]:
        """The runs of a window, the oldest first."""
        wanted = dg.RunsFilter(tags={_PARTITION: window.partition_key})
        found = self._answered(lambda: self.instance.get_run_records(wanted))
        return list(reversed(found))

    def _answered[Answer](self, question: Callable[[], Answer]) -> Answer:
        deadline = time.monotonic() + 60
        while True:
            try:
                return question()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def comes_true(self, condition: Callable[[], bool], what: str, *, within: float) -> None:
        """Wait for it; the cluster must live as long."""
        deadline = time.monotonic() + within
        while not condition():
            self.process.check()
            assert time.monotonic() < deadline, f"{what}: {self.table()}\n{self.process.output()}"
            time.sleep(0.5)

    def table(self) -> str:
        """All runs, a line for each."""
        return "\n".join(
            f"{run.tags.get(_PARTITION)} {run.run_id} {run.status.value}"
            f" retried: {run.tags.get('dagster/auto_retry_run_id', 'no')}"
            for run in self.runs()
        )

    def materialized(self) -> set[str]:
        """The windows that Dagster shows as published."""
        return set(self.instance.get_materialized_partitions(dg.AssetKey(PUBLISHED)))

    def stored(self) -> set[str]:
        """The windows that the bucket has, by the keys of its objects."""
        client = boto3.client(
            "s3",
            endpoint_url=self.variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.variables["AWS_SECRET_ACCESS_KEY"],
            region_name=self.variables["AWS_REGION"],
            config=Config(retries={"total_max_attempts": 1}),
        )
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self.variables["AWS_BUCKET_NAME"], Prefix=f"lake/{PUBLISHED}/"
        )
        keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
        return {
            f"{key.split('event_date=')[1][:10]}-{key.split('event_hour=')[1][:2]}:00"
            for key in keys
            if key.endswith(".parquet")
        }

    def is_right(self, window: Window) -> bool:
        """Whether the lake has the rows of a window as the source has them."""
        frame = read_transactions(window.start, window.end).collect()
        sent = {row["transaction_id"]: row["amount"] for row in self.source.rows_in(window)}
        ids, amounts = frame.get_column("transaction_id"), frame.get_column("amount")
        return dict(zip(ids, map(str, amounts), strict=True)) == sent

    def delays(self, what: str, runs: list[str]) -> tuple[float, float] | None:
        """Seconds from a kill until the last window that it lost was queued, and ran, again."""
        retries = [
            (record.create_timestamp.timestamp(), record.start_time or math.inf)
            for record in self.instance.get_run_records()
            if record.dagster_run.parent_run_id in runs
        ]
        if not retries:
            return None
        queued, started = (max(each) - self.kills[what] for each in zip(*retries, strict=True))
        return queued, started


@contextmanager
def running_cluster(
    home: Path, environment: Mapping[str, str], *arguments: str
) -> Iterator[tuple[ManagedProcess, dict[str, str]]]:
    """Run `txn cluster` on a free port, and remove its Postgres afterwards.

    Args:
        home: its `TXN_HOME`; it runs in the directory of that.
        environment: of it, beside `TXN_HOME`.
        arguments: of the command.

    Yields:
        The process, and the variables that make commands use the cluster.
    """
    (port,) = free_ports(1)
    with (
        postgres_removed(home),
        ManagedProcess(
            "txn cluster",
            [str(_TXN), "cluster", "--port", str(port), *arguments],
            environment={**environment, "TXN_HOME": str(home)},
            directory=home.parent,
            grace=60,
        ) as process,
    ):
        process.wait_until(lambda: "Ctrl-C stops" in process.output(), timeout=300)
        state = json.loads((home / "cluster" / "state.json").read_text("utf-8"))
        # Empty values hide settings; botocore refuses them.
        yield process, {name: value for name, value in state["variables"].items() if value}


@contextmanager
def postgres_removed(home: Path) -> Iterator[None]:
    """Remove the data of a cluster's Postgres, which root has elsewhere, after the block."""
    try:
        yield
    finally:
        postgres.remove(home / "cluster" / "postgres")
