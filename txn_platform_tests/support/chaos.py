"""Breaks things on purpose, and checks the lake afterwards.

Shared by the tests and by `benchmarks/kills.py`, `races.py` and `soak.py`. Files, boto3
and DuckDB read the lake, not the platform's own code. A run is the real `txn run`, in its own
process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.local.processes import ManagedProcess, free_ports, generator_url, start_generator
from txn_platform.local.seaweedfs import REGION, SeaweedFS
from txn_platform.windows import Window, iso
from txn_platform_tests.conftest import S3Endpoint, eventually, gone
from txn_platform_tests.support import forked

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from txn_platform_tests.support.faulty_proxy import FaultyProxy

ASSETS: Final = (
    "raw_transactions",
    "validated_transactions",
    "quarantined_transactions",
    "s3_parquet_transactions",
)
# Beside the assets, made from the contract.
_DESCRIPTORS: Final = ("datapackage.json", "contract.odcs.yaml")
PUBLISHED: Final = "s3_parquet_transactions"
QUARANTINED: Final = "quarantined_transactions"
# Enough bad rows for every version to have its own quarantine.
DEFECTS: Final = "amount_scale:0.005,currency_unknown:0.005,duplicate_id:0.005,null_field:0.005"
SMALL: Final = {
    "GENERATOR_TPS": "1",
    "GENERATOR_CUSTOMERS": "200",
    "GENERATOR_MERCHANTS": "100",
    "GENERATOR_DEFECTS": DEFECTS,
}
# As in control totals: a value that is no plain amount counts as a row only.
_AMOUNT_AS_SENT: Final = (
    "case when regexp_full_match(amount, '-?[0-9]{1,16}([.][0-9]{1,2})?')"
    " then amount::decimal(38, 2) end"
)
# Every process that a run starts has the world's mark in its environment.
_MARK: Final = "STARTED_BY_CHAOS"
_RUN_SECONDS: Final = 120
# A cold run takes so many times as long as a forked one.
_COLD_RUNS_TAKE: Final = 4


class Violation(AssertionError):  # noqa: N818 - the name says what happened
    """The promise was broken; says how."""


def require(holds: bool, message: str | Callable[[], str]) -> None:
    """Raise a `Violation` unless it holds.

    A message that must be read from a file is a function, which is called only in this case.
    """
    if not holds:
        raise Violation(message if isinstance(message, str) else message())


def moments(count: int, chance: random.Random) -> list[float]:
    """Return random shares of a time, evenly spread over it, in random order."""
    found = [(index + chance.random()) / count for index in range(count)]
    chance.shuffle(found)
    return found


def object_key(asset: str, partition: str) -> str:
    """Return the key of an object, as the README has it."""
    date, hour = partition[:10], partition[11:13]
    return f"{asset}/event_date={date}/event_hour={hour}/part-0.parquet"


@dataclass
class Run:
    """A `txn run` in its own process."""

    process: BaseProcess
    output: Path

    def wait(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        self.process.join(_RUN_SECONDS)
        require(self.process.exitcode is not None, lambda: f"a run hangs: {self.printed()}")
        return self.process.exitcode or 0

    def kill(self) -> bool:
        """Send SIGKILL; return whether it had ended before."""
        ended = self.process.exitcode is not None
        self.process.kill()
        self.process.join()
        return ended

    def printed(self) -> str:
        """Return its output; empty before it has begun."""
        with suppress(FileNotFoundError):
            return self.output.read_text(errors="replace")
        return ""

    def require_explained(self) -> None:
        """Raise a `Violation` when it failed with anything but one message for its user."""
        code, said = self.wait(), self.printed()
        explained = code == 0 or (code == 1 and re.search(r"^Error: \S", said, re.MULTILINE))
        require(bool(explained) and "Traceback" not in said, f"exit code {code}: {said}")


class Source:
    """A generator service that can be killed and comes back at the same address."""

    def __init__(self, **settings: str) -> None:
        self.settings = {f"GENERATOR_{name}": value for name, value in settings.items()}
        self._environment = {**os.environ, **SMALL, **self.settings}
        # A port that no outgoing connection can use while the generator is down.
        (self._port,) = free_ports(1)
        self._process = self._start()
        self.url = generator_url(self._process)

    def _start(self) -> ManagedProcess:
        return start_generator(port=self._port, environment=self._environment)

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.stop()

    def restart(self) -> None:
        """Start it again at the same address."""
        self._process.stop()
        self._process = self._start()
        generator_url(self._process)

    def sent(self, partition: str, **query: str) -> tuple[int, Decimal]:
        """Return rows and amount of a window, as the source states them."""
        window = Window.of_partition(partition)
        asked = {"start": iso(window.start), "end": iso(window.end), **query}
        address = f"{self.url}/v1/control-totals?{urlencode(asked)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            totals = json.load(answer)
        return totals["rows"], sum(map(Decimal, totals["amount_by_type"].values()), Decimal())

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()


class Store(Protocol):
    """The store of a lake, seen from outside."""

    environment: dict[str, str]

    def objects(self) -> dict[str, bytes]:
        """Return every object of the lake, by its key."""
        ...

    def leftovers(self) -> list[str]:
        """Return everything in the store that is no object of the lake."""
        ...


class DirectoryStore:
    """A lake in a directory."""

    def __init__(self, directory: Path) -> None:
        self.environment: dict[str, str] = {}
        self._lake = directory / ".txn" / "lake"

    def _files(self) -> list[Path]:
        return [path for path in self._lake.rglob("*") if path.is_file()]

    def objects(self) -> dict[str, bytes]:
        """Return every object of the lake, by its key."""
        return {
            path.relative_to(self._lake).as_posix(): path.read_bytes()
            for path in self._files()
            if path.suffix == ".parquet"
        }

    def leftovers(self) -> list[str]:
        """Return other files; staged files belong to the directory."""
        return [
            str(path)
            for path in self._files()
            if path.suffix not in {".parquet", ".staging"} and path.name not in _DESCRIPTORS
        ]


class S3Store:
    """A lake in a bucket, under a prefix of its own."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._endpoint = endpoint
        self._prefix = f"chaos-{uuid.uuid4().hex}/"
        self.environment = {
            "AWS_BUCKET_NAME": endpoint.bucket,
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": endpoint.url,
            "TXN_LAKE_PREFIX": self._prefix.rstrip("/"),
        }

    @property
    def _client(self) -> S3Client:
        return self._endpoint.client()

    def _keys(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._endpoint.bucket, Prefix=self._prefix
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def objects(self) -> dict[str, bytes]:
        """Return every object of the lake, by its key."""
        client, bucket = self._client, self._endpoint.bucket
        return {
            key.removeprefix(self._prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read()
            for key in self._keys()
            if key.endswith(".parquet")
        }

    def leftovers(self) -> list[str]:
        """Return other objects, and uploads that are not completed."""
        uploads = self._client.list_multipart_uploads(
            Bucket=self._endpoint.bucket, Prefix=self._prefix
        )
        return [
            *(key for key in self._keys() if not key.endswith((".parquet", *_DESCRIPTORS))),
            *(f"the upload of {each['Key']}" for each in uploads.get("Uploads", [])),
        ]


@dataclass(frozen=True)
class Version:
    """The result of a source's content.

    Attributes:
        source: the source that sends it.
        digests: the SHA-256 of every object of its window, by key.
        sent: its rows and amount, as the source states them.
        published: its published rows and amount.
    """

    source: Source
    digests: dict[str, str]
    sent: tuple[int, Decimal]
    published: tuple[int, Decimal]


@dataclass
class World:
    """One lake, and the runs that write to it.

    Attributes:
        directory: their working directory, with `.txn` and temporary files.
        store: the store of the lake.
        delta: the Delta table that the windows are committed to as well, if any.
    """

    directory: Path
    store: Store
    delta: str | None = None
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(
        self,
        source: Source,
        partition: str,
        *,
        url: str | None = None,
        own_generator: bool = False,
        cold: bool = False,
    ) -> Run:
        """Start a run of one window.

        Args:
            source: the source of the window.
            partition: the window.
            url: the address of the source, if it is not its own.
            own_generator: the run starts its own generator with the settings of the source.
            cold: the run imports Dagster itself.
        """
        temporary = self.directory / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        output = logs / f"{uuid.uuid4().hex}.log"
        environment = {
            **os.environ,
            **SMALL,
            **source.settings,
            **self.store.environment,
            "DELTA_LAKE_S3_PATH": self.delta or "",
            "TXN_CARD_KEY": "a key of sixteen bytes and more",
            "TXN_MAX_QUARANTINE": "0.2",
            "TMPDIR": str(temporary),
            _MARK: self.mark,
        }
        if not own_generator:
            environment["GENERATOR_URL"] = url or source.url
        process = forked.start(
            forked.fresh_program if cold else forked.program,
            *("txn", "run", "--json", "--partition", partition),
            environment=environment,
            directory=self.directory,
            stdout=output,
            stderr=output,
        )
        return Run(process, output)

    def staged(self) -> list[Path]:
        """Return staged files that are not yet in the lake."""
        return list((self.directory / ".txn").rglob("?*.staging"))

    def orphans(self) -> list[psutil.Process]:
        """Return the processes that runs started and that have not ended."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self.mark and not gone(process):
                    found.append(process)
        return found

    def require_tidy(self) -> None:
        """Raise a `Violation` for leftovers of dead runs."""
        require(eventually(lambda: not self.orphans()), lambda: f"still running: {self.orphans()}")
        # By now they have removed their files.
        left = [str(path) for path in [*self.staged(), *(self.directory / "tmp").iterdir()]]
        left += self.store.leftovers()
        require(not left, f"left behind: {', '.join(left)}")

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of every object."""
        return {key: hashlib.sha256(body).hexdigest() for key, body in self.store.objects().items()}

    def read(self, partition: str) -> tuple[tuple[int, Decimal], tuple[int, Decimal]]:
        """Return published and quarantined rows and amounts, as DuckDB reads them."""
        objects = self.store.objects()
        look = self.directory / "look.parquet"
        found: list[tuple[int, Decimal]] = []
        for asset, amount in (
            (PUBLISHED, "amount"),
            (
                QUARANTINED,
                _AMOUNT_AS_SENT,
            ),
        ):
            look.write_bytes(objects[object_key(asset, partition)])
            query = f"select count(*), coalesce(sum({amount}), 0) from '{look}'"  # noqa: S608
            (row,) = duckdb.sql(query).fetchall()
            found.append((row[0], Decimal(row[1])))
        look.unlink()
        return found[0], found[1]

    def require_reconciled(self, partition: str, sent: tuple[int, Decimal]) -> None:
        """Raise a `Violation` unless published = sent - quarantined, in rows and to the cent."""
        published, quarantined = self.read(partition)
        total = (published[0] + quarantined[0], published[1] + quarantined[1])
        require(total == sent, f"{partition}: {published} + {quarantined} is not the {sent} sent")


def version_of(source: Source, partition: str, directory: Path) -> Version:
    """Find the result of a source's window by an undisturbed run."""
    world = World(directory, DirectoryStore(directory))
    run = world.start(source, partition)
    require(run.wait() == 0, run.printed)
    sent = source.sent(partition)
    world.require_reconciled(partition, sent)
    digests = world.digests()
    require(
        set(digests) == {object_key(asset, partition) for asset in ASSETS}, f"only {set(digests)}"
    )
    return Version(source, digests, sent, world.read(partition)[0])


@dataclass(frozen=True)
class Kill:
    """The circumstances of a kill, and its result.

    Attributes:
        victim: `run`, `cold run`, `generator` or `S3 server`.
        step: the progress of the run, by its objects in the lake.
        ended: the end of the run: `killed`, `succeeded`, or `failed` with a message.
    """

    victim: str
    step: str
    ended: str


class Killing:
    """Kills one process after another, and checks the lake.

    Args:
        world: the lake and its runs.
        versions: two contents of the window; each kill hits a change from one to the other.
        partition: the window.

    The moment of a kill is a share of the time of the last undisturbed run.
    """

    def __init__(self, world: World, versions: Sequence[Version], partition: str) -> None:
        self._world = world
        self._partition = partition
        self._old, self._new = versions
        self._seconds = 0.0
        self._complete(self._old)

    def run(self, share: float, *, cold: bool = False) -> Kill:
        """Kill a run; a cold one imports Dagster and starts its own generator."""
        run = self._world.start(self._new.source, self._partition, own_generator=cold, cold=cold)
        run.process.join(share * self._seconds * (_COLD_RUNS_TAKE if cold else 1))
        ended = run.kill()
        return self.validate("cold run" if cold else "run", "succeeded" if ended else "killed")

    def generator(self, share: float) -> Kill:
        """Kill the generator during a run, which must end by itself."""
        run = self._world.start(self._new.source, self._partition)
        run.process.join(share * self._seconds)
        self._new.source.kill()
        run.require_explained()
        ended = "succeeded" if run.wait() == 0 else "failed"
        self._new.source.restart()
        return self.validate("generator", ended)

    def server(self, share: float, server: S3Server) -> Kill:
        """Kill the S3 server during a run, and start it again at once, with its data."""
        run = self._world.start(self._new.source, self._partition)
        run.process.join(share * self._seconds)
        server.kill_and_restart()
        run.require_explained()
        return self.validate("S3 server", "succeeded" if run.wait() == 0 else "failed")

    def validate(self, victim: str, ended: str) -> Kill:
        """Check the promise after a kill, and let the next run complete the window."""
        found = self._world.digests()
        for key, digest in found.items():
            whole = {self._old.digests[key], self._new.digests[key]}
            require(digest in whole, f"{key} is neither the old nor the new version")
        require(set(found) == set(self._old.digests), f"objects are missing: {set(found)}")
        renewed = [asset for asset in ASSETS if self._is_new(found, asset)]
        if ended == "succeeded":
            require(len(renewed) == len(ASSETS), f"a run succeeded with {renewed} alone")
        step = self._step(renewed)
        self._complete(self._new)
        self._old, self._new = self._new, self._old
        return Kill(victim, step, ended)

    def _is_new(self, found: dict[str, str], asset: str) -> bool:
        key = object_key(asset, self._partition)
        return found[key] == self._new.digests[key]

    def _step(self, renewed: list[str]) -> str:
        staged = "while staging" if self._world.staged() else "between files"
        return f"{len(renewed)} of {len(ASSETS)} published, {staged}"

    def _complete(self, version: Version) -> None:
        """Require that the next run completes the window and leaves nothing behind."""
        started = time.monotonic()
        run = self._world.start(version.source, self._partition)
        require(run.wait() == 0, lambda: f"the next run failed: {run.printed()}")
        self._seconds = time.monotonic() - started
        require(self._world.digests() == version.digests, "the next run did not complete it")
        self._world.require_reconciled(self._partition, version.sent)
        self._world.require_tidy()


class S3Server:
    """A SeaweedFS that can be killed and comes back at the same address with its data."""

    _KEYS: Final = {"access_key": "key-of-chaos", "secret_key": "secret-of-chaos"}

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = self._start()
        self.endpoint = S3Endpoint(self._server.endpoint_url, **self._KEYS, bucket="transactions")

    def _start(self) -> SeaweedFS:
        return SeaweedFS.start(
            self._directory / "data",
            self._directory / "logs",
            bucket="transactions",
            memory_mib=384,
            **self._KEYS,
        )

    def kill_and_restart(self) -> None:
        """Send SIGKILL, and start the server again."""
        (weed,) = psutil.Process(self._server.process.pid).children()
        weed.kill()
        self._server.stop()
        self._server = self._start()
        require(self._server.endpoint_url == self.endpoint.url, "the S3's address changed")

    def __enter__(self) -> S3Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def race(world: World, versions: Sequence[Version], partition: str) -> int:
    """Run one window from all sources at once; the last to commit wins whole.

    Returns:
        The number of runs that reported success; the others explained their failure.
    """
    key = object_key(PUBLISHED, partition)
    before = world.digests().get(key)
    runs = [world.start(version.source, partition) for version in versions]
    for run in runs:
        run.require_explained()
    found = world.digests()
    for each, digest in found.items():
        require(
            any(version.digests[each] == digest for version in versions),
            f"{each} is none of the versions",
        )
    said = [json.loads(run.printed().splitlines()[-1]) for run in runs if run.wait() == 0]
    if said:
        winner = next(each for each in versions if each.digests[key] == found[key])
        published, _ = world.read(partition)
        require(published == winner.published, f"published is {published}")
        reported = {
            (each["published"], sum(map(Decimal, each["amounts"].values()), Decimal()))
            for each in said
        }
        require(published in reported, f"no run says that it published {published}: {reported}")
    else:
        require(found.get(key) == before, "no run says that it published, and one did")
    world.require_tidy()
    return len(said)


def side_by_side(world: World, source: Source, partitions: Sequence[str], processes: int) -> None:
    """Run different windows, so many at once; all must be published whole."""

    def materialize(partition: str) -> None:
        run = world.start(source, partition)
        require(run.wait() == 0, lambda: f"{partition}: {run.printed()}")

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(materialize, partitions))
    expected = {object_key(asset, partition) for asset in ASSETS for partition in partitions}
    found = set(world.digests())
    require(found == expected, f"lost or too many: {found ^ expected}")
    for partition in partitions:
        world.require_reconciled(partition, source.sent(partition))
    if world.delta is not None:
        require_delta_agrees(world, partitions)
    world.require_tidy()


def require_delta_agrees(world: World, partitions: Sequence[str]) -> None:
    """Raise a `Violation` unless the Delta table has each window once, with the Parquet's rows."""
    environment = world.store.environment
    options = {
        name.lower(): environment[name]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")
        if name in environment
    }
    table = DeltaTable(world.delta or "", storage_options=options | {"aws_allow_http": "true"})
    versions = [entry["version"] for entry in table.history()]
    require(
        sorted(versions) == list(range(len(partitions) + 1)), f"the log has versions {versions}"
    )
    rows: Any = pa.table(table.scan())
    objects = world.store.objects()
    look = world.directory / "look.parquet"
    columns = ", ".join(TRANSACTIONS.published_schema.names)
    total = 0
    for partition in partitions:
        look.write_bytes(objects[object_key(PUBLISHED, partition)])
        differing = f"""
            with parquet as (select {columns} from '{look}'),
            delta as (select {columns} from rows where event_date = '{partition[:10]}'
                and event_hour = {int(partition[11:13])})
            (from parquet except all from delta) union all (from delta except all from parquet)
        """  # noqa: S608
        found = duckdb.sql(differing).fetchall()
        require(not found, f"{partition}: {len(found)} rows differ between Delta and Parquet")
        total += pq.read_metadata(look).num_rows
    look.unlink()
    require(rows.num_rows == total, f"Delta has {rows.num_rows} rows, the Parquet {total}")


class Soak:
    """Many windows under faults, defects, late rows, and a restart of every process.

    Args:
        world: the lake and its runs.
        source: the source.
        proxy: the proxy between runs and source.
        partitions: the windows, oldest first.
        processes: the number of runs at a time.
        server: the S3 server to restart, if the lake is on one.
    """

    # A run that failed is started again, as Dagster's run retries do.
    _ATTEMPTS: Final = 5

    def __init__(
        self,
        world: World,
        source: Source,
        proxy: FaultyProxy,
        partitions: Sequence[str],
        *,
        processes: int,
        server: S3Server | None = None,
    ) -> None:
        self._world, self._source, self._proxy = world, source, proxy
        self._partitions = partitions
        self._processes = processes
        self._server = server
        self._under_way: set[int] = set()
        self._calm = threading.Event()
        self.restarted = 0

    def before_the_late_rows(self, as_of: str) -> None:
        """Run all windows as the source had them at a moment, and restart everything halfway."""
        self._proxy.as_of = as_of.replace(":", "%3A")
        self._calm.set()
        with ThreadPoolExecutor(self._processes) as pool:
            ended = as_completed([pool.submit(self._materialize, key) for key in self._partitions])
            for each in islice(ended, len(self._partitions) // 2):
                each.result()
            self._restart()
            for each in ended:
                each.result()
        self._validate(as_of=as_of)

    def after_the_late_rows(self, as_of: str) -> int:
        """Run the windows that have grown again, as the sensor does; return their number."""
        self._proxy.as_of = None
        grown = [
            key
            for key in self._partitions
            if self._source.sent(key) != self._source.sent(key, as_of=as_of)
        ]
        with ThreadPoolExecutor(self._processes) as pool:
            list(pool.map(self._materialize, grown))
        self._validate()
        return len(grown)

    def _materialize(self, partition: str) -> None:
        said = ""
        for _ in range(self._ATTEMPTS):
            self._calm.wait()
            run = self._world.start(self._source, partition, url=self._proxy.url)
            self._under_way.add(run.process.pid or 0)
            code = run.wait()
            self._under_way.discard(run.process.pid or 0)
            if code == 0:
                break
            if code != -signal.SIGKILL:
                run.require_explained()
            said = run.printed()
        else:
            raise Violation(f"{partition} failed {self._ATTEMPTS} times: {said}")

    def _restart(self) -> None:
        """Kill every process, and start the servers again; callers start the runs."""
        self._calm.clear()
        for pid in tuple(self._under_way):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.restarted += 1
        self._source.kill()
        if self._server:
            self._server.kill_and_restart()
        self._source.restart()
        self._calm.set()

    def _validate(self, **query: str) -> None:
        for partition in self._partitions:
            self._world.require_reconciled(partition, self._source.sent(partition, **query))
        self._world.require_tidy()
